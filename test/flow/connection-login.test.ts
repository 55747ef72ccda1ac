import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect } from '../support/client.js';
import { bodyOf, DeliveryHarness } from '../support/delivery-harness.js';
import { connectH2 } from '../support/http2-client.js';
import { type RawExchange, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireRequest, WireResponse } from '../support/wire.js';

/** By the origin's connection: what its login has come to. */
let users: Map<number, string>;
let origin: RawOrigin;
let app: TestApp;

/** Like IIS: two rounds log in the connection, and then everything on it is that user's. */
async function loginByConnection(exchange: RawExchange): Promise<void> {
  await exchange.readBody();
  const at = exchange.connectionIndex;
  const [scheme = 'NTLM', round, name = ''] = exchange.header('authorization')?.split(' ') ?? [];
  if (round === 'three' && users.get(at) === 'asked') users.set(at, name);
  else if (round === 'one') users.set(at, 'asked');
  const user = users.get(at);
  if (exchange.target === '/open') return exchange.respond({ status: 200, body: user ?? 'nobody' });
  if (user !== undefined && user !== 'asked') return exchange.respond({ status: 200, body: user });
  const challenge = user === 'asked' ? `${scheme} challenge` : 'Basic realm="x", NTLM';
  await exchange.respond({ status: 401, headers: [['WWW-Authenticate', challenge]], body: 'who?' });
}

beforeEach(async () => {
  users = new Map();
  origin = await startRawOrigin(loginByConnection);
  app = await startTestApp({ origin: origin.url });
});

afterEach(async () => {
  await app.stop();
  await origin.close();
});

interface Client {
  request(request: WireRequest): Promise<WireResponse>;
  close(): Promise<void>;
}

const CLIENTS: Readonly<Record<string, () => Promise<Client>>> = {
  'HTTP/1.1': async () => {
    const client = await connect(app.url);
    return {
      request: (request) => client.request(request),
      close: async () => {
        client.destroy();
        await client.closed;
      },
    };
  },
  'HTTP/2': () => connectH2(app.url),
};

async function ask(client: Client, credentials?: string, request: Partial<WireRequest> = {}): Promise<string> {
  const headers: HeaderLine[] = credentials === undefined ? [] : [['Authorization', credentials]];
  const { status, body } = await client.request({ method: 'GET', target: '/secret', ...request, headers });
  return `${status} ${body.toString()}`;
}

/** The two rounds that log in a connection. */
async function login(client: Client, name: string, scheme = 'NTLM'): Promise<void> {
  expect(await ask(client, `${scheme} one`)).toBe('401 who?');
  expect(await ask(client, `${scheme} three ${name}`)).toBe(`200 ${name}`);
}

describe.each(Object.entries(CLIENTS))('over %s', (_, open) => {
  test.each(['NTLM', 'Negotiate', 'negotiate'])('a login by %s is its client connection’s alone', async (scheme) => {
    const [alice, bob, carol] = [await open(), await open(), await open()];
    expect(await ask(alice)).toBe('401 who?');
    await login(alice, 'alice', scheme);
    expect(await ask(bob)).toBe('401 who?');
    expect(await ask(bob, undefined, { target: '/open' })).toBe('200 nobody');
    await login(carol, 'carol', scheme);
    for (let round = 0; round < 3; round++) {
      expect(await ask(alice, undefined, { method: 'POST', body: 'hello' })).toBe('200 alice');
      expect(await ask(carol)).toBe('200 carol');
      expect(await ask(bob)).toBe('401 who?');
    }
    await Promise.all([alice.close(), bob.close(), carol.close()]);
  });

  test('a login ends with the connection of its client', async () => {
    const alice = await open();
    await login(alice, 'alice');
    const [[at]] = [...users].filter(([, name]) => name === 'alice') as [[number, string]];
    expect(origin.connections[at]!.open).toBe(true);
    await alice.close();
    const again = await open();
    expect(await ask(again, undefined, { target: '/open' })).toBe('200 nobody');
    await origin.connections[at]!.closed;
    await again.close();
  });

  test('what was refused with a challenge is not used for others', async () => {
    const [alice, bob] = [await open(), await open()];
    expect(await ask(alice)).toBe('401 who?');
    expect(await ask(bob, undefined, { target: '/open' })).toBe('200 nobody');
    expect(origin.exchanges.at(-1)!.connectionIndex).toBe(1);
    await Promise.all([alice.close(), bob.close()]);
  });

  test('other credentials share connections as before', async () => {
    const [alice, bob] = [await open(), await open()];
    expect(await ask(alice, 'Basic YWxpY2U6eA==', { target: '/open' })).toBe('200 nobody');
    expect(await ask(bob, 'Bearer NTLM', { target: '/open' })).toBe('200 nobody');
    expect(origin.connections).toHaveLength(1);
    await Promise.all([alice.close(), bob.close()]);
  });

  test('a login by OPTIONS works as well', async () => {
    const alice = await open();
    await ask(alice, 'NTLM one', { method: 'OPTIONS' });
    await ask(alice, 'NTLM three alice', { method: 'OPTIONS' });
    expect(await ask(alice)).toBe('200 alice');
    await alice.close();
  });
});

describe('behind a proxy', () => {
  /** One connection of a proxy, over which it sends what several clients ask. */
  async function behind(config: string, transport: 'HTTP/1.1' | 'HTTP/2', told: string) {
    const app = await startTestApp({ origin: origin.url, config });
    const front = transport === 'HTTP/2' ? await connectH2(app.url) : await connect(app.url);
    const of = (client: string, credentials?: string, target = '/open') =>
      front
        .request({
          method: 'GET',
          target,
          headers: [[told, client], ...(credentials === undefined ? [] : [['Authorization', credentials] as const])],
        })
        .then(({ status, body }) => `${status} ${body.toString()}`);
    const stop = async () => {
      front instanceof Object && 'destroy' in front ? front.destroy() : await front.close();
      await app.stop();
    };
    return { of, stop };
  }

  const TRUSTED = 'trusted_proxies: [127.0.0.1]';
  const APART = 'trusted_proxies: [{ cidr: 127.0.0.1, connection_per_client: true }]';

  test.each([
    ['HTTP/1.1', TRUSTED, 'X-Forwarded-For'],
    ['HTTP/2', TRUSTED, 'X-Forwarded-For'],
    ['HTTP/1.1', '', 'X-Forwarded-For'],
    ['HTTP/2', '', 'Via'],
  ] as const)('over %s with "%s" nobody is served by the login of another (%s)', async (transport, config, told) => {
    const front = await behind(config, transport, told);
    const name = told === 'Via' ? '1.1 front' : '10.1.1.1';
    await front.of(name, 'NTLM one');
    expect(await front.of(name, 'NTLM three alice')).toBe('200 nobody');
    expect(await front.of(told === 'Via' ? '1.1 front' : '10.2.2.2')).toBe('200 nobody');
    // Each had a connection that ended with it.
    await until(
      () => origin.connections.filter(({ open }) => open).length <= 1,
      'the connections of the logins to end',
    );
    await front.stop();
  });

  test('one that waits for its answer holds up nobody', async () => {
    const front = await behind(TRUSTED, 'HTTP/2', 'X-Forwarded-For');
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      if (exchange.target !== '/hangs') await exchange.respond({ status: 200, body: 'ok' });
    });
    const hangs = front.of('10.1.1.1', 'NTLM one', '/hangs').catch(() => 'gone');
    await until(() => origin.exchanges.some(({ target }) => target === '/hangs'), 'the first to be at the origin');
    expect(await front.of('10.2.2.2')).toBe('200 ok');
    await front.stop();
    await hangs;
  });

  test('that keeps its clients apart, a login holds for the connection', async () => {
    const front = await behind(APART, 'HTTP/1.1', 'X-Forwarded-For');
    await front.of('10.1.1.1', 'NTLM one', '/secret');
    expect(await front.of('10.1.1.1', 'NTLM three alice', '/secret')).toBe('200 alice');
    expect(await front.of('10.1.1.1', undefined, '/secret')).toBe('200 alice');
    await front.stop();
  });
});

test('streams at the same time stay on the connection that is logged in', async () => {
  const [alice, bob] = [await connectH2(app.url), await connectH2(app.url)];
  await login(alice, 'alice');
  const many = (client: Client): Promise<string[]> =>
    Promise.all(Array.from({ length: 6 }, () => ask(client, undefined, { target: '/open' })));
  const [hers, his] = await Promise.all([many(alice), many(bob)]);
  expect(new Set(hers)).toEqual(new Set(['200 alice']));
  expect(new Set(his)).toEqual(new Set(['200 nobody']));
  await Promise.all([alice.close(), bob.close()]);
});

describe('deliveries', () => {
  const authorization = (value: string): { method: string; headers: HeaderLine[] } => ({
    method: 'PUT',
    headers: [['Authorization', value]],
  });

  test.each([
    ['the request', 'NTLM one', []],
    ['the request', 'Negotiate one', []],
    ['the answer', 'Bearer x', [['WWW-Authenticate', 'Negotiate oYG2']]],
  ] satisfies [string, string, HeaderLine[]][])(
    'leave no connection to others where %s is a login (%s)',
    async (_, value, headers) => {
      origin.setScript(async (exchange) => {
        await exchange.readBody();
        await exchange.respond({ status: 200, headers, body: 'ok' });
      });
      const harness = await DeliveryHarness.open(origin.url);
      for (const request of [{ method: 'PUT' }, authorization(value), { method: 'PUT' }]) {
        const { id } = await harness.whole({ request });
        expect((await bodyOf(await harness.answer(id))).toString()).toBe('ok');
      }
      const [first, login, last] = origin.exchanges.map(({ connectionIndex }) => connectionIndex);
      expect(login === last || (headers.length === 0 && login === first)).toBe(false);
      await until(() => !origin.connections[login!]!.open, 'the end of the connection');
      await harness.close();
    },
  );
});

describe('the authorization service', () => {
  test.each([
    ['the question', 'NTLM one', []],
    ['the question', 'Negotiate one', []],
    ['the answer', 'Bearer x', [['WWW-Authenticate', 'Negotiate oYG2']]],
  ] satisfies [string, string, HeaderLine[]][])(
    'is asked for nobody else on a connection where %s is a login (%s)',
    async (_, value, headers) => {
      const service = await startRawOrigin((exchange) =>
        exchange.respond({ status: 200, headers: exchange.header('Authorization') === value ? headers : [] }),
      );
      const own = await startTestApp({ origin: origin.url, config: `authorize: { forward_auth: "${service.url}" }\n` });
      const client = await connect(own.url);
      for (const lines of [[], [['Authorization', value] as const], []])
        expect((await client.request({ method: 'GET', target: '/open', headers: lines })).status).toBe(200);
      const [first, login, last] = service.exchanges.map(({ connectionIndex }) => connectionIndex);
      expect(login === last || (headers.length === 0 && login === first)).toBe(false);
      client.destroy();
      await own.stop();
      await service.close();
    },
  );
});
