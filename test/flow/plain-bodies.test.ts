import { readdir } from 'node:fs/promises';
import { METHODS } from 'node:http';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { silentLog } from '../../src/observe/log.js';
import { chunkName } from '../../src/spool/chunk-name.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { HOUR, newUpload } from '../contract/sample-upload.js';
import { type Transport, TRANSPORTS } from '../support/client.js';
import { startRawOrigin } from '../support/raw-origin.js';
import { temporaryDirectory, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp, TestProxy } from '../support/test-proxy.js';

/** Looks for a word in the whole body, as a virus scanner looks for its signatures. */
const SCANNER = `{ command: ["/bin/sh", "-c", "if grep -q VIRUS; then echo infected; exit 1; fi"] }`;

const CONFIG = `
limits: { max_size: 1000, idle_timeout: 2s }
routes:
  - match: { path: /gated/** }
    delivery: { gate: ${SCANNER} }
  - match: { path: /framed/** }
    delivery: { framing: multipart }
  - match: { path: /told/** }
    delivery: { framing: { fields: { role: user }, fields_from_headers: { by: X-By } } }
  - match: { path: /moved/** }
    delivery: { target: "/in{path}?name={filename}", method: PUT }
  - match: { path: /spooled/** }
    plain_bodies: spool
    delivery: { timeout: 5s, wait: 0s, retry: { attempts: 1, in_background: 0s } }
  - match: { path: /failing/** }
    plain_bodies: spool
    delivery: { retry: { attempts: 1, first_delay: 100ms, in_background: 1h } }
  - match: { path: /refused/** }
    plain_bodies: refuse
  - match: { path: /small/** }
    limits: { min_size: 100 }
    delivery: { framing: multipart }
  - match: { path: /passed/** }
    plain_bodies: pass
    delivery: { framing: multipart }
  - match: { path: /api/** }
    resumable: false
`;

let proxy: TestProxy;
beforeAll(async () => {
  proxy = await TestProxy.open({ config: CONFIG });
});
afterAll(() => proxy.close());

/** The uploads that have bytes in a spool. */
async function spooledIn(data: string): Promise<string[]> {
  return (await readdir(join(data, 'spool'))).filter((name) => /^[\w-]{43}$/.test(name));
}

const spool = (): Promise<string[]> => spooledIn(proxy.app.data);

/** Each body as it may come: with its length, and without. */
const BODIES = TRANSPORTS.flatMap((transport) =>
  (['with a length', 'without a length'] as const).map((kind) => ({ transport, kind })),
);

interface Sent {
  readonly target: string;
  readonly body: string;
  readonly method?: string;
  readonly headers?: readonly HeaderLine[];
}

async function send(transport: Transport, kind: string, { method = 'POST', target, body, headers = [] }: Sent) {
  const length: HeaderLine[] = kind === 'with a length' ? [['Content-Length', `${body.length}`]] : [];
  const host: HeaderLine[] = transport === 'HTTP/1.1' ? [['Host', proxy.host]] : [];
  const request = await proxy.begin(transport, { method, target, headers: [...host, ...headers, ...length] });
  if (body !== '') await request.send(body);
  await request.end();
  return request.readFinal();
}

describe.each(BODIES)('over $transport, a body $kind', ({ transport, kind }) => {
  const name = `${transport} ${kind}`.replaceAll(/\W/g, '');

  test('is shown to the gate, and reaches the origin as it came when that lets it pass', async () => {
    const target = `/gated/${name}`;
    proxy.answer(target, { status: 201, headers: [['Location', '7']], body: 'made' });
    const headers: HeaderLine[] = [
      ['Content-Type', 'text/plain'],
      ['X-HTTP-Method-Override', 'LOCK'],
      ['Content-Digest', 'md5=:AAAA:'],
    ];
    const response = await send(transport, kind, { target, body: 'fine', headers });
    expect([response.status, response.body.toString(), response.header('Location')]).toEqual([201, 'made', '7']);
    expect(response.interims).toEqual([]);
    expect(response.headerLines.filter(([field]) => /^upload-/i.test(field))).toEqual([]);
    const [request] = await proxy.requestsWhole(target, 1);
    expect([request!.method, request!.body.toString(), request!.header('content-length')]).toEqual([
      'POST',
      'fine',
      '4',
    ]);
    for (const [field, value] of headers) expect(request!.header(field)).toBe(value);
  });

  test('never reaches the origin when the gate refuses it', async () => {
    const target = `/gated/virus-${name}`;
    const response = await send(transport, kind, { target, body: 'a VIRUS' });
    expect([response.status, response.body.toString()]).toEqual([422, 'infected\n']);
    expect(proxy.requestsFor(target)).toEqual([]);
  });

  test('is framed as the route says', async () => {
    const target = `/framed/${name}`;
    const response = await send(transport, kind, { target, body: 'hello', headers: [['Content-Type', 'image/png']] });
    expect(response.status).toBe(200);
    const request = await proxy.requestFor(target);
    expect(request.header('content-type')).toMatch(/^multipart\/form-data; boundary=/);
    expect(request.body.toString()).toMatch(/filename="upload"\r\nContent-Type: image\/png\r\n\r\nhello\r\n--/);
  });

  test.each([[], [['Upload-Complete', '?1']], [['Upload-Complete', '?0']]] satisfies HeaderLine[][])(
    'that is a form cannot say the fields of the route: %j is refused',
    async (...said) => {
      const target = `/told/${name}`;
      const body = '--b\r\nContent-Disposition: form-data; name="role"\r\n\r\nadmin\r\n--b--\r\n';
      const headers: HeaderLine[] = [['Content-Type', 'multipart/form-data; boundary=b'], ...said];
      const response = await send(transport, kind, { target, body, headers });
      expect([response.status, response.header('content-type')]).toEqual([415, 'application/problem+json']);
      expect(response.body.toString()).toContain('Send the file alone, with its own type.');
      expect(proxy.requestsFor(target)).toEqual([]);
    },
  );

  test('goes to the target and by the method of the route', async () => {
    const headers: HeaderLine[] = [['Content-Disposition', `attachment; filename="${name}"`]];
    const response = await send(transport, kind, { target: '/moved/x', body: 'hello', headers });
    expect(response.status).toBe(200);
    const request = await proxy.requestFor(`/in/moved/x?name=${name}`);
    expect([request.method, request.body.toString()]).toEqual(['PUT', 'hello']);
    expect(proxy.requestsFor('/moved/x')).toEqual([]);
  });

  test.each(['/spooled/', '/api/', '/passed/'])(
    'that is larger than max_size is 413 on %s, and the origin never has all of it',
    async (path) => {
      const target = `${path}large-${name}`;
      const response = await send(transport, kind, { target, body: 'z'.repeat(1500) });
      expect([response.status, response.header('Content-Type')]).toEqual([413, 'application/problem+json']);
      expect(proxy.requestsFor(target).filter(({ ended }) => ended === 'whole')).toEqual([]);
    },
  );

  test('of just max_size passes', async () => {
    const target = `/api/just-${name}`;
    expect((await send(transport, kind, { target, body: 'z'.repeat(1000) })).status).toBe(200);
    expect((await proxy.requestFor(target)).size).toBe(1000);
  });

  test('is refused with a word about how to upload where the route takes uploads only', async () => {
    const target = `/refused/${name}`;
    const response = await send(transport, kind, { target, body: 'hello' });
    expect([response.status, response.header('Content-Type')]).toEqual([428, 'application/problem+json']);
    expect(response.header('Upload-Limit')).toContain('max-size=1000');
    expect(response.body.toString()).toContain('Upload-Complete: ?1');
    expect(proxy.requestsFor(target)).toEqual([]);
    const uploaded = await send(transport, kind, { target, body: 'hello', headers: [['Upload-Complete', '?1']] });
    expect(uploaded.status).toBe(200);
  });

  test('leaves nothing behind when its client goes away in the middle', async () => {
    const before = await spool();
    const target = `/spooled/left-${name}`;
    const length: HeaderLine[] = kind === 'with a length' ? [['Content-Length', '10']] : [];
    const host: HeaderLine[] = transport === 'HTTP/1.1' ? [['Host', proxy.host]] : [];
    const request = await proxy.begin(transport, { method: 'POST', target, headers: [...host, ...length] });
    await request.send('half');
    const own = await until(async () => (await spool()).find((id) => !before.includes(id)), 'its bytes in the spool');
    request.leave('reset');
    await until(async () => !(await spool()).includes(own), 'the end of its bytes');
    expect(proxy.requestsFor(target)).toEqual([]);
  });

  test('is delivered when its client goes away after it', async () => {
    const target = `/spooled/gone-${name}`;
    let answer = (): void => undefined;
    const answered = new Promise<void>((resolve) => (answer = resolve));
    proxy.answer(target, { status: 201, body: 'made', after: answered });
    const length: HeaderLine[] = kind === 'with a length' ? [['Content-Length', '5']] : [];
    const host: HeaderLine[] = transport === 'HTTP/1.1' ? [['Host', proxy.host]] : [];
    const request = await proxy.begin(transport, { method: 'POST', target, headers: [...host, ...length] });
    await request.send('hello');
    await request.end();
    const [got] = await proxy.requestsWhole(target, 1);
    request.leave('reset');
    answer();
    await until(() => got!.finished, 'the end of the delivery');
    expect(proxy.requestsFor(target)).toHaveLength(1);
  });
});

test('an answered request leaves nothing in the spool', async () => {
  proxy.answer('/spooled/done', { status: 200, body: 'x'.repeat(200_000) });
  const response = await send('HTTP/1.1', 'with a length', { target: '/spooled/done', body: 'hello' });
  expect([response.status, response.body.length]).toEqual([200, 200_000]);
  await until(async () => (await spool()).length === 0, 'an empty spool');
});

test('a client that waits for 100 Continue is told to go on, and is told of no upload', async () => {
  const lines: HeaderLine[] = [
    ['Host', proxy.host],
    ['Expect', '100-continue'],
    ['Content-Length', '5'],
  ];
  const request = await proxy.begin('HTTP/1.1', { method: 'POST', target: '/spooled/expect', headers: lines });
  expect((await request.readInterim()).status).toBe(100);
  await request.send('hello');
  expect((await request.readFinal()).status).toBe(200);
  expect((await proxy.requestFor('/spooled/expect')).header('expect')).toBeUndefined();
});

test('a body that stops coming is 408, and nothing of it is kept', async () => {
  const lines: HeaderLine[] = [
    ['Host', proxy.host],
    ['Content-Length', '10'],
  ];
  const request = await proxy.begin('HTTP/1.1', { method: 'POST', target: '/spooled/idle', headers: lines });
  await request.send('half');
  expect((await request.readFinal()).status).toBe(408);
  await until(async () => (await spool()).length === 0, 'an empty spool');
});

test('a 401 of the origin is the answer, whole and once', async () => {
  proxy.answer('/spooled/who', { status: 401, headers: [['WWW-Authenticate', 'Basic']], body: 'who are you' });
  const response = await send('HTTP/1.1', 'with a length', { target: '/spooled/who', body: 'hello' });
  expect([response.status, response.header('WWW-Authenticate'), response.body.toString()]).toEqual([
    401,
    'Basic',
    'who are you',
  ]);
  await until(async () => (await spool()).length === 0, 'an empty spool');
});

test('after a 503 nothing is sent any more, although there was time to try again', async () => {
  proxy.answer('/failing/x', { status: 503, body: 'not now' });
  const response = await send('HTTP/1.1', 'with a length', { target: '/failing/x', body: 'hello' });
  expect(response.status).toBe(503);
  expect(response.header('Retry-After')).toBeDefined();
  await until(async () => (await spool()).length === 0, 'an empty spool');
  expect(proxy.requestsFor('/failing/x')).toHaveLength(1);
});

/** Whether a method brings something new, so that routes say how, or is about what is there. */
const BY_METHOD = ['POST', 'PUT', 'PATCH']
  .map((method) => ({ method, isReshaped: true }))
  .concat(
    ['GET', 'DELETE', 'OPTIONS', 'PROPFIND', 'PROPPATCH', 'LOCK', 'UNLOCK', 'MOVE', 'COPY', 'MKCOL', 'REPORT', 'PURGE']
      .concat(METHODS.includes('QUERY') ? ['QUERY'] : [])
      .map((method) => ({ method, isReshaped: false })),
  );

describe.each(TRANSPORTS)('over %s', (transport) => {
  const kind = 'with a length';
  const about = (method: string, body: string): string => `${transport.replace('/', '')}-${method}-${body}`;

  describe.each(BY_METHOD)('a $method', ({ method, isReshaped }) => {
    test.each(['', 'hello'])(
      'with the content %j is framed, moved and renamed only if it brings something',
      async (body) => {
        const own = about(method, body);
        expect((await send(transport, kind, { method, target: `/framed/${own}`, body })).status).toBe(200);
        const framed = await proxy.requestFor(`/framed/${own}`);
        expect([framed.method, /^multipart/.test(framed.header('content-type') ?? '')]).toEqual([method, isReshaped]);
        if (!isReshaped) expect(framed.body.toString()).toBe(body);
        expect((await send(transport, kind, { method, target: `/moved/${own}`, body })).status).toBe(200);
        const moved = await proxy.requestFor(isReshaped ? `/in/moved/${own}?name=upload` : `/moved/${own}`);
        expect([moved.method, moved.body.toString()]).toEqual([isReshaped ? 'PUT' : method, body]);
      },
    );

    test('that declares an upload is no other request at its end either', async () => {
      const target = `/moved/up-${about(method, '')}`;
      const headers: HeaderLine[] = [['Upload-Complete', '?1']];
      expect((await send(transport, kind, { method, target, body: 'hello', headers })).status).toBe(200);
      const moved = await proxy.requestFor(isReshaped ? `/in${target}?name=upload` : target);
      expect([moved.method, moved.body.toString()]).toEqual([isReshaped ? 'PUT' : method, 'hello']);
    });

    test('with content is shown to the gate, and is else itself', async () => {
      const virus = `/gated/virus-${about(method, '')}`;
      const refused = await send(transport, kind, { method, target: virus, body: 'a VIRUS' });
      expect([refused.status, proxy.requestsFor(virus)]).toEqual([422, []]);
      const asking: HeaderLine[] = [['Access-Control-Request-Method', 'POST']];
      const other = `${virus}-asking`;
      const asked = await send(transport, kind, { method, target: other, body: 'a VIRUS', headers: asking });
      expect([asked.status, proxy.requestsFor(other)]).toEqual([422, []]);
      const target = `/gated/${about(method, '')}`;
      expect((await send(transport, kind, { method, target, body: 'fine' })).status).toBe(200);
      const got = await proxy.requestFor(target);
      expect([got.method, got.body.toString()]).toEqual([method, 'fine']);
    });

    test('without content passes the gate as it came', async () => {
      const target = `/gated/empty-${about(method, '')}`;
      expect((await send(transport, kind, { method, target, body: '' })).status).toBe(200);
      const got = await proxy.requestFor(target);
      expect([got.method, got.size, got.header('idempotency-key')]).toEqual([method, 0, undefined]);
    });

    test('with content is refused where the route takes uploads only, and passes without', async () => {
      const target = `/refused/${about(method, '')}`;
      expect((await send(transport, kind, { method, target, body: 'hello' })).status).toBe(428);
      expect(proxy.requestsFor(target)).toEqual([]);
      expect((await send(transport, kind, { method, target, body: '' })).status).toBe(200);
      expect((await proxy.requestFor(target)).method).toBe(method);
    });
  });
});

test('a body passes as it came where the route says so', async () => {
  await send('HTTP/1.1', 'with a length', { target: '/passed/x', body: 'hello' });
  expect((await proxy.requestFor('/passed/x')).body.toString()).toBe('hello');
});

test.each<[string, string | undefined]>([
  ['final', undefined],
  ['6', '6'],
  ['an unknown version', '99'],
])('a small upload in one request, %s, is framed like a large one', async (_, version) => {
  const target = `/small/${version ?? 'final'}`;
  const headers: HeaderLine[] = [['Upload-Complete', '?1']];
  if (version) headers.push(['Upload-Draft-Interop-Version', version]);
  expect((await send('HTTP/1.1', 'with a length', { target, body: 'hello', headers })).status).toBe(200);
  expect((await proxy.requestFor(target)).body.toString()).toContain('\r\n\r\nhello\r\n--');
});

describe('after a crash', () => {
  let origin: TestOrigin;
  let app: TestApp | undefined;

  afterEach(async () => {
    await app?.stop();
    await origin.close();
  });

  test('a body that was not complete is removed, and one that was is delivered once', async () => {
    origin = await startTestOrigin();
    const directory = await temporaryDirectory('rufh-plain-');
    const store = await EmbeddedStore.open({ directory: directory.path, sync: 'none', log: silentLog() });
    const chunks = new LocalSpool({ directory: directory.path, sync: 'none' });
    await chunks.open();
    const ids: string[] = [];
    for (const complete of [false, true]) {
      const { id } = await store.create({ ...newUpload(), dialect: 'plain', length: undefined });
      ids.push(id);
      const token = await store.nextToken(id);
      const name = chunkName(token, 0);
      const writer = await chunks.create(id, name);
      await writer.write([Buffer.from('hello')]);
      await writer.close();
      const chunk = { name, start: 0, ...writer.extent };
      const end = complete ? { complete: { heldBack: { lastByte: 111 } } } : {};
      await store.commit(id, { token, chunk, expiresAt: Date.now() + HOUR, ...end });
    }
    await store.close();
    app = await startTestApp({ origin: origin.url, data: directory.path });
    const [request] = await origin.waitForRequests(1);
    expect(request!.body.toString()).toBe('hello');
    await until(async () => (await spooledIn(directory.path)).length === 0, 'an empty spool');
    expect(origin.requests).toHaveLength(1);
    await app.stop();
    app = undefined;
    await directory.remove();
  });
});

test('an origin that cannot be reached is 502, and the request is not sent later', async () => {
  const dead = await startRawOrigin();
  const { url } = dead;
  await dead.close();
  const app = await startTestApp({
    origin: url,
    config: 'plain_bodies: spool\ndelivery: { retry: { attempts: 1 } }',
  });
  const response = await fetch(`${app.url}/x`, { method: 'POST', body: 'hello' });
  expect(response.status).toBe(502);
  expect(await spooledIn(app.data)).toEqual([]);
  await app.stop();
});
