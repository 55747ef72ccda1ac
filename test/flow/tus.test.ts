import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect, exchangeOver, requestOnce, TRANSPORTS } from '../support/client.js';
import { until } from '../support/temporary.js';
import { type OriginAnswer, startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { checksum, expectTus, FILE, STREAM, TUS, TusClient } from '../support/tus-client.js';
import type { WireResponse } from '../support/wire.js';

let origin: TestOrigin;
let app: TestApp;
const tus = new TusClient(() => app.url);
beforeAll(async () => {
  origin = await startTestOrigin();
  app = await startTestApp({
    origin: origin.url,
    config:
      'limits: { max_size: 1MiB }\nroutes: [{ match: { path: /eager/** }, delivery: { mode: eager } }, { match: { path: /** } }]\n',
  });
});
afterAll(async () => {
  await app.stop();
  await origin.close();
});
beforeEach(() => {
  origin.requests.length = 0;
  origin.answerWith({ status: 201, headers: [['Location', '/files/9']], body: 'stored' });
});

describe('an upload', () => {
  test.each(TRANSPORTS)('over %s in pieces is one request to the origin, whose answer ends it', async (transport) => {
    const over = (request: Parameters<typeof exchangeOver>[2]): Promise<WireResponse> =>
      exchangeOver(transport, app.url, request);
    const metadata = `filename ${Buffer.from('ä b.png').toString('base64')},filetype ${Buffer.from('image/png').toString('base64')}`;
    const created = await over({
      method: 'POST',
      target: '/files?x=1',
      headers: [TUS, ['Upload-Length', '3000'], ['Upload-Metadata', metadata], ['Authorization', 'Bearer t']],
    });
    expectTus(created, 201);
    expect(created.interims).toEqual([]);
    expect(created.header('Upload-Offset')).toBe('0');
    expect(Date.parse(created.header('Upload-Expires')!)).toBeGreaterThan(Date.now());
    const target = new URL(created.header('Location')!).pathname;
    const append = (from: number, to: number): Promise<WireResponse> =>
      over({
        method: 'PATCH',
        target,
        headers: [TUS, STREAM, ['Upload-Offset', String(from)], ['Content-Length', String(to - from)]],
        body: FILE.subarray(from, to),
      });
    const first = await append(0, 1000);
    expectTus(first, 204);
    expect(first.header('Upload-Offset')).toBe('1000');
    expect(first.header('Upload-Expires')).toBeDefined();
    const head = await over({ method: 'HEAD', target, headers: [TUS] });
    expectTus(head, 200);
    expect(
      ['Upload-Offset', 'Upload-Length', 'Upload-Metadata', 'Cache-Control'].map((name) => head.header(name)),
    ).toEqual(['1000', '3000', metadata, 'no-store']);
    const last = await append(1000, 3000);
    expectTus(last, 201);
    expect(last.body.toString()).toBe('stored');
    expect([last.header('Upload-Offset'), last.header('Location')]).toEqual(['3000', '/files/9']);
    const [request] = await origin.waitForRequests(1);
    expect(origin.requests).toHaveLength(1);
    expect(request).toMatchObject({ method: 'POST', target: '/files?x=1', size: 3000 });
    expect(request!.body.equals(FILE)).toBe(true);
    expect(request!.header('Content-Type')).toBe('image/png');
    expect(request!.header('Authorization')).toBe('Bearer t');
    expect(request!.headers.filter(([name]) => /^(?:tus|upload)-/i.test(name))).toEqual([]);
    // Whoever asks again hears the same, and the origin nothing.
    expect(await tus.offsetOf(target)).toBe(3000);
    expectTus(await tus.patch(target, 3000, new Uint8Array()), 201);
    expect(origin.requests).toHaveLength(1);
  });

  test('of no bytes is delivered with its creation', async () => {
    const response = await tus.send('POST', '/files', [['Upload-Length', '0']]);
    expectTus(response, 201);
    expect(response.body.toString()).toBe('stored');
    expect(new URL(response.header('Location')!).pathname).toMatch(/^\/\.uploads\//);
    expect(origin.requests.map(({ size }) => size)).toEqual([0]);
  });

  test('that was cut continues where its bytes end', async () => {
    const target = await tus.create();
    const client = await connect(app.url);
    await client.sendHead('PATCH', target, [TUS, STREAM, ['Upload-Offset', '0'], ['Content-Length', '3000']]);
    await client.send(FILE.subarray(0, 1700));
    await until(async () => (await tus.offsetOf(target)) === 1700, 'the bytes to count');
    client.destroy();
    expectTus(await tus.patch(target, 1700, FILE.subarray(1700)), 201);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });

  test('on its way to an eager origin is one request that begins with its first bytes', async () => {
    const created = await tus.send('POST', '/eager/f', [['Upload-Length', '3000']]);
    const target = new URL(created.header('Location')!).pathname;
    expectTus(await tus.patch(target, 0, FILE.subarray(0, 1000)), 204);
    await until(() => (origin.requests[0]?.size ?? 0) > 0, 'the first bytes at the origin');
    const last = await tus.patch(target, 1000, FILE.subarray(1000));
    expectTus(last, 201);
    expect(last.body.toString()).toBe('stored');
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });

  test('in chunks without a length is complete when its length is reached, and not before', async () => {
    const target = await tus.create();
    const chunked = async (from: number, to: number): Promise<WireResponse> => {
      const client = await connect(app.url);
      const fields: HeaderLine[] = [TUS, STREAM, ['Upload-Offset', String(from)], ['Transfer-Encoding', 'chunked']];
      await client.sendHead('PATCH', target, fields);
      await client.sendChunk(FILE.subarray(from, to));
      await client.endChunks();
      const response = await client.readFinal();
      client.destroy();
      return response;
    };
    expectTus(await chunked(0, 2999), 204);
    expectTus(await chunked(2999, 3000), 201);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });
});

describe('the answer of the origin', () => {
  test.each<[string, OriginAnswer, number, number]>([
    ['200 with content', { status: 200, body: 'x' }, 200, 3000],
    ['204', { status: 204 }, 204, 3000],
    // Some clients take no other status than that of the protocol.
    ['201 without content', { status: 201 }, 204, 3000],
    // A browser would follow it before its script sees anything.
    ['303', { status: 303, headers: [['Location', '/done']] as const, body: 'see' }, 200, 3000],
    // "Offset = length" means success to every client.
    ['422', { status: 422, body: 'no' }, 422, 2999],
    ['500', { status: 500, body: 'oh' }, 500, 2999],
  ])('%s', async (_, answer, status, offset) => {
    origin.answerWith(answer);
    const target = await tus.create();
    const response = await tus.patch(target, 0, FILE);
    expectTus(response, status);
    expect(response.header('Location')).toBeUndefined();
    expect(response.header('Upload-Offset')).toBe(String(offset));
    expect(response.body.toString()).toBe(status === 204 ? '' : String(answer.body ?? ''));
    expect(await tus.offsetOf(target)).toBe(offset);
    // The client that continues gets it again; the origin is not asked twice.
    if (offset === 2999) expectTus(await tus.patch(target, 2999, FILE.subarray(2999)), status);
    expect(origin.requests).toHaveLength(1);
  });

  test('that did not come leaves the upload one byte short, and it is sent again', async () => {
    origin.answerWith((_, index) => (index === 0 ? { hangUp: true } : { status: 200, body: 'late' }));
    const target = await tus.create();
    const failed = await tus.patch(target, 0, FILE);
    expectTus(failed, 503);
    expect(failed.header('Retry-After')).toMatch(/^\d+$/);
    const head = await tus.send('HEAD', target);
    expect([head.header('Upload-Offset'), head.header('Proxy-Status')]).toEqual([
      '2999',
      expect.stringContaining('nobody knows whether it took it'),
    ]);
    // The origin may have taken it. A client that has asked again is told so once more, and orders it with the next.
    expectTus(await tus.patch(target, 2999, FILE.subarray(2999)), 503);
    const repeated = await tus.patch(target, 2999, FILE.subarray(2999));
    expectTus(repeated, 200);
    expect(repeated.body.toString()).toBe('late');
  });
});

describe('requests that are refused change nothing', () => {
  // Each with the section of tus 1.0.0 that asks for it.
  const rows: [string, string, readonly HeaderLine[], number][] = [
    ['Core: Upload-Offset, another one', 'PATCH', [STREAM, ['Upload-Offset', '9']], 409],
    ['Core: Upload-Offset, none', 'PATCH', [STREAM], 400],
    ['Core: Upload-Offset, no digits', 'PATCH', [STREAM, ['Upload-Offset', '+10']], 400],
    [
      'Core: PATCH, another media type',
      'PATCH',
      [
        ['Content-Type', 'text/plain'],
        ['Upload-Offset', '10'],
      ],
      415,
    ],
    [
      'Core: Tus-Resumable, another version',
      'PATCH',
      [['Tus-Resumable', '0.2.2'], STREAM, ['Upload-Offset', '10']],
      412,
    ],
    [
      'Checksum: an unknown algorithm',
      'PATCH',
      [STREAM, ['Upload-Offset', '10'], ['Upload-Checksum', 'crc32 AAAA']],
      400,
    ],
    [
      'Checksum: no Base64 of that size',
      'PATCH',
      [STREAM, ['Upload-Offset', '10'], ['Upload-Checksum', 'sha1 AAAA']],
      400,
    ],
    [
      'Checksum: it does not match',
      'PATCH',
      [STREAM, ['Upload-Offset', '10'], ['Upload-Checksum', checksum('md5', 'other')]],
      460,
    ],
    [
      'Creation-Defer-Length: the length changes',
      'PATCH',
      [STREAM, ['Upload-Offset', '10'], ['Upload-Length', '5000']],
      400,
    ],
    ['Core: another method', 'PUT', [], 405],
  ];
  test.each(rows)('%s', async (_, method, fields, status) => {
    const target = await tus.create();
    expectTus(await tus.patch(target, 0, FILE.subarray(0, 10)), 204);
    const lines = fields.some(([name]) => name === 'Tus-Resumable') ? fields : [TUS, ...fields];
    const response = await requestOnce(app.url, {
      method,
      target,
      headers: [...lines, ['Content-Length', '5']],
      body: 'bytes',
    });
    expectTus(response, status);
    expect(response.header('Content-Type')).toBe('application/problem+json');
    if (status === 412) expect(response.header('Tus-Version')).toBe('1.0.0');
    expect(await tus.offsetOf(target)).toBe(10);
    expect(origin.requests).toEqual([]);
  });

  test.each([
    [
      'both kinds of length',
      [
        ['Upload-Length', '5'],
        ['Upload-Defer-Length', '1'],
      ],
      400,
    ],
    ['neither', [], 400],
    ['Upload-Defer-Length: 0', [['Upload-Defer-Length', '0']], 400],
    ['a negative length', [['Upload-Length', '-1']], 400],
    ['Creation: more than Tus-Max-Size', [['Upload-Length', '1048577']], 413],
  ] as [string, HeaderLine[], number][])('a creation with %s', async (_, fields, status) => {
    expectTus(await tus.send('POST', '/files', fields), status);
    expect(origin.requests).toEqual([]);
  });

  test('content beyond the length is not kept, and the upload continues', async () => {
    const target = await tus.create();
    expectTus(await tus.patch(target, 0, Buffer.concat([FILE, FILE])), 413);
    expect(await tus.offsetOf(target)).toBe(0);
    const client = await connect(app.url);
    await client.sendHead('PATCH', target, [TUS, STREAM, ['Upload-Offset', '0'], ['Transfer-Encoding', 'chunked']]);
    await client.sendChunk(Buffer.concat([FILE, Buffer.from('more')]));
    expectTus(await client.readFinal(), 413);
    client.destroy();
    expect(await tus.offsetOf(target)).toBe(2999);
    expectTus(await tus.patch(target, 2999, FILE.subarray(2999)), 201);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });

  test('an upload that is not there has no offset', async () => {
    const response = await tus.send('HEAD', `/.uploads/${'x'.repeat(32)}`);
    expectTus(response, 404);
    expect(response.header('Upload-Offset')).toBeUndefined();
  });
});

describe('a creation that brings all bytes', () => {
  const LENGTH: HeaderLine = ['Upload-Length', '3000'];

  test.each<[string, OriginAnswer, number]>([
    ['500', { status: 500, body: 'oh' }, 500],
    ['422', { status: 422, body: 'no' }, 422],
    ['nothing', { hangUp: true }, 503],
    ['401, which wants other credentials', { status: 401, body: 'who?' }, 401],
  ])('gets its URL before anything else when the origin answers %s', async (_, answer, status) => {
    origin.answerWith(answer);
    const created = await tus.send('POST', '/files', [STREAM, LENGTH], FILE);
    expectTus(created, 201);
    expect(created.header('Upload-Offset')).toBe('2999');
    expect(origin.requests).toHaveLength(1);
    const target = new URL(created.header('Location')!).pathname;
    const last = await tus.patch(target, 2999, FILE.subarray(2999));
    expectTus(last, status);
    expect(last.header('Location')).toBeUndefined();
    // The same credentials, the same answer; and nobody has ordered a repetition.
    expect(origin.requests).toHaveLength(1);
  });

  test.each([
    ['of a file', [STREAM, LENGTH], FILE],
    ['of an empty file', [['Upload-Length', '0']], undefined],
  ] as [string, HeaderLine[], Buffer | undefined][])(
    '%s whose client does not wait gets its URL',
    async (_, fields, body) => {
      const created = await tus.send('POST', '/files', [...fields, ['Prefer', 'respond-async']], body);
      expectTus(created, 201);
      expect(created.header('Upload-Offset')).toBe(String(body?.length ?? 0));
      expect(new URL(created.header('Location')!).pathname).toMatch(/^\/\.uploads\//);
      await origin.waitForRequests(1);
    },
  );
});

describe('bytes that a checksum covers count only with all of them', () => {
  const WRONG: HeaderLine = ['Upload-Checksum', checksum('sha1', 'other')];

  test('when they go beyond the length', async () => {
    const target = await tus.create();
    const client = await connect(app.url);
    const fields: HeaderLine[] = [TUS, STREAM, ['Upload-Offset', '0'], ['Transfer-Encoding', 'chunked'], WRONG];
    await client.sendHead('PATCH', target, fields);
    await client.sendChunk(Buffer.concat([FILE, Buffer.from('more')]));
    expectTus(await client.readFinal(), 413);
    client.destroy();
    expect(await tus.offsetOf(target)).toBe(0);
  });

  test('when the connection is cut', async () => {
    const target = await tus.create();
    const client = await connect(app.url);
    await client.sendHead('PATCH', target, [TUS, STREAM, ['Upload-Offset', '0'], ['Content-Length', '3000'], WRONG]);
    await client.send(FILE.subarray(0, 1700));
    // The next request takes the upload over, and what came before it is settled then.
    expect(await tus.offsetOf(target)).toBe(0);
    client.destroy();
    expectTus(await tus.patch(target, 0, FILE), 201);
  });
});

const DRAFT: HeaderLine = ['Upload-Draft-Interop-Version', '8'];

test('an upload that has all bytes and was not completed is no success for tus', async () => {
  const fields: HeaderLine[] = [
    DRAFT,
    ['Upload-Complete', '?0'],
    ['Upload-Length', '3000'],
    ['Content-Length', '3000'],
  ];
  const created = await requestOnce(app.url, { method: 'POST', target: '/f', headers: fields, body: FILE });
  expect(created.header('Upload-Offset')).toBe('3000');
  const target = new URL(created.header('Location')!).pathname;
  expect(await tus.offsetOf(target)).toBe(2999);
  expectTus(await tus.patch(target, 2999, Buffer.from([FILE[2999]! ^ 1])), 409);
  expect(origin.requests).toEqual([]);
  origin.answerWith({ status: 500 });
  expectTus(await tus.patch(target, 2999, FILE.subarray(2999)), 500);
  expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  expect(await tus.offsetOf(target)).toBe(2999);
});

test('a gate refuses what comes with tus, and the origin hears nothing of it', async () => {
  const gate = await startTestOrigin({ status: 422, body: 'a virus' });
  const gated = await startTestApp({ origin: origin.url, config: `delivery: { gate: { http: "${gate.url}" } }\n` });
  const client = new TusClient(() => gated.url);
  const target = await client.create();
  const refused = await client.patch(target, 0, FILE);
  expectTus(refused, 422);
  expect(refused.body.toString()).toBe('a virus');
  expect(await client.offsetOf(target)).toBe(2999);
  expect(origin.requests).toEqual([]);
  await gated.stop();
  await gate.close();
});

test('the origin is asked by a preflight for a file, but not for nothing', async () => {
  const asked = await startTestApp({ origin: origin.url, config: 'authorize: { preflight: true }\n' });
  const client = new TusClient(() => asked.url);
  expectTus(await client.send('POST', '/files', [['Upload-Length', '0']]), 201);
  // Such a preflight would have been the request itself.
  expect(origin.requests.map(({ size, ended }) => [size, ended])).toEqual([[0, 'whole']]);
  await client.create();
  await until(() => origin.requests.length === 2, 'the preflight');
  expect(origin.requests[1]!.header('Expect')).toBe('100-continue');
  await asked.stop();
});

test('where tus is not offered a client hears so, and the origin nothing', async () => {
  const other = await startTestApp({ origin: origin.url, config: 'protocols: [rufh]\n' });
  const response = await requestOnce(other.url, {
    method: 'POST',
    target: '/f',
    headers: [TUS, ['Upload-Length', '5']],
  });
  expectTus(response, 400);
  expect(response.body.toString()).toContain('protocols');
  const options = await requestOnce(other.url, { method: 'OPTIONS', target: '/f', headers: [] });
  expect(options.header('Tus-Version')).toBeUndefined();
  expect(origin.requests.filter(({ method }) => method !== 'OPTIONS')).toEqual([]);
  await other.stop();
});
