import { once } from 'node:events';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { Delivery, DeliveryOptions } from '../../src/delivery/delivery.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { bodyOf, DeliveryRoom, neverAborted } from '../support/delivery-room.js';
import { startRawOrigin, type RawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';

type Verb = 'beginAttempt' | 'endAttempt' | 'recordAnswer' | 'renewClaim';

let origin: RawOrigin;
let room: DeliveryRoom;
let other: Delivery;
let stillness: Stillness;

/** The first worker's process, as its store sees it: when it stands still, no step of it comes through until it goes on. */
class Stillness {
  private ending: Promise<void> | undefined;
  private end: () => void = () => undefined;

  stand(): void {
    this.ending = new Promise((resolve) => (this.end = resolve));
  }

  goOn(): void {
    this.ending = undefined;
    this.end();
  }

  /** How many steps have waited. */
  waited = 0;

  seenBy(store: UploadStore, verbs: ReadonlySet<Verb>): UploadStore {
    return new Proxy(store, {
      get: (target, name) => {
        const value = Reflect.get(target, name) as unknown;
        if (typeof value !== 'function') return value;
        return async (...given: unknown[]): Promise<unknown> => {
          if (verbs.has(name as Verb) && this.ending) {
            this.waited++;
            await this.ending;
          }
          return Reflect.apply(value, target, given) as unknown;
        };
      },
    });
  }
}

const EVERY_VERB: ReadonlySet<Verb> = new Set(['beginAttempt', 'endAttempt', 'recordAnswer', 'renewClaim']);
const CLAIM_MS = 300;

beforeEach(async () => {
  stillness = new Stillness();
  origin = await startRawOrigin();
});

afterEach(async () => {
  stillness.goOn();
  await other.stop();
  await room.close();
  await origin.close();
});

async function open(delivery: Partial<DeliveryOptions> = {}): Promise<void> {
  let isFirst = true;
  room = await DeliveryRoom.open(origin.url, {
    delivery: { claimMs: CLAIM_MS, ...delivery },
    storeSeenAs: (store) => {
      if (!isFirst) return store;
      isFirst = false;
      return stillness.seenBy(store, EVERY_VERB);
    },
  });
  other = room.anotherWorker();
}

async function isTaken(id: string): Promise<void> {
  await until(async () => (await room.store.dueDeliveries(room.clock())).includes(id), 'the claim to run out');
}

test('its answer is waited for: the other says nothing before the time to come back is over', async () => {
  const release = origin.holdAnswers();
  await open({ returnGraceMs: 60_000 });
  const { id } = await room.whole();
  const first = room.answer(id);
  await origin.exchange(0);
  stillness.stand();
  await isTaken(id);
  const second = other.result(id, { signal: neverAborted() });
  await until(async () => (await room.store.dueDeliveries(room.clock())).length === 0, 'the other to take the claim');
  release();
  stillness.goOn();
  expect((await bodyOf(await first)).toString()).toBe('ok');
  expect(await second).toMatchObject({ kind: 'answered', answer: { status: 200 } });
  expect(origin.exchanges).toHaveLength(1);
});

test.each([
  ['while the origin works', true],
  ['with the answer in its hands', false],
])('%s, until the other has said that nobody knows: its answer is recorded all the same', async (_, origins) => {
  const release = origin.holdAnswers();
  await open();
  const { id } = await room.whole();
  const first = room.answer(id);
  await origin.exchange(0);
  stillness.stand();
  if (!origins) release();
  await isTaken(id);
  expect(await other.result(id, { signal: neverAborted() })).toMatchObject({
    kind: 'undelivered',
    why: { reason: 'outcome-unknown' },
  });
  stillness.goOn();
  if (origins) {
    await until(async () => (await room.upload(id)).phase === 'delivering', 'the claim to be taken back');
    release();
  }
  expect((await bodyOf(await first)).toString()).toBe('ok');
  expect(await room.upload(id)).toMatchObject({
    phase: 'answered',
    attemptCount: 1,
    attempts: [{ reached: 'answered' }],
  });
  expect(await other.result(id, { signal: neverAborted() })).toMatchObject({
    kind: 'answered',
    answer: { status: 200 },
  });
  expect(origin.exchanges).toHaveLength(1);
});

test('with a challenge in its hands: the upload waits for other credentials, although nobody knew meanwhile', async () => {
  const asked = new AbortController();
  origin.setScript(async (exchange) => {
    await exchange.readBody();
    await once(asked.signal, 'abort');
    await exchange.respond({ status: 401, body: 'who?' });
  });
  // So long that no renewal takes the claim back before the end of the attempt is told.
  await open({ claimMs: 60_000 });
  const { id } = await room.whole();
  const first = room.result(id);
  await origin.exchange(0);
  stillness.stand();
  await room.store.renewClaim(id, 'worker-0', room.clock() - 1);
  await isTaken(id);
  expect(await other.result(id, { signal: neverAborted() })).toMatchObject({ why: { reason: 'outcome-unknown' } });
  asked.abort();
  stillness.goOn();
  expect(await first).toMatchObject({ kind: 'parked', answer: { status: 401 } });
  expect(await room.upload(id)).toMatchObject({ phase: 'undelivered', undelivered: { reason: 'unauthorized' } });
});

test('before its attempt is written down: the other sends, and it does not', async () => {
  await open();
  const { id } = await room.whole();
  stillness.stand();
  const first = room.answer(id);
  await until(async () => (await room.upload(id)).phase === 'delivering', 'the claim');
  await isTaken(id);
  expect(await other.result(id, { signal: neverAborted() })).toMatchObject({ kind: 'answered' });
  stillness.goOn();
  expect((await bodyOf(await first)).toString()).toBe('ok');
  expect(origin.exchanges).toHaveLength(1);
});

test('when its attempt is written down and nothing is sent: nothing is, for its claim may have run out', async () => {
  let stoodMs = 0;
  room = await DeliveryRoom.open(origin.url, {
    delivery: { claimMs: 1000, monotonic: () => performance.now() + stoodMs },
    storeSeenAs: (store) => {
      const seen = Object.create(store) as UploadStore;
      seen.beginAttempt = async (...given) => {
        const begun = await store.beginAttempt(...given);
        if (stoodMs === 0) stoodMs = 1000;
        return begun;
      };
      return seen;
    },
  });
  other = room.anotherWorker();
  const { id } = await room.whole();
  expect((await bodyOf(await room.answer(id))).toString()).toBe('ok');
  const { attempts } = await room.upload(id);
  expect(attempts.map(({ reached }) => reached)).toEqual(['never-sent', 'answered']);
  expect(origin.exchanges).toHaveLength(1);
});

test.each(['postponed', 'given up'])(
  'a renewal under way ends before the delivery is %s, which counts once',
  async (how) => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await until(() => stillness.waited > 0, 'a renewal');
      if (how === 'postponed') await exchange.respond({ status: 503, body: 'later' });
      else exchange.reset();
    });
    const verbs = new Set<Verb>(['renewClaim']);
    const delivery = { claimMs: CLAIM_MS };
    const seen: string[] = [];
    const retry = { firstDelayMs: 60_000, longestDelayMs: 60_000, whileWaitingMs: 1000, inBackgroundMs: 3_600_000 };
    const storeSeenAs = (store: UploadStore): UploadStore =>
      new Proxy(stillness.seenBy(store, verbs), {
        get: (target, name) => {
          const value = Reflect.get(target, name) as unknown;
          if (typeof value !== 'function') return value;
          return async (...given: unknown[]): Promise<unknown> => {
            const result = (await Reflect.apply(value, target, given)) as unknown;
            seen.push(String(name));
            return result;
          };
        },
      });
    room = await DeliveryRoom.open(origin.url, { delivery, storeSeenAs, retry });
    other = room.anotherWorker();
    const { id } = await room.whole();
    stillness.stand();
    const end = room.result(id);
    await until(() => seen.includes('endAttempt'), 'the end of the attempt');
    const before = await room.upload(id);
    stillness.goOn();
    expect(await end).toMatchObject({ kind: how === 'postponed' ? 'pending' : 'undelivered' });
    expect(before.phase).toBe('delivering');
    expect(seen.lastIndexOf('renewClaim')).toBeLessThan(seen.indexOf(how === 'postponed' ? 'postpone' : 'giveUp'));
    expect(await room.upload(id)).toMatchObject({ phase: how === 'postponed' ? 'complete' : 'undelivered' });
    expect(room.lines.filter(({ phase }) => phase === 'undelivered')).toHaveLength(how === 'postponed' ? 0 : 1);
  },
);
