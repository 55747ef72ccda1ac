import { once } from 'node:events';
import { constants } from 'node:http2';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { Exchange } from '../../src/server/exchange.js';
import { connect, exchangeOver, type RawClient } from '../support/client.js';
import { block, frame, H2_PING } from '../support/hostile-http2.js';
import { connectH2 } from '../support/http2-client.js';
import { answerOk, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';
import { closeListeners, ok, openListener } from '../support/test-listener.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';

describe('control bytes', () => {
  // Issue 9, §1: nghttp2 leaves out fields with control bytes before Node hears of them. What is left out is so for everybody.
  let auth: TestOrigin;
  let origin: TestOrigin;
  let app: TestApp;
  beforeAll(async () => {
    origin = await startTestOrigin();
    auth = await startTestOrigin((request) =>
      request.header('Authorization') === 'good' ? { headers: [['Remote-User', 'alice']] } : { status: 401 },
    );
    const config = `authorize: { forward_auth: { url: "${auth.url}/check", copy_headers: [Remote-User] } }\n`;
    app = await startTestApp({ origin: origin.url, config });
  });
  afterAll(async () => {
    await app.stop();
    await origin.close();
    await auth.close();
  });
  beforeEach(() => {
    origin.requests.length = 0;
    auth.requests.length = 0;
  });

  type Field = readonly [name: string, value: string];

  const [DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY] = [0, 1, 3, 4, 6, 7];
  const END_HEADERS = 0x4;
  const END_STREAM = 0x1;

  /** How a request with these fields ended: answered, its stream reset, or its session. */
  async function send(fields: readonly Field[], body?: string): Promise<'answered' | 'reset'> {
    const pseudo: Field[] = [':method', ':scheme', ':path', ':authority'].flatMap((name, at) =>
      fields.some(([own]) => own === name) ? [] : [[name, ['POST', 'http', '/x', 'h'][at]!] as const],
    );
    const own = fields.filter(([name]) => name.startsWith(':'));
    const others = fields.filter(([name]) => !name.startsWith(':'));
    const client = await connect(app.url);
    const head = frame(
      HEADERS,
      END_HEADERS | (body === undefined ? END_STREAM : 0),
      1,
      block([...pseudo, ...own, ...others]),
    );
    const rest = body === undefined ? '' : frame(DATA, END_STREAM, 1, body);
    await client.send(`PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${frame(SETTINGS, 0, 0, '')}${head}${rest}`);
    try {
      for (;;) {
        const start = await client.readRaw(9);
        const [type, flags] = [start[3]!, start[4]!];
        const payload = await client.readRaw(start.readUIntBE(0, 3));
        if (type === SETTINGS && (flags & 1) === 0) await client.send(frame(SETTINGS, 1, 0, ''));
        if (type === PING && (flags & 1) === 0) await client.send(frame(PING, 1, 0, payload.toString('latin1')));
        if (type === HEADERS) return 'answered';
        if (type === RESET || type === GOAWAY) return 'reset';
      }
    } finally {
      client.destroy();
    }
  }

  const CONTROL = [...Array.from({ length: 32 }, (_, code) => code).filter((code) => code !== 9), 127].map((code) =>
    String.fromCharCode(code),
  );

  const told = (byte: string): string => `0x${byte.charCodeAt(0).toString(16).padStart(2, '0')}`;

  test('without control bytes the same request is asked for and delivered', async () => {
    expect(
      await send(
        [
          ['authorization', 'good'],
          ['x-note', 'ab'],
        ],
        'hello',
      ),
    ).toBe('answered');
    expect(origin.requests.map((request) => [request.header('x-note'), request.header('Remote-User')])).toEqual([
      ['ab', 'alice'],
    ]);
  });

  test.each(CONTROL.map((byte) => [told(byte), byte]))(
    'with %s in it a credential is none, for everybody',
    async (_told, byte) => {
      for (const value of [`good${byte}`, `${byte}good`, `go${byte}od`]) await send([['authorization', value]]);
      expect(origin.requests).toEqual([]);
      for (const request of auth.requests) expect(request.header('authorization')).toBeUndefined();
    },
  );

  test.each(CONTROL.map((byte) => [told(byte), byte]))(
    'with %s in it a field changes nothing of the request that is asked for and delivered',
    async (_told, byte) => {
      const fields: Field[] = [
        ['remote-user', `root${byte}`],
        [`remote-user${byte}`, 'root'],
        [`${byte}remote-user`, 'root'],
        ['x-forwarded-uri', `/open${byte}`],
        ['x-http-method-override', `DELETE${byte}`],
        ['x-note', `a${byte}b`],
        [`x-no${byte}te`, 'a'],
        ['host', `other${byte}`],
        ['te', `trailers${byte}`],
        ['content-length', `7${byte}`],
        ['upload-complete', `?0${byte}`],
        ['upload-length', `1${byte}`],
      ];
      let delivered = 0;
      let reset = 0;
      for (const field of fields) {
        origin.requests.length = 0;
        auth.requests.length = 0;
        const how = await send([['authorization', 'good'], field], 'hello');
        const [request] = origin.requests;
        if (how === 'reset') reset++;
        if (how === 'reset') continue;
        // Refused by what is left of it, or delivered as if the field had not been sent.
        if (!request) continue;
        delivered++;
        expect({ field, names: request.headers.map(([name]) => name.toLowerCase()) }).toEqual({
          field,
          names: expect.not.arrayContaining(['x-note', 'upload-complete', 'upload-length', 'x-http-method-override']),
        });
        expect(request.header('Remote-User')).toBe('alice');
        expect(request.header('Host')).toBe('h');
        expect(request.method).toBe('POST');
        expect(request.body.toString()).toBe('hello');
        expect(auth.requests.map((asked) => asked.header('X-Forwarded-Uri'))).toEqual(['/x']);
        for (const [name, value] of [...request.headers, ...auth.requests.flatMap(({ headers }) => headers)])
          expect(`${name}${value}`).not.toContain(byte);
      }
      // A Node that resets such streams has nothing left to show here.
      expect(delivered > 5 || reset === fields.length).toBe(true);
    },
  );

  test.each(CONTROL.map((byte) => [told(byte), byte]))(
    'with %s in a pseudo field there is no request',
    async (_told, byte) => {
      for (const [name, value] of [
        [':path', `/x${byte}`],
        [':method', `POST${byte}`],
        [':authority', `h${byte}`],
        [':scheme', `http${byte}`],
      ] as const)
        await send([
          ['authorization', 'good'],
          [name, value],
        ]);
      expect(origin.requests.map(({ method, target }) => `${method} ${target}`)).toEqual([]);
    },
  );
});

describe('resets', () => {
  // Issue 9, §5: requests that their client gives up as soon as they have come.
  afterEach(closeListeners);

  const [HEADERS, RESET, SETTINGS, WINDOW] = [1, 3, 4, 8];
  const CANCEL = '\0\0\0\x08';
  const NO_ERROR = '\0\0\0\0';
  const PREFACE = `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${frame(SETTINGS, 0, 0, '')}`;
  const FIELDS = block([
    [':method', 'GET'],
    [':scheme', 'http'],
    [':path', '/'],
    [':authority', 'h'],
  ]);

  /** As many requests as `count`, each with what gives it up. */
  function givenUp(count: number, end: (stream: number) => string, from = 0): string {
    const streams = Array.from({ length: count }, (_, at) => 2 * (from + at) + 1);
    return streams.map((stream) => frame(HEADERS, 0x5, stream, FIELDS) + end(stream)).join('');
  }

  const ENDS = {
    CANCEL: (stream: number) => frame(RESET, 0, stream, CANCEL),
    NO_ERROR: (stream: number) => frame(RESET, 0, stream, NO_ERROR),
    // RFC 9113 §6.9: a window that opens by nothing makes us reset the stream.
    'what makes us reset them': (stream: number) => frame(WINDOW, 0, stream, '\0\0\0\0'),
  };

  test.each(Object.entries(ENDS))('a session that gives up request upon request by %s ends', async (_, end) => {
    let requests = 0;
    const listener = await openListener(() => requests++);
    const client = await connect(listener.url);
    client.socket.on('error', () => undefined).resume();
    await client.send(Buffer.from(PREFACE + givenUp(40_000, end), 'latin1'));
    await until(() => listener.connections === 0, 'the connection to be gone', 10_000);
    // What came with one read and was given up in it is not even begun.
    expect(requests).toBeLessThan(10);
    client.destroy();
  });

  test('a client that gives up a page of requests now and then goes on', async () => {
    const held: Exchange[] = [];
    const listener = await openListener((exchange) =>
      exchange.req.url === '/last' ? ok(exchange) : void held.push(exchange),
    );
    const client = await connectH2(listener.url);
    for (let page = 0; page < 2; page++) {
      const exchanges = Array.from({ length: 40 }, () =>
        client.start({ method: 'GET', target: '/' }, { endStream: true }),
      );
      await until(() => held.length === 40 * (page + 1), 'all of the page');
      for (const exchange of exchanges) exchange.reset();
      await Promise.all(exchanges.map(({ closed }) => closed));
    }
    expect((await client.request({ method: 'GET', target: '/last' })).status).toBe(200);
    await client.close();
  });

  test.each([
    ['ends with ENHANCE_YOUR_CALM where it is one client’s', false],
    ['goes on, with an upload of another, where it is a front’s that stands for many', true],
  ])('a session on which 600 requests are given up %s', async (_, isFront) => {
    const uploads: Exchange[] = [];
    let begun = 0;
    const listener = await openListener(
      (exchange) => (exchange.req.method === 'POST' ? uploads.push(exchange) : (begun += 1)),
      {
        isSharedPeer: () => isFront,
      },
    );
    const client = await connectH2(listener.url);
    const codes: number[] = [];
    client.session.on('goaway', (code: number) => codes.push(code));
    const isOver = (): boolean => client.session.destroyed;
    const ended = once(client.session, 'close');
    const upload = client.start({ method: 'POST', target: '/up' });
    await upload.send('hello');
    for (let round = 0; round < 12 && !isOver(); round++) {
      const exchanges = Array.from({ length: 50 }, () =>
        client.start({ method: 'GET', target: '/' }, { endStream: true }),
      );
      // Some clients of Node never send what is given up at once.
      await until(() => begun === 50 * (round + 1) || isOver(), 'the requests');
      for (const exchange of exchanges) exchange.reset();
      await Promise.all(exchanges.map(({ closed }) => closed));
      // Whatever they caused has come by then.
      if (!isOver()) await Promise.race([ended, new Promise<void>((resolve) => client.session.ping(() => resolve()))]);
    }
    if (isFront) {
      upload.end();
      await until(() => uploads.length === 1, 'the upload');
      ok(uploads[0]!);
      expect((await upload.readFinal()).status).toBe(200);
    }
    expect(isOver()).toBe(!isFront);
    await client.close();
    // A connection that ends with requests unread may lose what was said last.
    expect(isFront ? [[]] : [[], [constants.NGHTTP2_ENHANCE_YOUR_CALM]]).toContainEqual(codes);
  });
});

describe('a request that is reset after its response', () => {
  // RFC 9113 §8.1: the response may be complete before the request is, and then a reset can carry any code.
  const [DATA, HEADERS, RESET, SETTINGS, PING] = [0, 1, 3, 4, 6];
  const PREFACE = `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${frame(SETTINGS, 0, 0, '')}${frame(SETTINGS, 1, 0, '')}`;
  const LENGTHS: Record<string, readonly (readonly [string, string])[]> = {
    'with a length': [['content-length', '1000']],
    'without a length': [],
  };
  /** The codes of RFC 9113 §7: NO_ERROR, INTERNAL_ERROR and CANCEL stand for all. */
  const CODES = [0, 2, 8];

  let origin: RawOrigin;
  let app: TestApp;
  beforeEach(async () => {
    origin = await startRawOrigin(async (exchange) => {
      if (exchange.method !== 'POST') return answerOk(exchange);
      await exchange.readBytes(10);
      // The origin answers early and wants the rest of the body.
      await exchange.respond({ status: 401, body: 'no' });
    });
    app = await startTestApp({ origin: origin.url });
  });
  afterEach(async () => {
    await app.stop();
    await origin.close();
  });

  /** Sends a part of a request, and reads the end of its response. */
  async function answeredEarly(length: string): Promise<RawClient> {
    const fields = [
      [':method', 'POST'],
      [':scheme', 'http'],
      [':path', '/x'],
      [':authority', 'h'],
      ...LENGTHS[length]!,
    ] as const;
    const client = await connect(app.url);
    await client.send(PREFACE + frame(HEADERS, 0x4, 1, block(fields)) + frame(DATA, 0, 1, '0123456789'));
    await framesUntil(client, (type, flags) => type <= HEADERS && (flags & 1) === 1);
    return client;
  }

  /** Reads frames, the last of which is the first that this holds for. */
  async function framesUntil(client: RawClient, isLast: (type: number, flags: number) => boolean): Promise<void> {
    for (;;) {
      const head = await client.readRaw(9);
      await client.readRaw(head.readUIntBE(0, 3));
      if (isLast(head[3]!, head[4]!)) return;
    }
  }

  test.each(Object.keys(LENGTHS).flatMap((length) => CODES.map((code) => [length, code] as const)))(
    '%s and with code %d: the connection of the cut body carries nothing more',
    async (length, code) => {
      const client = await answeredEarly(length);
      await client.send(frame(RESET, 0, 1, `\0\0\0${String.fromCharCode(code)}`) + H2_PING);
      await framesUntil(client, (type) => type === PING);
      expect((await exchangeOver('HTTP/1.1', app.url, { method: 'GET', target: '/next' })).status).toBe(200);
      expect(origin.connections.map(({ requests }) => requests)).toEqual([1, 1]);
      const [connection] = origin.connections;
      await connection!.closed;
      expect(connection!.received.toString('latin1')).toMatch(/\r\n\r\n(?:a\r\n)?0123456789(?:\r\n)?$/);
      client.destroy();
    },
  );

  test.each([
    ['in one frame', frame(DATA, 0x1, 1, 'x'.repeat(990))],
    ['with a reset right behind', frame(DATA, 0x1, 1, 'x'.repeat(990)) + frame(RESET, 0, 1, '\0\0\0\0')],
    ['with an empty frame', frame(DATA, 0, 1, 'x'.repeat(990)) + frame(DATA, 0x1, 1, '')],
  ])('a body that ends %s is complete, and its connection is used again', async (_, rest) => {
    const client = await answeredEarly('with a length');
    await client.send(rest);
    await until(() => origin.exchanges[0]!.body.bytes.length === 1000, 'the body');
    expect((await exchangeOver('HTTP/1.1', app.url, { method: 'GET', target: '/next' })).status).toBe(200);
    expect(origin.connections.map(({ requests }) => requests)).toEqual([2]);
    client.destroy();
  });
});
