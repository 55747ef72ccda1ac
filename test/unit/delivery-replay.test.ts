import { expect, test } from '@jest/globals';
import { withCompletingRequest, originRequestHead } from '../../src/delivery/origin-request.js';
import type { HeaderLine, Headers } from '../../src/model/headers.js';
import type { Upload } from '../../src/model/upload.js';
import { newUpload, REQUEST, routeTo } from '../support/delivery-room.js';

function upload(headers: Headers, request: Partial<Upload['request']> = {}): Upload {
  const whole = { phase: 'complete', offset: 5, attempts: [], attemptCount: 0 } as const;
  return { ...newUpload('upload-1'), ...whole, request: { ...REQUEST, headers, ...request } };
}

/** The lines that came from the client: without what the proxy adds. */
function kept(headers: Headers, credentials: Headers = []): HeaderLine[] {
  const ours = /^(host|forwarded|x-forwarded-.*|via|idempotency-key)$/i;
  const route = routeTo('http://origin:3000');
  const replay = originRequestHead(withCompletingRequest(upload(headers), route, { credentials }), route);
  return replay.headers.filter(([name]) => !ours.test(name)).map(([name, value]) => [name, value]);
}

test.each([
  'Upload-Complete',
  'Upload-Incomplete',
  'Upload-Offset',
  'Upload-Length',
  'Upload-Limit',
  'Upload-Metadata',
  'Upload-Concat',
  'Upload-Defer-Length',
  'Upload-Checksum',
  'Upload-Draft-Interop-Version',
  'Tus-Resumable',
  'Expect',
  'Content-Length',
  'Transfer-Encoding',
  'Content-Digest',
  'Connection',
  'Keep-Alive',
  'Proxy-Authorization',
  'TE',
  'Trailer',
  'Upgrade',
])('%s is not passed on, in whatever case', (name) => {
  const lines: Headers = [
    ['X-Before', '1'],
    [name.toUpperCase(), 'x'],
    [name.toLowerCase(), 'y'],
    ['X-After', '2'],
  ];
  expect(kept(lines)).toEqual([
    ['X-Before', '1'],
    ['X-After', '2'],
  ]);
});

test.each([
  'Repr-Digest',
  'X-HTTP-Method-Override',
  'Content-Encoding',
  'Content-Disposition',
  'Content-Language',
  'Want-Repr-Digest',
  'Range',
])('%s is passed on as it came', (name) => {
  const lines: HeaderLine[] = [
    [name, ' odd  Value'],
    [name.toLowerCase(), 'again'],
  ];
  expect(kept(lines)).toEqual(lines);
});

test.each([
  ['application/partial-upload', 'application/octet-stream'],
  ['Application/Offset+Octet-Stream; x=1', 'application/octet-stream'],
  ['image/png', 'image/png'],
  ['multipart/form-data; boundary="a;b"', 'multipart/form-data; boundary="a;b"'],
])('content of type %s is sent as %s', (type, expected) => {
  expect(kept([['content-TYPE', type]])).toEqual([['content-TYPE', expected]]);
});

test.each([
  'Content-Type',
  'Content-Disposition',
  'Content-Encoding',
  'Content-Language',
  'Content-Location',
  'Content-Range',
  'Content-MD5',
  'Digest',
  'Repr-Digest',
  'Content-Digest',
])('%s is about the file, and not said of the form that carries it', (name) => {
  const route = routeTo('http://origin:3000', {
    rules: { framing: { kind: 'multipart', field: 'file', fields: [], fieldsFromHeaders: [] } },
  });
  const { headers } = originRequestHead(
    upload([
      [name, 'x/y'],
      ['X-After', '2'],
    ]),
    route,
  );
  const said = headers.filter(([line]) => [name.toLowerCase(), 'x-after', 'content-type'].includes(line.toLowerCase()));
  expect(said).toEqual([
    ['X-After', '2'],
    ['Content-Type', expect.stringMatching(/^multipart\/form-data; boundary=/)],
  ]);
});

test('fresh credentials take the place of the stored ones, with all their lines', () => {
  const stored: Headers = [
    ['A', '1'],
    ['Cookie', 'old=1'],
    ['B', '2'],
    ['cookie', 'old=2'],
    ['Authorization', 'Basic old'],
  ];
  const fresh: Headers = [
    ['cookie', 'new=1'],
    ['Cookie', 'new=2'],
    ['X-Ignored', '1'],
  ];
  expect(kept(stored, fresh)).toEqual([
    ['A', '1'],
    ['cookie', 'new=1'],
    ['Cookie', 'new=2'],
    ['B', '2'],
    ['Authorization', 'Basic old'],
  ]);
});

test('credentials that were not there before are added', () => {
  expect(kept([['A', '1']], [['Authorization', 'Bearer new']])).toEqual([
    ['A', '1'],
    ['Authorization', 'Bearer new'],
  ]);
});

test('fresh credentials go on also where the creation kept its own for one connection', () => {
  const stored: Headers = [
    ['Connection', 'Authorization'],
    ['Authorization', 'Basic old'],
  ];
  expect(kept(stored, [['Authorization', 'Bearer new']])).toEqual([['Authorization', 'Bearer new']]);
});

test.each([
  ['http://origin:3000', '/files', 'http://origin:3000', '/files'],
  ['http://origin', '/files?x=/../', 'http://origin', '/files?x=/../'],
  ['https://origin:8443/base', '/', 'https://origin:8443', '/base/'],
  ['http://[::1]:3000/a/b', '//x', 'http://[::1]:3000', '/a/b//x'],
])('origin %s and target %s', (origin, target, expectedOrigin, expectedTarget) => {
  const replay = originRequestHead(upload([], { target }), routeTo(origin));
  expect([replay.origin, replay.target]).toEqual([expectedOrigin, expectedTarget]);
});

test.each([
  [true, 'files.example', 'files.example'],
  [true, '', 'origin:3000'],
  [false, 'files.example', 'origin:3000'],
])('preserve_host %s with the authority "%s" sends the host %s', (preserveHost, authority, expected) => {
  const route = routeTo('http://origin:3000/base', { rules: { preserveHost } });
  const { headers } = originRequestHead(upload([['host', 'spoofed.example']], { authority }), route);
  expect(headers.filter(([name]) => name.toLowerCase() === 'host')).toEqual([['Host', expected]]);
});

test('the key of the delivery is sent, unless the client has its own', () => {
  const keys = (headers: Headers) =>
    originRequestHead(upload(headers), routeTo('http://o')).headers.filter(([name]) => /^idempotency-key$/i.test(name));
  expect(keys([])).toEqual([['Idempotency-Key', 'key-of-upload-1']]);
  expect(keys([['IDEMPOTENCY-KEY', 'mine']])).toEqual([['IDEMPOTENCY-KEY', 'mine']]);
});
