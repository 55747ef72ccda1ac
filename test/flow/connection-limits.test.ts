import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage } from 'node:http';
import { type AddressInfo, connect as connectTcp, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from '@jest/globals';
import { detectProtocol } from '../../src/server/listener.js';
import { connect } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { type ProxyProcess, startWorkers, workerPids } from '../support/proxy-process.js';
import { makeCertificate, temporaryDirectory, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';

describe('limits', () => {
  // Issue 9, §5: `limits.connections`.
  const GET = { method: 'GET', target: '/' };
  const HELD = { method: 'GET', target: '/held' };

  const closing: (() => unknown)[] = [];
  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  /** Requests that are under way until the test is over. */
  let held = (): number => 0;

  /** Answers everything but `HELD`, which it answers when the test is over. */
  async function origin(): Promise<TestOrigin> {
    let release = (): void => undefined;
    const after = new Promise<void>((resolve) => (release = resolve));
    const started = await startTestOrigin(({ target }) => (target === HELD.target ? { after } : {}));
    held = () => started.requests.filter(({ target }) => target === HELD.target).length;
    closing.push(() => (release(), started.close()));
    return started;
  }

  async function app(config: string): Promise<TestApp> {
    const started = await startTestApp({ origin: (await origin()).url, config });
    closing.push(() => started.stop());
    return started;
  }

  /** A connection that has had an answer. */
  interface Connected {
    ask(): Promise<number>;
    /** Begins a request that is under way until the test is over. */
    hold(): Promise<void>;
    end(): void;
  }

  type Connect = (url: string) => Promise<Connected>;

  const http1: Connect = async (url) => {
    const client = await connect(url);
    const ask = async (): Promise<number> => (await client.request(GET)).status;
    closing.push(() => client.destroy());
    return { ask, hold: () => holding(() => void client.sendRequest(HELD)), end: () => client.destroy() };
  };

  const http2: Connect = async (url) => {
    const client = await connectH2(url);
    client.session.on('error', () => undefined);
    const ask = async (): Promise<number> => (await client.request(GET)).status;
    closing.push(() => client.cut());
    return { ask, hold: () => holding(() => void client.start(HELD, { endStream: true })), end: () => client.cut() };
  };

  async function holding(send: () => void): Promise<void> {
    const before = held();
    send();
    await until(() => held() > before, 'the request to be under way');
  }

  async function served(connecting: Promise<Connected>): Promise<Connected> {
    const client = await connecting;
    expect(await client.ask()).toBe(200);
    return client;
  }

  /** Turned away before it has an answer: while it connects, or when it asks. */
  async function isRefused(connecting: Promise<Connected>): Promise<boolean> {
    try {
      const client = await connecting;
      await client.ask();
      client.end();
      return false;
    } catch {
      return true;
    }
  }

  async function withTls(): Promise<string> {
    const directory = await temporaryDirectory();
    closing.push(() => directory.remove());
    const { cert, key } = makeCertificate();
    await writeFile(join(directory.path, 'cert.pem'), cert);
    await writeFile(join(directory.path, 'key.pem'), key);
    const tls = `{ cert: "${join(directory.path, 'cert.pem')}", key: "${join(directory.path, 'key.pem')}" }`;
    return `listen: { address: "127.0.0.1:0", tls: ${tls} }\n`;
  }

  const PROTOCOLS: readonly (readonly [string, Connect, () => Promise<string> | string])[] = [
    ['HTTP/1.1', http1, () => ''],
    ['HTTP/2', http2, () => ''],
    ['HTTP/1.1 over TLS', http1, withTls],
    ['HTTP/2 over TLS', http2, withTls],
  ];

  describe.each(['address', 'total'])('limits.connections, %s', (limit) => {
    const setting = limit === 'total' ? 'total: 2, per_address: 3' : 'per_address: 2';

    test.each(PROTOCOLS)(
      'one more over %s is refused at once, until another has ended',
      async (_name, open, listen) => {
        const proxy = await app(`${await listen()}limits: { connections: { ${setting} } }\n`);
        const first = await served(open(proxy.url));
        // Of connections without a request under way, those in the way of others would end.
        await first.hold();
        const second = await served(open(proxy.url));
        await second.hold();
        expect(await isRefused(open(proxy.url))).toBe(true);
        first.end();
        await until(async () => !(await isRefused(open(proxy.url))), 'room for another');
        const told = proxy.log.filter(({ limit: met }) => met !== undefined);
        expect(told).toEqual([
          expect.objectContaining({ level: 'warn', limit, most: 2, client: '127.0.0.1', refused: 1 }),
        ]);
      },
    );
  });

  test('one that says nothing, or only begins to say what it speaks, counts too', async () => {
    const proxy = await app('limits: { connections: { per_address: 2 } }\n');
    const { hostname, port } = new URL(proxy.url);
    const open = async (bytes: string): Promise<Socket> => {
      const socket = connectTcp(Number(port), hostname);
      closing.push(() => socket.destroy());
      await once(socket, 'connect');
      socket.write(bytes);
      return socket;
    };
    const silent = await open('');
    await open('PRI * HT');
    expect(await isRefused(http1(proxy.url))).toBe(true);
    silent.destroy();
    await until(async () => !(await isRefused(http1(proxy.url))), 'room for another');
  });

  test('a trusted proxy brings many clients over its connections', async () => {
    const proxy = await app('trusted_proxies: [127.0.0.1]\nlimits: { connections: { per_address: 1, total: 4 } }\n');
    for (let count = 0; count < 4; count++) await (await served(http1(proxy.url))).hold();
    expect(await isRefused(http1(proxy.url))).toBe(true);
  });

  test.each([
    ['HTTP/1.1', http1],
    ['HTTP/2', http2],
  ])('where connections are short, idle ones over %s make room', async (_name, open) => {
    const proxy = await app('limits: { connections: { total: 10, per_address: 10 } }\n');
    const isServed = async (): Promise<boolean> =>
      (await Promise.allSettled([served(open(proxy.url))]))[0].status === 'fulfilled';
    for (let count = 0; count < 30; count++) await until(isServed, 'a connection');
  });

  describe('workers', () => {
    async function pool(config: string): Promise<ProxyProcess> {
      const started = await startWorkers({ origin: (await origin()).url, config });
      closing.push(() => started.stop());
      return started;
    }

    test('count together, and one that is killed leaves what it had', async () => {
      const proxy = await pool('limits: { connections: { per_address: 3 } }\n');
      const clients = [await served(http1(proxy.url)), await served(http2(proxy.url)), await served(http1(proxy.url))];
      expect(await isRefused(http1(proxy.url))).toBe(true);
      expect(await isRefused(http2(proxy.url))).toBe(true);
      const metrics = await (await fetch(`${proxy.adminUrl}/metrics`)).text();
      expect(metrics).toMatch(/^rufh_connections_refused_total\{limit="address"\} [2-9]/m);
      clients[0]!.end();
      await until(async () => !(await isRefused(http1(proxy.url))), 'room for another');
      process.kill(workerPids(proxy, 1)[0]!, 'SIGKILL');
      for (const client of clients) client.end();
      await until(() => workerPids(proxy, 1).length === 2, 'another to take its place', 60_000);
      const another = async (): Promise<boolean> => {
        const [one] = await Promise.allSettled([served(http1(proxy.url))]);
        return one.status === 'fulfilled';
      };
      for (let count = 0; count < 3; count++) await until(another, 'room for another');
      expect(await isRefused(http1(proxy.url))).toBe(true);
    });
  });
});

describe('backpressure', () => {
  /** Reads a body in small gulps with pauses in between, and gives the most that was waiting inside meanwhile. */
  async function readSlowly(req: IncomingMessage): Promise<number> {
    // As when an upload's record has to be durable before its body is asked for.
    await new Promise((resolve) => setTimeout(resolve, 20));
    let gulped = 0;
    let mostWaiting = 0;
    req.on('data', (bytes: Buffer) => {
      gulped += bytes.length;
      if (gulped < 1024 * 1024) return;
      gulped = 0;
      req.pause();
      setTimeout(() => {
        mostWaiting = Math.max(mostWaiting, req.readableLength);
        req.resume();
      }, 5);
    });
    await new Promise((resolve) => req.once('end', resolve));
    return mostWaiting;
  }

  test('a body that arrives together with its head is taken no faster than it is read', async () => {
    let mostWaiting = Number.POSITIVE_INFINITY;
    const server = createServer((req, res) => {
      void readSlowly(req).then((most) => {
        mostWaiting = most;
        res.end();
      });
    });
    const [serve] = server.listeners('connection') as ((this: unknown, socket: Socket) => void)[];
    server.removeAllListeners('connection');
    server.on('connection', (socket: Socket) => detectProtocol(socket, 1000, () => serve!.call(server, socket)));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const client = await connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    const size = 32 * 1024 * 1024;
    const head = Buffer.from(`POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ${size}\r\n\r\n`);
    await client.send(Buffer.concat([head, Buffer.alloc(size)]));
    await client.readFinal();
    client.destroy();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    expect(mostWaiting).toBeLessThan(1024 * 1024);
  });
});
