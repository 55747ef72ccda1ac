import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { connect, openTunnel, requestOnce } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { play, type Stage, startFront } from '../support/pass-through-front.js';
import { type RawExchange, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { seededRandom, serverPort, temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';

describe('sockets', () => {
  const ROUNDS = 1_000;
  const AT_ONCE = 20;

  /** An origin that does what the request's target names. */
  async function obey(exchange: RawExchange): Promise<void> {
    switch (exchange.target) {
      case '/early':
        await exchange.readBytes(1_000);
        await exchange.respond({ status: 413, headers: [['Connection', 'close']], body: 'enough' });
        return exchange.reset();
      case '/break':
        await exchange.write('HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello');
        return exchange.reset();
      case '/hang-up':
        return void exchange.socket.destroy();
      case '/silent':
        return;
      case '/switch':
        return exchange.write('HTTP/1.1 101 Fine\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello');
      case '/refuse':
        return exchange.respond({ status: 401, body: 'no' });
      default:
        await exchange.readBody();
        await exchange.respond({ status: 200, body: 'ok' });
    }
  }

  type Act = (url: string) => Promise<unknown>;

  const request =
    (method: string, target: string, body?: string): Act =>
    (url) =>
      requestOnce(url, { method, target, body }).then(
        ({ status }) => status,
        () => 'broken',
      );

  /** Asks, waits for nothing, and leaves. */
  const leave =
    (target: string, how: 'destroy' | 'reset', body: string): Act =>
    async (url) => {
      const client = await connect(url);
      await client.send(`POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n${body}`);
      client[how]();
    };

  const sendMuch: Act = async (url) => {
    const client = await connect(url);
    const [answer] = await Promise.all([
      client.readFinal(),
      client.sendRequest({ method: 'POST', target: '/early', body: Buffer.alloc(500_000) }),
    ]);
    expect(answer.status).toBe(413);
    client.destroy();
  };

  const tunnel =
    (target: string, how: 'destroy' | 'reset' | 'end'): Act =>
    async (url) => {
      const client = await openTunnel(url, '', target);
      const head = await client.readHead();
      if (head!.status === 101) await client.readRaw(5);
      client[how]();
      await client.ended();
    };

  const ACTS: Act[] = [
    request('GET', '/'),
    request('POST', '/', 'hello'),
    request('DELETE', '/', 'hello'),
    request('GET', '/break'),
    request('GET', '/hang-up'),
    request('POST', '/hang-up', 'hello'),
    sendMuch,
    leave('/', 'destroy', 'a beginning'),
    leave('/', 'reset', 'a beginning'),
    leave('/silent', 'destroy', ''),
    leave('/silent', 'reset', 'a beginning'),
    tunnel('/switch', 'destroy'),
    tunnel('/switch', 'reset'),
    tunnel('/switch', 'end'),
    tunnel('/refuse', 'end'),
  ];

  /** Everything in a random order, some at a time. */
  async function actAll(url: string): Promise<void> {
    const random = seededRandom(22);
    let left = ROUNDS;
    const act = async (): Promise<void> => {
      while (left-- > 0) await ACTS[Math.floor(random() * ACTS.length)]!(url);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, act));
  }

  test(`no connection is left behind after ${ROUNDS} requests of every fate`, async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        await actAll(front.url);
        await until(() => front.running() === 0, 'the end of every exchange');
        await until(() => front.clientConnections() === 0, 'the end of every client connection');
        // Idle connections are kept for the next request, and then not for long.
        await until(
          () => front.originConnections() === 0 && origin.openConnections === 0,
          () => `the end of every origin connection (${front.originConnections()}, ${origin.openConnections})`,
          20_000,
        );
        expect(origin.exchanges.length).toBeGreaterThan(ROUNDS * 0.8);
      },
      { script: obey },
    );
  });

  test('nor when there is no origin at all', async () => {
    const front = await startFront(`http://127.0.0.1:${await serverPort()}`);
    for (let round = 0; round < 100; round++) {
      expect(await request('POST', '/', 'hello')(front.url)).toBe(502);
    }
    await until(() => front.clientConnections() === 0, 'the end of every client connection');
    await until(() => front.running() === 0 && front.originConnections() === 0, 'the end of every exchange');
    await front.close();
  });

  test('nor when HTTP/2 clients give up their streams', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connectH2(front.url);
        for (let round = 0; round < 100; round++) {
          const known = origin.exchanges.length;
          const exchange = client.start({ method: 'POST', target: round % 2 ? '/silent' : '/' });
          await exchange.send('a beginning');
          if (round % 3 > 0) await until(() => origin.exchanges.length > known, 'the request at the origin');
          exchange.reset();
          await exchange.ended();
          await until(() => front.running() === 0, 'the end of the exchange');
        }
        await client.close();
        await until(() => origin.openConnections === 0, 'the end of every origin connection');
      },
      { script: obey, speaks: 'h2c' },
    );
  });

  async function connectionsOf({ front, origin }: Stage): Promise<number> {
    const client = await connect(front.url);
    for (let round = 0; round < 100; round++) {
      // Not HEAD: what its answer announces may follow, so that the connection ends with it.
      const method = ['GET', 'POST', 'DELETE', 'OPTIONS'][round % 4]!;
      const body = method === 'POST' ? 'hello' : undefined;
      expect((await client.request({ method, target: '/', body })).status).toBe(200);
    }
    client.destroy();
    return origin.connections.length;
  }

  test('one connection to the origin serves a hundred requests in a row', async () => {
    expect(await play('ours', connectionsOf)).toBe(1);
  });
});

describe('Unix sockets', () => {
  const BASE = 'http://proxy.example';

  let directory: TemporaryDirectory;
  let origin: RawOrigin;
  let app: TestApp;
  let socketPath: string;

  beforeEach(async () => {
    directory = await temporaryDirectory();
    socketPath = join(directory.path, 'http.sock');
    origin = await startRawOrigin(async (exchange) => {
      await exchange.readBody();
      await exchange.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n');
      if (exchange.target === '/whole') await exchange.write('0\r\n\r\n');
      else exchange.end();
    });
    app = await startTestApp({ origin: origin.url, config: `listen: "unix:${socketPath}"` });
  });

  afterEach(async () => {
    await app.stop();
    await origin.close();
    await directory.remove();
  });

  /** As some proxies speak to what is behind them: without a length the end of the connection is the end of the answer. */
  async function askInHttp10(head: string, body: string): Promise<string> {
    const client = await connect(BASE, { socketPath });
    await client.send(`${head}\r\n\r\n${body}`);
    const answer = await client.readFinal();
    await client.ended();
    return answer.body.toString();
  }

  test.each([
    ['passes through', 'GET /broken HTTP/1.0', '', /^begun$/],
    ['is for an upload', 'POST /broken HTTP/1.0\r\nUpload-Complete: ?1\r\nContent-Length: 3', 'abc', /"status":503/],
  ])('an answer that %s and breaks off does no harm to a proxy at a Unix socket', async (_, head, body, got) => {
    expect(await askInHttp10(head, body)).toMatch(got);
    const whole = await requestOnce(BASE, { method: 'GET', target: '/whole' }, { socketPath });
    expect(whole.body.toString()).toBe('begun');
  });
});
