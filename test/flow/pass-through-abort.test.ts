import { describe, expect, test } from '@jest/globals';
import { connectH2 } from '../support/h2-client.js';
import { play, type Stage } from '../support/pass-through-front.js';
import { connect, type RawClient } from '../support/raw-client.js';
import type { RawExchange } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';
import { ConnectionClosed } from '../support/wire-reader.js';

/** Reads what comes and never answers. */
async function listen(exchange: RawExchange): Promise<void> {
  await exchange.readBody().catch(() => undefined);
}

type Leave = (client: RawClient) => void;
const WAYS: [string, Leave][] = [
  ['FIN', (client) => client.destroy()],
  ['RST', (client) => client.reset()],
];

describe('a client that leaves', () => {
  test.each(WAYS)('in the middle of its body ends the request at the origin (%s)', async (_, leave) => {
    await play(
      'ours',
      async ({ front, origin }) => {
        for (const framing of ['Content-Length: 1000', 'Transfer-Encoding: chunked']) {
          const next = origin.exchanges.length;
          const client = await connect(front.url);
          await client.send(`POST / HTTP/1.1\r\nHost: x\r\n${framing}\r\n\r\n5\r\nhello\r\n`);
          const exchange = await origin.exchange(next);
          await until(() => exchange.body.size > 0, 'the beginning of the body');
          leave(client);
          await exchange.closed;
          expect(exchange.body.endedCleanly).toBe(false);
        }
      },
      { script: listen },
    );
  });

  test.each(WAYS)('while it waits for its answer ends the request at the origin (%s)', async (_, leave) => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connect(front.url);
        await client.sendRequest({ method: 'POST', target: '/', body: 'hello' });
        const exchange = await origin.exchange(0);
        leave(client);
        await exchange.closed;
        expect(exchange.body.bytes.toString()).toBe('hello');
      },
      { script: listen },
    );
  });

  test.each(WAYS)('in the middle of its answer ends it at the origin (%s)', async (_, leave) => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connect(front.url);
        await client.sendHead('GET', '/');
        await client.readHead();
        leave(client);
        await (
          await origin.exchange(0)
        ).closed;
      },
      { script: (exchange) => exchange.write('HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello') },
    );
  });

  test('over HTTP/2 ends the request at the origin, and nothing looks whole', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connectH2(front.url);
        const exchange = client.start({ method: 'POST', target: '/' });
        await exchange.send('hello');
        const atOrigin = await origin.exchange(0);
        await until(() => atOrigin.body.size > 0, 'the beginning of the body');
        exchange.reset();
        await atOrigin.closed;
        expect(atOrigin.body.endedCleanly).toBe(false);
        expect(origin.connections[0]!.received.toString()).not.toMatch(/\r\n0\r\n/);
        const other = client.start({ method: 'POST', target: '/' });
        await other.send('hello');
        const otherAtOrigin = await origin.exchange(1);
        await client.close();
        await otherAtOrigin.closed;
        expect(otherAtOrigin.body.endedCleanly).toBe(false);
      },
      { script: listen, speaks: 'h2c' },
    );
  });

  test('over HTTP/2 while it waits ends the request at the origin', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connectH2(front.url);
        const exchange = client.start({ method: 'GET', target: '/' }, { endStream: true });
        const atOrigin = await origin.exchange(0);
        exchange.reset();
        await atOrigin.closed;
        await client.close();
      },
      { script: listen, speaks: 'h2c' },
    );
  });
});

/** What a client gets of an answer that breaks off once its beginning has arrived. */
async function readBroken(
  { front, origin }: Stage,
  requestHead: string,
  end: End,
  deadlineMs?: number,
): Promise<string> {
  const client = await connect(front.url, { deadlineMs });
  await client.send(`${requestHead}\r\nHost: x\r\n\r\n`);
  const body = client.bodyOf((await client.readHead())!);
  await body.read(5);
  end(origin.exchanges[0]!);
  try {
    await body.readAll();
    return body.endedCleanly ? 'whole' : 'broken';
  } catch (error) {
    return error instanceof ConnectionClosed ? 'broken' : 'hangs';
  } finally {
    client.destroy();
  }
}

type End = (exchange: RawExchange) => void;
const ENDS: [string, End][] = [
  ['closes', (exchange) => exchange.socket.destroy()],
  ['resets', (exchange) => exchange.reset()],
];

const begin = (fields: string) => (exchange: RawExchange) => exchange.write(`HTTP/1.1 200 OK\r\n${fields}hello`);
const SCRIPTS = {
  length: begin('Content-Length: 1000\r\n\r\n'),
  chunked: begin('Transfer-Encoding: chunked\r\n\r\n1000\r\n'),
};
const cases = ENDS.flatMap(([how, end]) => [
  { how, end, framing: 'length' as const },
  { how, end, framing: 'chunked' as const },
]);

describe('an origin that breaks off in the middle of its answer', () => {
  test('leaves the client waiting with http-proxy alone', async () => {
    const [, close] = ENDS[0]!;
    const script = SCRIPTS.length;
    expect(await play('bare', (stage) => readBroken(stage, 'GET / HTTP/1.1', close, 2_000), { script })).toBe('hangs');
  });

  test.each(cases)('breaks it for the client ($framing, $how)', async ({ framing, end }) => {
    const script = SCRIPTS[framing];
    expect(await play('ours', (stage) => readBroken(stage, 'GET / HTTP/1.1', end), { script })).toBe('broken');
  });

  test.each(cases)('breaks it for an HTTP/1.0 client as well ($framing, $how)', async ({ framing, end }) => {
    const script = SCRIPTS[framing];
    expect(await play('ours', (stage) => readBroken(stage, 'GET / HTTP/1.0', end), { script })).toBe('broken');
  });

  test('resets, in an answer that lasts until the close, while we still send: it is not taken for whole', async () => {
    const script = async (exchange: RawExchange): Promise<void> => {
      await exchange.readBytes(1_000);
      await exchange.write('HTTP/1.1 200 OK\r\n\r\nhello');
      exchange.reset();
    };
    const seen = await play('ours', (stage) => sendWhileAnswered(stage), { script });
    expect(new Set(seen)).toEqual(new Set(['broken']));
  });

  test.each(cases)('resets the stream of an HTTP/2 client ($framing, $how)', async ({ framing, end }) => {
    const script = SCRIPTS[framing];
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connectH2(front.url);
        const exchange = client.start({ method: 'GET', target: '/' }, { endStream: true });
        expect((await exchange.readHead()).status).toBe(200);
        end(origin.exchanges[0]!);
        await expect(exchange.readFinal()).rejects.toThrow('the stream was reset');
        expect(await exchange.ended()).not.toBe(0);
        await client.close();
      },
      { script, speaks: 'h2c' },
    );
  });
});

/** The origin resets at once after its answer, so that our next write is what tells of the reset. */
async function sendWhileAnswered({ front }: Stage): Promise<string[]> {
  const seen: string[] = [];
  for (let round = 0; round < 20; round++) {
    const client = await connect(front.url);
    await client.sendHead('POST', '/', [['Transfer-Encoding', 'chunked']]);
    const answer = client.readFinal().then(
      ({ status }) => (status === 200 ? 'whole' : `${status}`),
      () => 'broken',
    );
    let isOver = false;
    void answer.then(() => (isOver = true));
    const goesOn = (): boolean => !isOver && !client.socket.destroyed;
    while (goesOn()) await client.sendChunk(Buffer.alloc(4_096));
    seen.push(await answer);
    client.destroy();
  }
  return seen;
}
