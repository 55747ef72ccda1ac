import { Readable } from 'node:stream';
import { afterEach, describe, expect, test } from '@jest/globals';
import { problemReply } from '../../src/protocol/problem.js';
import type { Reply } from '../../src/protocol/protocol.js';
import { destroyExchange, type Exchange } from '../../src/server/exchange.js';
import { sendContinue } from '../../src/server/interim-responses.js';
import { respondEarly } from '../../src/server/response.js';
import { connect, type RawClient } from '../support/client.js';
import { block, frame } from '../support/hostile-http2.js';
import { connectH2 } from '../support/http2-client.js';
import { makeCertificate, until, within } from '../support/temporary.js';
import { closeListeners, openListener } from '../support/test-listener.js';

const tls = makeCertificate();
const tooLarge = problemReply({ status: 413, detail: 'Too large.' });
const MIB = 2 ** 20;

afterEach(closeListeners);

/** Sends a body of zeros to its end, whatever is answered meanwhile. */
async function sendBody(client: RawClient, bytes: number): Promise<void> {
  const piece = Buffer.alloc(64 * 1024);
  for (let sent = 0; sent < bytes && !client.socket.destroyed; sent += piece.length) await client.send(piece);
}

describe.each([
  ['HTTP/1.1', undefined],
  ['HTTP/1.1 with TLS', tls],
])('an answer before the body is there, %s', (_what, secure) => {
  test('is read by a client that sends its whole body first, and the connection serves on', async () => {
    const listener = await openListener((exchange) => void respondEarly(exchange, tooLarge), { tls: secure });
    const client = await connect(listener.url);
    for (let round = 0; round < 2; round++) {
      await client.sendHead('POST', '/', [['Content-Length', `${10 * MIB}`]]);
      await sendBody(client, 10 * MIB);
      const response = await client.readFinal();
      expect(response.status).toBe(413);
      expect(response.header('connection')).toBe('keep-alive');
    }
    client.destroy();
  });

  test('comes at once, and a client that goes on beyond all measure loses its connection', async () => {
    const limits = { bytes: 4 * MIB, ms: 60_000 };
    const listener = await openListener((exchange) => void respondEarly(exchange, tooLarge, limits), { tls: secure });
    const client = await connect(listener.url);
    await client.sendHead('POST', '/', [['Transfer-Encoding', 'chunked']]);
    expect((await client.readFinal()).status).toBe(413);
    const chunk = Buffer.alloc(64 * 1024);
    while (!client.socket.destroyed) await client.sendChunk(chunk);
    expect(client.socket.bytesWritten).toBeGreaterThan(4 * MIB);
    await until(() => listener.connections === 0, 'the connection to be gone');
  });

  test('and a client that just stays silent loses its connection as well', async () => {
    const listener = await openListener((exchange) => void respondEarly(exchange, tooLarge, { bytes: MIB, ms: 100 }), {
      tls: secure,
    });
    const client = await connect(listener.url);
    await client.sendHead('POST', '/', [['Content-Length', '10']]);
    expect((await client.readFinal()).status).toBe(413);
    await client.ended();
  });

  test('that ends the connection is not lost to a reset', async () => {
    const listener = await openListener(
      (exchange) => {
        (exchange.res as { shouldKeepAlive?: boolean }).shouldKeepAlive = false;
        void respondEarly(exchange, tooLarge);
      },
      { tls: secure },
    );
    const client = await connect(listener.url);
    const errors: Error[] = [];
    client.socket.on('error', (error) => errors.push(error));
    await client.sendHead('POST', '/', [['Content-Length', `${10 * MIB}`]]);
    await sendBody(client, 10 * MIB);
    const response = await client.readFinal();
    expect([response.status, response.header('connection')]).toEqual([413, 'close']);
    await client.ended();
    expect(errors).toEqual([]);
  });

  test('after part of the body was read leaves nothing of it on the connection', async () => {
    const listener = await openListener(
      (exchange) => {
        exchange.req.once('data', () => {
          exchange.req.pause();
          void respondEarly(exchange, tooLarge);
        });
      },
      { tls: secure },
    );
    const client = await connect(listener.url);
    for (let round = 0; round < 2; round++) {
      await client.sendHead('POST', '/', [['Content-Length', `${2 * MIB}`]]);
      await sendBody(client, 2 * MIB);
      expect((await client.readFinal()).status).toBe(413);
    }
    client.destroy();
  });
});

describe('to a client that holds its body back', () => {
  const expecting = [
    ['Content-Length', '10'],
    ['Expect', '100-continue'],
  ] as const;

  test('the answer ends the connection, because nobody knows what would come next', async () => {
    const listener = await openListener((exchange) => void respondEarly(exchange, tooLarge));
    const client = await connect(listener.url);
    await client.sendHead('POST', '/', expecting);
    const response = await client.readFinal();
    expect([response.status, response.header('connection'), response.interims.length]).toEqual([413, 'close', 0]);
    client.end();
    await client.ended();
    await until(() => listener.connections === 0, 'the connection to be gone');
  });

  test('the connection serves on when the body was asked for', async () => {
    const listener = await openListener((exchange) => {
      sendContinue(exchange);
      void respondEarly(exchange, tooLarge);
    });
    const client = await connect(listener.url);
    for (let round = 0; round < 2; round++) {
      await client.sendHead('POST', '/', expecting);
      const response = await client.readFinal();
      expect([response.status, response.interims.length]).toEqual([413, 1]);
      await client.send(Buffer.alloc(10));
    }
    client.destroy();
  });
});

describe.each([
  ['HTTP/2', undefined],
  ['HTTP/2 with TLS', tls],
])('%s', (_what, secure) => {
  test('an answer before the body is there stops the client without an error, and the connection serves on', async () => {
    const listener = await openListener((exchange) => void respondEarly(exchange, tooLarge), { tls: secure });
    const h2 = await connectH2(listener.url);
    for (let round = 0; round < 2; round++) {
      const asked = h2.start({ method: 'POST', target: '/' });
      const stop = new Promise<true>((resolve) => asked.stream.once('aborted', () => resolve(true)));
      const piece = Buffer.alloc(64 * 1024);
      const goOn = (): Promise<boolean> => Promise.race([stop, asked.send(piece).then(() => false)]);
      // Far more than the window: a client that is not told to stop would wait for ever.
      for (let sent = 0; sent < 100 * MIB && !(await goOn()); sent += piece.length);
      await within(stop, 'the client to be told to stop');
      expect((await asked.readFinal()).status).toBe(413);
      expect(asked.stream.rstCode).toBe(0);
    }
    await h2.close();
  });

  test('an answer after the body ends the stream as usual', async () => {
    const listener = await openListener(
      (exchange) => {
        exchange.req.resume();
        exchange.req.on('end', () => void respondEarly(exchange, tooLarge));
      },
      { tls: secure },
    );
    const h2 = await connectH2(listener.url);
    expect((await h2.request({ method: 'POST', target: '/', body: 'abc' })).status).toBe(413);
    expect((await h2.request({ method: 'GET', target: '/' })).status).toBe(413);
    await h2.close();
  });
});

/** The frames of the first stream, as soon as one of them ends it. */
async function framesOf(client: RawClient): Promise<string[]> {
  const frames: string[] = [];
  for (;;) {
    const [start, type, flags] = await client.readRaw(9).then((head) => [head, head[3]!, head[4]!] as const);
    await client.readRaw(start.readUIntBE(0, 3));
    if (start.readUInt32BE(5) !== 1) continue;
    const isEnd = type !== RESET && (flags & END_STREAM) !== 0;
    frames.push(`${['DATA', 'HEADERS', '', 'RST_STREAM'][type]}${isEnd ? ' END_STREAM' : ''}`);
    if (isEnd || type === RESET) return frames;
  }
}

const [HEADERS, RESET, SETTINGS] = [1, 3, 4];
const END_STREAM = 0x1;
const END_HEADERS = 0x4;

// RFC 9113 §8.1: only an answer with its END_STREAM is whole, whether or not the stream is reset behind it.
describe.each([
  ['without a body', 'GET', END_STREAM],
  ['whose body is open', 'POST', 0],
])('over HTTP/2, to a request %s', (_what, method, flags) => {
  test.each([
    ['text', tooLarge, ['HEADERS', 'DATA', 'DATA END_STREAM']],
    [
      'a stream',
      { status: 200, headers: [], body: Readable.from([Buffer.from('ok')]) },
      ['HEADERS', 'DATA', 'DATA END_STREAM'],
    ],
    [
      'a stream with trailers',
      { status: 200, headers: [], body: Readable.from([Buffer.from('ok')]), trailers: () => [['X-Sum', '1'] as const] },
      ['HEADERS', 'DATA', 'HEADERS END_STREAM'],
    ],
    ['nothing', { status: 200, headers: [] }, ['HEADERS', 'DATA END_STREAM']],
    ['nothing, with 204', { status: 204, headers: [] }, ['HEADERS END_STREAM']],
  ] satisfies [string, Reply, string[]][])('an answer of %s has its end', async (_content, reply, frames) => {
    const listener = await openListener((exchange) => void respondEarly(exchange, reply));
    const client = await connect(listener.url);
    const fields = block([
      [':method', method],
      [':scheme', 'http'],
      [':path', '/'],
      [':authority', 'h'],
    ]);
    const head = frame(HEADERS, END_HEADERS | flags, 1, fields);
    await client.send(`PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${frame(SETTINGS, 0, 0, '')}${head}`);
    expect(await framesOf(client)).toEqual(frames);
    client.destroy();
  });
});

describe('an exchange that is given up', () => {
  const given = (seen: Exchange[]) => (exchange: Exchange) => {
    exchange.req.on('error', () => undefined);
    seen.push(exchange);
  };

  test('takes its HTTP/1.1 connection with it', async () => {
    const seen: Exchange[] = [];
    const listener = await openListener(given(seen));
    const client = await connect(listener.url);
    await client.sendHead('POST', '/', [['Content-Length', '10']]);
    await until(() => seen.length === 1, 'the request');
    destroyExchange(seen[0]!);
    await client.ended();
    destroyExchange(seen[0]!);
  });

  test('is reset over HTTP/2, and the connection serves on', async () => {
    const seen: Exchange[] = [];
    const listener = await openListener(given(seen));
    const h2 = await connectH2(listener.url);
    const [lost, kept] = [h2.start({ method: 'POST', target: '/1' }), h2.start({ method: 'POST', target: '/2' })];
    await until(() => seen.length === 2, 'both requests');
    destroyExchange(seen[0]!);
    expect(await lost.ended()).toBe(2);
    await respondEarly(seen[1]!, tooLarge);
    expect((await kept.readFinal()).status).toBe(413);
    destroyExchange(seen[0]!);
    await h2.close();
  });
});
