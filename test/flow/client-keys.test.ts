import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { type Transport, TRANSPORTS } from '../support/client.js';
import { untilSpooled } from '../support/disk.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import {
  appendLines,
  clientDialect,
  creationLines,
  type DialectName,
  DIALECTS,
  progressOf,
  versionLines,
} from '../support/resumable-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { startTestApp, TestProxy } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

// Issue 9: a creation that repeats its client's own Idempotency-Key finds the upload that the key has made.
const ROUTES = `
delivery: { client_keys: true }
routes:
  - match: { path: /spooled/** }
    plain_bodies: spool
  - match: { path: /off/** }
    delivery: { client_keys: false }
  - match: { path: /bound/** }
    bind_to: [x-user]
  - match: { path: /** }
`;
const BYTES = randomBytes(200_000, 4);
const { length } = BYTES;
let keys = 0;

interface Creation {
  readonly transport: Transport;
  readonly dialect: DialectName;
  readonly target: string;
  readonly key: string;
  readonly complete?: boolean;
  readonly body?: Uint8Array | string;
  readonly method?: string;
  readonly more?: readonly HeaderLine[];
}

describe.each(['embedded', 'redis'] as const)('with the %s store', (kind) => {
  let redis: RedisServer | undefined;
  let proxy: TestProxy;

  beforeAll(async () => {
    redis = kind === 'redis' ? await startRedis() : undefined;
    const store = redis ? `store: { type: redis, url: "${redis.url}" }\nspool: { shared: true }\n` : '';
    proxy = await TestProxy.open({ config: store + ROUTES }, startTestApp);
  });
  afterAll(async () => {
    await proxy.close();
    await redis?.stop();
  });

  function headersOf({ transport, dialect, key, complete = true, more = [], body = BYTES }: Creation): HeaderLine[] {
    const host: HeaderLine[] = transport === 'HTTP/1.1' ? [['Host', proxy.host]] : [];
    const fields = dialect === ('plain' as string) ? [] : creationLines(clientDialect(dialect), { complete, length });
    return [...host, ...fields, ['Idempotency-Key', key], ['Content-Length', `${body.length}`], ...more];
  }

  function create(creation: Creation): Promise<WireResponse> {
    const { transport, target, method = 'POST', body = BYTES } = creation;
    const headers = headersOf(creation).filter(([name]) => name !== 'Content-Length' && name !== 'Host');
    return proxy.send(transport, { method, target, headers, body });
  }

  /** Begins to send the whole, and leaves when so much of it is in the spool. */
  async function cutAfter(bytes: number, creation: Creation): Promise<string> {
    const { transport, target } = creation;
    const request = await proxy.begin(transport, { method: 'POST', target, headers: headersOf(creation) });
    const location = (await request.readInterim()).header('Location')!;
    await request.send(BYTES.subarray(0, bytes));
    await untilSpooled(proxy.app.data, location, bytes);
    request.leave('reset');
    await request.close();
    return location;
  }

  async function offsetOf(transport: Transport, dialect: DialectName, location: string): Promise<number> {
    const target = new URL(location).pathname;
    const headers = versionLines(clientDialect(dialect));
    const response = await proxy.send(transport, { method: 'HEAD', target, headers });
    return progressOf(clientDialect(dialect), response).offset!;
  }

  const fresh = (): { key: string; target: string } => {
    const key = `"key-${keys++}"`;
    return { key, target: `/files/${keys}` };
  };

  describe.each(TRANSPORTS)('over %s', (transport) => {
    test.each(DIALECTS)('version %s: what was answered is answered again, and delivered once', async (dialect) => {
      const { key, target } = fresh();
      proxy.answer(target, { status: 201, headers: [['X-Made', '7']], body: 'made' });
      const creation = { transport, dialect, key, target };
      for (let time = 0; time < 3; time++) {
        const response = await create(creation);
        expect([response.status, response.header('X-Made'), response.body.toString()]).toEqual([201, '7', 'made']);
      }
      expect(proxy.requestsFor(target)).toHaveLength(1);
      expect(proxy.requestsFor(target)[0]!.header('Idempotency-Key')).toBe(key);
    });

    // What differs between stores is not what versions say.
    const versions = kind === 'redis' ? (['3', 'final'] as const) : DIALECTS;
    test.each(versions)('version %s: a creation without bytes finds the URL, and what came since', async (dialect) => {
      const { key, target } = fresh();
      const creation = { transport, dialect, key, target, complete: false, body: '' };
      const first = await create(creation);
      const location = first.header('Location')!;
      const path = new URL(location).pathname;
      const half = { method: 'PATCH', target: path, body: BYTES.subarray(0, 1000) };
      await proxy.send(transport, {
        ...half,
        headers: appendLines(clientDialect(dialect), { offset: 0, complete: false }),
      });
      const again = await create(creation);
      expect([first.status, again.status, again.header('Location')]).toEqual([201, 201, location]);
      expect(progressOf(clientDialect(dialect), again)).toMatchObject({ offset: 1000, complete: false });
      const end = { method: 'PATCH', target: path, body: BYTES.subarray(1000) };
      const headers = appendLines(clientDialect(dialect), { offset: 1000, complete: true });
      expect((await proxy.send(transport, { ...end, headers })).status).toBe(200);
      const after = await create(creation);
      expect([after.status, after.header('Location')]).toEqual([201, location]);
      expect(progressOf(clientDialect(dialect), after)).toMatchObject({ offset: length, complete: true });
      expect(proxy.requestsFor(target)).toHaveLength(1);
    });

    test('a whole body that broke off is sent again from its start, and goes on where the upload stands', async () => {
      const creation = { transport, dialect: '8' as const, ...fresh() };
      const location = await cutAfter(120_000, creation);
      const again = await create(creation);
      expect(again.status).toBe(200);
      expect(again.interims[0]!.header('Location')).toBe(location);
      const [request] = await proxy.requestsWhole(creation.target, 1);
      expect([request!.size, request!.sha256]).toEqual([length, sha256(BYTES)]);
      expect(proxy.requestsFor(creation.target)).toHaveLength(1);
    });

    test('another content under the same key is refused, and nothing of it counts', async () => {
      const creation = { transport, dialect: '8' as const, ...fresh() };
      const location = await cutAfter(120_000, creation);
      const offset = await offsetOf(transport, '8', location);
      expect(offset).toBe(120_000);
      const other = Buffer.from(BYTES);
      other[offset - 1] = other[offset - 1]! ^ 1;
      expect((await create({ ...creation, body: other })).status).toBe(422);
      expect(await offsetOf(transport, '8', location)).toBe(offset);
      expect((await create(creation)).status).toBe(200);
      expect((await proxy.requestFor(creation.target)).sha256).toBe(sha256(BYTES));
    });

    test('six at the same moment make one upload', async () => {
      const { key, target } = fresh();
      proxy.answer(target, { status: 201, body: 'made' });
      const all = Array.from({ length: 6 }, () => create({ transport, dialect: '8', key, target }));
      const responses = await Promise.all(all);
      expect(responses.map(({ status }) => status)).toEqual(Array(6).fill(201));
      expect(new Set(responses.map(({ interims }) => interims[0]!.header('Location'))).size).toBe(1);
      expect(proxy.requestsFor(target)).toHaveLength(1);
    });

    test('six empty ones at the same moment get one URL', async () => {
      const creation = { transport, dialect: '6' as const, ...fresh(), complete: false, body: '' };
      const responses = await Promise.all(Array.from({ length: 6 }, () => create(creation)));
      expect(responses.map(({ status }) => status)).toEqual(Array(6).fill(201));
      expect(new Set(responses.map((response) => response.header('Location'))).size).toBe(1);
    });

    test('an ordinary request that is spooled is delivered once, also when its client comes back later', async () => {
      const { key } = fresh();
      const creation = { transport, dialect: 'plain' as DialectName, key, target: `/spooled/${keys}` };
      proxy.answer(creation.target, { status: 201, body: 'made' });
      const responses = await Promise.all([create(creation), create(creation)]);
      responses.push(await create(creation));
      expect(responses.map((response) => [response.status, response.body.toString()])).toEqual(
        Array(3).fill([201, 'made']),
      );
      expect(proxy.requestsFor(creation.target)).toHaveLength(1);
      const other = await create({ ...creation, body: 'another body' });
      expect([other.status, other.header('Upload-Complete')]).toEqual([422, undefined]);
    });
  });

  const DIFFERENCES: readonly (readonly [string, Partial<Creation>])[] = [
    ['another length', { body: BYTES.subarray(1), more: [['Upload-Length', `${length - 1}`]] }],
    ['another target', { target: '/files/elsewhere' }],
    ['another query', { target: '/files/?a=b' }],
    ['another method', { method: 'PUT' }],
    ['another digest of the whole', { more: [['Repr-Digest', `sha-256=:${Buffer.alloc(32).toString('base64')}:`]] }],
    ['an ordinary request', { dialect: 'plain' as DialectName }],
  ];

  test.each(DIFFERENCES)('%s under the same key is 422', async (what, other) => {
    const { key } = fresh();
    const target = what === 'an ordinary request' ? `/spooled/${keys}` : `/files/${keys}`;
    const digest = `sha-256=:${Buffer.from(sha256(BYTES), 'hex').toString('base64')}:`;
    const creation: Creation = { transport: 'HTTP/1.1', dialect: '8', key, target };
    expect((await create({ ...creation, more: [['Repr-Digest', digest]] })).status).toBe(200);
    const changed = { ...creation, ...other };
    // One `Upload-Length` a request.
    const headers = headersOf(changed).filter(
      ([name], at, all) => name !== 'Upload-Length' || at === all.findLastIndex(([last]) => last === name),
    );
    const { body = BYTES, method = 'POST', transport } = changed;
    const response = await proxy.send(transport, { method, target: changed.target, headers, body });
    expect([response.status, response.header('Content-Type')]).toEqual([422, 'application/problem+json']);
    expect(response.body.toString()).toContain('Idempotency-Key');
    expect(proxy.requestsFor(target)).toHaveLength(1);
  });

  const CLIENTS: readonly (readonly [string, string, readonly HeaderLine[], readonly HeaderLine[]])[] = [
    ['other credentials', '/files/', [['Authorization', 'Bearer a']], [['Authorization', 'Bearer b']]],
    ['another cookie', '/files/', [['Cookie', 's=a']], [['Cookie', 's=b']]],
    ['no credentials', '/files/', [['Authorization', 'Bearer a']], []],
    ['another principal', '/bound/', [['X-User', 'a']], [['X-User', 'b']]],
  ];

  test.each(CLIENTS)('a client with %s learns nothing, and has an upload of its own', async (_, path, one, two) => {
    const { key } = fresh();
    const creation = { transport: 'HTTP/1.1' as const, dialect: '8' as const, key, target: `${path}${keys}` };
    const told = [];
    for (const more of [one, two, one])
      told.push((await create({ ...creation, more })).interims[0]!.header('Location')!);
    expect([told[0] === told[1], told[0] === told[2]]).toEqual([false, true]);
    expect(proxy.requestsFor(creation.target)).toHaveLength(2);
  });

  test('a cancelled upload gives way to a new one', async () => {
    const creation = { transport: 'HTTP/1.1' as const, dialect: '8' as const, ...fresh(), complete: false, body: '' };
    const first = (await create(creation)).header('Location')!;
    const headers = versionLines(clientDialect('8'));
    await proxy.send('HTTP/1.1', { method: 'DELETE', target: new URL(first).pathname, headers });
    const second = (await create(creation)).header('Location')!;
    expect(second).not.toBe(first);
    expect((await create(creation)).header('Location')).toBe(second);
  });

  test('a key is known after a restart', async () => {
    const creation = { transport: 'HTTP/1.1' as const, dialect: '8' as const, ...fresh() };
    const begun = { ...creation, ...fresh(), complete: false, body: '' };
    proxy.answer(creation.target, { status: 201, body: 'made' });
    await create(creation);
    const location = (await create(begun)).header('Location')!;
    await proxy.restart();
    const again = await create(creation);
    expect([again.status, again.body.toString()]).toEqual([201, 'made']);
    expect(proxy.requestsFor(creation.target)).toHaveLength(1);
    expect(new URL((await create(begun)).header('Location')!).pathname).toBe(new URL(location).pathname);
  });

  test('where client keys are off, each creation is an upload', async () => {
    const { key } = fresh();
    const target = `/off/${keys}`;
    for (let time = 0; time < 2; time++)
      expect((await create({ transport: 'HTTP/1.1', dialect: '8', key, target })).status).toBe(200);
    expect(proxy.requestsFor(target).map((request) => request.header('Idempotency-Key'))).toEqual([key, key]);
  });
});
