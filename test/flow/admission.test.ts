import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect, requestOnce, TRANSPORTS } from '../support/client.js';
import { clientDialect, creationLines, DIALECTS, versionLines } from '../support/resumable-client.js';
import { type TestOrigin, startTestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp, TestProxy } from '../support/test-proxy.js';
import { STREAM, TUS } from '../support/tus-client.js';
import { until } from '../support/temporary.js';
import type { WireResponse } from '../support/wire.js';

const LENGTH = 1000;

/** A client of one protocol: how it begins an upload of 1000 bytes with the first ten of them, and ends it. */
interface Speaker {
  readonly name: string;
  readonly begin: readonly HeaderLine[];
  readonly other: readonly HeaderLine[];
}

const SPEAKERS: readonly Speaker[] = [
  ...DIALECTS.map((name) => {
    const dialect = clientDialect(name);
    const begin = creationLines(dialect, { complete: false, length: LENGTH });
    return { name: `interop ${name}`, begin, other: versionLines(dialect) };
  }),
  { name: 'tus', begin: [TUS, ['Upload-Length', String(LENGTH)], STREAM], other: [TUS] },
];

/** Routes with room for one upload, and how a second one is refused. */
const REFUSALS: readonly (readonly [path: string, status: number])[] = [
  ['/few', 503],
  ['/small', 507],
  ['/mine', 429],
];

describe.each(TRANSPORTS)('over %s', (transport) => {
  let proxy: TestProxy;

  beforeAll(async () => {
    const routes = `
routes:
  - { match: { path: /few }, limits: { max_uploads: 1 } }
  - { match: { path: /small }, limits: { max_spooled: ${2 * LENGTH - 1} } }
  - { match: { path: /mine } }
`;
    const limits = `limits: { uploads: { bytes_per_client: ${2 * LENGTH - 1} } }\ninterim_responses: always`;
    proxy = await TestProxy.open({ config: `trusted_proxies: [127.0.0.1]\n${limits}\n${routes}` });
  });
  afterAll(() => proxy.close());

  function begin({ begin: lines }: Speaker, target: string, client: number): Promise<WireResponse> {
    const headers: HeaderLine[] = [...lines, ['X-Forwarded-For', `192.0.2.${client}`]];
    return proxy.send(transport, { method: 'POST', target, headers, body: '0123456789' });
  }

  test.each(SPEAKERS)('$name: an upload without room is refused before the 104, and let in later', async (speaker) => {
    for (const [target, status] of REFUSALS) {
      const first = await begin(speaker, target, 1);
      expect(first.status).toBe(201);
      // On a route of its own the other client is refused for what the route has.
      const refused = await begin(speaker, target, status === 429 ? 1 : 2);
      // tus-js-client takes 429 for final.
      const told = speaker.name === 'tus' && status === 429 ? 503 : status;
      expect([refused.status, refused.interims]).toEqual([told, []]);
      expect(refused.header('Content-Type')).toBe('application/problem+json');
      expect(JSON.parse(refused.body.toString())).toMatchObject({ status: told, type: 'about:blank' });
      expect(Number(refused.header('Retry-After'))).toBeGreaterThan(0);
      expect(refused.header('Location')).toBeUndefined();
      const location = new URL(first.header('Location')!).pathname;
      expect((await proxy.send(transport, { method: 'DELETE', target: location, headers: speaker.other })).status).toBe(
        204,
      );
      const again = await begin(speaker, target, 2);
      expect(again.status).toBe(201);
      const second = new URL(again.header('Location')!).pathname;
      await proxy.send(transport, { method: 'DELETE', target: second, headers: speaker.other });
    }
    expect(proxy.origin.requests).toEqual([]);
  });

  test.each(SPEAKERS)('$name: an upload that could never fit is told how large it may be', async (speaker) => {
    const lines = speaker.begin.map(([name, value]): HeaderLine => {
      return [name, name === 'Upload-Length' ? String(2 * LENGTH) : value];
    });
    const refused = await begin({ ...speaker, begin: lines }, '/small', 3);
    expect([refused.status, refused.interims]).toEqual([413, []]);
    expect(JSON.parse(refused.body.toString())).toMatchObject({ detail: expect.stringContaining(`${2 * LENGTH - 1}`) });
  });
});

describe('the limits of one proxy', () => {
  let origin: TestOrigin;
  let apps: TestApp[] = [];

  beforeAll(async () => {
    origin = await startTestOrigin();
  });
  afterEach(async () => {
    await Promise.all(apps.map((app) => app.stop()));
    apps = [];
  });
  afterAll(() => origin.close());

  async function start(config: string, timings = {}): Promise<TestApp> {
    const app = await startTestApp({ config: `origin: ${origin.url}\n${config}\n`, timings });
    apps.push(app);
    return app;
  }

  function post(app: TestApp, headers: readonly HeaderLine[], body = ''): Promise<WireResponse> {
    return requestOnce(app.url, { method: 'POST', target: '/x', headers, body });
  }

  const EMPTY: readonly HeaderLine[] = [
    ['Upload-Complete', '?0'],
    ['Upload-Length', '10'],
  ];

  test('a client that is too fast hears when it may create the next upload, and then may', async () => {
    const app = await start('limits: { uploads: { rate: 1, burst: 3 } }');
    const statuses = [];
    for (let count = 0; count < 3; count++) statuses.push((await post(app, EMPTY)).status);
    expect(statuses).toEqual([201, 201, 201]);
    const refused = await post(app, EMPTY);
    expect([refused.status, refused.header('Retry-After')]).toEqual([429, '1']);
    await until(async () => (await post(app, EMPTY)).status === 201, 'the next creation');
    expect(app.log).toContainEqual(
      expect.objectContaining({ msg: 'uploads are refused', limit: 'rate', setting: 'limits.uploads.rate' }),
    );
  });

  test('a refused client is answered late, so that it cannot ask again at once', async () => {
    const app = await start('limits: { uploads: { rate: 1, burst: 1 } }', { refusalDelayMs: 300 });
    await post(app, EMPTY);
    const since = performance.now();
    const refused = await Promise.all([post(app, EMPTY), post(app, EMPTY)]);
    expect(refused.map(({ status }) => status)).toEqual([429, 429]);
    expect(performance.now() - since).toBeGreaterThan(290);
  });

  test('requests to an upload that is there, and ordinary ones, are not counted', async () => {
    const app = await start('limits: { uploads: { rate: 1, burst: 1, per_client: 1 } }\nplain_bodies: spool');
    const created = await post(app, EMPTY);
    const target = new URL(created.header('Location')!).pathname;
    for (let count = 0; count < 5; count++) {
      expect((await requestOnce(app.url, { method: 'HEAD', target })).status).toBe(204);
      expect((await post(app, [], 'plain')).status).toBe(200);
    }
    expect((await post(app, EMPTY)).status).toBe(429);
  });

  test('an ordinary request whose body has no room in the spool gets 507, too', async () => {
    const app = await start('spool: { max_bytes: 1000 }\nplain_bodies: spool');
    await post(app, [
      ['Upload-Complete', '?0'],
      ['Upload-Length', '900'],
    ]);
    const refused = await post(app, [], 'x'.repeat(101));
    expect([refused.status, refused.header('Retry-After')]).toEqual([507, '60']);
    expect((await post(app, [], 'x'.repeat(100))).status).toBe(200);
  });

  test('clients behind a trusted proxy count by their own address, and the proxy itself has no limit', async () => {
    const app = await start('trusted_proxies: [127.0.0.1]\nlimits: { uploads: { per_client: 1 } }');
    const as = async (address?: string): Promise<number> =>
      (await post(app, address === undefined ? EMPTY : [...EMPTY, ['X-Forwarded-For', address]])).status;
    expect([await as('192.0.2.1'), await as('192.0.2.1'), await as('192.0.2.2')]).toEqual([201, 429, 201]);
    expect([await as('2001:db8::1'), await as('2001:db8::2'), await as('2001:db8:0:1::1')]).toEqual([201, 429, 201]);
    expect([await as(), await as()]).toEqual([201, 201]);
  });

  test('a user counts as one client, whatever the address', async () => {
    const service = await startTestOrigin((request) => ({
      status: 204,
      headers: [['X-User', request.header('Authorization') ?? 'nobody']],
    }));
    const auth = `authorize: { forward_auth: { url: "${service.url}", principal_header: X-User } }`;
    const app = await start(`trusted_proxies: [127.0.0.1]\nlimits: { uploads: { per_client: 1 } }\n${auth}`);
    const as = async (user: string, address: string): Promise<number> =>
      (await post(app, [...EMPTY, ['Authorization', user], ['X-Forwarded-For', address]])).status;
    expect([await as('ann', '192.0.2.1'), await as('ann', '192.0.2.2'), await as('bob', '192.0.2.1')]).toEqual([
      201, 429, 201,
    ]);
    await service.close();
  });

  test('an upload without a byte has a short life, and one with a byte the whole, as they are told', async () => {
    const app = await start('limits: { max_idle_empty: 1s }');
    const empty = await post(app, EMPTY);
    expect(empty.header('Upload-Limit')).toMatch(/max-age=[01]$/);
    const begun = await post(app, EMPTY, '0');
    expect(begun.header('Upload-Limit')).toMatch(/max-age=86(?:400|3\d\d)$/);
    const tus = await post(app, [TUS, ['Upload-Length', '10']]);
    expect(Date.parse(tus.header('Upload-Expires')!) - Date.now()).toBeLessThanOrEqual(1000);
    const statusOf = async (created: WireResponse): Promise<number> => {
      const target = new URL(created.header('Location')!).pathname;
      return (await requestOnce(app.url, { method: 'HEAD', target })).status;
    };
    for (const each of [empty, tus])
      await until(async () => (await statusOf(each)) === 404, 'the empty upload to be removed');
    expect(await statusOf(begun)).toBe(204);
  });

  test('an upload whose bytes count only at their end does not expire while they come', async () => {
    const app = await start('');
    const created = await post(app, [TUS, ['Upload-Length', '10']]);
    const target = new URL(created.header('Location')!).pathname;
    const client = await connect(app.url);
    const checksum: HeaderLine = ['Upload-Checksum', 'sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0='];
    await client.sendHead('PATCH', target, [TUS, STREAM, ['Upload-Offset', '0'], ['Content-Length', '10'], checksum]);
    await client.send('01234');
    const chunks = (): string[] =>
      readdirSync(join(app.data, 'spool'), { recursive: true, encoding: 'utf8' }).filter((name) =>
        name.includes('/chunk-'),
      );
    await until(() => chunks().length > 0, 'the first bytes');
    const head = await requestOnce(app.url, { method: 'HEAD', target, headers: [TUS] });
    expect(head.header('Upload-Offset')).toBe('0');
    expect(Date.parse(head.header('Upload-Expires')!) - Date.now()).toBeGreaterThan(3_600_000);
    client.destroy();
  });

  test('an upload without a length takes its room step by step, and keeps what was acknowledged when there is no more', async () => {
    const app = await start('spool: { max_bytes: 100000 }');
    const client = await connect(app.url);
    await client.sendHead('POST', '/x', [
      ['Upload-Draft-Interop-Version', '8'],
      ['Upload-Complete', '?1'],
      ['Transfer-Encoding', 'chunked'],
    ]);
    const target = new URL((await client.readInterim()).header('Location')!).pathname;
    const piece = `10000\r\n${'x'.repeat(0x10000)}\r\n`;
    await client.send(piece + piece + '0\r\n\r\n');
    expect((await client.readFinal()).status).toBe(507);
    client.destroy();
    const head = await requestOnce(app.url, { method: 'HEAD', target });
    expect([head.status, head.header('Upload-Complete')]).toEqual([204, '?0']);
    expect(Number(head.header('Upload-Offset'))).toBeLessThan(100_000);
  });
});
