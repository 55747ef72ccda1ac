import { afterEach, describe, expect, test } from '@jest/globals';
import type { Attempt, Upload } from '../../src/model/upload.js';
import { DeliveryRoom, newUpload } from '../support/delivery-room.js';
import { type RawExchange, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';

const HOUR = 3_600_000;

let origin: RawOrigin;
let room: DeliveryRoom;

afterEach(async () => {
  await room.close();
  await origin.close();
});

async function open(script?: (exchange: RawExchange) => Promise<void>): Promise<void> {
  origin = await startRawOrigin(script);
  room = await DeliveryRoom.open(origin.url, { rules: { mode: 'eager' } });
}

/** An upload of ten bytes whose first five are here, and its origin has four or more of them. */
async function half(): Promise<Upload> {
  const id = 'upload-that-is-fed-eagerly-00000';
  const upload = await room.store.create({ ...newUpload(id), length: 10 });
  const feed = room.delivery.startEager(upload)!;
  const writer = await room.spool.create(id, 'chunk-1');
  await writer.write([Buffer.from('01234')]);
  await writer.close();
  const chunk = { name: 'chunk-1', start: 0, size: 5 };
  feed.onCommitted((await room.store.commit(id, { token: 1, chunk, expiresAt: Date.now() + HOUR })) as Upload);
  const exchange = await origin.exchange(0);
  await until(() => exchange.body.size === 5, 'five bytes at the origin');
  return (await room.store.get(id))!;
}

async function rest(id: string): Promise<Upload> {
  const writer = await room.spool.create(id, 'chunk-2');
  await writer.write([Buffer.from('56789')]);
  await writer.close();
  const complete = { heldBack: { lastByte: '9'.charCodeAt(0) } };
  const chunk = { name: 'chunk-2', start: 5, size: 5 };
  return (await room.store.commit(id, { token: 2, chunk, complete, expiresAt: Date.now() + HOUR })) as Upload;
}

/** How many requests the origin has got to their end. */
function whole(): number {
  return origin.exchanges.filter(({ body }) => body.size === 10).length;
}

describe('killed while an upload was fed to its origin', () => {
  test('the client goes on, and a fresh request brings the whole: that of before cannot have been whole', async () => {
    await open();
    const { id, attempts } = await half();
    expect(attempts).toMatchObject([{ number: 1, inPart: true }]);
    await room.restart();
    const upload = await rest(id);
    expect(room.delivery.startEager(upload)).toBeUndefined();
    expect((await room.answer(id)).status).toBe(200);
    expect((await room.upload(id)).attempts.map(({ reached }) => reached)).toEqual(['sent-in-part', 'answered']);
    expect([origin.exchanges.length, whole()]).toEqual([2, 1]);
  });

  test('also when it was complete, but its end not yet let go', async () => {
    await open();
    const { id } = await half();
    await rest(id);
    await room.restart();
    expect((await room.answer(id)).status).toBe(200);
    expect(whole()).toBe(1);
  });

  test('with its end let go nobody knows: a POST is not sent again', async () => {
    await open();
    const { id, attempts } = await half();
    await rest(id);
    const early: Attempt = attempts[0]!;
    await room.store.claimDelivery(id, 'the process that dies', Date.now() + HOUR, early);
    await room.restart();
    expect(await room.result(id)).toMatchObject({ kind: 'undelivered', why: { reason: 'outcome-unknown' } });
    expect(origin.exchanges).toHaveLength(1);
  });
});

test('an upload that another worker delivers is not sent twice: the request that was fed is cut', async () => {
  await open();
  const { id } = await half();
  await rest(id);
  const other = room.anotherWorker();
  expect(await other.result(id, { signal: new AbortController().signal })).toMatchObject({ kind: 'answered' });
  expect(await room.result(id)).toMatchObject({ kind: 'answered' });
  room.delivery.stopEager(id);
  await origin.exchanges[0]!.closed;
  expect([origin.exchanges.length, whole()]).toEqual([2, 1]);
  await other.stop();
});

test('a proxy that stops cuts what it has begun, and says so in the record', async () => {
  await open();
  const { id } = await half();
  await room.delivery.stop();
  expect((await room.upload(id)).attempts).toMatchObject([
    { reached: 'sent-in-part', problem: expect.stringMatching(/stopped/) },
  ]);
  expect(whole()).toBe(0);
});
