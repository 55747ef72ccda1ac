import { describe, expect, test } from '@jest/globals';
import { connectH2 } from '../support/h2-client.js';
import { play } from '../support/pass-through-front.js';
import { connect } from '../support/raw-client.js';
import type { RawExchange } from '../support/raw-exchange.js';
import { until } from '../support/temporary.js';

const MIB = 1024 * 1024;
const SIZE = 100 * MIB;
/** What the kernel's buffers on the way and ours may hold together. */
const MOST_UNDER_WAY = 24 * MIB;

/** The count when it no longer grows: nothing more is accepted. */
async function settled(count: () => number): Promise<number> {
  let seen = -1;
  let calm = 0;
  await until(
    () => {
      calm = count() === seen ? calm + 1 : 0;
      seen = count();
      return calm > 40;
    },
    () => `an end of the growth (${count()})`,
  );
  return seen;
}

/** Writes as much as is accepted, and counts it. */
class Source {
  accepted = 0;
  private readonly piece = Buffer.alloc(65_536);

  async run(write: (bytes: Buffer) => Promise<void>): Promise<void> {
    while (this.accepted < SIZE) {
      await write(this.piece);
      this.accepted += this.piece.length;
    }
  }
}

describe('an answer of 100 MiB to a client that does not read', () => {
  const answering = (source: Source) => async (exchange: RawExchange) => {
    await exchange.write(`HTTP/1.1 200 OK\r\nContent-Length: ${SIZE}\r\n\r\n`);
    await source.run((bytes) => exchange.write(bytes));
  };

  test('stays at the origin', async () => {
    const source = new Source();
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        await client.sendHead('GET', '/');
        const body = client.bodyOf((await client.readHead())!);
        expect(await settled(() => source.accepted)).toBeLessThan(MOST_UNDER_WAY);
        await body.readAll();
        expect(body.size).toBe(SIZE);
        client.destroy();
      },
      { script: answering(source) },
    );
  });

  test('stays at the origin when the client speaks HTTP/2', async () => {
    const source = new Source();
    await play(
      'ours',
      async ({ front }) => {
        const client = await connectH2(front.url);
        const stream = client.session.request({ ':path': '/' });
        await until(() => source.accepted > 0, 'the beginning of the answer');
        expect(await settled(() => source.accepted)).toBeLessThan(MOST_UNDER_WAY);
        let size = 0;
        stream.on('data', (bytes: Buffer) => (size += bytes.length));
        await until(() => size === SIZE, 'the whole answer', 60_000);
        await client.close();
      },
      { script: answering(source), speaks: 'h2c' },
    );
  });
});

describe('a body of 100 MiB for an origin that does not read', () => {
  /** Reads nothing until it is told to. */
  function waiting() {
    let goOn: () => void = () => undefined;
    const told = new Promise<void>((resolve) => (goOn = resolve));
    const script = async (exchange: RawExchange): Promise<void> => {
      await told;
      await exchange.readBody();
      await exchange.respond({ status: 200, body: 'ok' });
    };
    return { script, goOn: () => goOn() };
  }

  test('stays at the client', async () => {
    const { script, goOn } = waiting();
    const source = new Source();
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connect(front.url);
        await client.sendHead('POST', '/', [['Content-Length', `${SIZE}`]]);
        const sending = source.run((bytes) => client.send(bytes));
        expect(await settled(() => source.accepted)).toBeLessThan(MOST_UNDER_WAY);
        goOn();
        await sending;
        expect((await client.readFinal()).status).toBe(200);
        expect(origin.exchanges[0]!.body.size).toBe(SIZE);
        client.destroy();
      },
      { script },
    );
  });

  test('stays at the client when it speaks HTTP/2', async () => {
    const { script, goOn } = waiting();
    const source = new Source();
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connectH2(front.url);
        const exchange = client.start({ method: 'POST', target: '/' });
        const sending = source.run((bytes) => exchange.send(bytes));
        expect(await settled(() => source.accepted)).toBeLessThan(MOST_UNDER_WAY);
        goOn();
        await sending;
        exchange.end();
        expect((await exchange.readFinal()).status).toBe(200);
        expect(origin.exchanges[0]!.body.size).toBe(SIZE);
        await client.close();
      },
      { script, speaks: 'h2c' },
    );
  });
});
