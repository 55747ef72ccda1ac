import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { RequestHead } from '../../src/model/request-head.js';
import { detect, type RequestTarget } from '../../src/protocol/detect.js';
import { CONTEXT, head, upload, wireText } from '../support/protocol-samples.js';
import { cases } from '../support/thoroughness.js';

describe('targets', () => {
  const PASS = {
    plainBodies: 'pass',
    shapesEmptyBodies: false,
    refusesForms: false,
    protocols: ['rufh', 'tus'],
  } as const;
  const RESUMABLE: RequestTarget = { kind: 'target', resumable: true, minSize: 0, ...PASS };
  const FROM_1000: RequestTarget = { kind: 'target', resumable: true, minSize: 1000, ...PASS };
  const ORDINARY: RequestTarget = { kind: 'target', resumable: false, minSize: 0, ...PASS };
  const settings = { finalInterim: false, joinsParts: true };

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
    test.each(['2', '0', '98', '99', '-6', '6.0', 'six', '', '6, 6'])('version %j', (version) => {
      const request = (complete: string) =>
        head(`POST /f\nUpload-Draft-Interop-Version: ${version}\nUpload-Complete: ${complete}`);
      expect(verdict(request('?1'))).toBe('pass-through');
      expect(verdict(request('?0'))).toBe('final create');
    });

    test('and gets neither a version nor a 104, whatever is switched on', () => {
      const request = head('POST /f\nUpload-Draft-Interop-Version: 98\nUpload-Complete: ?0');
      const detected = detect(request, RESUMABLE, { finalInterim: true, joinsParts: true });
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
      expect(verdict(head(`POST /f\nUpload-Draft-Interop-Version: 3\nUpload-Incomplete: ${value}`))).toBe(
        'pass-through',
      );
    });
  });

  describe('any method with content can create, the others cannot', () => {
    test.each(['POST', 'PUT', 'PATCH', 'QUERY'])('%s creates', (method) => {
      expect(verdict(head(`${method} /f\nUpload-Complete: ?1`))).toBe('final create');
    });
    test.each(['GET', 'HEAD', 'DELETE', 'TRACE', 'CONNECT'])('%s passes through', (method) => {
      expect(verdict(head(`${method} /f\nUpload-Complete: ?1`))).toBe('pass-through');
      expect(verdict(head(`${method} /f\nUpload-Draft-Interop-Version: 3\nUpload-Incomplete: ?0`))).toBe(
        'pass-through',
      );
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
      protocols: ['rufh', 'tus'],
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
      ['POST /f\nAccess-Control-Request-Method: POST\nUpload-Complete: ?0', 'final create'],
      ['GET /f\nAccess-Control-Request-Method: POST', 'pass-through'],
      ['OPTIONS /f\nOrigin: https://a.example', 'final discover'],
      ['OPTIONS /f\nUpload-Complete: ?1', 'final discover'],
      ['OPTIONS /f\nUpload-Draft-Interop-Version: 8', '8 discover'],
      ['OPTIONS /f\nUpload-Draft-Interop-Version: 98\nUpload-Complete: ?1', 'final discover'],
    ])('%j → %s', (text, expected) => {
      expect(verdict(head(text))).toBe(expected);
    });
  });

  test.each([
    ['OPTIONS', 'pass', 'final discover'],
    ['OPTIONS', 'spool', 'plain create'],
    ['OPTIONS', 'refuse', 'plain upload-required'],
    ['POST', 'spool', 'final create'],
  ] as const)('%s with content, where plain bodies are %s → %s', (method, plainBodies, expected) => {
    const request = head(`${method} /f\nUpload-Complete: ?1`, { hasBody: true });
    expect(verdict(request, { ...RESUMABLE, plainBodies })).toBe(expected);
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
      ['POST /f\nTus-Resumable: 1.0.0\nUpload-Length: 5', 'tus create'],
      [
        'POST /f\nTus-Resumable: 1.0.0\nUpload-Draft-Interop-Version: 6\nUpload-Complete: ?1\nUpload-Length: 5',
        'tus create',
      ],
      ['POST /f\nTus-Resumable: 1.0.0', 'tus malformed'],
      ['POST /f\nTus-Resumable: 0.2.2\nUpload-Length: 5', 'tus unsupported-tus-version'],
      ['PATCH /f\nTus-Resumable: 1.0.0\nContent-Type: application/offset+octet-stream', 'tus unknown-upload'],
      ['POST /f\nTus-Resumable: 1.0.0\nX-HTTP-Method-Override: PATCH', 'pass-through'],
      ['PATCH /f\nTus-Resumable: 1.0.0\nContent-Type: application/json', 'pass-through'],
      ['HEAD /f\nTus-Resumable: 1.0.0', 'pass-through'],
      ['DELETE /f\nTus-Resumable: 1.0.0', 'pass-through'],
      ['PUT /f\nTus-Resumable: 1.0.0\nUpload-Length: 5\nUpload-Complete: ?0', 'pass-through'],
      ['OPTIONS /f\nTus-Resumable: 1.0.0', 'final discover'],
    ])('%j → %s', (text, expected) => {
      expect(verdict(head(text))).toBe(expected);
    });
  });

  describe('a protocol that is not offered', () => {
    const TUS = 'POST /f\nTus-Resumable: 1.0.0\nUpload-Length: 5';
    test.each([
      [TUS, 'rufh', 'tus protocol-not-offered'],
      [
        'PATCH /f\nTus-Resumable: 1.0.0\nContent-Type: application/offset+octet-stream',
        'rufh',
        'tus protocol-not-offered',
      ],
      ['HEAD /f\nTus-Resumable: 1.0.0', 'rufh', 'pass-through'],
      ['POST /f\nUpload-Complete: ?0', 'rufh', 'final create'],
      [TUS, 'tus', 'tus create'],
      ['POST /f\nUpload-Complete: ?0', 'tus', 'final protocol-not-offered'],
      ['POST /f\nUpload-Draft-Interop-Version: 3\nUpload-Incomplete: ?1', 'tus', '3 protocol-not-offered'],
      // Every upload task of an iOS app says so, whether it could be resumed or not.
      ['POST /f\nUpload-Complete: ?1', 'tus', 'pass-through'],
      ['POST /f', 'tus', 'pass-through'],
    ] as const)('%j where only %s is → %s', (text, protocol, expected) => {
      expect(verdict(head(text), { ...RESUMABLE, protocols: [protocol] })).toBe(expected);
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
      ['PATCH /f\nContent-Type: application/partial-upload\nUpload-Draft-Interop-Version: 98', 'final unknown-upload'],
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
});

describe('uploads', () => {
  const at = (dialect: string | undefined): RequestTarget => ({
    kind: 'upload',
    id: 'b530ce8ff',
    dialect,
    protocols: ['rufh', 'tus'],
  });
  const settings = { finalInterim: false, joinsParts: true };

  function verdict(text: string, dialect: string | undefined): string {
    const detected = detect(head(text), at(dialect), settings);
    if (detected.kind !== 'resumable') return detected.kind;
    const { protocol, request } = detected;
    return `${protocol.name} ${'reason' in request ? request.reason : request.kind}`;
  }

  const version = (value: string): string => `\nUpload-Draft-Interop-Version: ${value}`;

  describe('the request’s version chooses the dialect of the answer, else the one it was created with', () => {
    test.each([
      [`HEAD /u${version('3')}`, '6', '3 retrieve'],
      [`HEAD /u${version('10')}`, '3', '10 retrieve'],
      [`HEAD /u${version('8')}`, 'final', '8 retrieve'],
      ['HEAD /u', '6', '6 retrieve'],
      ['HEAD /u', 'final', 'final retrieve'],
      [`HEAD /u${version('98')}`, '6', '6 retrieve'],
      [`HEAD /u${version('x')}`, 'final', 'final retrieve'],
    ])('%j on an upload of %s → %s', (text, dialect, expected) => {
      expect(verdict(text, dialect)).toBe(expected);
    });
  });

  describe('what an upload resource understands', () => {
    const append = '\nContent-Type: application/partial-upload\nUpload-Offset: 5\nUpload-Complete: ?1';
    test.each([
      ['HEAD /u', '8', '8 retrieve'],
      ['GET /u', '8', '8 retrieve'],
      ['GET /u', '3', '3 retrieve'],
      [`PATCH /u${append}`, '8', '8 append'],
      ['DELETE /u', '8', '8 cancel'],
      ['OPTIONS /u', '8', '8 discover'],
      ['OPTIONS /u\nUpload-Complete: ?1', 'final', 'final discover'],
      ['OPTIONS /u\nAccess-Control-Request-Method: PATCH', '8', 'preflight'],
      [`POST /u${append}`, '8', '8 method-not-allowed'],
      [`PUT /u${append}`, '5', '5 method-not-allowed'],
      ['BREW /u', 'final', 'final method-not-allowed'],
    ])('%j on an upload of %s → %s', (text, dialect, expected) => {
      expect(verdict(text, dialect)).toBe(expected);
    });
  });

  describe('a POST can stand for another method where tus-js-client needs it', () => {
    const append = 'POST /u\nContent-Type: application/partial-upload\nUpload-Offset: 5\nUpload-Complete: ?1';
    test.each([
      [`${append}\nX-HTTP-Method-Override: PATCH`, '5', '5 append'],
      [`${append}\nX-HTTP-Method-Override: PATCH`, '6', '6 append'],
      ['POST /u\nX-HTTP-Method-Override: DELETE', '6', '6 cancel'],
      ['POST /u\nX-HTTP-Method-Override: HEAD', '6', '6 retrieve'],
      ['POST /u\nX-HTTP-Method-Override: OPTIONS', '6', '6 method-not-allowed'],
      ['POST /u\nX-HTTP-Method-Override: patch', '6', '6 method-not-allowed'],
      ['PUT /u\nX-HTTP-Method-Override: PATCH', '6', '6 method-not-allowed'],
      [`${append}\nX-HTTP-Method-Override: PATCH`, '4', '4 method-not-allowed'],
      [`${append}\nX-HTTP-Method-Override: PATCH`, '7', '7 method-not-allowed'],
      [`${append}\nX-HTTP-Method-Override: PATCH`, 'final', 'final method-not-allowed'],
      ['DELETE /u\nX-HTTP-Method-Override: HEAD', '6', '6 cancel'],
    ])('%j on an upload of %s → %s', (text, dialect, expected) => {
      expect(verdict(text, dialect)).toBe(expected);
    });
  });

  describe('an upload continues in whichever protocol its client speaks', () => {
    const tusAppend = 'Tus-Resumable: 1.0.0\nUpload-Offset: 5\nContent-Type: application/offset+octet-stream';
    const append = 'PATCH /u\nUpload-Offset: 5\nUpload-Complete: ?1\nContent-Type: application/partial-upload';
    test.each([
      ['HEAD /u\nTus-Resumable: 1.0.0', '6', 'tus retrieve'],
      [`PATCH /u${version('6')}\n${tusAppend}`, 'final', 'tus append'],
      [`PATCH /u\n${tusAppend}`, 'tus', 'tus append'],
      [`POST /u\nX-HTTP-Method-Override: PATCH\n${tusAppend}`, 'tus', 'tus append'],
      ['DELETE /u\nTus-Resumable: 1.0.0', 'tus', 'tus cancel'],
      ['DELETE /u\nTus-Resumable: 2.0.0', 'tus', 'tus unsupported-tus-version'],
      ['DELETE /u', 'tus', 'tus unsupported-tus-version'],
      ['PUT /u\nTus-Resumable: 1.0.0', 'tus', 'tus method-not-allowed'],
      ['OPTIONS /u', 'tus', 'tus discover'],
      ['HEAD /u', 'tus', 'tus retrieve'],
      ['GET /u', 'tus', 'tus retrieve'],
      [`HEAD /u${version('6')}`, 'tus', '6 retrieve'],
      [append, 'tus', 'final append'],
      [
        'PATCH /u\nContent-Type: application/offset+octet-stream\nUpload-Offset: 5',
        'tus',
        'tus unsupported-tus-version',
      ],
    ])('%j on an upload of %s → %s', (text, dialect, expected) => {
      expect(verdict(text, dialect)).toBe(expected);
    });
  });

  describe('an upload that is not there is unknown whatever is asked of it', () => {
    test.each([
      ['HEAD /u', undefined, 'final unknown-upload'],
      [`DELETE /u${version('6')}`, undefined, '6 unknown-upload'],
      [`PATCH /u${version('98')}`, undefined, 'final unknown-upload'],
      ['PUT /u', undefined, 'final unknown-upload'],
      ['OPTIONS /u', undefined, 'final unknown-upload'],
      ['HEAD /u\nTus-Resumable: 1.0.0', undefined, 'tus unknown-upload'],
      ['HEAD /u', 'plain', 'final unknown-upload'],
      ['HEAD /u\nTus-Resumable: 1.0.0', 'plain', 'tus unknown-upload'],
    ])('%j on an upload of %s → %s', (text, dialect, expected) => {
      expect(verdict(text, dialect)).toBe(expected);
    });
  });

  describe('a 104 goes only to a request that named the version it is for', () => {
    const progress = { kind: 'progress', during: 'append', upload: upload(), offset: 700 } as const;
    test.each<[string, string, boolean, string]>([
      [
        version('8'),
        '8',
        false,
        '104 Upload Resumption Supported\nUpload-Draft-Interop-Version: 8\nUpload-Offset: 700',
      ],
      [
        version('9'),
        '8',
        false,
        '104 Upload Resumption Supported\nUpload-Draft-Interop-Version: 9\nUpload-Offset: 700',
      ],
      [version('98'), '8', true, '(nothing)'],
      ['', '8', true, '(nothing)'],
      ['', 'final', true, '104 Upload Resumption Supported\nUpload-Offset: 700'],
      ['', 'final', false, '(nothing)'],
      [version('98'), 'final', true, '(nothing)'],
    ])('%j on an upload of %s, the final form’s switched on: %p', (named, dialect, finalInterim, expected) => {
      const detected = detect(head(`PATCH /u${named}`), at(dialect), { finalInterim, joinsParts: true });
      if (detected.kind !== 'resumable') throw new Error(detected.kind);
      expect(wireText(detected.protocol.interim(progress, CONTEXT))).toBe(expected);
    });
  });

  describe('a final answer tells the version it is in, unless the client named another', () => {
    test.each([
      ['', '8', '204\nUpload-Draft-Interop-Version: 8\nCache-Control: no-store'],
      [version('9'), '8', '204\nUpload-Draft-Interop-Version: 9\nCache-Control: no-store'],
      [version('98'), '8', '204\nCache-Control: no-store'],
      ['', 'final', '204\nCache-Control: no-store'],
    ])('%j on an upload of %s', (named, dialect, expected) => {
      const detected = detect(head(`DELETE /u${named}`), at(dialect), settings);
      if (detected.kind !== 'resumable') throw new Error(detected.kind);
      expect(wireText(detected.protocol.render({ kind: 'cancelled' }, CONTEXT))).toBe(expected);
    });
  });

  test('no request head, however strange, makes detection fail by throwing', () => {
    const names = fc.constantFrom(
      ...['Upload-Complete', 'Upload-Incomplete', 'Upload-Offset', 'Upload-Length', 'Upload-Draft-Interop-Version'],
      ...[
        'Content-Digest',
        'Repr-Digest',
        'Want-Repr-Digest',
        'Content-Type',
        'Tus-Resumable',
        'X-HTTP-Method-Override',
      ],
    );
    const values = fc.oneof(
      fc.constantFrom(
        '?0',
        '?1',
        '0',
        '5',
        '-1',
        '6',
        '3',
        '98',
        'application/partial-upload',
        'sha-256=:YQ==:',
        'PATCH',
      ),
      fc.string({ unit: 'binary' }),
    );
    const headers = fc.array(fc.tuple(names, values), { maxLength: 8 });
    const methods = fc.constantFrom('POST', 'PUT', 'PATCH', 'HEAD', 'GET', 'DELETE', 'OPTIONS', 'BREW');
    const places = fc.constantFrom<RequestTarget>(at('3'), at('6'), at('final'), at('tus'), at(undefined), {
      kind: 'target',
      resumable: true,
      minSize: 10,
      plainBodies: 'pass',
      shapesEmptyBodies: false,
      refusesForms: false,
      protocols: ['rufh', 'tus'],
    });
    fc.assert(
      fc.property(methods, headers, places, (method, lines, place) => {
        const detected = detect({ ...head(`${method} /f`), headers: lines }, place, settings);
        expect(['preflight', 'pass-through', 'resumable']).toContain(detected.kind);
        if (detected.kind !== 'resumable' || !('reason' in detected.request)) return;
        const reply = detected.protocol.render({ kind: 'refused', refusal: detected.request }, CONTEXT);
        expect([400, 404, 405, 412, 415]).toContain(reply.status);
        expect(JSON.parse(reply.body as string)).toMatchObject({ status: reply.status });
      }),
      cases(2000),
    );
  });
});
