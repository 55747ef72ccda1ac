import { once } from 'node:events';
import type { Socket } from 'node:net';
import { Readable } from 'node:stream';
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { UndiciOrigin } from '../../src/delivery/undici-origin.js';
import type { Exchange } from '../../src/server/exchange.js';
import { ReadGate } from '../../src/streams/read-gate.js';
import { sinceReadHeldMs, limitSmallPieces } from '../../src/streams/small-pieces.js';
import { startTestApp } from '../support/app.js';
import { closeDoors, ok, openDoor } from '../support/front-door.js';
import { block, frame } from '../support/hostile-http2.js';
import { connect, type RawClient } from '../support/raw-client.js';
import { startRawOrigin } from '../support/raw-origin.js';
import { clientDialect, creationLines } from '../support/resumable-client.js';
import { until } from '../support/temporary.js';

// Issue 9, §5: chunks and DATA of one byte cost no more than large ones, and do not keep others waiting.
afterEach(closeDoors);

const COUNT = 20_000;
const [DATA, HEADERS, SETTINGS] = [0, 1, 4];
const PREFACE = `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${frame(SETTINGS, 0, 0, '')}`;
const FIELDS = [
  [':method', 'POST'],
  [':scheme', 'http'],
  [':path', '/'],
  [':authority', 'h'],
] as const;

const BODIES = {
  'HTTP/1.1': `POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n${'1\r\nx\r\n'.repeat(COUNT)}0\r\n\r\n`,
  'HTTP/2': `${PREFACE}${frame(HEADERS, 0x4, 1, block(FIELDS))}${frame(DATA, 0, 1, 'x').repeat(COUNT)}${frame(DATA, 1, 1, '')}`,
};

test.each(Object.entries(BODIES))('a body of single bytes over %s is taken in few pieces', async (_, bytes) => {
  const sizes: number[] = [];
  let isComplete = false;
  let wasHeld = false;
  const take = (exchange: Exchange): void => {
    exchange.req.on('data', ({ length }: Buffer) => {
      sizes.push(length);
      // So many come with one read that others have to be let in before the next.
      wasHeld ||= sinceReadHeldMs(exchange.req) < Infinity;
    });
    exchange.req.once('end', () => {
      isComplete = true;
      ok(exchange);
    });
  };
  const door = await openDoor(take);
  const client = await connect(door.url);
  client.socket.resume();
  await client.send(Buffer.from(bytes, 'latin1'));
  await until(() => isComplete, 'the whole body');
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(COUNT);
  expect(sizes.length).toBeLessThan(COUNT / 50);
  expect(wasHeld).toBe(true);
  client.destroy();
});

describe('an answer of single bytes', () => {
  const PIECES = 4000;

  /** How many bytes of the connection it takes to bring it to the client. */
  async function cost(send: (client: RawClient) => Promise<void>): Promise<number> {
    const origin = await startRawOrigin(async (exchange) => {
      await exchange.readBody();
      await exchange.write(
        `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${'1\r\nx\r\n'.repeat(PIECES)}0\r\n\r\n`,
      );
    });
    const app = await startTestApp({ origin: origin.url });
    const client = await connect(app.url);
    try {
      await send(client);
      expect((await client.readFinal()).body.toString()).toBe('x'.repeat(PIECES));
      return client.socket.bytesRead;
    } finally {
      client.destroy();
      await app.stop();
      await origin.close();
    }
  }

  // A chunk of one byte takes six.
  test('reaches who asked for it in few', async () => {
    expect(await cost((client) => client.sendHead('GET', '/'))).toBeLessThan(2 * PIECES);
  });

  test('reaches an upload in few', async () => {
    const headers = creationLines(clientDialect('6'), { complete: true });
    const upload = (client: RawClient): Promise<void> =>
      client.sendRequest({ method: 'POST', target: '/', headers, body: 'hello' });
    expect(await cost(upload)).toBeLessThan(2 * PIECES);
  });
});

test('an answer of single bytes is taken in few pieces by a delivery', async () => {
  const origin = await startRawOrigin((exchange) =>
    exchange.write(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${'1\r\nx\r\n'.repeat(COUNT)}0\r\n\r\n`),
  );
  const sender = new UndiciOrigin();
  const request = { origin: origin.url, method: 'GET', target: '/', headers: [], content: { size: 0 } } as const;
  const { body } = await sender.send(
    { ...request, timeoutMs: 20_000, connection: 'fresh' },
    new AbortController().signal,
  );
  const sizes: number[] = [];
  body.on('data', ({ length }: Buffer) => sizes.push(length));
  await once(body, 'end');
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(COUNT);
  expect(sizes.length).toBeLessThan(COUNT / 50);
  await sender.close();
  await origin.close();
});

/** A connection as far as reading from it is concerned. */
function fakeSocket() {
  const steps: string[] = [];
  const handle = { reading: true, readStart: () => steps.push('start'), readStop: () => steps.push('stop') };
  return { socket: { _handle: handle, destroyed: false } as unknown as Socket, handle, steps };
}

describe('a connection that is held', () => {
  test('is read again when all who held it let it go, and whoever wanted to read meanwhile waits', () => {
    const { socket, handle, steps } = fakeSocket();
    const gate = ReadGate.of(socket);
    expect(ReadGate.sinceHeldMs(socket)).toBe(Infinity);
    gate.hold();
    gate.hold();
    handle.readStart();
    gate.release();
    expect([steps, ReadGate.sinceHeldMs(socket)]).toEqual([['stop'], 0]);
    gate.release();
    expect(steps).toEqual(['stop', 'start']);
    expect(ReadGate.sinceHeldMs(socket)).toBeGreaterThanOrEqual(0);
    expect(ReadGate.sinceHeldMs(socket)).toBeLessThan(Infinity);
  });

  test('is not read when nobody wants it any more', () => {
    const { socket, handle, steps } = fakeSocket();
    const gate = ReadGate.of(socket);
    gate.hold();
    handle.readStop();
    gate.release();
    expect(steps).toEqual(['stop', 'stop']);
  });

  test('is one of many that send tiny pieces: one is read at a time', async () => {
    jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'performance'] });
    try {
      const turn = (): Promise<void> => jest.advanceTimersByTimeAsync(0);
      const senders = Array.from({ length: 5 }, () => {
        const fake = fakeSocket();
        const body = new Readable({ read: () => undefined });
        limitSmallPieces(body, fake.socket);
        return { ...fake, body };
      });
      for (const { body } of senders) for (let count = 0; count < 300; count++) body.push(Buffer.from('x'));
      const held = (): number => senders.filter(({ steps }) => steps.at(-1) === 'stop').length;
      expect(held()).toBe(5);
      expect(senders.map(({ body }) => sinceReadHeldMs(body))).toEqual([0, 0, 0, 0, 0]);
      await turn();
      const counts: number[] = [];
      for (let looks = 0; looks < 1000 && held() > 0; looks++) {
        counts.push(held());
        await jest.advanceTimersByTimeAsync(1);
      }
      expect([...new Set(counts)]).toEqual([5, 4, 3, 2, 1]);
    } finally {
      jest.useRealTimers();
    }
  });

  test('few pieces hold nobody', () => {
    const { socket, steps } = fakeSocket();
    const body = new Readable({ read: () => undefined });
    limitSmallPieces(body, socket);
    for (let count = 0; count < 100; count++) body.push(Buffer.from('x'));
    expect([steps, sinceReadHeldMs(body)]).toEqual([[], Infinity]);
  });
});
