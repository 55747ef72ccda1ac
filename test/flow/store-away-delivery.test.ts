import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { Delivery } from '../../src/delivery/delivery.js';
import { attempt } from '../contract/sample-upload.js';
import { bodyOf, DeliveryHarness, type DeliveryHarnessOptions, neverAborted } from '../support/delivery-harness.js';
import { type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { until, within } from '../support/temporary.js';
import { StoreReach } from '../support/upload-harness.js';

let origin: RawOrigin;
let harness: DeliveryHarness;
let reach: StoreReach;
let others: Delivery[];

beforeEach(async () => {
  others = [];
  reach = new StoreReach();
  origin = await startRawOrigin();
});

afterEach(async () => {
  reach.heal();
  await Promise.all(others.map((other) => other.stop()));
  await harness.close();
  await origin.close();
});

async function open(options: DeliveryHarnessOptions = {}): Promise<void> {
  harness = await DeliveryHarness.open(origin.url, { ...options, storeSeenAs: (store) => reach.to(store) });
}

async function asked(verb: string, times: number): Promise<void> {
  await until(() => reach.count(verb) >= times, `${verb} to be asked for ${times} times`);
}

/** Refuses the first request, and takes those after it. */
function refusesOnce(): void {
  origin.setScript(async (exchange) => {
    await exchange.readBody();
    const isFirst = exchange === origin.exchanges[0];
    await exchange.respond(isFirst ? { status: 503 } : { status: 200, body: 'ok' });
  });
}

test.each(['claimDelivery', 'beginAttempt', 'recordAnswer', 'chunks'] as const)(
  'a delivery waits while %s is not answered, and its origin gets one request',
  async (verb) => {
    await open();
    const upload = await harness.whole();
    reach.cut(verb);
    const answer = harness.answer(upload.id);
    await asked(verb, 2);
    reach.heal();
    expect((await bodyOf(await within(answer, 'the answer'))).toString()).toBe('ok');
    await until(async () => (await harness.upload(upload.id)).phase === 'answered', 'the answer to be recorded');
    expect(origin.exchanges).toHaveLength(1);
    expect((await harness.upload(upload.id)).attempts).toMatchObject([{ number: 1, reached: 'answered', status: 200 }]);
  },
);

test.each(['claimDelivery', 'beginAttempt', 'recordAnswer'] as const)(
  'a delivery whose %s was done without an answer goes on with it',
  async (verb) => {
    await open();
    const upload = await harness.whole();
    reach.silence(verb);
    const answer = harness.answer(upload.id);
    await asked(verb, 1);
    reach.heal();
    expect((await bodyOf(await within(answer, 'the answer'))).toString()).toBe('ok');
    await until(async () => (await harness.upload(upload.id)).phase === 'answered', 'the answer to be recorded');
    expect(origin.exchanges).toHaveLength(1);
  },
);

test.each(['cut', 'silence'] as const)(
  'an attempt that was refused is noted when the store is back, and the next one follows: %s',
  async (trouble) => {
    refusesOnce();
    await open();
    const upload = await harness.whole();
    reach[trouble]('endAttempt');
    const answer = harness.answer(upload.id);
    await asked('endAttempt', 1);
    reach.heal();
    expect((await within(answer, 'the answer')).status).toBe(200);
    const refused = { number: 1, reached: 'answered', status: 503 };
    const { attempts } = await harness.upload(upload.id);
    expect(attempts).toMatchObject([refused, { number: 2 }]);
    expect(origin.exchanges).toHaveLength(2);
  },
);

test('a delivery that cannot be postponed waits, and begins again later', async () => {
  refusesOnce();
  await open();
  const upload = await harness.whole();
  reach.cut('postpone');
  const answer = harness.answer(upload.id);
  await asked('postpone', 2);
  reach.heal();
  expect((await within(answer, 'the answer')).status).toBe(200);
  expect(origin.exchanges).toHaveLength(2);
});

test('a delivery that cannot be given up waits, and its client is told what came of it', async () => {
  origin.setScript((exchange) => exchange.reset());
  await open();
  const upload = await harness.whole();
  reach.cut('giveUp');
  const result = harness.result(upload.id);
  await asked('giveUp', 2);
  reach.heal();
  expect(await within(result, 'the end')).toMatchObject({
    kind: 'undelivered',
    failure: { reason: 'outcome-unknown' },
  });
});

test('nobody hears an answer that is not recorded while the store is away: another worker might get another one', async () => {
  await open();
  const upload = await harness.whole();
  reach.cut('recordAnswer');
  let isHeard = false;
  const answer = harness.answer(upload.id).finally(() => (isHeard = true));
  await asked('recordAnswer', 3);
  expect(isHeard).toBe(false);
  expect((await harness.upload(upload.id)).phase).toBe('delivering');
  reach.heal();
  expect((await bodyOf(await within(answer, 'the answer'))).toString()).toBe('ok');
  expect((await harness.upload(upload.id)).phase).toBe('answered');
});

test('who waits for a delivery that another worker took over with an attempt of its own gets the answer of that one', async () => {
  await open({ delivery: { claimMs: 300 } });
  const upload = await harness.whole();
  reach.cut('recordAnswer');
  const answer = harness.answer(upload.id);
  await asked('recordAnswer', 1);
  // Not before: a claim that is no longer fresh is renewed before its attempt begins.
  reach.cut('recordAnswer', 'renewClaim');
  const taken = (): Promise<unknown> => harness.store.claimDelivery(upload.id, 'another', Date.now() + 60_000);
  await until(taken, 'another worker to get the claim');
  await harness.store.beginAttempt(upload.id, 'another', attempt(2));
  reach.heal();
  await asked('waitUntilSettled', 1);
  const body = Buffer.from('from another');
  const kept = { status: 201, reason: '', headers: [], trailers: [], bodySize: body.length, at: Date.now() };
  const record = { ...kept, body: { in: 'record' } } as const;
  await harness.store.recordAnswer(upload.id, 'another', { answer: record, body, expiresAt: Date.now() + 60_000 });
  expect((await bodyOf(await within(answer, 'the answer'))).toString()).toBe('from another');
});

test('nothing is sent before the store has confirmed it, and nobody takes it for lost when the store is back', async () => {
  await open({ delivery: { claimMs: 200 } });
  const other = harness.anotherWorker();
  others.push(other);
  other.start();
  const upload = await harness.whole();
  reach.silence('beginAttempt');
  const answer = harness.answer(upload.id);
  await asked('beginAttempt', 1);
  reach.cut();
  const begun = await until(async () => (await harness.upload(upload.id)).attempts[0], 'the attempt in the record');
  await until(() => Date.now() > begun.startedAt + 400, 'the claim to run out');
  expect(origin.exchanges).toHaveLength(0);
  reach.heal();
  expect((await within(answer, 'the answer')).status).toBe(200);
  expect(origin.exchanges).toHaveLength(1);
  expect((await harness.upload(upload.id)).attempts).toHaveLength(1);
});

test('a claim that ran out before its delivery could begin is renewed before anything is sent', async () => {
  origin.holdAnswers();
  await open({ delivery: { claimMs: 2000 } });
  const upload = await harness.whole();
  reach.cut('chunks');
  void harness.result(upload.id).catch(() => undefined);
  const claimed = async (): Promise<boolean> => (await harness.upload(upload.id)).phase === 'delivering';
  await until(claimed, 'the claim');
  const claimedAt = Date.now();
  await until(() => Date.now() > claimedAt + 2100, 'the claim to run out');
  reach.heal();
  await origin.exchange(0);
  expect(await harness.store.claimDelivery(upload.id, 'another', Date.now() + 60_000)).toBeUndefined();
});

test('a claim that ran out while the store was away, and was taken by another worker, is not used any more', async () => {
  await open({ delivery: { claimMs: 300 } });
  const upload = await harness.whole();
  reach.cut('beginAttempt');
  const result = harness.result(upload.id);
  await asked('beginAttempt', 1);
  // Not before: a claim that is no longer fresh is renewed before its attempt begins.
  reach.cut('beginAttempt', 'renewClaim');
  const taken = (): Promise<unknown> => harness.store.claimDelivery(upload.id, 'another', Date.now() + 60_000);
  await until(taken, 'another worker to get the claim');
  reach.heal();
  const body = Buffer.from('from another');
  const at = Date.now();
  const answer = { status: 201, reason: '', headers: [], trailers: [], bodySize: body.length, at };
  await asked('waitUntilSettled', 1);
  await harness.store.recordAnswer(upload.id, 'another', {
    answer: { ...answer, body: { in: 'record' } },
    body,
    expiresAt: at + 60_000,
  });
  expect(await within(result, 'the result')).toMatchObject({ kind: 'answered', answer: { status: 201 } });
  expect(origin.exchanges).toHaveLength(0);
});

test('a request under way at the origin goes on while the store is away', async () => {
  const release = origin.holdAnswers();
  await open({ delivery: { claimMs: 60 } });
  const upload = await harness.whole();
  const answer = harness.answer(upload.id);
  await origin.exchange(0);
  reach.cut();
  const renewals = reach.count('renewClaim');
  await asked('renewClaim', renewals + 3);
  release();
  await asked('recordAnswer', 1);
  reach.heal();
  expect((await bodyOf(await within(answer, 'the answer'))).toString()).toBe('ok');
  expect((await harness.upload(upload.id)).phase).toBe('answered');
  expect(origin.exchanges).toHaveLength(1);
});

test('the log hears once that the store is away, and once that it is back', async () => {
  await open();
  harness.delivery.start();
  reach.cut();
  await asked('dueDeliveries', reach.count('dueDeliveries') + 4);
  const rounds = reach.count('dueDeliveries');
  reach.heal();
  await asked('dueDeliveries', rounds + 3);
  expect(harness.lines.map(({ level, msg }) => `${String(level)}: ${String(msg)}`)).toEqual([
    'error: the store is unavailable: deliveries wait for it',
    'info: the store is available again: deliveries continue',
  ]);
  expect(JSON.stringify(harness.lines)).not.toContain('stack');
});

test('a client that wants to know at once is not made to wait for a store that is away', async () => {
  await open();
  const upload = await harness.whole();
  reach.cut();
  const impatient = harness.delivery.result(upload.id, { signal: neverAborted(), waitMs: 0 });
  await expect(impatient).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
});

test('a client that leaves while the store is away is waited for by nobody', async () => {
  await open();
  const upload = await harness.whole();
  reach.cut();
  const client = new AbortController();
  const result = harness.result(upload.id, { to: client.signal });
  await asked('get', 2);
  client.abort(new Error('left'));
  await expect(within(result, 'the end')).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
});

test('a stop while the store is away ends the waiting, and the record stays as it was', async () => {
  await open();
  const upload = await harness.whole();
  reach.cut('claimDelivery');
  const result = harness.result(upload.id);
  await asked('claimDelivery', 1);
  await harness.delivery.stop();
  await expect(result).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
  expect((await harness.upload(upload.id)).phase).toBe('complete');
});

test('whoever waits between two attempts hears of an answer that another worker got meanwhile', async () => {
  refusesOnce();
  await open({
    retry: { firstDelayMs: 60_000, longestDelayMs: 60_000, inBackgroundMs: 120_000, whileWaitingMs: 90_000 },
  });
  const upload = await harness.whole();
  const first = harness.answer(upload.id);
  await until(async () => (await harness.upload(upload.id)).dueAt !== undefined, 'the pause');
  const other = harness.anotherWorker();
  others.push(other);
  expect(await other.result(upload.id, { signal: neverAborted() })).toMatchObject({ kind: 'answered' });
  expect((await within(first, 'the answer')).status).toBe(200);
  expect(origin.exchanges).toHaveLength(2);
});

test('an upload whose bytes are with another node is left to that one', async () => {
  await open();
  const upload = await harness.whole();
  await harness.store.move(upload.id, await harness.store.nextToken(upload.id), 'elsewhere');
  harness.delivery.start();
  await asked('dueDeliveries', reach.count('dueDeliveries') + 4);
  expect(await harness.upload(upload.id)).toMatchObject({ phase: 'complete', node: 'elsewhere', attempts: [] });
  expect(origin.exchanges).toHaveLength(0);
});
