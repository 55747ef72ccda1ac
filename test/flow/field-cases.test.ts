import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { connect, type RawClient, requestOnce } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { answerOk, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';
import { closeListeners, openListener } from '../support/test-listener.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireRequest, WireResponse } from '../support/wire.js';

// Issue 9, "done when" 3: reports of others, tried on the whole proxy. docs/field-cases.md tells where each is from.

let origin: RawOrigin;
let app: TestApp;

beforeAll(async () => {
  origin = await startRawOrigin();
  app = await startTestApp({ origin: origin.url });
});
afterAll(async () => {
  await app.stop();
  await origin.close();
});

async function over(transport: 'HTTP/1.1' | 'HTTP/2', request: WireRequest): Promise<WireResponse> {
  if (transport === 'HTTP/1.1') return requestOnce(app.url, request);
  const client = await connectH2(app.url);
  const response = await client.request(request);
  await client.close();
  return response;
}

const UPLOAD = [['Upload-Complete', '?1'] as const, ['Upload-Draft-Interop-Version', '6'] as const];
const REQUESTS: [string, WireRequest][] = [
  ['a GET', { method: 'GET', target: '/files' }],
  ['a plain POST', { method: 'POST', target: '/files', body: 'hello' }],
  ['an upload', { method: 'POST', target: '/files', body: 'hello', headers: UPLOAD }],
];

// RFC 9110 §15: beyond 599 there is no status, and a client takes one for a 5xx. Origins use them, and Node sends none over HTTP/2.
describe.each([599, 600, 777, 999])('an answer with the status %i', (status) => {
  test.each(REQUESTS)(
    'to %s arrives as it is, or over HTTP/2 with its fields and content under a 502',
    async (_, request) => {
      origin.setScript(async (exchange) => {
        await exchange.readBody();
        await exchange.respond({ status, reason: 'Odd', headers: [['X-Kept', 'yes']], body: 'why' });
      });
      for (const transport of ['HTTP/1.1', 'HTTP/2'] as const) {
        const response = await over(transport, request);
        expect(response.status).toBe(transport === 'HTTP/2' && status > 599 ? 502 : status);
        expect([response.header('x-kept'), response.body.toString()]).toEqual(['yes', 'why']);
      }
    },
  );
});

// The origin took the upload and its answer was lost: a second PUT would meet a 412, which the client would take for its own.
test.each([
  ['If-None-Match', '*', [502, 201], 2],
  ['If-Match', '"1"', [502, 201], 2],
  ['X-No-Condition', '1', [201], 2],
] as const)('a PUT with %s: %s whose answer is lost', async (name, value, statuses, requests) => {
  const first = origin.exchanges.length;
  origin.setScript(async (exchange) => {
    await exchange.readBody();
    if (origin.exchanges.length === first + 1) exchange.socket.destroy();
    else await exchange.respond({ status: 201, body: 'made' });
  });
  const headers = [...UPLOAD, [name, value] as const];
  const creation = await requestOnce(app.url, { method: 'PUT', target: '/files', body: 'hello', headers });
  const seen: number[] = [creation.status];
  expect(origin.exchanges.length - first).toBe(statuses.length === 1 ? requests : 1);
  if (statuses.length > 1) {
    // It was told that nobody knows: completing the upload again is its own decision.
    const target = new URL(creation.interims[0]!.header('location')!).pathname;
    const again = [...UPLOAD, ['Upload-Offset', '4'] as const, ['Content-Type', 'application/partial-upload'] as const];
    seen.push((await requestOnce(app.url, { method: 'PATCH', target, body: 'o', headers: again })).status);
  }
  expect(seen).toEqual(statuses);
  expect(origin.exchanges.length - first).toBe(requests);
});

// A balancer sends requests over connections that it keeps: ours must not end before its own (620 s is for Google's 600 s).
test.each([
  ['', 'timeout=75'],
  [', keep_alive: 620s', 'timeout=620'],
  [', keep_alive: 5s', 'timeout=5'],
])('a listener with {…%s} says and keeps its time for idle connections', async (setting, told) => {
  const other = await startTestApp({ origin: origin.url, config: `listen: { address: 127.0.0.1:0${setting} }` });
  try {
    origin.setScript(answerOk);
    expect((await requestOnce(other.url, { method: 'GET', target: '/' })).header('keep-alive')).toBe(told);
  } finally {
    await other.stop();
  }
});

// RFC 9112 §9.6: a client may end its side behind its request, and wait. It looks like one that has left.
describe('a client that ends its side of the connection', () => {
  const LATER = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n';

  async function halfClosed(bytes: string): Promise<RawClient> {
    const client = await connect(app.url);
    await client.send(bytes);
    client.socket.end();
    return client;
  }

  test.each([
    ['a GET', 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'],
    ['a GET that closes', 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'],
    ['a GET of HTTP/1.0', 'GET / HTTP/1.0\r\n\r\n'],
    ['a POST', 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello'],
    ['a POST in chunks', 'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n'],
  ])('behind %s gets the answer, at once or later, and then the end of the connection', async (_, bytes) => {
    const first = origin.exchanges.length;
    let release = (): void => undefined;
    for (const isLate of [false, true]) {
      const released = isLate ? new Promise<void>((resolve) => (release = resolve)) : undefined;
      origin.setScript(async (exchange) => {
        await exchange.readBody();
        await released;
        await exchange.respond({ status: 201, body: 'made' });
      });
      const client = await halfClosed(bytes);
      await origin.exchange(first + (isLate ? 1 : 0));
      release();
      const response = await client.readFinal();
      expect([response.status, response.body.toString()]).toEqual([201, 'made']);
      await client.closed;
    }
  });

  test('behind several requests gets all their answers', async () => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.respond({ status: 200, body: exchange.target });
    });
    const client = await halfClosed(['/1', '/2', '/3'].map((at) => `GET ${at} HTTP/1.1\r\nHost: a\r\n\r\n`).join(''));
    for (const target of ['/1', '/2', '/3']) expect((await client.readFinal()).body.toString()).toBe(target);
    await client.closed;
  });

  test('gets an answer in pieces to its end', async () => {
    origin.setScript(async (exchange) => {
      await exchange.write(LATER);
      for (const piece of ['a', 'b', 'c']) await exchange.write(`1\r\n${piece}\r\n`);
      await exchange.write('0\r\n\r\n');
    });
    const client = await halfClosed('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    expect((await client.readFinal()).body.toString()).toBe('abc');
    await client.closed;
  });

  test.each(['', LATER])('and has left is noticed, when nothing is written to it for a while (%j)', async (begun) => {
    const gone: string[] = [];
    const listener = await openListener(
      ({ req, res }) => {
        res.once('close', () => gone.push(req.url!));
        if (begun !== '' && !('stream' in res)) res.writeHead(200).write('a');
      },
      { halfClosedMs: 50 },
    );
    const client = await connect(listener.url);
    await client.send('GET /left HTTP/1.1\r\nHost: a\r\n\r\n');
    client.destroy();
    await until(() => gone.length > 0 && listener.connections === 0, 'the end of the exchange');
    await closeListeners();
  });

  test('in the middle of its body has sent no request', async () => {
    const next = origin.exchanges.length;
    origin.setScript(answerOk);
    const client = await halfClosed('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel');
    await client.closed;
    await (
      await origin.exchange(next)
    ).closed;
    expect(origin.exchanges[next]!.body.endedCleanly).toBe(false);
  });

  const V6 = 'Upload-Draft-Interop-Version: 6\r\n';
  const CHUNKS = 'Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n';
  const BYTES = 'Content-Length: 5\r\n\r\nhello';

  // It is not waited for, because it may have left: nobody was told what became of the upload.
  test.each([
    ['a creation', `Upload-Complete: ?1\r\n${BYTES}`],
    ['a creation of unknown length', `Upload-Complete: ?1\r\n${CHUNKS}`],
    ['a creation of an iPhone', `${V6}Upload-Complete: ?1\r\n${BYTES}`],
    ['a creation of an iPhone of unknown length', `${V6}Upload-Complete: ?1\r\n${CHUNKS}`],
  ])('behind %s has uploaded all the same: the origin gets it, once', async (_, rest) => {
    const next = origin.exchanges.length;
    origin.setScript(answerOk);
    const client = await halfClosed(`POST /files HTTP/1.1\r\nHost: a\r\n${rest}`);
    await client.closed;
    const delivered = await origin.exchange(next);
    await until(() => delivered.body.size === 5, 'the body');
    expect([delivered.body.bytes.toString(), origin.exchanges.length - next]).toEqual(['hello', 1]);
  });

  async function place(): Promise<string> {
    const creation = await requestOnce(app.url, {
      method: 'POST',
      target: '/files',
      headers: [
        ['Upload-Complete', '?0'],
        ['Upload-Draft-Interop-Version', '6'],
      ],
    });
    return new URL(creation.header('location')!).pathname;
  }

  function completing(pathname: string, offset: number, body: string): string {
    return (
      `PATCH ${pathname} HTTP/1.1\r\nHost: a\r\n${V6}Upload-Complete: ?1\r\nUpload-Offset: ${offset}\r\n` +
      `Content-Type: application/partial-upload\r\nContent-Length: ${body.length}\r\n\r\n${body}`
    );
  }

  async function answerTo(bytes: string): Promise<WireResponse> {
    const client = await connect(app.url);
    await client.send(bytes);
    const answer = await client.readFinal();
    client.destroy();
    return answer;
  }

  test('behind the last append has completed the upload: its answer is kept for its return', async () => {
    const next = origin.exchanges.length;
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.respond({ status: 201, body: 'made' });
    });
    const pathname = await place();
    const client = await halfClosed(completing(pathname, 0, 'hello'));
    await client.closed;
    await origin.exchange(next);
    const answer = await answerTo(completing(pathname, 5, ''));
    expect([answer.status, answer.body.toString(), origin.exchanges.length - next]).toEqual([201, 'made', 1]);
  });

  test('behind an append whose outcome nobody knows was not told of it: at its return it is, before anything is sent again', async () => {
    const next = origin.exchanges.length;
    let tries = 0;
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      if (++tries === 1) exchange.socket.destroy();
      else await exchange.respond({ status: 201, body: 'made' });
    });
    const unknown = (): number => app.log.filter(({ phase }) => phase === 'undelivered').length;
    const before = unknown();
    const pathname = await place();
    const client = await halfClosed(completing(pathname, 0, 'hello'));
    await client.closed;
    await until(() => unknown() > before, 'the end of trying');
    expect((await answerTo(completing(pathname, 4, 'o'))).status).toBe(502);
    expect(origin.exchanges.length - next).toBe(1);
    expect((await answerTo(completing(pathname, 4, 'o'))).status).toBe(201);
    expect(origin.exchanges.length - next).toBe(2);
  });
});
