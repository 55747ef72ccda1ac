import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { bodyOf, DeliveryRoom, type RoomOptions } from '../support/delivery-room.js';
import type { RawExchange } from '../support/raw-exchange.js';
import { startRawOrigin, type RawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';

let origin: RawOrigin;
let room: DeliveryRoom;

beforeEach(async () => {
  origin = await startRawOrigin();
});

afterEach(async () => {
  await room.close();
  await origin.close();
});

async function open(options: RoomOptions = {}): Promise<void> {
  room = await DeliveryRoom.open(origin.url, options);
}

async function deliver(method: string): Promise<string> {
  const { id } = await room.whole({ request: { method } });
  return (await bodyOf(await room.answer(id))).toString();
}

async function answer(exchange: RawExchange, fields: readonly (readonly [string, string])[] = []): Promise<void> {
  await exchange.readBody();
  await exchange.respond({ status: 200, headers: fields, body: 'ok' });
}

/** How an origin treats a connection that has carried one answer. */
const endings: [string, (exchange: RawExchange) => Promise<void>][] = [
  ['keeps it', (exchange) => answer(exchange)],
  [
    'closes it without a word',
    async (exchange) => {
      await answer(exchange);
      exchange.end();
    },
  ],
  [
    'says that it closes it, and does',
    async (exchange) => {
      await answer(exchange, [['Connection', 'close']]);
      exchange.end();
    },
  ],
  ['says that it closes it, and does not', (exchange) => answer(exchange, [['Connection', 'close']])],
  [
    'closes it when the next request comes',
    async (exchange) => {
      if (origin.connections.some(({ requests }) => requests > 1)) return exchange.reset();
      await answer(exchange);
    },
  ],
  [
    'reads nothing more from it',
    async (exchange) => {
      await answer(exchange);
      exchange.socket.pause();
    },
  ],
];

test.each(endings)('an origin that %s gets every POST once, each on a connection of its own', async (_, play) => {
  origin.setScript(play);
  await open({ rules: { timeoutMs: 10_000 } });
  for (let count = 0; count < 4; count++) expect(await deliver('POST')).toBe('ok');
  expect(origin.exchanges).toHaveLength(4);
  expect(origin.connections.map(({ requests }) => requests)).toEqual([1, 1, 1, 1]);
});

test('a POST goes out on a fresh connection, although one waits that a PUT has left', async () => {
  origin.setScript((exchange) => answer(exchange));
  await open();
  expect([await deliver('PUT'), await deliver('PUT'), await deliver('POST')]).toEqual(['ok', 'ok', 'ok']);
  expect(origin.connections.map(({ requests }) => requests)).toEqual([2, 1]);
});

test('connections that nobody will use again are closed, not kept', async () => {
  origin.setScript((exchange) => answer(exchange));
  await open();
  for (let count = 0; count < 3; count++) await deliver('POST');
  await until(() => origin.openConnections === 0, 'the connections to be closed');
  expect(origin.exchanges).toHaveLength(3);
});
