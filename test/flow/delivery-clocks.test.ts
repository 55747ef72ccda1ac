import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Delivery, DeliveryOptions } from '../../src/delivery/delivery.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { bodyOf, DeliveryHarness, type DeliveryHarnessOptions, neverAborted } from '../support/delivery-harness.js';
import { type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';

describe('clocks that are set', () => {
  const DAY = 86_400_000;
  const steps = [-DAY, -20_000, 20_000, DAY];

  let origin: RawOrigin;
  let harness: DeliveryHarness;

  beforeEach(async () => {
    origin = await startRawOrigin();
  });

  afterEach(async () => {
    await harness.close();
    await origin.close();
  });

  async function open(options: DeliveryHarnessOptions = {}): Promise<void> {
    harness = await DeliveryHarness.open(origin.url, options);
  }

  /** The origin refuses so many requests, then takes them; none before it is let go. */
  function refuseFirst(
    count: number,
    headers: readonly (readonly [string, string])[] = [],
    letGo: Promise<void> = Promise.resolve(),
  ): void {
    let left = count;
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await letGo;
      await exchange.respond(left-- > 0 ? { status: 503, headers } : { status: 200, body: 'ok' });
    });
  }

  async function expectSoundAttempts(id: string): Promise<void> {
    const { attempts } = await harness.upload(id);
    for (const { startedAt, endedAt = NaN } of attempts) {
      expect(endedAt - startedAt).toBeGreaterThanOrEqual(0);
      expect(endedAt - startedAt).toBeLessThan(10_000);
    }
  }

  describe.each(steps)('the clock is set by %d ms', (ms) => {
    test('while a delivery waits for its next attempt: it goes on when that is due', async () => {
      refuseFirst(2);
      await open({ retry: { firstDelayMs: 100, longestDelayMs: 200, inBackgroundMs: 5000 } });
      const { id } = await harness.whole();
      const waiting = harness.answer(id);
      await until(async () => (await harness.upload(id)).dueAt !== undefined, 'the first pause');
      harness.aheadMs = ms;
      expect((await bodyOf(await waiting)).toString()).toBe('ok');
      expect(origin.exchanges).toHaveLength(3);
      await expectSoundAttempts(id);
    });

    test('while the origin works: what it refuses is tried again as if nothing had been', async () => {
      let release = (): void => undefined;
      refuseFirst(1, [], new Promise((resolve) => (release = resolve)));
      await open();
      const { id } = await harness.whole();
      const waiting = harness.answer(id);
      await origin.exchange(0);
      harness.aheadMs = ms;
      release();
      expect((await bodyOf(await waiting)).toString()).toBe('ok');
      await expectSoundAttempts(id);
    });

    test('while an origin is left alone: the pause is over when it is', async () => {
      refuseFirst(1);
      await open({ rules: { breaker: { failures: 1, pauseMs: 200 } } });
      const first = await harness.whole();
      const waiting = harness.answer(first.id);
      await until(
        () => harness.lines.some(({ msg }) => String(msg).includes('failed repeatedly')),
        'the breaker to open',
      );
      harness.aheadMs = ms;
      const second = await harness.whole();
      expect((await bodyOf(await harness.answer(second.id))).toString()).toBe('ok');
      expect((await bodyOf(await waiting)).toString()).toBe('ok');
    });

    test('while a client waits: it is told to come again after the time that is left', async () => {
      refuseFirst(1, [['Retry-After', '100']]);
      await open({ retry: { inBackgroundMs: 200_000 } });
      const { id } = await harness.whole();
      expect(await harness.result(id)).toMatchObject({ kind: 'pending' });
      harness.aheadMs = ms;
      const again = await harness.result(id);
      if (again.kind !== 'pending') throw new Error(again.kind);
      expect(again.retryAfterSeconds).toBeGreaterThan(50);
      expect(again.retryAfterSeconds).toBeLessThanOrEqual(100);
    });
  });

  test.each([20_000, DAY])(
    'a clock is set back by %d ms: what is due late by it is taken up after a restart',
    async (ms) => {
      refuseFirst(1);
      await open({ retry: { firstDelayMs: 12_000, longestDelayMs: 12_000, inBackgroundMs: 600_000 } });
      const { id } = await harness.whole();
      harness.aheadMs = ms;
      const leaving = new AbortController();
      harness.result(id, { to: leaving.signal }).catch(() => undefined);
      await until(async () => (await harness.upload(id)).dueAt !== undefined, 'the pause');
      leaving.abort(new Error('the client left'));
      harness.aheadMs = 0;
      await harness.restart();
      harness.delivery.start();
      await until(async () => (await harness.upload(id)).phase === 'answered', 'the delivery to be taken up');
    },
  );

  test('one that is due late because its origin said so is left alone by a restart', async () => {
    refuseFirst(1, [['Retry-After', '100']]);
    await open({ retry: { inBackgroundMs: 200_000 } });
    const { id } = await harness.whole();
    expect(await harness.result(id)).toMatchObject({ kind: 'pending' });
    await harness.restart();
    harness.delivery.start();
    const other = await harness.whole();
    await until(async () => (await harness.upload(other.id)).phase === 'answered', 'another one to be taken up');
    expect((await harness.upload(id)).attemptCount).toBe(1);
  });
});

describe('a process that stood still', () => {
  type Verb = 'beginAttempt' | 'endAttempt' | 'recordAnswer' | 'renewClaim';

  let origin: RawOrigin;
  let harness: DeliveryHarness;
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
    await harness.close();
    await origin.close();
  });

  async function open(delivery: Partial<DeliveryOptions> = {}): Promise<void> {
    let isFirst = true;
    harness = await DeliveryHarness.open(origin.url, {
      delivery: { claimMs: CLAIM_MS, ...delivery },
      storeSeenAs: (store) => {
        if (!isFirst) return store;
        isFirst = false;
        return stillness.seenBy(store, EVERY_VERB);
      },
    });
    other = harness.anotherWorker();
  }

  async function isTaken(id: string): Promise<void> {
    await until(async () => (await harness.store.dueDeliveries(harness.clock())).includes(id), 'the claim to run out');
  }

  test('its answer is waited for: the other says nothing before the time to come back is over', async () => {
    const release = origin.holdAnswers();
    await open({ returnGraceMs: 60_000 });
    const { id } = await harness.whole();
    const first = harness.answer(id);
    await origin.exchange(0);
    stillness.stand();
    await isTaken(id);
    const second = other.result(id, { signal: neverAborted() });
    await until(
      async () => (await harness.store.dueDeliveries(harness.clock())).length === 0,
      'the other to take the claim',
    );
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
    const { id } = await harness.whole();
    const first = harness.answer(id);
    await origin.exchange(0);
    stillness.stand();
    if (!origins) release();
    await isTaken(id);
    expect(await other.result(id, { signal: neverAborted() })).toMatchObject({
      kind: 'undelivered',
      failure: { reason: 'outcome-unknown' },
    });
    stillness.goOn();
    if (origins) {
      await until(async () => (await harness.upload(id)).phase === 'delivering', 'the claim to be taken back');
      release();
    }
    expect((await bodyOf(await first)).toString()).toBe('ok');
    expect(await harness.upload(id)).toMatchObject({
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
    const { id } = await harness.whole();
    const first = harness.result(id);
    await origin.exchange(0);
    stillness.stand();
    await harness.store.renewClaim(id, 'worker-0', harness.clock() - 1);
    await isTaken(id);
    expect(await other.result(id, { signal: neverAborted() })).toMatchObject({
      failure: { reason: 'outcome-unknown' },
    });
    asked.abort();
    stillness.goOn();
    expect(await first).toMatchObject({ kind: 'parked', answer: { status: 401 } });
    expect(await harness.upload(id)).toMatchObject({ phase: 'undelivered', undelivered: { reason: 'unauthorized' } });
  });

  test('before its attempt is written down: the other sends, and it does not', async () => {
    await open();
    const { id } = await harness.whole();
    stillness.stand();
    const first = harness.answer(id);
    await until(async () => (await harness.upload(id)).phase === 'delivering', 'the claim');
    await isTaken(id);
    expect(await other.result(id, { signal: neverAborted() })).toMatchObject({ kind: 'answered' });
    stillness.goOn();
    expect((await bodyOf(await first)).toString()).toBe('ok');
    expect(origin.exchanges).toHaveLength(1);
  });

  test('when its attempt is written down and nothing is sent: nothing is, for its claim may have run out', async () => {
    let stoodMs = 0;
    harness = await DeliveryHarness.open(origin.url, {
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
    other = harness.anotherWorker();
    const { id } = await harness.whole();
    expect((await bodyOf(await harness.answer(id))).toString()).toBe('ok');
    const { attempts } = await harness.upload(id);
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
      harness = await DeliveryHarness.open(origin.url, { delivery, storeSeenAs, retry });
      other = harness.anotherWorker();
      const { id } = await harness.whole();
      stillness.stand();
      const end = harness.result(id);
      await until(() => seen.includes('endAttempt'), 'the end of the attempt');
      const before = await harness.upload(id);
      stillness.goOn();
      expect(await end).toMatchObject({ kind: how === 'postponed' ? 'pending' : 'undelivered' });
      expect(before.phase).toBe('delivering');
      expect(seen.lastIndexOf('renewClaim')).toBeLessThan(seen.indexOf(how === 'postponed' ? 'postpone' : 'giveUp'));
      expect(await harness.upload(id)).toMatchObject({ phase: how === 'postponed' ? 'complete' : 'undelivered' });
      expect(harness.lines.filter(({ phase }) => phase === 'undelivered')).toHaveLength(how === 'postponed' ? 0 : 1);
    },
  );
});
