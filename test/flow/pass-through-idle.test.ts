import { describe, expect, test } from '@jest/globals';
import { connectH2 } from '../support/h2-client.js';
import { play } from '../support/pass-through-front.js';
import { connect } from '../support/raw-client.js';
import type { RawExchange } from '../support/raw-exchange.js';

async function listen(exchange: RawExchange): Promise<void> {
  await exchange.readBody();
  await exchange.respond({ status: 200, body: 'ok' });
}

/** The client may pause for as long as no machine here is slow enough to; the origin for as long as no test lasts. */
const LIMITS = { idleTimeoutMs: 100, timeoutMs: 60_000 };

describe('a client whose body stops', () => {
  test('is told so, and loses its connection when nothing more comes', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connect(front.url);
        await client.sendHead('POST', '/', [['Content-Length', '10']]);
        await client.send('hello');
        const answer = await client.readFinal();
        expect(answer.status).toBe(408);
        expect(JSON.parse(answer.body.toString())).toMatchObject({
          status: 408,
          detail: expect.stringContaining('more than 0.1 s'),
        });
        await client.ended();
        await origin.exchanges[0]!.closed;
        expect(origin.exchanges[0]!.body.endedCleanly).toBe(false);
      },
      { ...LIMITS, script: listen, discardLimits: { bytes: 1_000, ms: 50 } },
    );
  });

  test('is told so over HTTP/2, where only the stream ends', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connectH2(front.url);
        const exchange = client.start({ method: 'POST', target: '/' });
        await exchange.send('hello');
        expect((await exchange.readFinal()).status).toBe(408);
        expect(await exchange.ended()).toBe(0);
        expect((await client.request({ method: 'GET', target: '/' })).status).toBe(200);
        await client.close();
      },
      { ...LIMITS, speaks: 'h2c', script: listen, discardLimits: { bytes: 1_000, ms: 50 } },
    );
  });

  test('is not to blame for an origin that does not say 100', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        await client.sendHead('POST', '/', [
          ['Content-Length', '10'],
          ['Expect', '100-continue'],
        ]);
        expect((await client.readFinal()).status).toBe(504);
        client.destroy();
      },
      { idleTimeoutMs: 20, timeoutMs: 200, script: () => undefined },
    );
  });

  test('is not to blame for an origin that thinks about its answer', async () => {
    const script = async (exchange: RawExchange): Promise<void> => {
      await exchange.readBody();
      await new Promise((resolve) => setTimeout(resolve, 300));
      await exchange.respond({ status: 200, body: 'ok' });
    };
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        expect((await client.request({ method: 'POST', target: '/', body: 'hello' })).status).toBe(200);
        client.destroy();
      },
      { ...LIMITS, script },
    );
  });
});
