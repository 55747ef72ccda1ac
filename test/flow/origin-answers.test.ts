import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { exchangeOver, TRANSPORTS } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { type RawExchange, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { appendLines, clientDialect, creationLines } from '../support/resumable-client.js';
import { until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

// Issue 9: answers of an origin that have no end, that drip, or that are too large end, and nothing waits for them for ever.
const CONFIG = (answerTimeout: string): string => `
delivery:
  timeout: 5s
  answer_timeout: ${answerTimeout}
  max_answer_size: 10000
  retry: { first_delay: 10ms, longest_delay: 20ms }
  breaker: { failures: 1000, pause: 10ms }
routes:
  - match: { path: /eager/** }
    delivery: { mode: eager }
  - match: { path: /spooled/** }
    plain_bodies: spool
  - match: { path: /** }
`;
const DIALECT = clientDialect('10');
const BODY = 'hello';

/** Writes again and again, until the connection is gone. */
async function drip(exchange: RawExchange, piece: string, first = ''): Promise<void> {
  const { socket } = exchange;
  socket.on('error', () => undefined);
  if (first !== '') socket.write(first);
  const timer = setInterval(() => socket.write(piece), 20);
  await new Promise((resolve) => socket.once('close', resolve));
  clearInterval(timer);
}

async function flood(exchange: RawExchange, piece: string): Promise<void> {
  const { socket } = exchange;
  socket.on('error', () => undefined);
  while (!socket.destroyed) {
    const isDrained = socket.write(piece.repeat(100));
    await new Promise((resolve) =>
      isDrained ? setImmediate(resolve) : socket.once('drain', resolve).once('close', resolve),
    );
  }
}

interface Kind {
  readonly name: string;
  readonly play: (exchange: RawExchange) => Promise<void> | void;
  /** What the record says. */
  readonly problem: RegExp;
  /** What a client is told for whom the request passed through. */
  readonly detail?: RegExp;
  /** Only the time for an answer ends it; the others are ended by something else, however long that takes here. */
  readonly takesTime?: true;
  /** Bodies of what passes through are nobody's but the client's. */
  readonly isOfBody?: true;
}

const KINDS: readonly Kind[] = [
  {
    name: 'interim responses without end',
    // They count, not their bytes: there are none in them.
    play: (exchange) => flood(exchange, 'HTTP/1.1 102 \r\n\r\n'),
    problem: /too many interim responses/,
    detail: /without end/,
  },
  {
    name: 'interim responses with large fields',
    // So few that their bytes count, and an answer behind them.
    play: ({ socket }) => {
      socket.on('error', () => undefined);
      socket.write(`HTTP/1.1 103 Early Hints\r\nLink: <${'x'.repeat(3000)}>\r\n\r\n`.repeat(200));
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
    },
    problem: /too many interim responses/,
    detail: /without end/,
  },
  {
    name: '100s without end',
    play: (exchange) => flood(exchange, 'HTTP/1.1 100 \r\n\r\n'),
    problem: /too many interim responses/,
    detail: /without end/,
  },
  {
    name: 'interim responses that drip',
    play: (exchange) => drip(exchange, 'HTTP/1.1 102 Processing\r\n\r\n'),
    problem: /not complete after 0.4 s/,
    detail: /within 0.4 s/,
    takesTime: true,
  },
  {
    name: 'a head that drips',
    play: (exchange) => drip(exchange, 'X-A: b\r\n', 'HTTP/1.1 200 OK\r\n'),
    problem: /not complete after 0.4 s/,
    detail: /within 0.4 s/,
    takesTime: true,
  },
  {
    name: 'a head of one endless line',
    play: (exchange) => drip(exchange, 'x', 'HTTP/1.1 200 OK\r\nX-A: '),
    problem: /not complete after 0.4 s/,
    detail: /within 0.4 s/,
    takesTime: true,
  },
  {
    name: 'a huge head',
    play: (exchange) => flood(exchange, `X-Filler: ${'x'.repeat(2000)}\r\n`),
    problem: /head of the answer is larger/,
  },
  {
    name: 'a first chunk that never comes',
    play: ({ socket }) => void socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'),
    problem: /not complete after 0.4 s/,
    takesTime: true,
    isOfBody: true,
  },
  {
    name: 'an extension of its first chunk that drips',
    play: (exchange) => drip(exchange, 'aaaa', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;'),
    problem: /not complete after 0.4 s/,
    takesTime: true,
    isOfBody: true,
  },
  {
    name: 'a body that is announced too large',
    play: ({ socket }) => void socket.write('HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\nx'),
    problem: /larger than 10000 bytes/,
    isOfBody: true,
  },
  {
    name: 'a body that becomes too large',
    play: ({ socket }) => void socket.write(`HTTP/1.1 200 OK\r\n\r\n${'x'.repeat(10_001)}`),
    problem: /larger than 10000 bytes/,
    isOfBody: true,
  },
];

let origin: RawOrigin;
let app: TestApp;
let hasty: TestApp;
/** Gives an answer so much time that it is shown to clients while it still comes. */
let showing: TestApp;

beforeAll(async () => {
  origin = await startRawOrigin();
  app = await startTestApp({ origin: origin.url, config: CONFIG('10s') });
  hasty = await startTestApp({ origin: origin.url, config: CONFIG('400ms') });
  showing = await startTestApp({ origin: origin.url, config: CONFIG('1s') });
});
afterAll(async () => {
  await app.stop();
  await hasty.stop();
  await showing.stop();
  await origin.close();
});

const appFor = ({ takesTime }: Kind): TestApp => (takesTime ? hasty : app);

function meets({ play, name }: Kind): void {
  origin.setScript(async (exchange) => {
    await exchange.readBody();
    if (name === 'a huge head') exchange.socket.write('HTTP/1.1 200 OK\r\n');
    await play(exchange);
  });
}

/** The problem of the newest attempt in the log, which is that of the record. */
async function problemOfAttempt({ log }: TestApp, before: number): Promise<string> {
  const found = await until(() => log.slice(before).find(({ msg }) => msg === 'delivery attempt'), 'an attempt');
  return String(found.problem);
}

const requestsFor = (target: string): number =>
  origin.exchanges.filter((exchange) => exchange.target === target).length;

describe.each(TRANSPORTS)('over %s', (transport) => {
  function upload(method: string, target: string, to = app): Promise<WireResponse> {
    const headers = creationLines(DIALECT, { complete: true, length: BODY.length });
    return exchangeOver(transport, to.url, { method, target, headers, body: BODY });
  }

  const targetOf = (path: string, { name }: Kind, method: string): string =>
    `${path}${encodeURIComponent(`${transport} ${method} ${name}`)}`;

  describe.each(['POST', 'PUT'])('of an upload by %s', (method) => {
    // A method that may be repeated changes nothing: one kind for each bound tells.
    const kinds = KINDS.filter(({ name }) => method === 'POST' || /without end|large fields|becomes/.test(name));
    test.each(kinds)('$name: 502, once, and the record says why', async (kind) => {
      meets(kind);
      const target = targetOf('/files/', kind, method);
      const own = appFor(kind);
      const before = own.log.length;
      const response = await upload(method, target, own);
      expect([response.status, response.header('Upload-Complete')]).toEqual([502, '?0']);
      expect(await problemOfAttempt(own, before)).toMatch(kind.problem);
      expect(requestsFor(target)).toBe(1);
      // It is kept, and may be sent once more.
      origin.setScript(async (exchange) => {
        await exchange.readBody();
        await exchange.respond({ status: 201, body: 'made' });
      });
      const location = response.interims[0]!.header('Location')!;
      const again = await exchangeOver(transport, own.url, {
        method: 'PATCH',
        target: new URL(location).pathname,
        headers: appendLines(DIALECT, { offset: BODY.length - 1, complete: true }),
        body: BODY.slice(-1),
      });
      expect([again.status, requestsFor(target)]).toEqual([201, 2]);
    });
  });

  test.each(KINDS)('of an eager upload, $name: 502, and the record says why', async (kind) => {
    meets(kind);
    const own = appFor(kind);
    const before = own.log.length;
    const response = await upload('POST', targetOf('/eager/', kind, 'POST'), own);
    expect(response.status).toBe(502);
    expect(await problemOfAttempt(own, before)).toMatch(kind.problem);
  });

  test.each(KINDS)('of a spooled request, $name: 502', async (kind) => {
    meets(kind);
    const target = targetOf('/spooled/', kind, 'POST');
    const { status } = await exchangeOver(transport, appFor(kind).url, { method: 'POST', target, body: BODY });
    expect(status).toBe(502);
    expect(requestsFor(target)).toBe(1);
  });

  const emptyKinds = KINDS.filter(({ name }) => /first chunk/.test(name));
  test.each(emptyKinds.flatMap((kind) => ['/files/', '/spooled/', '/eager/'].map((path) => ({ ...kind, path }))))(
    'of $path, $name, when it was shown already: 502, which says what may be',
    async ({ path, ...kind }) => {
      meets(kind);
      const target = `${targetOf(path, kind, 'POST')}-shown`;
      const headers = path === '/spooled/' ? [] : creationLines(DIALECT, { complete: true, length: BODY.length });
      const response = await exchangeOver(transport, showing.url, { method: 'POST', target, headers, body: BODY });
      expect([response.status, requestsFor(target)]).toEqual([502, 1]);
      expect(response.body.toString()).toContain('may have been done all the same');
    },
  );

  test.each(KINDS.filter(({ isOfBody }) => !isOfBody))('of what passes through, $name: 502', async (kind) => {
    meets(kind);
    const target = targetOf('/files/', kind, 'GET');
    const { status, body } = await exchangeOver(transport, appFor(kind).url, { method: 'GET', target });
    expect(status).toBe(502);
    expect(body.toString()).toMatch(kind.detail ?? /./);
    expect(requestsFor(target)).toBe(1);
  });

  test('of an upload, a 503 whose body ends with the connection is a refusal like any other', async () => {
    const target = `/files/${transport.at(-1)}-refused`;
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      if (requestsFor(target) > 1) return exchange.respond({ status: 201, body: 'made' });
      exchange.socket.write(`HTTP/1.1 503 Service Unavailable\r\n\r\n${'x'.repeat(100)}`);
    });
    expect((await upload('POST', target)).status).toBe(201);
    expect(requestsFor(target)).toBe(2);
  });

  test('what passes through may have as large a body as it wants', async () => {
    origin.setScript((exchange) => exchange.respond({ status: 200, body: 'x'.repeat(20_000) }));
    const response = await exchangeOver(transport, app.url, { method: 'GET', target: '/files/large' });
    expect([response.status, response.body.length]).toEqual([200, 20_000]);
  });
});

describe('heads that a client over HTTP/2 does not take', () => {
  const LARGE = [
    ['over its own limit', 20_000, 10_000],
    ['over what can be sent', 100_000, undefined],
  ] as const;
  const PATHS = ['an upload', 'what passes through'] as const;

  for (const path of PATHS)
    test.each(LARGE)(`of ${path}: one %s is 502, and the session goes on`, async (_, size, maxHeaderListSize) => {
      const fields = Array.from({ length: size / 1000 }, (__, at) => [`X-Field-${at}`, 'x'.repeat(980)] as const);
      origin.setScript(async (exchange) => {
        await exchange.readBody();
        await exchange.respond({ status: 200, headers: exchange.target.includes('large') ? fields : [], body: 'ok' });
      });
      const client = await connectH2(app.url, { settings: { maxHeaderListSize } });
      const isUpload = path === 'an upload';
      const headers = isUpload ? creationLines(DIALECT, { complete: true, length: BODY.length }) : [];
      const ask = (target: string): Promise<WireResponse> =>
        client.request({ method: isUpload ? 'POST' : 'GET', target, headers, ...(isUpload && { body: BODY }) });
      const responses = [await ask('/files/large'), await ask('/files/small')];
      expect(responses.map(({ status }) => status)).toEqual([502, 200]);
      await client.close();
    });
});
