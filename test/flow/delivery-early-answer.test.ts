import { afterEach, expect, test } from '@jest/globals';
import { bodyOf, DeliveryRoom } from '../support/delivery-room.js';
import { startRawOrigin, type RawOrigin, type RawScript } from '../support/raw-origin.js';
import { randomBytes } from '../support/temporary.js';

let origin: RawOrigin;
let room: DeliveryRoom;

afterEach(async () => {
  await room.close();
  await origin.close();
});

const LARGE = randomBytes(8 * 1024 * 1024);
const REFUSAL = `{"error":"${'too large '.repeat(200)}"}`;

async function refusedEarly(script: RawScript, times: number): Promise<void> {
  origin = await startRawOrigin(script);
  room = await DeliveryRoom.open(origin.url);
  for (let count = 0; count < times; count++) {
    const upload = await room.whole({ body: LARGE });
    const answer = await room.answer(upload.id);
    expect([answer.status, (await bodyOf(answer)).toString()]).toEqual([413, REFUSAL]);
    expect((await room.upload(upload.id)).attempts).toMatchObject([{ reached: 'answered', status: 413 }]);
  }
  expect(origin.exchanges).toHaveLength(times);
}

test('an origin that refuses while we send, and resets the connection, is heard every time', async () => {
  await refusedEarly(async (exchange) => {
    await exchange.readBytes(100_000);
    await exchange.respond({ status: 413, headers: [['Connection', 'close']], body: REFUSAL });
    // Closing with unread bytes is what makes the kernel send RST, as it happens with real servers.
    exchange.socket.destroy();
  }, 50);
}, 60_000);

test('also when it resets without having read anything of the body', async () => {
  await refusedEarly(async (exchange) => {
    await exchange.respond({ status: 413, body: REFUSAL });
    exchange.socket.destroy();
  }, 50);
}, 60_000);

test('an origin that refuses while we send and keeps the connection open is heard at once', async () => {
  await refusedEarly(async (exchange) => {
    await exchange.readBytes(100_000);
    await exchange.respond({ status: 413, body: REFUSAL });
    await exchange.closed;
  }, 3);
});

test('a refusal whose end is the end of the connection is heard', async () => {
  await refusedEarly(async (exchange) => {
    await exchange.readBytes(100_000);
    await exchange.write(`HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\n${REFUSAL}`);
    exchange.end();
    await exchange.closed;
  }, 10);
});

test('an early 503 is a failure like any other: the next attempt gets the whole', async () => {
  origin = await startRawOrigin(async (exchange) => {
    if (exchange.index === 0) {
      await exchange.respond({ status: 503, body: 'bad' });
      return exchange.socket.destroy() as unknown as undefined;
    }
    await exchange.readBody();
    await exchange.respond({ status: 201 });
  });
  room = await DeliveryRoom.open(origin.url);
  const upload = await room.whole({ body: LARGE });
  expect((await room.answer(upload.id)).status).toBe(201);
  expect(origin.exchanges[1]!.body.size).toBe(LARGE.length);
});
