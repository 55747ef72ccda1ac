import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { Delivery } from '../../src/delivery/delivery.js';
import { Fault } from '../../src/model/fault.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { bodyOf, DeliveryHarness, type DeliveryHarnessOptions, neverAborted } from '../support/delivery-harness.js';
import { type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';

let origin: RawOrigin;
let harness: DeliveryHarness;
let others: Delivery[];

beforeEach(async () => {
  others = [];
  origin = await startRawOrigin();
});

afterEach(async () => {
  await Promise.all(others.map((other) => other.stop()));
  await harness.close();
  await origin.close();
});

async function open(options: DeliveryHarnessOptions = {}): Promise<void> {
  harness = await DeliveryHarness.open(origin.url, options);
}

/** A store on a full disk: one verb fails a few times. */
function failingOnce(store: UploadStore, verb: 'beginAttempt' | 'recordAnswer', times: number): UploadStore {
  let left = times;
  return new Proxy(store, {
    get(target, name) {
      const value = Reflect.get(target, name) as unknown;
      if (typeof value !== 'function') return value;
      return (...given: unknown[]): unknown => {
        if (name === verb && left-- > 0) return Promise.reject(new Fault('STORAGE_FULL', 'no space left', true));
        return Reflect.apply(value, target, given);
      };
    },
  });
}

test('two workers on one store make one request, and both clients get its answer', async () => {
  const release = origin.holdAnswers();
  await open();
  const other = harness.anotherWorker();
  others.push(other);
  const upload = await harness.whole();
  const first = harness.answer(upload.id);
  await origin.exchange(0);
  const second = other.result(upload.id, { signal: neverAborted() });
  release();
  expect((await bodyOf(await first)).toString()).toBe('ok');
  const result = await second;
  if (result.kind !== 'answered') throw new Error(result.kind);
  expect((await bodyOf(result.answer)).toString()).toBe('ok');
  expect(origin.exchanges).toHaveLength(1);
});

test('a worker that waits for another learns that it gave up', async () => {
  origin.setScript((exchange) => exchange.reset());
  await open();
  const other = harness.anotherWorker();
  others.push(other);
  const upload = await harness.whole();
  const results = await Promise.all([harness.result(upload.id), other.result(upload.id, { signal: neverAborted() })]);
  expect(results).toMatchObject([
    { kind: 'undelivered', failure: { reason: 'outcome-unknown' } },
    { kind: 'undelivered', failure: { reason: 'outcome-unknown' } },
  ]);
});

test('a worker that was asked to send an unknown one again does not, when another has done so meanwhile', async () => {
  origin.setScript((exchange) => exchange.reset());
  let deliveries = 0;
  let secondIsOver = (): void => undefined;
  const second = new Promise<void>((resolve) => (secondIsOver = resolve));
  // The claim of the other worker comes when all is over for the first.
  const late = (store: UploadStore): UploadStore =>
    new Proxy(store, {
      get: (target, name) => {
        const value = Reflect.get(target, name) as unknown;
        if (typeof value !== 'function') return value;
        return async (...given: unknown[]): Promise<unknown> => {
          if (name === 'claimDelivery') await second;
          return Reflect.apply(value, target, given) as unknown;
        };
      },
    });
  await open({ storeSeenAs: (store) => (++deliveries === 2 ? late(store) : store) });
  const other = harness.anotherWorker();
  others.push(other);
  const upload = await harness.whole();
  await harness.result(upload.id);
  const asked = other.result(upload.id, { signal: neverAborted() });
  await harness.delivery.result(upload.id, { signal: neverAborted() });
  expect(origin.exchanges).toHaveLength(2);
  secondIsOver();
  expect(await asked).toMatchObject({ kind: 'undelivered', failure: { reason: 'outcome-unknown' } });
  expect(origin.exchanges).toHaveLength(2);
});

test('a claim is renewed while the origin works, so that nobody else takes the delivery', async () => {
  const release = origin.holdAnswers();
  // The other looks often enough to take what has run out, and not so often that a stall of this process looks like that.
  await open({ delivery: { claimMs: 1000, pollMs: 200 } });
  const other = harness.anotherWorker();
  others.push(other);
  other.start();
  const upload = await harness.whole({ request: { method: 'PUT' } });
  const answer = harness.answer(upload.id);
  await origin.exchange(0);
  const { startedAt } = (await harness.upload(upload.id)).attempts[0]!;
  await until(() => Date.now() - startedAt > 2500, 'more than twice the length of a claim');
  release();
  expect((await bodyOf(await answer)).toString()).toBe('ok');
  expect(origin.exchanges).toHaveLength(1);
});

test('a delivery whose worker is gone is taken over when its claim has run out', async () => {
  await open();
  const upload = await harness.whole();
  await harness.store.claimDelivery(upload.id, 'gone', Date.now() + 50);
  harness.delivery.start();
  expect((await harness.answer(upload.id)).status).toBe(200);
});

test('an upload that is cancelled while the origin works is gone for who waits, and its request is broken off', async () => {
  origin.holdAnswers();
  await open({ delivery: { claimMs: 600 } });
  const upload = await harness.whole();
  const waiting = harness.result(upload.id);
  const exchange = await origin.exchange(0);
  await harness.store.cancel(upload.id);
  await harness.store.remove(upload.id);
  expect(await waiting).toMatchObject({ kind: 'gone' });
  await exchange.closed;
});

test('nothing is sent when the attempt cannot be written down first', async () => {
  await open({
    delivery: { claimMs: 600 },
    storeSeenAs: (store) => failingOnce(store, 'beginAttempt', 1),
  });
  const upload = await harness.whole();
  await expect(harness.result(upload.id)).rejects.toMatchObject({ code: 'STORAGE_FULL' });
  expect(origin.exchanges).toHaveLength(0);
  harness.delivery.start();
  await until(async () => (await harness.upload(upload.id)).phase === 'answered', 'the delivery to be taken up again');
});

test('an answer that cannot be recorded is given to who waits, and recorded as soon as that is possible', async () => {
  const retry = { firstDelayMs: 60_000, longestDelayMs: 60_000 };
  await open({ retry, storeSeenAs: (store) => failingOnce(store, 'recordAnswer', 3) });
  const upload = await harness.whole();
  expect((await bodyOf(await harness.answer(upload.id))).toString()).toBe('ok');
  expect((await bodyOf(await harness.answer(upload.id))).toString()).toBe('ok');
  await until(async () => (await harness.upload(upload.id)).phase === 'answered', 'the answer to be recorded');
  expect((await bodyOf(await harness.answer(upload.id))).toString()).toBe('ok');
  expect(origin.exchanges).toHaveLength(1);
});

test('an answer that cannot be recorded before the stop is recorded by it, when there is room then', async () => {
  let isFull = true;
  let refusals = 0;
  const fullAtFirst = (store: UploadStore): UploadStore => {
    const seen = Object.create(store) as UploadStore;
    seen.recordAnswer = (...given) => {
      if (!isFull) return store.recordAnswer(...given);
      refusals++;
      return Promise.reject(new Fault('STORAGE_FULL', 'no space left', true));
    };
    return seen;
  };
  await open({ storeSeenAs: fullAtFirst });
  const upload = await harness.whole();
  expect((await bodyOf(await harness.answer(upload.id))).toString()).toBe('ok');
  await until(() => refusals > 1, 'the answer to be refused again');
  const stopped = harness.delivery.stop();
  isFull = false;
  await stopped;
  expect(await harness.upload(upload.id)).toMatchObject({ phase: 'answered', answer: { status: 200 } });
});

test('an answer to an attempt that the store has forgotten, but not who makes it, is recorded all the same', async () => {
  const forgetful = (store: UploadStore): UploadStore => {
    const seen = Object.create(store) as UploadStore;
    seen.recordAnswer = (id, worker, kept, ended) =>
      ended
        ? Promise.reject(new Fault('CONTRACT_BROKEN', 'attempt 1 ends, which it cannot', false))
        : store.recordAnswer(id, worker, kept);
    return seen;
  };
  await open({ storeSeenAs: forgetful });
  const upload = await harness.whole();
  expect((await bodyOf(await harness.answer(upload.id))).toString()).toBe('ok');
  await until(async () => (await harness.upload(upload.id)).phase === 'answered', 'the answer to be recorded');
  expect(origin.exchanges).toHaveLength(1);
});

test('an upload that has just become whole is left to its client for a round: it brings newer credentials', async () => {
  const rounds: (readonly string[])[] = [];
  let roundsBefore: number | undefined;
  await open({
    storeSeenAs: (store) =>
      new Proxy(store, {
        get(target, name) {
          const value = Reflect.get(target, name) as unknown;
          if (typeof value !== 'function') return value;
          return async (...given: unknown[]): Promise<unknown> => {
            if (name === 'claimDelivery') roundsBefore = rounds.filter((due) => due.includes(String(given[0]))).length;
            const result: unknown = await Reflect.apply(value, target, given);
            if (name === 'dueDeliveries') rounds.push(result as string[]);
            return result;
          };
        },
      }),
  });
  harness.delivery.start();
  await until(() => rounds.length > 0, 'the first round');
  const upload = await harness.whole();
  await until(async () => (await harness.upload(upload.id)).phase === 'answered', 'the answer');
  expect(roundsBefore).toBe(2);
});
