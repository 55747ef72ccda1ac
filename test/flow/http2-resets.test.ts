import { once } from 'node:events';
import { constants } from 'node:http2';
import { afterEach, expect, test } from '@jest/globals';
import type { Exchange } from '../../src/server/exchange.js';
import { closeDoors, ok, openDoor } from '../support/front-door.js';
import { connectH2 } from '../support/h2-client.js';
import { block, frame } from '../support/hostile-http2.js';
import { connect } from '../support/raw-client.js';
import { until } from '../support/temporary.js';

// Issue 9, §5: requests that their client gives up as soon as they have come.
afterEach(closeDoors);

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
  const door = await openDoor(() => requests++);
  const client = await connect(door.url);
  client.socket.on('error', () => undefined).resume();
  await client.send(Buffer.from(PREFACE + givenUp(40_000, end), 'latin1'));
  await until(() => door.connections === 0, 'the connection to be gone', 10_000);
  // What came with one read and was given up in it is not even begun.
  expect(requests).toBeLessThan(10);
  client.destroy();
});

test('a client that gives up a page of requests now and then goes on', async () => {
  const held: Exchange[] = [];
  const door = await openDoor((exchange) => (exchange.req.url === '/last' ? ok(exchange) : void held.push(exchange)));
  const client = await connectH2(door.url);
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
  const door = await openDoor((exchange) => (exchange.req.method === 'POST' ? uploads.push(exchange) : (begun += 1)), {
    isSharedPeer: () => isFront,
  });
  const client = await connectH2(door.url);
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
