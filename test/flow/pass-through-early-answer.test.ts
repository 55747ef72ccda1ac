import { describe, expect, test } from '@jest/globals';
import { connectH2 } from '../support/h2-client.js';
import { play, type Front, type Stage } from '../support/pass-through-front.js';
import { connect, type RawClient } from '../support/raw-client.js';
import { answerOk, type RawExchange } from '../support/raw-origin.js';
import { randomBytes, until } from '../support/temporary.js';

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
