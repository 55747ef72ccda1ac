import { describe, expect, test } from '@jest/globals';
import { connect, type RawClient } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { type Front, play, type Stage } from '../support/pass-through-front.js';
import { answerOk, type RawExchange } from '../support/raw-origin.js';
import { randomBytes, until } from '../support/temporary.js';
import { ConnectionClosed } from '../support/wire.js';

describe('aborted requests', () => {
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
      expect(await play('bare', (setup) => readBroken(setup, 'GET / HTTP/1.1', close, 2_000), { script })).toBe(
        'hangs',
      );
    });

    test.each(cases)('breaks it for the client ($framing, $how)', async ({ framing, end }) => {
      const script = SCRIPTS[framing];
      expect(await play('ours', (setup) => readBroken(setup, 'GET / HTTP/1.1', end), { script })).toBe('broken');
    });

    test.each(cases)('breaks it for an HTTP/1.0 client as well ($framing, $how)', async ({ framing, end }) => {
      const script = SCRIPTS[framing];
      expect(await play('ours', (setup) => readBroken(setup, 'GET / HTTP/1.0', end), { script })).toBe('broken');
    });

    test('resets, in an answer that lasts until the close, while we still send: it is not taken for whole', async () => {
      const script = async (exchange: RawExchange): Promise<void> => {
        await exchange.readBytes(1_000);
        await exchange.write('HTTP/1.1 200 OK\r\n\r\nhello');
        exchange.reset();
      };
      const seen = await play('ours', (setup) => sendWhileAnswered(setup), { script });
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
});

describe('early answers', () => {
  const MIB = 1024 * 1024;
  const BODY = 8 * MIB;
  const REFUSAL = 'too large, and this is why. '.repeat(100);
  const ROUNDS = 50;

  /** Reads a little of the body, answers, and resets the connection while more is on its way. */
  async function refuseAndReset(exchange: RawExchange): Promise<void> {
    await exchange.readBytes(65_536);
    await exchange.respond({ status: 413, headers: [['Connection', 'close']], body: REFUSAL });
    exchange.reset();
  }

  /** The same, but ends its side in good order and closes with the rest unread. */
  async function refuseAndClose(exchange: RawExchange): Promise<void> {
    await exchange.readBytes(65_536);
    await exchange.respond({ status: 413, headers: [['Connection', 'close']], body: REFUSAL });
    exchange.end();
    exchange.socket.destroy();
  }

  /** Sends the body in pieces until an answer is there. */
  async function sendUntilAnswered(client: RawClient, size: number): Promise<string> {
    await client.sendHead('POST', '/', [['Content-Length', `${size}`]]);
    let isAnswered = false;
    const answer = client.readFinal().finally(() => (isAnswered = true));
    const piece = Buffer.alloc(16_384);
    const waits = (): boolean => !isAnswered;
    for (let left = size; left > 0 && waits(); left -= piece.length) {
      await client.send(piece);
      await new Promise(setImmediate);
    }
    const { status, body } = await answer;
    return `${status} ${body.toString()}`;
  }

  async function rounds({ front }: Stage): Promise<Map<string, number>> {
    const seen = new Map<string, number>();
    for (let round = 0; round < ROUNDS; round++) {
      const client = await connect(front.url);
      const answer = await sendUntilAnswered(client, BODY);
      seen.set(answer, (seen.get(answer) ?? 0) + 1);
      client.destroy();
    }
    return seen;
  }

  describe('an answer that comes while the body is still being sent', () => {
    test('is lost with http-proxy alone when the origin resets the connection', async () => {
      const seen = await play('bare', rounds, { script: refuseAndReset });
      expect(seen.get('502 ') ?? 0).toBeGreaterThan(0);
    });

    test.each([
      ['resets', refuseAndReset],
      ['closes', refuseAndClose],
    ])(`reaches the client ${ROUNDS} times of ${ROUNDS} when the origin %s the connection`, async (_, script) => {
      const seen = await play('ours', rounds, { script });
      expect([...seen]).toEqual([[`413 ${REFUSAL}`, ROUNDS]]);
    });

    test('reaches a client that reads nothing before it has sent everything', async () => {
      await play(
        'ours',
        async ({ front }) => {
          for (let round = 0; round < 10; round++) {
            const client = await connect(front.url);
            await client.sendRequest({ method: 'POST', target: '/', body: Buffer.alloc(BODY) });
            const answer = await client.readFinal();
            expect(answer.status).toBe(413);
            expect(answer.body.toString()).toBe(REFUSAL);
            client.destroy();
          }
        },
        { script: refuseAndReset },
      );
    });

    test.each([
      ['that wants its connection closed', 'HTTP/1.1', 'Connection: close\r\n'],
      ['of HTTP/1.0', 'HTTP/1.0', ''],
    ])('reaches a client %s', async (_, version, line) => {
      await play(
        'ours',
        async ({ front }) => {
          for (let round = 0; round < 10; round++) {
            const client = await connect(front.url);
            const broken: Error[] = [];
            client.socket.on('error', (error) => broken.push(error));
            await client.send(`POST / ${version}\r\nHost: x\r\n${line}Content-Length: ${BODY}\r\n\r\n`);
            await client.send(Buffer.alloc(BODY));
            const answer = await client.readFinal();
            expect(answer.status).toBe(413);
            expect(answer.header('connection')).toBe('close');
            expect(answer.body.toString()).toBe(REFUSAL);
            await client.ended();
            expect(broken).toEqual([]);
          }
        },
        { script: refuseAndReset },
      );
    });

    test('reaches an HTTP/2 client', async () => {
      await play(
        'ours',
        async ({ front }) => {
          const client = await connectH2(front.url);
          for (let round = 0; round < 10; round++) {
            const exchange = client.start({ method: 'POST', target: '/' });
            exchange.stream.end(Buffer.alloc(BODY));
            const answer = await exchange.readFinal();
            expect(answer.status).toBe(413);
            expect(answer.body.toString()).toBe(REFUSAL);
            expect(await exchange.ended()).toBe(0);
          }
          await client.close();
        },
        { script: refuseAndReset, speaks: 'h2c' },
      );
    });
  });

  describe('after an early answer', () => {
    test('the connection serves the next request, once the rest of the body has come', async () => {
      await play(
        'ours',
        async ({ front, origin }) => {
          const client = await connect(front.url);
          const [answer] = await Promise.all([
            client.readFinal(),
            client.sendRequest({ method: 'POST', target: '/', body: Buffer.alloc(BODY) }),
          ]);
          expect(answer.status).toBe(413);
          origin.setScript(answerOk);
          expect((await client.request({ method: 'GET', target: '/next' })).body.toString()).toBe('ok');
          client.destroy();
        },
        { script: refuseAndReset },
      );
    });

    test('an origin that reads on gets the whole body, and its connection is used again', async () => {
      const body = randomBytes(4 * MIB);
      const script = async (exchange: RawExchange): Promise<void> => {
        await exchange.respond({ status: 202, body: 'taken' });
        await exchange.readBody();
      };
      await play(
        'ours',
        async ({ front, origin }) => {
          const client = await connect(front.url);
          await client.sendHead('POST', '/', [['Content-Length', `${body.length}`]]);
          expect((await client.readFinal()).status).toBe(202);
          await client.send(body);
          await until(() => origin.exchanges[0]!.body.endedCleanly, 'the whole body at the origin');
          expect((await client.request({ method: 'GET', target: '/next' })).status).toBe(202);
          client.destroy();
          expect(origin.exchanges[0]!.body.bytes.equals(body)).toBe(true);
          expect(origin.connections).toHaveLength(1);
        },
        { script },
      );
    });

    test.each([
      ['sends more than will be read', { bytes: MIB, ms: 60_000 }, endless],
      ['sends nothing more', { bytes: MIB, ms: 20 }, () => Promise.resolve()],
    ])('a client that %s loses its connection', async (_, discardLimits, goOn) => {
      await play(
        'ours',
        async ({ front }) => {
          const client = await connect(front.url);
          await client.sendHead('POST', '/', [['Content-Length', `${1024 * MIB}`]]);
          await client.send(Buffer.alloc(65_536));
          expect((await client.readFinal()).status).toBe(413);
          await goOn(client);
          await client.ended();
        },
        { script: refuseAndReset, discardLimits },
      );
    });

    test('an HTTP/2 stream that goes on is reset without an error', async () => {
      await play(
        'ours',
        async ({ front }) => {
          const client = await connectH2(front.url);
          const exchange = client.start({ method: 'POST', target: '/' });
          await exchange.send(Buffer.alloc(65_536));
          const sending = sendEndlessly(exchange);
          expect((await exchange.readFinal()).status).toBe(413);
          expect(await exchange.ended()).toBe(0);
          await sending;
          await client.close();
        },
        { script: refuseAndReset, speaks: 'h2c', discardLimits: { bytes: MIB, ms: 60_000 } },
      );
    });
  });

  async function endless(client: RawClient): Promise<void> {
    while (!client.socket.destroyed) await client.send(Buffer.alloc(65_536));
  }

  async function sendEndlessly(exchange: { send(bytes: Uint8Array): Promise<void>; stream: { destroyed: boolean } }) {
    while (!exchange.stream.destroyed) await exchange.send(Buffer.alloc(65_536));
  }

  test('a refused origin does not cost the client its connection, nor the answer', async () => {
    await play('ours', async ({ front, origin }) => {
      await origin.close();
      await refusedTwice(front);
    });
  });

  async function refusedTwice(front: Front): Promise<void> {
    const client = await connect(front.url);
    for (let round = 0; round < 2; round++) {
      const answer = await client.request({ method: 'POST', target: '/', body: Buffer.alloc(BODY) });
      expect(answer.status).toBe(502);
      expect(answer.header('content-type')).toBe('application/problem+json');
    }
    client.destroy();
  }
});
