import { afterEach, describe, expect, test } from '@jest/globals';
import type { RequestHead } from '../../src/model/request-head.js';
import type { Reply } from '../../src/protocol/protocol.js';
import type { Exchange } from '../../src/server/exchange.js';
import { type InterimOptions, InterimResponses } from '../../src/server/interim-responses.js';
import { readHead } from '../../src/server/request-head.js';
import { sendReply } from '../../src/server/response.js';
import { TrustedProxies } from '../../src/server/trusted-proxies.js';
import { closeDoors, openDoor } from '../support/front-door.js';
import { connect } from '../support/raw-client.js';

const supported: Reply = { status: 104, headers: [['Location', 'http://a.example/u/1']] };

afterEach(closeDoors);

describe('the interim responses of one request', () => {
  let now = 0;
  const trust = new TrustedProxies([]);
  const withInterims =
    (mode: InterimOptions['mode'], tell: (interims: InterimResponses) => unknown) => (exchange: Exchange) => {
      const head = readHead(exchange.req, trust) as RequestHead;
      tell(new InterimResponses(exchange, head, { mode, monotonic: () => now }));
      exchange.req.resume();
      exchange.req.on('end', () => void sendReply(exchange, { status: 201, headers: [] }));
    };
  const seenBy = async (url: string, headers: readonly (readonly [string, string])[] = []): Promise<number[]> => {
    const client = await connect(url);
    const response = await client.request({ method: 'POST', target: '/', headers, body: 'abc' });
    client.destroy();
    return response.interims.map(({ status }) => status);
  };
  const progress = (interims: InterimResponses, seconds: number): boolean => {
    now += seconds * 1000;
    return interims.progress(() => supported);
  };

  test('are at most four, ever farther apart', async () => {
    const due: boolean[] = [];
    const door = await openDoor(
      withInterims('auto', (interims) => {
        interims.announce(() => supported);
        for (const seconds of [0, 0.999, 0.001, 7.9, 0.1, 63, 1, 10_000, 10_000]) due.push(progress(interims, seconds));
      }),
    );
    expect(await seenBy(door.url)).toEqual([104, 104, 104, 104]);
    expect(due).toEqual([false, false, true, false, true, false, true, false, false]);
  });

  test('leave room for 100, which has to come', async () => {
    const door = await openDoor(
      withInterims('auto', (interims) => {
        interims.announce(() => supported);
        for (let count = 0; count < 5; count++) progress(interims, 10_000);
        interims.continue();
        interims.continue();
        progress(interims, 10_000);
      }),
    );
    expect(await seenBy(door.url, [['Expect', '100-continue']])).toEqual([104, 104, 104, 100]);
  });

  test('do not include 100 for a client that did not ask', async () => {
    const door = await openDoor(withInterims('always', (interims) => interims.continue()));
    expect(await seenBy(door.url)).toEqual([]);
  });

  test.each([
    ['auto', [], [104]],
    ['auto', [['Via', '1.1 somebody']], []],
    ['auto', [['X-Forwarded-For', '192.0.2.1']], []],
    ['always', [['Via', '1.1 somebody']], [104]],
    ['never', [], []],
  ] as const)('%s with %j: %j', async (mode, headers, expected) => {
    const door = await openDoor(withInterims(mode, (interims) => interims.announce(() => supported)));
    expect(await seenBy(door.url, headers)).toEqual(expected);
  });

  test('are not even put together where they cannot be sent, and none is sent where there is nothing to say', async () => {
    let asked = 0;
    const ask = (): undefined => {
      asked++;
    };
    const door = await openDoor(
      withInterims('never', (interims) => {
        interims.announce(ask);
        interims.progress(ask);
      }),
    );
    expect(await seenBy(door.url)).toEqual([]);
    expect(asked).toBe(0);
    const willing = await openDoor(withInterims('always', (interims) => interims.announce(ask)));
    expect(await seenBy(willing.url)).toEqual([]);
    expect(asked).toBe(1);
  });
});
