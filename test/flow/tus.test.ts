import { createHash } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect, exchangeOver, requestOnce, TRANSPORTS } from '../support/client.js';
import { randomBytes, until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { type OriginAnswer, startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import type { WireResponse } from '../support/wire.js';

const TUS: HeaderLine = ['Tus-Resumable', '1.0.0'];
const STREAM: HeaderLine = ['Content-Type', 'application/offset+octet-stream'];
const FILE = randomBytes(3000, 7);

let origin: TestOrigin;
let app: TestApp;
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

function send(
  method: string,
  target: string,
  headers: readonly HeaderLine[] = [],
  body?: string | Uint8Array,
): Promise<WireResponse> {
  const length: HeaderLine[] = body === undefined ? [] : [['Content-Length', String(body.length)]];
  return requestOnce(app.url, { method, target, headers: [TUS, ...headers, ...length], body });
}

async function create(headers: readonly HeaderLine[] = [['Upload-Length', String(FILE.length)]]): Promise<string> {
  const response = await send('POST', '/files', headers);
  expect(response.status).toBe(201);
  return new URL(response.header('Location')!).pathname;
}

function patch(
  target: string,
  offset: number,
  body: Uint8Array,
  headers: readonly HeaderLine[] = [],
): Promise<WireResponse> {
  return send('PATCH', target, [STREAM, ['Upload-Offset', String(offset)], ...headers], body);
}

async function offsetOf(target: string): Promise<number> {
  return Number((await send('HEAD', target)).header('Upload-Offset'));
}

/** Every response of the protocol names its version (Core: headers). */
function expectTus(response: WireResponse, status: number): void {
  expect([response.status, response.header('Tus-Resumable')]).toEqual([status, '1.0.0']);
}

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
    expect(await offsetOf(target)).toBe(3000);
    expectTus(await patch(target, 3000, new Uint8Array()), 201);
    expect(origin.requests).toHaveLength(1);
  });

  test('of no bytes is delivered with its creation', async () => {
    const response = await send('POST', '/files', [['Upload-Length', '0']]);
    expectTus(response, 201);
    expect(response.body.toString()).toBe('stored');
    expect(new URL(response.header('Location')!).pathname).toMatch(/^\/\.uploads\//);
    expect(origin.requests.map(({ size }) => size)).toEqual([0]);
  });

  test('that was cut continues where its bytes end', async () => {
    const target = await create();
    const client = await connect(app.url);
    await client.sendHead('PATCH', target, [TUS, STREAM, ['Upload-Offset', '0'], ['Content-Length', '3000']]);
    await client.send(FILE.subarray(0, 1700));
    await until(async () => (await offsetOf(target)) === 1700, 'the bytes to count');
    client.destroy();
    expectTus(await patch(target, 1700, FILE.subarray(1700)), 201);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });

  test('on its way to an eager origin is one request that begins with its first bytes', async () => {
    const created = await send('POST', '/eager/f', [['Upload-Length', '3000']]);
    const target = new URL(created.header('Location')!).pathname;
    expectTus(await patch(target, 0, FILE.subarray(0, 1000)), 204);
    await until(() => (origin.requests[0]?.size ?? 0) > 0, 'the first bytes at the origin');
    const last = await patch(target, 1000, FILE.subarray(1000));
    expectTus(last, 201);
    expect(last.body.toString()).toBe('stored');
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });

  test('in chunks without a length is complete when its length is reached, and not before', async () => {
    const target = await create();
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
    const target = await create();
    const response = await patch(target, 0, FILE);
    expectTus(response, status);
    expect(response.header('Location')).toBeUndefined();
    expect(response.header('Upload-Offset')).toBe(String(offset));
    expect(response.body.toString()).toBe(status === 204 ? '' : String(answer.body ?? ''));
    expect(await offsetOf(target)).toBe(offset);
    // The client that continues gets it again; the origin is not asked twice.
    if (offset === 2999) expectTus(await patch(target, 2999, FILE.subarray(2999)), status);
    expect(origin.requests).toHaveLength(1);
  });

  test('that did not come leaves the upload one byte short, and it is sent again', async () => {
    origin.answerWith((_, index) => (index === 0 ? { hangUp: true } : { status: 200, body: 'late' }));
    const target = await create();
    const failed = await patch(target, 0, FILE);
    expectTus(failed, 503);
    expect(failed.header('Retry-After')).toMatch(/^\d+$/);
    const head = await send('HEAD', target);
    expect([head.header('Upload-Offset'), head.header('Proxy-Status')]).toEqual([
      '2999',
      expect.stringContaining('nobody knows whether it took it'),
    ]);
    // The origin may have taken it. A client that has asked again is told so once more, and orders it with the next.
    expectTus(await patch(target, 2999, FILE.subarray(2999)), 503);
    const repeated = await patch(target, 2999, FILE.subarray(2999));
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
    const target = await create();
    expectTus(await patch(target, 0, FILE.subarray(0, 10)), 204);
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
    expect(await offsetOf(target)).toBe(10);
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
    expectTus(await send('POST', '/files', fields), status);
    expect(origin.requests).toEqual([]);
  });

  test('content beyond the length is not kept, and the upload continues', async () => {
    const target = await create();
    expectTus(await patch(target, 0, Buffer.concat([FILE, FILE])), 413);
    expect(await offsetOf(target)).toBe(0);
    const client = await connect(app.url);
    await client.sendHead('PATCH', target, [TUS, STREAM, ['Upload-Offset', '0'], ['Transfer-Encoding', 'chunked']]);
    await client.sendChunk(Buffer.concat([FILE, Buffer.from('more')]));
    expectTus(await client.readFinal(), 413);
    client.destroy();
    expect(await offsetOf(target)).toBe(2999);
    expectTus(await patch(target, 2999, FILE.subarray(2999)), 201);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });

  test('an upload that is not there has no offset', async () => {
    const response = await send('HEAD', `/.uploads/${'x'.repeat(32)}`);
    expectTus(response, 404);
    expect(response.header('Upload-Offset')).toBeUndefined();
  });
});

function checksum(algorithm: string, bytes: string | Uint8Array): string {
  return `${algorithm} ${createHash(algorithm).update(bytes).digest('base64')}`;
}

describe('extensions', () => {
  test('creation-with-upload: the first bytes come with the creation, or all of them', async () => {
    const length: HeaderLine = ['Upload-Length', '3000'];
    const part = await send('POST', '/files', [STREAM, length], FILE.subarray(0, 1200));
    expectTus(part, 201);
    expect(part.header('Upload-Offset')).toBe('1200');
    expectTus(await patch(new URL(part.header('Location')!).pathname, 1200, FILE.subarray(1200)), 201);
    const whole = await send('POST', '/files', [STREAM, length], FILE);
    expectTus(whole, 201);
    expect([whole.header('Upload-Offset'), whole.body.toString()]).toEqual(['3000', 'stored']);
    // A client that ends this upload must not delete what the origin has made of it.
    expect(new URL(whole.header('Location')!).pathname).toMatch(/^\/\.uploads\//);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true, true]);
    expectTus(await send('POST', '/files', [['Content-Type', 'text/plain'], length], FILE), 415);
  });

  test('creation-defer-length: the length comes later, with bytes or alone', async () => {
    const target = await create([['Upload-Defer-Length', '1']]);
    expectTus(await patch(target, 0, FILE.subarray(0, 1000)), 204);
    const head = await send('HEAD', target);
    expect([head.header('Upload-Defer-Length'), head.header('Upload-Length')]).toEqual(['1', undefined]);
    expectTus(await patch(target, 1000, FILE.subarray(1000, 2000), [['Upload-Length', '3000']]), 204);
    expect((await send('HEAD', target)).header('Upload-Length')).toBe('3000');
    expectTus(await patch(target, 2000, FILE.subarray(2000)), 201);
    const other = await create([['Upload-Defer-Length', '1']]);
    expectTus(await patch(other, 0, FILE), 204);
    expectTus(await patch(other, 3000, new Uint8Array(), [['Upload-Length', '3000']]), 201);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true, true]);
  });

  test.each(['sha1', 'md5', 'sha256', 'sha512'])('checksum: %s', async (algorithm) => {
    const target = await create();
    const first = FILE.subarray(0, 2000);
    const fields = (bytes: Uint8Array): HeaderLine[] => [['Upload-Checksum', checksum(algorithm, bytes)]];
    const mismatch = await patch(target, 0, first, fields(FILE));
    expectTus(mismatch, 460);
    expect(mismatch.reason).toBe('Checksum Mismatch');
    expect(await offsetOf(target)).toBe(0);
    expectTus(await patch(target, 0, first, fields(first)), 204);
    expectTus(await patch(target, 2000, FILE.subarray(2000), fields(first)), 460);
    expect(await offsetOf(target)).toBe(2000);
    expectTus(await patch(target, 2000, FILE.subarray(2000), fields(FILE.subarray(2000))), 201);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });

  test('termination: nothing is left, and nothing is delivered', async () => {
    const target = await create();
    expectTus(await patch(target, 0, FILE.subarray(0, 10)), 204);
    expectTus(await send('DELETE', target), 204);
    expectTus(await send('HEAD', target), 404);
    expect(origin.requests).toEqual([]);
  });

  describe('concatenation', () => {
    const PART: HeaderLine = ['Upload-Concat', 'partial'];

    async function createPart(from: number, to: number): Promise<string> {
      const target = await create([PART, ['Upload-Length', String(to - from)]]);
      expectTus(await patch(target, 0, FILE.subarray(from, to)), 204);
      return target;
    }

    function join(parts: readonly string[], fields: readonly HeaderLine[] = []): Promise<WireResponse> {
      return send('POST', '/joined', [['Upload-Concat', `final;${parts.join(' ')}`], ...fields]);
    }

    test('parts become one upload in the order of the list, and one request to the origin', async () => {
      const parts = [await createPart(2000, 3000), await createPart(0, 2000)];
      expect(origin.requests).toEqual([]);
      const [head, other] = await Promise.all(parts.map((part) => send('HEAD', part)));
      expect(['Upload-Offset', 'Upload-Length', 'Upload-Concat'].map((name) => head!.header(name))).toEqual([
        '1000',
        '1000',
        'partial',
      ]);
      expect(other!.header('Upload-Offset')).toBe('2000');
      const type = Buffer.from('image/png').toString('base64');
      const list = [new URL(parts[1]!, app.url).href, parts[0]!];
      const joined = await join(list, [['Upload-Metadata', `filetype ${type}`]]);
      expectTus(joined, 201);
      expect([joined.header('Upload-Offset'), joined.body.toString()]).toEqual(['3000', 'stored']);
      const [request] = await origin.waitForRequests(1);
      expect([request!.target, request!.header('Content-Type')]).toEqual(['/joined', 'image/png']);
      expect(request!.body.equals(FILE)).toBe(true);
      const target = new URL(joined.header('Location')!).pathname;
      const fields = ['Upload-Offset', 'Upload-Length', 'Upload-Concat'];
      const final = await send('HEAD', target);
      expect(fields.map((name) => final.header(name))).toEqual(['3000', '3000', `final;${list.join(' ')}`]);
      expectTus(await patch(target, 3000, new Uint8Array()), 403);
      // A client that has lost the response repeats its request.
      const repeated = await join(list);
      expect([repeated.status, repeated.body.toString(), repeated.header('Location')]).toEqual([
        201,
        'stored',
        joined.header('Location'),
      ]);
      expect(origin.requests).toHaveLength(1);
    });

    test('a part may come several times, and in several uploads', async () => {
      const part = await createPart(0, 1000);
      expectTus(await join([part, part]), 201);
      expectTus(await join([part]), 201);
      expect(origin.requests.map(({ size }) => size)).toEqual([2000, 1000]);
    });

    test('an answer that is not good leaves the joined upload without an offset', async () => {
      origin.answerWith({ status: 422, body: 'no' });
      const part = await createPart(0, 1000);
      const refused = await join([part]);
      expectTus(refused, 422);
      expect(refused.body.toString()).toBe('no');
    });

    test('what cannot be joined is refused, and the parts stay', async () => {
      const part = await createPart(0, 1000);
      const begun = await create([PART, ['Upload-Length', '5']]);
      const whole = await create();
      for (const parts of [[part, begun], [part, whole], [`/.uploads/${'x'.repeat(32)}`], ['/files/1'], []])
        expectTus(await join(parts), 400);
      expectTus(await join([part], [['Upload-Length', '1000']]), 400);
      expectTus(
        await send('POST', '/joined', [
          ['Upload-Concat', 'partly'],
          ['Upload-Length', '5'],
        ]),
        400,
      );
      expect(await offsetOf(part)).toBe(1000);
      // The draft has no parts: what it calls complete would go to the origin.
      const fields: HeaderLine[] = [
        ['Upload-Draft-Interop-Version', '8'],
        ['Upload-Offset', '1000'],
        ['Upload-Complete', '?1'],
        ['Content-Type', 'application/partial-upload'],
        ['Content-Length', '0'],
      ];
      const completed = await requestOnce(app.url, { method: 'PATCH', target: part, headers: fields });
      expect(completed.status).toBe(400);
      expect(origin.requests).toEqual([]);
    });
  });

  test('X-HTTP-Method-Override stands for the method', async () => {
    const target = await create();
    const fields: HeaderLine[] = [STREAM, ['Upload-Offset', '0'], ['X-HTTP-Method-Override', 'PATCH']];
    expectTus(await send('POST', target, fields, FILE), 201);
    expectTus(await send('POST', target, [['X-HTTP-Method-Override', 'DELETE']]), 204);
  });

  test('OPTIONS announces tus beside the draft', async () => {
    const response = await requestOnce(app.url, { method: 'OPTIONS', target: '/files', headers: [] });
    const names = ['Tus-Version', 'Tus-Max-Size', 'Tus-Extension', 'Tus-Checksum-Algorithm', 'Accept-Patch'];
    expect(names.map((name) => response.header(name))).toEqual([
      '1.0.0',
      '1048576',
      'creation,creation-with-upload,creation-defer-length,expiration,checksum,termination,concatenation',
      'sha1,md5,sha256,sha512',
      'application/partial-upload',
    ]);
  });
});

describe('an upload that began with one protocol continues with the other', () => {
  const DRAFT: HeaderLine = ['Upload-Draft-Interop-Version', '8'];
  const PARTIAL: HeaderLine = ['Content-Type', 'application/partial-upload'];

  test('from tus to the draft', async () => {
    const target = await create();
    expectTus(await patch(target, 0, FILE.subarray(0, 1000)), 204);
    const head = await requestOnce(app.url, { method: 'HEAD', target, headers: [DRAFT] });
    expect([head.status, head.header('Upload-Offset'), head.header('Upload-Complete')]).toEqual([204, '1000', '?0']);
    const fields: HeaderLine[] = [
      DRAFT,
      PARTIAL,
      ['Upload-Offset', '1000'],
      ['Upload-Complete', '?1'],
      ['Content-Length', '2000'],
    ];
    const last = await requestOnce(app.url, { method: 'PATCH', target, headers: fields, body: FILE.subarray(1000) });
    expect([last.status, last.body.toString()]).toEqual([201, 'stored']);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });

  test('from the draft to tus', async () => {
    const fields: HeaderLine[] = [
      DRAFT,
      ['Upload-Complete', '?0'],
      ['Upload-Length', '3000'],
      ['Content-Length', '1000'],
    ];
    const created = await requestOnce(app.url, {
      method: 'POST',
      target: '/f',
      headers: fields,
      body: FILE.subarray(0, 1000),
    });
    const target = new URL(created.header('Location')!).pathname;
    expect(await offsetOf(target)).toBe(1000);
    expectTus(await patch(target, 1000, FILE.subarray(1000)), 201);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });
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
