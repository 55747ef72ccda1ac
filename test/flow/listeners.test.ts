import { execFile, execFileSync } from 'node:child_process';
import { existsSync, statSync, writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { connect as connectTcp } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Exchange } from '../../src/server/exchange.js';
import { sendReply } from '../../src/server/response.js';
import { connect, requestOnce } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { makeCertificate, temporaryDirectory, type TemporaryDirectory, until, within } from '../support/temporary.js';
import { closeListeners, headIn, ok, openListener, respondWithHead } from '../support/test-listener.js';

describe('listeners', () => {
  const run = promisify(execFile);
  const tls = makeCertificate();

  afterEach(closeListeners);

  describe('one listener', () => {
    test('speaks HTTP/1.1 and HTTP/2 with prior knowledge on one cleartext port', async () => {
      const listener = await openListener(respondWithHead());
      const plain = headIn(await requestOnce(listener.url, { method: 'GET', target: '/a' }));
      expect(plain).toMatchObject({ httpVersion: '1.1', scheme: 'http', authority: new URL(listener.url).host });
      const h2 = await connectH2(listener.url);
      const head = headIn(await h2.request({ method: 'GET', target: '/a' }));
      expect(head).toMatchObject({ httpVersion: '2.0', scheme: 'http', authority: new URL(listener.url).host });
      await h2.close();
    });

    test('speaks both through TLS as ALPN decides, and HTTP/1.1 with clients that do not negotiate', async () => {
      const listener = await openListener(respondWithHead(), { tls });
      expect(listener.url).toMatch(/^https:\/\/127\.0\.0\.1:\d+$/);
      const plain = headIn(await requestOnce(listener.url, { method: 'GET', target: '/' }));
      expect(plain).toMatchObject({ httpVersion: '1.1', scheme: 'https', connection: { encrypted: true } });
      const h2 = await connectH2(listener.url);
      const head = headIn(await h2.request({ method: 'GET', target: '/' }));
      expect(head).toMatchObject({ httpVersion: '2.0', scheme: 'https', connection: { encrypted: true } });
      await h2.close();
      const silent = connectTls({ port: Number(new URL(listener.url).port), rejectUnauthorized: false });
      silent.write('GET / HTTP/1.0\r\n\r\n');
      expect(await textOf(silent)).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    });

    test('speaks no HTTP/2 when it is switched off', async () => {
      const listener = await openListener(ok, { tls, http2: false });
      const client = connectTls({
        port: Number(new URL(listener.url).port),
        rejectUnauthorized: false,
        ALPNProtocols: ['h2', 'http/1.1'],
      });
      await new Promise((resolve) => client.once('secureConnect', resolve));
      expect(client.alpnProtocol).toBe('http/1.1');
      client.destroy();
      const plain = await openListener(ok, { http2: false });
      const response = await requestOnce(plain.url, { method: 'PRI', target: '*' }).catch((error: unknown) => error);
      expect(response).toMatchObject({ status: 400 });
    });

    test.each(['POST', 'PUT', 'PROPFIND', 'PATCH'])('is not confused by %s arriving byte by byte', async (method) => {
      const listener = await openListener(respondWithHead());
      const client = await connect(listener.url);
      for (const byte of `${method} /x HTTP/1.1\r\nHost: a\r\n\r\n`) {
        client.socket.write(byte);
        await new Promise((resolve) => setImmediate(resolve));
      }
      const response = await client.readFinal();
      expect(headIn(response)).toMatchObject({ method, target: '/x' });
      client.destroy();
    });

    test('serves a preface that arrives byte by byte', async () => {
      const listener = await openListener(ok);
      const socket = connectTcp(Number(new URL(listener.url).port), '127.0.0.1');
      for (const byte of 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n') {
        socket.write(byte);
        await new Promise((resolve) => setImmediate(resolve));
      }
      const first = await new Promise<Buffer>((resolve) => socket.once('data', resolve));
      // A SETTINGS frame begins every HTTP/2 connection.
      expect(first[3]).toBe(4);
      socket.destroy();
    });

    test('answers pipelined requests in their order', async () => {
      const waiting: Exchange[] = [];
      const listener = await openListener((exchange) => void waiting.push(exchange));
      const client = await connect(listener.url);
      await client.send(['/1', '/2', '/3'].map((target) => `GET ${target} HTTP/1.1\r\nHost: a\r\n\r\n`).join(''));
      await until(() => waiting.length === 3, 'three requests');
      for (const exchange of [...waiting].reverse()) {
        void sendReply(exchange, { status: 200, headers: [], body: exchange.req.url! });
      }
      const bodies = [await client.readFinal(), await client.readFinal(), await client.readFinal()];
      expect(bodies.map(({ body }) => body.toString())).toEqual(['/1', '/2', '/3']);
      client.destroy();
    });

    test('takes bodies far beyond a window over every front', async () => {
      const count = (exchange: Exchange): void => {
        let size = 0;
        exchange.req.on('data', (bytes: Buffer) => (size += bytes.length));
        exchange.req.on('end', () => void sendReply(exchange, { status: 200, headers: [], body: `${size}` }));
      };
      const body = Buffer.alloc(20 * 2 ** 20);
      for (const listener of [await openListener(count), await openListener(count, { tls })]) {
        const h2 = await connectH2(listener.url);
        const requests = [1, 2].map(() => h2.request({ method: 'POST', target: '/', body }));
        for (const response of await Promise.all(requests)) expect(response.body.toString()).toBe(`${body.length}`);
        const response = await requestOnce(listener.url, { method: 'POST', target: '/', body });
        expect(response.body.toString()).toBe(`${body.length}`);
        await h2.close();
      }
    });

    test('lets a distant client send ahead: 4 MiB on a stream, 8 MiB on a connection', async () => {
      const listener = await openListener(() => undefined);
      const h2 = await connectH2(listener.url);
      await until(() => (h2.session.state.remoteWindowSize ?? 0) >= 8 * 2 ** 20, 'the raised connection window');
      expect(h2.session.remoteSettings).toMatchObject({ initialWindowSize: 4 * 2 ** 20, maxConcurrentStreams: 100 });
      await h2.close();
    });

    test('fails to start where another one listens', async () => {
      const listener = await openListener(ok);
      const port = Number(new URL(listener.url).port);
      await expect(openListener(ok, { address: { kind: 'tcp', host: '127.0.0.1', port } })).rejects.toMatchObject({
        code: 'EADDRINUSE',
      });
    });

    test('forgets every one of 2,000 connections, however they ended', async () => {
      const listener = await openListener(ok);
      for (let round = 0; round < 100; round++) {
        await Promise.all(Array.from({ length: 20 }, (_, kind) => oneConnection(listener.url, kind)));
      }
      await until(
        () => listener.connections === 0,
        () => `no connection left (${listener.connections})`,
      );
    });

    test.each([
      ['cleartext', undefined],
      ['TLS', tls],
    ])('notices over %s that an HTTP/2 client has vanished in the middle of a body', async (_what, secure) => {
      const seen: string[] = [];
      const listener = await openListener(
        ({ req }) => {
          seen.push(req.url!);
          req.on('aborted', () => seen.push('aborted'));
        },
        { tls: secure },
      );
      const h2 = await connectH2(listener.url);
      await h2.start({ method: 'POST', target: '/cut' }).send('x');
      await until(() => seen.length === 1, 'the request');
      h2.cut();
      await until(() => listener.connections === 0 && seen.length === 2, 'the connection to be gone');
      expect(seen).toEqual(['/cut', 'aborted']);
    });

    test.each([
      ['cleartext', undefined],
      ['TLS', tls],
    ])('serves hundreds of requests on one connection without gathering listeners, %s', async (_what, secure) => {
      const counts: number[] = [];
      const listener = await openListener(
        (exchange) => {
          const { socket } = exchange.req;
          counts.push(socket.eventNames().reduce((sum, name) => sum + socket.listenerCount(name), 0));
          ok(exchange);
        },
        { tls: secure },
      );
      const client = await connect(listener.url);
      for (let count = 0; count < 300; count++) {
        expect((await client.request({ method: 'POST', target: '/', body: 'x' })).status).toBe(200);
      }
      expect(counts.at(-1)).toBe(counts[1]);
      client.destroy();
    });
  });

  describe('a request to change protocols', () => {
    test('is handed over with the connection', async () => {
      const listener = await openListener(ok, {
        onUpgrade: (req, socket, early) => socket.end(`switched to ${req.headers.upgrade} with ${early.toString()}`),
      });
      const client = connectTcp(Number(new URL(listener.url).port), '127.0.0.1');
      client.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly');
      expect(await textOf(client)).toBe('switched to websocket with early');
    });

    test('does not end the process when the connection is reset before anybody listens', async () => {
      let upgrades = 0;
      const listener = await openListener(ok, { onUpgrade: () => upgrades++ });
      const client = await connect(listener.url);
      await client.send('GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
      await until(() => upgrades === 1, 'the upgrade');
      client.reset();
      expect((await requestOnce(listener.url, { method: 'GET', target: '/' })).status).toBe(200);
    });

    test('to HTTP/2 is ignored, bodies and expectations with it', async () => {
      const listener = await openListener((exchange) => {
        exchange.res.writeContinue();
        let size = 0;
        exchange.req.on('data', (bytes: Buffer) => (size += bytes.length));
        exchange.req.on('end', () => void sendReply(exchange, { status: 200, headers: [], body: `${size} ` }));
      });
      const body = 'x'.repeat(100_000);
      const { stdout } = await run('curl', [
        '-s',
        '--http2',
        '-H',
        'Expect: 100-continue',
        '-d',
        body,
        listener.url,
        listener.url,
      ]);
      expect(stdout).toBe('100000 100000 ');
    });

    test('that comes with a body is an ordinary request', async () => {
      const listener = await openListener(respondWithHead());
      const headers = [
        ['Connection', 'Upgrade, X-Hop'],
        ['Upgrade', 'foo'],
      ] as const;
      const client = await connect(listener.url);
      const response = await client.request({ method: 'POST', target: '/a?b', headers, body: 'abc' });
      expect(headIn(response)).toMatchObject({ method: 'POST', target: '/a?b', contentLength: 3 });
      expect((await client.request({ method: 'GET', target: '/' })).status).toBe(200);
      client.destroy();
    });
  });

  /** Everything a connection sends until it ends. */
  function textOf(socket: NodeJS.ReadableStream): Promise<string> {
    return new Promise((resolve, reject) => {
      const parts: Buffer[] = [];
      socket.on('data', (bytes: Buffer) => void parts.push(bytes));
      socket.on('error', reject);
      socket.on('end', () => resolve(Buffer.concat(parts).toString()));
    });
  }

  async function oneConnection(url: string, kind: number): Promise<void> {
    if (kind === 0) {
      const h2 = await connectH2(url);
      await h2.request({ method: 'POST', target: '/', body: 'x' });
      return h2.close();
    }
    const client = await connect(url);
    if (kind < 5) await client.request({ method: 'POST', target: '/', body: 'x' });
    else if (kind < 8) await client.sendHead('POST', '/', [['Content-Length', '10']]);
    else if (kind < 11) await client.send('PRI * HT');
    else if (kind < 14) await client.send('nonsense\r\n\r\n');
    if (kind % 2 === 0) client.reset();
    else client.destroy();
  }
});

describe('stops', () => {
  const tls = makeCertificate();
  const answer = { status: 200, headers: [], body: 'done' };

  afterEach(closeListeners);

  function begin({ res }: Exchange): void {
    (res as ServerResponse).writeHead(200).write('begun');
  }

  describe.each([
    ['cleartext', undefined],
    ['TLS', tls],
  ])('a listener that stops, %s', (_what, secure) => {
    test('ends connections that nothing is under way on at once', async () => {
      const listener = await openListener(ok, { tls: secure });
      const [used, fresh, h2] = [
        await connect(listener.url),
        await connect(listener.url),
        await connectH2(listener.url),
      ];
      await used.request({ method: 'GET', target: '/' });
      await h2.request({ method: 'GET', target: '/' });
      await until(() => listener.connections === 3, 'three connections');
      listener.stopAccepting();
      await used.ended();
      await until(() => h2.session.destroyed, 'the HTTP/2 connection to end');
      await fresh.ended();
      await within(listener.closed, 'the listener to be closed');
      await expect(connect(listener.url)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    });

    test('lets the others end with their response, which says so', async () => {
      const waiting: Exchange[] = [];
      const listener = await openListener((exchange) => void waiting.push(exchange), { tls: secure });
      const [client, h2] = [await connect(listener.url), await connectH2(listener.url)];
      await client.sendHead('GET', '/');
      const asked = h2.start({ method: 'GET', target: '/' }, { endStream: true });
      await until(() => waiting.length === 2, 'two requests');
      listener.stopAccepting();
      listener.stopAccepting();
      for (const exchange of waiting) void sendReply(exchange, answer);
      const response = await client.readFinal();
      expect([response.body.toString(), response.header('connection')]).toEqual(['done', 'close']);
      await client.ended();
      expect((await asked.readFinal()).body.toString()).toBe('done');
      await until(() => h2.session.destroyed, 'the HTTP/2 connection to end');
      await within(listener.closed, 'the listener to be closed');
    });

    test('leaves a response that is under way alone until it is told to end everything', async () => {
      const listener = await openListener((exchange) => begin(exchange), { tls: secure });
      const client = await connect(listener.url);
      await client.sendHead('GET', '/');
      const head = await client.readHead();
      expect(head!.header('connection')).toBe('keep-alive');
      listener.stopAccepting();
      expect(listener.connections).toBe(1);
      listener.destroyAll();
      await client.ended();
      await within(listener.closed, 'the listener to be closed');
    });

    test('ends everything when it is told to', async () => {
      const listener = await openListener(() => undefined, { tls: secure });
      const [client, h2] = [await connect(listener.url), await connectH2(listener.url)];
      await client.sendHead('POST', '/', [['Content-Length', '10']]);
      const asked = h2.start({ method: 'POST', target: '/' });
      await asked.send('x');
      listener.destroyAll();
      await client.ended();
      await asked.ended();
      await within(listener.closed, 'the listener to be closed');
      expect(listener.connections).toBe(0);
    });
  });

  test('a response that ends after the stop takes its kept connection with it', async () => {
    const waiting: Exchange[] = [];
    const listener = await openListener((exchange) => {
      waiting.push(exchange);
      begin(exchange);
    });
    const client = await connect(listener.url);
    await client.sendHead('GET', '/');
    const head = await client.readHead();
    listener.stopAccepting();
    waiting[0]!.res.end('ended');
    expect((await client.bodyOf(head!).readAll()).toString()).toBe('begunended');
    await client.ended();
    await within(listener.closed, 'the listener to be closed');
  });

  test('a connection that has not said what it speaks is no reason to stay', async () => {
    const listener = await openListener(ok);
    const client = await connect(listener.url);
    await client.send(Buffer.from('PRI *'));
    await until(() => listener.connections === 1, 'the connection');
    listener.stopAccepting();
    await client.ended();
    await within(listener.closed, 'the listener to be closed');
  });

  describe('a Unix socket', () => {
    let directory: TemporaryDirectory;
    let path: string;

    beforeEach(async () => {
      directory = await temporaryDirectory();
      path = join(directory.path, 'front.sock');
    });
    afterEach(async () => {
      await closeListeners();
      await directory.remove();
    });
    const listen = (onRequest: (exchange: Exchange) => void = ok) =>
      openListener(onRequest, { address: { kind: 'unix', path } });
    const ask = () => requestOnce('http://localhost/', { method: 'GET', target: '/' }, { socketPath: path });

    test('is listened on for its owner and group, and gone after the stop', async () => {
      const listener = await listen(respondWithHead([{ cidr: 'unix', relaysInterim: true }]));
      expect(listener.url).toBe(`unix:${path}`);
      expect(statSync(path).mode & 0o777).toBe(0o660);
      expect(headIn(await ask())).toMatchObject({
        connection: { peerAddress: '', clientAddress: '', peerIsTrusted: true, relaysInterim: true },
      });
      listener.stopAccepting();
      await within(listener.closed, 'the listener to be closed');
      expect(existsSync(path)).toBe(false);
    });

    test('is trusted only when unix peers are', async () => {
      await listen(respondWithHead([{ cidr: '0.0.0.0/0', relaysInterim: true }]));
      expect(headIn(await ask())).toMatchObject({ connection: { peerAddress: '', peerIsTrusted: false } });
    });

    test('that a killed process has left is replaced', async () => {
      const leave = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
      expect(() => execFileSync(process.execPath, ['-e', leave])).toThrow();
      expect(existsSync(path)).toBe(true);
      await listen();
      expect((await ask()).status).toBe(200);
    });

    test('that is answered belongs to another process', async () => {
      await listen();
      await expect(listen()).rejects.toMatchObject({ code: 'EADDRINUSE' });
      expect((await ask()).status).toBe(200);
    });

    test('is never made in place of a file', async () => {
      writeFileSync(path, 'precious');
      await expect(listen()).rejects.toMatchObject({ code: 'EADDRINUSE' });
      expect(statSync(path).size).toBe(8);
    });
  });
});
