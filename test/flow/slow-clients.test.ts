import { once } from 'node:events';
import { createServer as createSessions, type ServerHttp2Session } from 'node:http2';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { afterEach, describe, expect, test } from '@jest/globals';
import type { Exchange } from '../../src/server/exchange.js';
import { endWhenUnresponsive } from '../../src/server/http2-server.js';
import type { Listener, ListenerOptions } from '../../src/server/listener.js';
import { sendReply } from '../../src/server/response.js';
import { ReadGate } from '../../src/streams/read-gate.js';
import { connect, type RawClient } from '../support/client.js';
import { block, frame } from '../support/hostile-http2.js';
import { connectH2, type H2Client } from '../support/http2-client.js';
import { makeCertificate, until } from '../support/temporary.js';
import { closeListeners, ok, openListener } from '../support/test-listener.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { ConnectionClosed } from '../support/wire.js';

describe('slow clients', () => {
  // Issue 9, §5: `limits.min_rate` and `limits.head_timeout`.
  afterEach(closeListeners);

  /** Calls `send` again and again, with pauses that no limit on silence notices, until what it sends to is over. */
  async function drip(send: () => unknown, over: Promise<unknown>): Promise<void> {
    const timer = setInterval(send, 10);
    await over;
    clearInterval(timer);
  }

  describe('a request body that drips', () => {
    let origin: TestOrigin;
    let app: TestApp;
    const limits = 'limits: { idle_timeout: 2s, min_rate: { request: 100kB, window: 100ms } }';
    const routes =
      'routes: [{ match: { path: /spooled }, plain_bodies: spool }, { match: { path: /plain }, resumable: false }, { match: { path: /** } }]';

    async function open(): Promise<void> {
      origin = await startTestOrigin();
      app = await startTestApp({ origin: origin.url, config: `${limits}\n${routes}\n` });
    }

    const UPLOAD = [
      ['Upload-Complete', '?1'],
      ['Upload-Draft-Interop-Version', '6'],
    ] as const;

    /** What the client was told, and whether its connection or stream ended before it had sent all. */
    async function overHttp1(target: string, lines: readonly (readonly [string, string])[]) {
      const client = await connect(app.url);
      await client.sendHead('POST', target, [...lines, ['Content-Length', '1000000']]);
      await client.send(Buffer.alloc(1000));
      const interim = lines.length > 0 ? await client.readInterim() : undefined;
      const final = client.readFinal().catch(() => undefined);
      await drip(() => void client.send(Buffer.from('x')), final);
      const answer = await final;
      client.destroy();
      return { status: answer?.status, location: interim?.header('location') };
    }

    async function overHttp2(target: string, lines: readonly (readonly [string, string])[]) {
      const client = await connectH2(app.url);
      const exchange = client.start({ method: 'POST', target, headers: [...lines, ['Content-Length', '1000000']] });
      await exchange.send(Buffer.alloc(1000));
      const final = exchange.readFinal().catch(() => undefined);
      await drip(() => void exchange.send(Buffer.from('x')), final);
      const answer = await final;
      await client.close();
      return { status: answer?.status, location: exchange.interims[0]?.header('location') };
    }

    test('is ended, and what an upload had of it is kept', async () => {
      await open();
      try {
        const [plain1, plain2, spooled1, spooled2, upload1, upload2] = await Promise.all([
          overHttp1('/plain', []),
          overHttp2('/plain', []),
          overHttp1('/spooled', []),
          overHttp2('/spooled', []),
          overHttp1('/upload', UPLOAD),
          overHttp2('/upload', UPLOAD),
        ]);
        expect([plain1, plain2, spooled1, spooled2].map(({ status }) => status)).toEqual([408, 408, 408, 408]);
        for (const { status, location } of [upload1, upload2]) {
          expect(status).toBeUndefined();
          const client = await connect(app.url);
          const { pathname } = new URL(location!, app.url);
          const found = await client.request({ method: 'HEAD', target: pathname, headers: [UPLOAD[1]] });
          expect(found.status).toBe(204);
          expect(Number(found.header('upload-offset'))).toBeGreaterThanOrEqual(1000);
          client.destroy();
        }
        const ended = app.log.filter(({ interrupted }) => interrupted === 'slow').map(({ kind }) => kind);
        expect(ended).toEqual(['create', 'create']);
        expect(origin.requests.every(({ ended: how }) => how !== 'whole')).toBe(true);
      } finally {
        await app.stop();
        await origin.close();
      }
    });
  });

  const SIZE = 64 * 2 ** 20;

  function* pieces(): Generator<Uint8Array> {
    for (let sent = 0; sent < SIZE; sent += 2 ** 16) yield Buffer.alloc(2 ** 16);
  }

  function answerLots(exchange: Exchange): void {
    exchange.req.resume();
    void sendReply(exchange, {
      status: 200,
      headers: [['Content-Length', `${SIZE}`]],
      body: Readable.from(pieces()),
      bodySize: SIZE,
    });
  }

  /** A listener whose clients have to read, and those that did not. */
  async function openStrict(options: Partial<ListenerOptions> = {}): Promise<{ listener: Listener; slow: Socket[] }> {
    const slow: Socket[] = [];
    const onSlowReader = (socket: Socket): void => void slow.push(socket);
    const responseRate = { bytesPerSecond: 1_000_000, windowMs: 200 };
    const onRequest = (exchange: Exchange): void =>
      exchange.req.url === '/small' ? ok(exchange) : answerLots(exchange);
    return { listener: await openListener(onRequest, { responseRate, onSlowReader, ...options }), slow };
  }

  describe('a client that does not read its answer', () => {
    test.each([
      ['cleartext', false],
      ['TLS', true],
    ])('loses its connection (HTTP/1.1, %s)', async (_name, isSecure) => {
      const { listener, slow } = await openStrict(isSecure ? { tls: makeCertificate() } : {});
      const client: RawClient = await connect(listener.url);
      client.socket.pause();
      client.socket.on('error', () => undefined);
      await client.sendHead('GET', '/', []);
      await until(() => slow.length === 1 && listener.connections === 0, 'the connection to be gone');
      client.destroy();
    });

    test('loses its connection (HTTP/2, nothing read at all)', async () => {
      const { listener, slow } = await openStrict();
      const client = await connect(listener.url);
      client.socket.pause();
      client.socket.on('error', () => undefined);
      // SETTINGS with a window of 1 GiB for streams, then as much for the connection: only TCP stands in the way.
      const wide =
        '\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x40\x00\x00\x00\x00\x00\x04\x08\x00\x00\x00\x00\x00\x40\x00\x00\x00';
      await client.send(
        `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${wide}\x00\x00\x06\x01\x05\x00\x00\x00\x01\x82\x86\x84\x41\x01a`,
      );
      await until(() => slow.length > 0 && listener.connections === 0, 'the connection to be gone');
      client.destroy();
    });

    test('loses its stream alone when only that one is not read (HTTP/2)', async () => {
      const { listener, slow } = await openStrict();
      const client: H2Client = await connectH2(listener.url);
      const exchange = client.start({ method: 'GET', target: '/' }, { endStream: true });
      exchange.stream.pause();
      await exchange.readHead();
      exchange.stream.pause();
      await until(() => slow.length === 1, 'the stream to be given up');
      expect((await client.request({ method: 'GET', target: '/small' })).status).toBe(200);
      exchange.reset();
      await client.close();
    });

    test('is not meant where it waits for what the origin has not sent', async () => {
      let go = (): void => undefined;
      const later = new Promise<void>((resolve) => (go = resolve));
      const { listener, slow } = await openStrict();
      const events = async function* (): AsyncGenerator<Uint8Array> {
        yield Buffer.from('data: one\n\n');
        await later;
        yield Buffer.from('data: two\n\n');
      };
      const quiet = await openListener(
        (exchange) => void sendReply(exchange, { status: 200, headers: [], body: events() }),
        {
          responseRate: { bytesPerSecond: 1_000_000, windowMs: 200 },
          onSlowReader: (socket) => void slow.push(socket),
        },
      );
      const waiting = [await connect(quiet.url), await connect(quiet.url)];
      for (const client of waiting) await client.sendHead('GET', '/', []);
      // As long as somebody needs to be given up for not reading, twice over.
      for (const count of [1, 2]) {
        const client = await connect(listener.url);
        client.socket.pause();
        await client.sendHead('GET', '/', []);
        await until(() => slow.length === count, 'the other to be given up');
        client.destroy();
      }
      go();
      for (const client of waiting) {
        expect((await client.readFinal()).body.toString()).toBe('data: one\n\ndata: two\n\n');
        client.destroy();
      }
      expect(slow).toHaveLength(2);
    });
  });

  const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00';
  /** The head of a HEADERS frame that says it has 16,000 bytes. */
  const LONG_HEADERS = '\x00\x3e\x80\x01\x04\x00\x00\x00\x01';
  /** HEADERS that do not end the header section, then the head of a CONTINUATION frame. */
  const CONTINUED = '\x00\x00\x06\x01\x00\x00\x00\x00\x01\x82\x86\x84\x41\x01a\x00\x3e\x80\x09\x04\x00\x00\x00\x01';

  const [HEADERS, PING, ACK] = [1, 6, 1];

  /** Reads frame by frame, until the connection ends. */
  async function answerPings(client: RawClient): Promise<void> {
    try {
      for (;;) {
        const head = await client.readRaw(9);
        const payload = await client.readRaw(head.readUIntBE(0, 3));
        if (head[3] === PING && head[4] !== ACK) await client.send(frame(PING, ACK, 0, payload.toString('latin1')));
      }
    } catch (error) {
      if (!(error instanceof ConnectionClosed)) throw error;
    }
  }

  // HTTP/1.1 is in front-door-refusals.test.ts.
  describe('a header section that drips over HTTP/2', () => {
    test.each([
      ['HEADERS', PREFACE + LONG_HEADERS],
      ['CONTINUATION', PREFACE + CONTINUED],
      ['SETTINGS', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x3e\x80\x04\x00\x00\x00\x00\x00'],
      ['the preface', 'PRI * HTTP/2.0\r\n\r\nS'],
    ])('in %s has no more time than any other', async (_name, begin) => {
      const listener = await openListener(ok, { headersTimeoutMs: 500 });
      const client = await connect(listener.url);
      client.socket.on('error', () => undefined);
      client.socket.resume();
      await client.send(begin);
      await drip(() => void client.send(Buffer.from('\0')), client.ended());
      await until(() => listener.connections === 0, 'the connection to be gone');
    });

    test.each([
      ['HEADERS', LONG_HEADERS.slice(0, -1) + '\x03'],
      ['CONTINUATION', '\x00\x00\x06\x01\x00\x00\x00\x00\x03\x82\x86\x84\x41\x01a\x00\x3e\x80\x09\x04\x00\x00\x00\x03'],
    ])('in %s has no more time beside a request that is under way, or behind it', async (_name, later) => {
      const waiting: Exchange[] = [];
      const listener = await openListener((exchange) => void waiting.push(exchange), {
        headersTimeoutMs: 300,
        keepAliveTimeoutMs: 3_600_000,
      });
      const dripping = async (isAnswered: boolean): Promise<void> => {
        const client = await connect(listener.url);
        client.socket.on('error', () => undefined);
        client.socket.resume();
        const before = waiting.length;
        await client.send(`${PREFACE}\x00\x00\x06\x01\x05\x00\x00\x00\x01\x82\x86\x84\x41\x01a`);
        await until(() => waiting.length > before, 'the request');
        if (isAnswered) ok(waiting.at(-1)!);
        await client.send(later);
        await drip(() => void client.send(Buffer.from('\0')), client.ended());
      };
      await dripping(false);
      await dripping(true);
      await until(() => listener.connections === 0, 'the connections to be gone');
    });

    test('that was refused ends nothing of a client that goes on', async () => {
      const waiting: Exchange[] = [];
      const listener = await openListener((exchange) => void waiting.push(exchange), { headersTimeoutMs: 100 });
      const good = [':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'a'];
      const fields = [0, 2, 4, 6].map((at) => [good[at]!, good[at + 1]!] as const);
      const client = await connect(listener.url);
      void answerPings(client);
      await client.send(PREFACE + frame(HEADERS, 0x5, 1, block(fields)));
      await until(() => waiting.length === 1, 'the request');
      await client.send(frame(HEADERS, 0x5, 3, block([...fields, ['X-In-Capitals', 'x']])));
      // As long as somebody needs to be given up for a head that does not come, twice over.
      for (let count = 0; count < 2; count++) {
        const slow = await connect(listener.url);
        slow.socket.on('error', () => undefined).resume();
        await slow.send(PREFACE + LONG_HEADERS);
        await slow.ended();
      }
      expect([client.socket.destroyed, waiting[0]!.req.destroyed]).toEqual([false, false]);
      client.destroy();
    });

    test('behind a request that was answered has as long as the next request', async () => {
      let requests = 0;
      const count = (exchange: Exchange): void => {
        requests++;
        ok(exchange);
      };
      const listener = await openListener(count, { headersTimeoutMs: 3_600_000, keepAliveTimeoutMs: 500 });
      const client = await connect(listener.url);
      client.socket.on('error', () => undefined);
      client.socket.resume();
      const request = '\x00\x00\x06\x01\x05\x00\x00\x00\x01\x82\x86\x84\x41\x01a';
      await client.send(PREFACE + request);
      await until(() => requests === 1, 'the request');
      await client.send(LONG_HEADERS.slice(0, -1) + '\x03');
      await drip(() => void client.send(Buffer.from('\0')), client.ended());
    });
  });
});

describe('signs of life', () => {
  afterEach(closeListeners);

  const silenceMs = 40;
  const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00';
  /** A request whose body is still to come. */
  const BEGUN = '\x00\x00\x06\x01\x04\x00\x00\x00\x01\x83\x86\x84\x41\x01a';
  /** A PING has eight bytes. */
  const BROKEN = '\x00\x00\x05\x06\x00\x00\x00\x00\x00short';

  /** What the last frame that was heard is about. */
  const GOAWAY = 7;

  test.each([
    ['at once', PREFACE + BROKEN],
    ['in the middle of a request', PREFACE + BEGUN + BROKEN],
  ])('a session that breaks the protocol %s does not outlive its connection', async (_when, bytes) => {
    const listener = await openListener(() => undefined, { pingAfterMs: silenceMs });
    const client = await connect(listener.url);
    await client.send(bytes);
    let type = 0;
    while (type !== GOAWAY) {
      const frame = await client.readRaw(9);
      type = frame[3]!;
      await client.readRaw(frame.readUIntBE(0, 3));
    }
    client.reset();
    await until(() => listener.connections === 0, 'the connection to be gone');
  });

  test('a client that is there but does not answer is given up', async () => {
    let requests = 0;
    const listener = await openListener(() => (requests += 1), { pingAfterMs: silenceMs });
    const client = await connect(listener.url);
    await client.send(PREFACE + BEGUN);
    client.socket.on('data', () => undefined);
    await until(() => requests === 1, 'the request');
    await client.ended();
    await until(() => listener.connections === 0, 'the connection to be gone');
  });

  test('a client that waits in silence is asked again and again, and kept', async () => {
    const waiting: (() => void)[] = [];
    // Who stands still for that long has not answered in time, and this is the process that has to answer.
    const listener = await openListener((exchange) => void waiting.push(() => ok(exchange)), { pingAfterMs: 500 });
    const client = await connectH2(listener.url);
    const exchange = client.start({ method: 'GET', target: '/' }, { endStream: true });
    for (let pings = 0; pings < 4; pings++) await once(client.session, 'ping');
    waiting[0]!();
    expect((await exchange.readFinal()).status).toBe(200);
    await client.close();
  });

  test('a client that we keep from being read is not silent', async () => {
    const sessions = createSessions();
    const begun: ServerHttp2Session[] = [];
    const listener = createServer((socket: Socket) => {
      sessions.once('session', (session) => {
        // The first one: what it says, answers to our questions too, is not heard.
        if (begun.push(session) === 1) ReadGate.of(socket).hold();
        endWhenUnresponsive(session, socket, silenceMs);
      });
      sessions.emit('connection', socket);
    });
    listener.listen(0, '127.0.0.1');
    await once(listener, 'listening');
    const url = `http://127.0.0.1:${(listener.address() as AddressInfo).port}`;
    const held = await connect(url);
    await held.send(PREFACE);
    await until(() => begun.length === 1, 'the first session');
    // As long as somebody needs to be given up, twice over.
    for (let count = 0; count < 2; count++) {
      const silent = await connect(url);
      silent.socket.on('data', () => undefined);
      await silent.send(PREFACE);
      await silent.ended();
    }
    expect(begun.map(({ destroyed }) => destroyed)).toEqual([false, true, true]);
    held.destroy();
    begun[0]!.destroy();
    listener.close();
    await once(listener, 'close');
  });

  // Issue 9, §5: descriptors of such connections must not wait for a client.
  test.each([
    ['breaks the protocol', PREFACE + BROKEN],
    ['breaks it in the middle of a request', PREFACE + BEGUN + BROKEN],
    ['sends a body to a stream that it never opened', `${PREFACE}\x00\x00\x01\x00\x01\x00\x00\x00\x01x`],
    ['opens a stream with an even number', `${PREFACE}\x00\x00\x06\x01\x05\x00\x00\x00\x02\x83\x86\x84\x41\x01a`],
    ['sends no preface', 'PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n'],
  ])('a client that %s is rid of its connection soon, though it keeps it', async (_what, bytes) => {
    // Nobody would be asked for a sign of life within the time of this test.
    const listener = await openListener(() => undefined, { pingAfterMs: 3_600_000 });
    const client = await connect(listener.url);
    client.socket.on('data', () => undefined);
    await client.send(bytes);
    await until(() => listener.connections === 0, 'the connection to be gone');
    client.destroy();
  });

  test('an idle session that was told to go is closed, though its client does not close it', async () => {
    const listener = await openListener(() => undefined, { pingAfterMs: 3_600_000, keepAliveTimeoutMs: 20 });
    const client = await connect(listener.url);
    client.socket.allowHalfOpen = true;
    client.socket.on('data', () => undefined);
    await client.send(PREFACE);
    await until(() => listener.connections === 0, 'the connection to be gone');
    client.destroy();
  });
});
