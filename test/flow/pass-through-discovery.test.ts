import { expect, test } from '@jest/globals';
import { PassThrough } from '../../src/http/pass-through.js';
import type { RequestHead } from '../../src/model/request-head.js';
import { silentLog } from '../../src/observe/log.js';
import { startRawOrigin, type RawOrigin, type RawScript } from '../support/raw-origin.js';
import { serverPort } from '../support/server-port.js';
import { until } from '../support/temporary.js';

const HEAD: RequestHead = {
  method: 'POST',
  target: '/files?x=1',
  path: '/files',
  httpVersion: '1.1',
  scheme: 'http',
  authority: 'example.org',
  headers: [
    ['Host', 'example.org'],
    ['Origin', 'https://page.example'],
    ['Content-Length', '5'],
    ['Expect', '100-continue'],
  ],
  contentLength: 5,
  hasBody: true,
  expectsContinue: true,
  connection: {
    peerAddress: '127.0.0.1',
    clientAddress: '127.0.0.1',
    encrypted: false,
    peerIsTrusted: false,
    relaysInterim: true,
  },
};

async function discoverAt(origin: string, discoveryTimeoutMs = 5_000) {
  const passThrough = new PassThrough({ log: silentLog(), discoveryTimeoutMs });
  const found = await passThrough.discover(HEAD, { origin, delivery: { preserveHost: true, timeoutMs: 5_000 } });
  await passThrough.close();
  await until(() => passThrough.openConnections === 0, 'the end of the connections');
  return found;
}

async function discover(script: RawScript, discoveryTimeoutMs?: number) {
  const origin: RawOrigin = await startRawOrigin(script);
  try {
    const found = await discoverAt(origin.url, discoveryTimeoutMs);
    return { found, asked: origin.exchanges };
  } finally {
    await origin.close();
  }
}

test("the origin's own answer to OPTIONS is found, without what describes its content", async () => {
  const { found, asked } = await discover((exchange) =>
    exchange.respond({
      status: 200,
      headers: [
        ['Allow', 'GET, POST'],
        ['X-Hop', '1'],
        ['Connection', 'X-Hop'],
        ['Content-Type', 'text/plain'],
        ['Vary', 'Origin'],
      ],
      body: 'words',
    }),
  );
  expect(found).toEqual({
    status: 200,
    headers: [
      ['Allow', 'GET, POST'],
      ['Vary', 'Origin'],
    ],
  });
  expect(asked[0]!.requestLine).toBe('OPTIONS /files?x=1 HTTP/1.1');
  expect(asked[0]!.header('origin')).toBe('https://page.example');
  expect([asked[0]!.header('content-length'), asked[0]!.header('expect')]).toEqual([undefined, undefined]);
});

test('an origin that does not know OPTIONS is taken at its word', async () => {
  const { found } = await discover((exchange) => exchange.respond({ status: 405, headers: [['Allow', 'POST']] }));
  expect(found).toEqual({ status: 405, headers: [['Allow', 'POST']] });
});

test.each<[string, RawScript]>([
  ['is silent', () => undefined],
  ['hangs up', (exchange) => void exchange.socket.destroy()],
  ['answers no HTTP', (exchange) => exchange.write('hello\r\n\r\n')],
  ['switches protocols', (exchange) => exchange.write('HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n')],
])('an origin that %s has no answer', async (_, script) => {
  expect((await discover(script, 100)).found).toBeUndefined();
});

test('an origin that is not there has no answer', async () => {
  expect(await discoverAt(`http://127.0.0.1:${await serverPort()}`)).toBeUndefined();
});

test('an answer with endless content is not read to its end', async () => {
  const { found } = await discover(async (exchange) => {
    await exchange.write('HTTP/1.1 200 OK\r\nAllow: GET\r\n\r\n');
    while (!exchange.socket.destroyed) await exchange.write(Buffer.alloc(16_384));
  });
  expect(found).toEqual({ status: 200, headers: [['Allow', 'GET']] });
});
