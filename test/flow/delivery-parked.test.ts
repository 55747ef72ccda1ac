import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { DeliveryResult } from '../../src/delivery/delivery.js';
import type { HeaderLine } from '../../src/model/headers.js';
import { bodyOf, DeliveryRoom, neverAborted } from '../support/delivery-room.js';
import { answerOk, startRawOrigin, type RawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';

const FRESH: HeaderLine = ['Authorization', 'Bearer fresh'];
const CHALLENGE: HeaderLine = ['WWW-Authenticate', 'Bearer error="invalid_token"'];

let origin: RawOrigin;
let room: DeliveryRoom;

beforeEach(async () => {
  origin = await startRawOrigin(async (exchange) => {
    if (exchange.header('authorization') === FRESH[1]) return answerOk(exchange);
    await exchange.readBody();
    await exchange.respond({ status: 401, headers: [CHALLENGE], body: 'who are you?' });
  });
  room = await DeliveryRoom.open(origin.url, { rules: { guarantee: 'at_least_once' } });
});

afterEach(async () => {
  await room.close();
  await origin.close();
});

async function parked(result: DeliveryResult): Promise<string> {
  if (result.kind !== 'parked') throw new Error(result.kind);
  expect(result.upload).toMatchObject({ phase: 'undelivered', undelivered: { reason: 'unauthorized', status: 401 } });
  expect(result.answer).toMatchObject({ status: 401, headers: [CHALLENGE, ['Content-Length', '12']] });
  return (await bodyOf(result.answer)).toString();
}

describe('an origin’s 401', () => {
  test('reaches the client as it is, also one that comes later, and parks the upload with its bytes', async () => {
    const { id } = await room.whole();
    expect(await parked(await room.result(id))).toBe('who are you?');
    expect(await parked(await room.result(id))).toBe('who are you?');
    await room.restart();
    expect(await parked(await room.result(id))).toBe('who are you?');
    expect(await room.files()).toEqual(['answer-1-0', 'chunk-0']);
    expect(origin.exchanges).toHaveLength(1);
  });

  test('is no end: other credentials deliver the upload', async () => {
    const { id } = await room.whole();
    await parked(await room.result(id));
    const result = await room.delivery.result(id, { credentials: [FRESH], signal: neverAborted() });
    expect(result).toMatchObject({ kind: 'answered', answer: { status: 200 } });
    expect(origin.exchanges[1]!.body.endedCleanly).toBe(true);
    expect((await room.upload(id)).undelivered).toBeUndefined();
  });

  test('parks it again when those are no better', async () => {
    const { id } = await room.whole();
    await parked(await room.result(id));
    const stale: HeaderLine = ['Authorization', 'Bearer stale'];
    const again = await room.delivery.result(id, { credentials: [stale], signal: neverAborted() });
    expect(await parked(again)).toBe('who are you?');
    expect(origin.exchanges).toHaveLength(2);
  });

  test('leaves it to the operator as well', async () => {
    const { id } = await room.whole();
    await parked(await room.result(id));
    origin.setScript(answerOk);
    expect(await room.delivery.redeliver(id)).toBe('begun');
    await until(async () => (await room.upload(id)).phase === 'answered', 'the answer');
  });
});

describe('the operator', () => {
  test('has an upload delivered again whose outcome nobody knows', async () => {
    const { id } = await room.whole();
    origin.setScript((exchange) => (exchange.index === 0 ? exchange.reset() : answerOk(exchange)));
    const once = await DeliveryRoom.open(origin.url);
    const upload = await once.whole();
    expect(await once.result(upload.id)).toMatchObject({ why: { reason: 'outcome-unknown' } });
    expect(await once.delivery.redeliver(upload.id)).toBe('begun');
    await until(async () => (await once.upload(upload.id)).phase === 'answered', 'the answer');
    expect((await once.upload(upload.id)).attempts).toMatchObject([{ number: 1 }, { number: 2, budgetFrom: 2 }]);
    await once.close();
    expect((await room.upload(id)).phase).toBe('complete');
  });

  test('is told why there is nothing to deliver', async () => {
    const { id } = await room.whole();
    await room.delivery.result(id, { credentials: [FRESH], signal: neverAborted() });
    expect(await room.delivery.redeliver(id)).toBe('answered');
    expect(await room.delivery.redeliver('upload-that-never-existed')).toBe('unknown');
    const cancelled = await room.whole();
    await room.store.cancel(cancelled.id);
    expect(await room.delivery.redeliver(cancelled.id)).toBe('unknown');
    const other = await room.whole();
    await room.delivery.stop();
    expect(await room.delivery.redeliver(other.id)).toBe('stopping');
    expect(origin.exchanges).toHaveLength(1);
  });
});
