import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { detect, type RequestTarget } from '../../src/protocol/detect.js';
import { CONTEXT, head, upload, wireText } from '../support/protocol-samples.js';

const at = (dialect: string | undefined): RequestTarget => ({ kind: 'upload', id: 'b530ce8ff', dialect });
const settings = { finalInterim: false };

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
    [`HEAD /u${version('11')}`, '6', '6 retrieve'],
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

describe('an upload that is not there, or of another family, is unknown whatever is asked of it', () => {
  test.each([
    ['HEAD /u', undefined, 'final unknown-upload'],
    [`DELETE /u${version('6')}`, undefined, '6 unknown-upload'],
    [`PATCH /u${version('11')}`, undefined, 'final unknown-upload'],
    ['PUT /u', undefined, 'final unknown-upload'],
    ['OPTIONS /u', undefined, 'final unknown-upload'],
    ['HEAD /u', 'tus', 'final unknown-upload'],
    [`HEAD /u${version('6')}`, 'tus', '6 unknown-upload'],
    ['HEAD /u\nTus-Resumable: 1.0.0', '6', '6 unknown-upload'],
    [`PATCH /u${version('6')}\nTus-Resumable: 1.0.0`, 'final', '6 unknown-upload'],
    ['HEAD /u\nTus-Resumable: 1.0.0', undefined, 'final unknown-upload'],
  ])('%j on an upload of %s → %s', (text, dialect, expected) => {
    expect(verdict(text, dialect)).toBe(expected);
  });
});

describe('a 104 goes only to a request that named the version it is for', () => {
  const progress = { kind: 'progress', during: 'append', upload: upload(), offset: 700 } as const;
  test.each<[string, string, boolean, string]>([
    [version('8'), '8', false, '104 Upload Resumption Supported\nUpload-Draft-Interop-Version: 8\nUpload-Offset: 700'],
    [version('9'), '8', false, '104 Upload Resumption Supported\nUpload-Draft-Interop-Version: 9\nUpload-Offset: 700'],
    [version('11'), '8', true, '(nothing)'],
    ['', '8', true, '(nothing)'],
    ['', 'final', true, '104 Upload Resumption Supported\nUpload-Offset: 700'],
    ['', 'final', false, '(nothing)'],
    [version('11'), 'final', true, '(nothing)'],
  ])('%j on an upload of %s, the final form’s switched on: %p', (named, dialect, finalInterim, expected) => {
    const detected = detect(head(`PATCH /u${named}`), at(dialect), { finalInterim });
    if (detected.kind !== 'resumable') throw new Error(detected.kind);
    expect(wireText(detected.protocol.interim(progress, CONTEXT))).toBe(expected);
  });
});

describe('a final answer tells the version it is in, unless the client named another', () => {
  test.each([
    ['', '8', '204\nUpload-Draft-Interop-Version: 8\nCache-Control: no-store'],
    [version('9'), '8', '204\nUpload-Draft-Interop-Version: 9\nCache-Control: no-store'],
    [version('11'), '8', '204\nCache-Control: no-store'],
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
    ...['Content-Digest', 'Repr-Digest', 'Want-Repr-Digest', 'Content-Type', 'Tus-Resumable', 'X-HTTP-Method-Override'],
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
      '11',
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
  });
  fc.assert(
    fc.property(methods, headers, places, (method, lines, place) => {
      const detected = detect({ ...head(`${method} /f`), headers: lines }, place, settings);
      expect(['preflight', 'pass-through', 'resumable']).toContain(detected.kind);
      if (detected.kind !== 'resumable' || !('reason' in detected.request)) return;
      const reply = detected.protocol.render({ kind: 'refused', refusal: detected.request }, CONTEXT);
      expect([400, 404, 405, 415]).toContain(reply.status);
      expect(JSON.parse(reply.body as string)).toMatchObject({ status: reply.status });
    }),
    { numRuns: 2000 },
  );
});
