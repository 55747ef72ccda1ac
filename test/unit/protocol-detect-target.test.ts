import { describe, expect, test } from '@jest/globals';
import type { RequestHead } from '../../src/model/request-head.js';
import { detect, type RequestTarget } from '../../src/protocol/detect.js';
import { CONTEXT, head, upload, wireText } from '../support/protocol-samples.js';

const PASS = { plainBodies: 'pass', shapesEmptyBodies: false, refusesForms: false } as const;
const RESUMABLE: RequestTarget = { kind: 'target', resumable: true, minSize: 0, ...PASS };
const FROM_1000: RequestTarget = { kind: 'target', resumable: true, minSize: 1000, ...PASS };
const ORDINARY: RequestTarget = { kind: 'target', resumable: false, minSize: 0, ...PASS };
const settings = { finalInterim: false };

/** One word for what became of it: where it goes, in which dialect, and what it is taken for. */
function verdict(request: RequestHead, place: RequestTarget = RESUMABLE): string {
  const detected = detect(request, place, settings);
  if (detected.kind !== 'resumable') return detected.kind;
  const { protocol, request: parsed } = detected;
  return `${protocol.name} ${'reason' in parsed ? parsed.reason : parsed.kind}`;
}

describe('version and completeness decide which dialect creates, in the order of the questions', () => {
  test.each([
    ['POST /f\nUpload-Draft-Interop-Version: 3\nUpload-Incomplete: ?0', '3 create'],
    ['POST /f\nUpload-Draft-Interop-Version: 3\nUpload-Incomplete: ?1', '3 create'],
    ['POST /f\nUpload-Draft-Interop-Version: 3\nUpload-Complete: ?1', 'pass-through'],
    ['POST /f\nUpload-Draft-Interop-Version: 4\nUpload-Complete: ?1', '4 create'],
    ['POST /f\nUpload-Draft-Interop-Version: 4\nUpload-Incomplete: ?0', 'pass-through'],
    ['POST /f\nUpload-Draft-Interop-Version: 5\nUpload-Complete: ?0', '5 create'],
    ['POST /f\nUpload-Draft-Interop-Version: 6\nUpload-Complete: ?1', '6 create'],
    ['POST /f\nUpload-Draft-Interop-Version: 7\nUpload-Complete: ?0', '7 create'],
    ['POST /f\nUpload-Draft-Interop-Version: 8\nUpload-Complete: ?1', '8 create'],
    ['POST /f\nUpload-Draft-Interop-Version: 9; relay=?1\nUpload-Complete: ?1', '9 create'],
    ['POST /f\nUpload-Draft-Interop-Version: 010\nUpload-Complete: ?1', '10 create'],
    ['POST /f\nUpload-Complete: ?1', 'final create'],
    ['POST /f\nUpload-Complete: ?0;x=1', 'final create'],
    ['POST /f\nUpload-Incomplete: ?0', 'pass-through'],
  ])('%j → %s', (text, expected) => {
    expect(verdict(head(text))).toBe(expected);
  });
});

describe('an unknown version is never refused: the whole passes through, the rest is served by the newest rules', () => {
  test.each(['2', '0', '11', '99', '-6', '6.0', 'six', '', '6, 6'])('version %j', (version) => {
    const request = (complete: string) =>
      head(`POST /f\nUpload-Draft-Interop-Version: ${version}\nUpload-Complete: ${complete}`);
    expect(verdict(request('?1'))).toBe('pass-through');
    expect(verdict(request('?0'))).toBe('final create');
  });

  test('and gets neither a version nor a 104, whatever is switched on', () => {
    const request = head('POST /f\nUpload-Draft-Interop-Version: 11\nUpload-Complete: ?0');
    const detected = detect(request, RESUMABLE, { finalInterim: true });
    if (detected.kind !== 'resumable') throw new Error(detected.kind);
    expect(detected.protocol.interim({ kind: 'resumable', upload: upload() }, CONTEXT)).toBeUndefined();
    expect(wireText(detected.protocol.render({ kind: 'created', upload: upload() }, CONTEXT))).toBe(
      [
        '201',
        'Location: https://proxy.example/.uploads/b530ce8ff',
        'Upload-Offset: 600',
        'Upload-Complete: ?0',
        'Upload-Limit: max-size=1000000, min-size=0, max-append-size=500000, min-append-size=10, max-age=3600',
        'Cache-Control: no-store',
      ].join('\n'),
    );
  });
});

describe('a completeness field with garbage in it is as good as none', () => {
  test.each(['true', '1', '?2', '', '"?1"', '?1, ?1'])('%j passes through', (value) => {
    expect(verdict(head(`POST /f\nUpload-Complete: ${value}`))).toBe('pass-through');
    expect(verdict(head(`POST /f\nUpload-Draft-Interop-Version: 6\nUpload-Complete: ${value}`))).toBe('pass-through');
    expect(verdict(head(`POST /f\nUpload-Draft-Interop-Version: 3\nUpload-Incomplete: ${value}`))).toBe('pass-through');
  });
});

describe('any method with content can create, the others cannot', () => {
  test.each(['POST', 'PUT', 'PATCH', 'QUERY'])('%s creates', (method) => {
    expect(verdict(head(`${method} /f\nUpload-Complete: ?1`))).toBe('final create');
  });
  test.each(['GET', 'HEAD', 'DELETE', 'TRACE', 'CONNECT'])('%s passes through', (method) => {
    expect(verdict(head(`${method} /f\nUpload-Complete: ?1`))).toBe('pass-through');
    expect(verdict(head(`${method} /f\nUpload-Draft-Interop-Version: 3\nUpload-Incomplete: ?0`))).toBe('pass-through');
  });
});

describe('a target whose form has fields of its own takes no form', () => {
  const FORMS: RequestTarget = {
    kind: 'target',
    resumable: true,
    minSize: 0,
    plainBodies: 'spool',
    shapesEmptyBodies: true,
    refusesForms: true,
  };
  test.each([
    ['POST /f\nUpload-Complete: ?1\nContent-Type: multipart/form-data; boundary=b', 'final nested-form'],
    ['POST /f\nUpload-Complete: ?0\nContent-Type: Multipart/Form-Data;boundary=b', 'final nested-form'],
    [
      'PUT /f\nUpload-Draft-Interop-Version: 6\nUpload-Complete: ?1\nContent-Type: multipart/form-data',
      '6 nested-form',
    ],
    ['POST /f\nContent-Length: 5\nContent-Type: multipart/form-data; boundary=b', 'plain nested-form'],
    ['POST /f\nUpload-Complete: ?1\nContent-Type: multipart/form-data-x', 'final create'],
    ['POST /f\nContent-Length: 5\nContent-Type: image/png', 'plain create'],
    ['OPTIONS /f\nContent-Type: multipart/form-data', 'final discover'],
    ['PATCH /f\nContent-Type: application/partial-upload', 'final unknown-upload'],
  ])('%j → %s', (text, expected) => {
    expect(verdict(head(text), FORMS)).toBe(expected);
    if (expected.endsWith('nested-form'))
      expect(verdict(head(text), { ...FORMS, refusesForms: false })).toBe(expected.replace('nested-form', 'create'));
  });
});

describe('OPTIONS', () => {
  test.each([
    ['OPTIONS /f\nOrigin: https://a.example\nAccess-Control-Request-Method: POST', 'preflight'],
    ['OPTIONS /f\nAccess-Control-Request-Method: POST\nTus-Resumable: 1.0.0', 'preflight'],
    ['OPTIONS /f', 'final discover'],
    ['OPTIONS /f\nOrigin: https://a.example', 'final discover'],
    ['OPTIONS /f\nUpload-Complete: ?1', 'final discover'],
    ['OPTIONS /f\nUpload-Draft-Interop-Version: 8', '8 discover'],
    ['OPTIONS /f\nUpload-Draft-Interop-Version: 11\nUpload-Complete: ?1', 'final discover'],
  ])('%j → %s', (text, expected) => {
    expect(verdict(head(text))).toBe(expected);
  });
});

describe('a target that is not resumable never notices us', () => {
  test.each([
    'POST /f\nUpload-Draft-Interop-Version: 6\nUpload-Complete: ?1',
    'POST /f\nUpload-Complete: ?0',
    'OPTIONS /f',
    'OPTIONS /f\nAccess-Control-Request-Method: POST',
    'PATCH /f\nContent-Type: application/partial-upload\nUpload-Offset: 0\nUpload-Complete: ?1',
    'POST /f\nTus-Resumable: 1.0.0\nUpload-Length: 5',
  ])('%j passes through', (text) => {
    expect(verdict(head(text), ORDINARY)).toBe('pass-through');
  });
});

describe('tus 1.0.0 wins over RUFH, because a tus client on iOS sends the fields of both', () => {
  test.each([
    'POST /f\nTus-Resumable: 1.0.0\nUpload-Length: 5',
    'POST /f\nTus-Resumable: 1.0.0\nUpload-Draft-Interop-Version: 6\nUpload-Complete: ?1',
    'OPTIONS /f\nTus-Resumable: 1.0.0',
  ])('%j passes through', (text) => {
    expect(verdict(head(text))).toBe('pass-through');
  });
});

describe('an append to a target is an append to an upload that does not exist', () => {
  test.each([
    [
      'PATCH /f\nContent-Type: application/partial-upload\nUpload-Offset: 0\nUpload-Complete: ?1',
      'final unknown-upload',
    ],
    ['PATCH /f\nContent-Type: application/partial-upload', 'final unknown-upload'],
    ['PATCH /f\nContent-Type: Application/Partial-Upload; x=1\nUpload-Draft-Interop-Version: 6', '6 unknown-upload'],
    ['PATCH /f\nContent-Type: application/partial-upload\nUpload-Draft-Interop-Version: 11', 'final unknown-upload'],
    ['PATCH /f\nContent-Type: application/json\nUpload-Complete: ?1', 'final create'],
    // tus-js-client (ietf-draft-05) labels the first bytes of a creation like this.
    [
      'POST /f\nContent-Type: application/partial-upload\nUpload-Draft-Interop-Version: 6\nUpload-Complete: ?0',
      '6 create',
    ],
  ])('%j → %s', (text, expected) => {
    expect(verdict(head(text))).toBe(expected);
  });
});

describe('below the minimum size a whole request is proxied as it is, one that promises more is an upload', () => {
  const v6 = 'POST /f\nUpload-Draft-Interop-Version: 6\n';
  const v3 = 'POST /f\nUpload-Draft-Interop-Version: 3\n';
  test.each<[string, Partial<RequestHead>, string]>([
    [`${v6}Upload-Complete: ?1`, { contentLength: 999, hasBody: true }, 'pass-through'],
    [`${v6}Upload-Complete: ?1`, { contentLength: 1000, hasBody: true }, '6 create'],
    [`${v6}Upload-Complete: ?1`, { contentLength: 0, hasBody: false }, 'pass-through'],
    [`${v6}Upload-Complete: ?1`, { hasBody: false }, 'pass-through'],
    [`${v6}Upload-Complete: ?1`, { hasBody: true }, '6 create'],
    [`${v6}Upload-Complete: ?1\nUpload-Length: 999`, { hasBody: true }, 'pass-through'],
    [`${v6}Upload-Complete: ?1\nUpload-Length: 1000`, { hasBody: true }, '6 create'],
    [`${v6}Upload-Complete: ?1\nUpload-Offset: 7`, { contentLength: 999, hasBody: true }, 'pass-through'],
    [`${v6}Upload-Complete: ?0\nUpload-Length: 999`, { hasBody: true }, '6 create'],
    [`${v6}Upload-Complete: ?0\nUpload-Length: 1000`, { contentLength: 1, hasBody: true }, '6 create'],
    [`${v6}Upload-Complete: ?0`, { contentLength: 1, hasBody: true }, '6 create'],
    [`${v6}Upload-Complete: ?0\nUpload-Length: 0`, {}, '6 create'],
    [`${v3}Upload-Incomplete: ?0`, { contentLength: 999, hasBody: true }, 'pass-through'],
    [`${v3}Upload-Incomplete: ?1\nUpload-Length: 999`, { contentLength: 9, hasBody: true }, '3 create'],
  ])('%j with %j → %s', (text, facts, expected) => {
    expect(verdict(head(text, facts), FROM_1000)).toBe(expected);
  });
});
