import { createServer, type AddressInfo, type Socket } from 'node:net';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { bodyOf, DeliveryRoom, type RoomOptions } from '../support/delivery-room.js';
import { answerOk, startRawOrigin, type RawOrigin } from '../support/raw-origin.js';
import { serverPort } from '../support/server-port.js';
import { until, within } from '../support/temporary.js';

let origin: RawOrigin;
let room: DeliveryRoom;
let release: () => void;

beforeEach(async () => {
  const released = new Promise<void>((resolve) => (release = resolve));
  origin = await startRawOrigin(async (exchange) => {
    await exchange.readBody();
    await released;
    await answerOk(exchange);
  });
});

afterEach(async () => {
  await room.close();
  await origin.close();
});

async function open(options: RoomOptions = {}, url = origin.url): Promise<void> {
  room = await DeliveryRoom.open(url, options);
}

test('an attempt under way may come to its end within the grace', async () => {
  await open({ delivery: { stopGraceMs: 10_000 } });
  const upload = await room.whole();
  const answer = room.answer(upload.id);
  await origin.exchange(0);
  const stopped = room.delivery.stop();
  release();
  expect((await bodyOf(await answer)).toString()).toBe('ok');
  await stopped;
  expect((await room.upload(upload.id)).phase).toBe('answered');
  await until(() => origin.openConnections === 0, 'the connection to be ended');
});

test('after the grace it is broken off, and a POST is recorded as what it is: sent, outcome unknown', async () => {
  await open({ delivery: { stopGraceMs: 20 } });
  const upload = await room.whole();
  const result = room.result(upload.id);
  const exchange = await origin.exchange(0);
  await within(room.delivery.stop(), 'the stop');
  expect(await result).toMatchObject({ kind: 'undelivered', why: { reason: 'outcome-unknown' } });
  expect(await room.upload(upload.id)).toMatchObject({ phase: 'undelivered', attempts: [{ reached: 'sent' }] });
  await exchange.closed;
});

test('a PUT that was broken off goes on after the next start', async () => {
  await open({ delivery: { stopGraceMs: 20 } });
  const upload = await room.whole({ request: { method: 'PUT' } });
  const result = room.result(upload.id);
  await origin.exchange(0);
  await room.delivery.stop();
  expect(await result).toMatchObject({ kind: 'undelivered', why: { problem: 'the proxy is being stopped' } });
  expect((await room.upload(upload.id)).phase).toBe('complete');
  release();
  await room.restart();
  room.delivery.start();
  await until(async () => (await room.upload(upload.id)).phase === 'answered', 'the next process to deliver it');
});

test('a delivery that waits for its next attempt does not hold up the stop', async () => {
  await open({ retry: { firstDelayMs: 60_000, longestDelayMs: 60_000 } }, `http://127.0.0.1:${await serverPort()}`);
  const upload = await room.whole();
  const result = room.result(upload.id);
  await until(async () => (await room.upload(upload.id)).dueAt !== undefined, 'the delivery to be postponed');
  await within(room.delivery.stop(), 'the stop');
  expect(await result).toMatchObject({ kind: 'undelivered', why: { problem: 'the proxy is being stopped' } });
  const { phase, dueAt } = await room.upload(upload.id);
  expect(phase).toBe('complete');
  expect(dueAt).toBeGreaterThan(Date.now());
});

test('nothing new begins after the stop: the upload stays complete', async () => {
  await open();
  await room.delivery.stop();
  const upload = await room.whole();
  expect(await room.result(upload.id)).toMatchObject({ kind: 'undelivered', retryAfterSeconds: 1 });
  expect(await room.upload(upload.id)).toMatchObject({ phase: 'complete', attempts: [] });
  expect(origin.exchanges).toHaveLength(0);
});

test('an attempt that waits for a connection ends with the stop, never sent', async () => {
  const taken: Socket[] = [];
  const silent = createServer((socket) => void taken.push(socket.resume().on('error', () => undefined)));
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  // A TLS handshake that is never answered.
  await open({}, `https://127.0.0.1:${(silent.address() as AddressInfo).port}`);
  const upload = await room.whole();
  const result = room.result(upload.id);
  await until(() => taken.length === 1, 'the connection');
  await within(room.delivery.stop(), 'the stop');
  expect((await result).kind).toBe('undelivered');
  expect(await room.upload(upload.id)).toMatchObject({ phase: 'complete', attempts: [{ reached: 'never-sent' }] });
  await until(() => taken[0]!.destroyed, 'the connection to be ended');
  await new Promise((resolve) => silent.close(resolve));
});
