import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { requestOnce } from '../support/client.js';
import { bodyOf, DeliveryHarness, type DeliveryHarnessOptions, neverAborted } from '../support/delivery-harness.js';
import { answerOk, type RawOrigin, type RawScript, startRawOrigin } from '../support/raw-origin.js';
import { serverPort, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

describe('waiting', () => {
  let origin: RawOrigin;
  let harness: DeliveryHarness;

  beforeEach(async () => {
    origin = await startRawOrigin();
  });

  afterEach(async () => {
    await harness.close();
    await origin.close();
  });

  async function open(options: DeliveryHarnessOptions = {}, url = origin.url): Promise<void> {
    harness = await DeliveryHarness.open(url, options);
  }

  /** Refuses so many times, then answers. */
  function refusing(times: number, headers: readonly (readonly [string, string])[] = [], status = 503): RawScript {
    return async (exchange) => {
      if (exchange.index >= times) return answerOk(exchange);
      await exchange.readBody();
      await exchange.respond({ status, headers });
    };
  }

  const patientInBackground = { maxAttempts: 1, inBackgroundMs: 60_000 };

  describe('a client is held open', () => {
    test('no longer than the route allows, and the answer is kept for its return', async () => {
      const release = origin.holdAnswers();
      await open({ rules: { waitMs: 30 } });
      const { id } = await harness.whole();
      expect(await harness.result(id)).toMatchObject({ kind: 'pending', failure: undefined, retryAfterSeconds: 1 });
      await origin.exchange(0);
      expect(await harness.result(id)).toMatchObject({
        kind: 'pending',
        failure: undefined,
        retryAfterSeconds: 1,
        upload: { phase: 'delivering' },
      });
      release();
      await until(async () => (await harness.upload(id)).phase === 'answered', 'the answer');
      expect((await bodyOf(await harness.answer(id))).toString()).toBe('ok');
      expect(origin.exchanges).toHaveLength(1);
    });

    test('as short as it asks for itself: not at all begins the delivery and tells so', async () => {
      await open();
      const { id } = await harness.whole();
      expect(await harness.delivery.result(id, { signal: neverAborted(), waitMs: 0 })).toMatchObject({
        kind: 'pending',
      });
      await until(async () => (await harness.upload(id)).phase === 'answered', 'the answer');
    });

    test('when another worker delivers, no longer either', async () => {
      await open({ rules: { waitMs: 30 } });
      const { id } = await harness.whole();
      await harness.store.claimDelivery(id, 'another', Date.now() + 60_000);
      expect(await harness.result(id)).toMatchObject({ kind: 'pending', upload: { phase: 'delivering' } });
    });

    test('for so many attempts; trying goes on without it', async () => {
      origin.setScript(refusing(3));
      await open({ retry: patientInBackground });
      const { id } = await harness.whole();
      expect(await harness.result(id)).toMatchObject({
        kind: 'pending',
        failure: { reason: 'refused', status: 503 },
        upload: { phase: 'complete', dueAt: expect.any(Number) },
      });
      await until(async () => (await harness.upload(id)).phase === 'answered', 'the answer');
      expect(origin.exchanges).toHaveLength(4);
    });

    test('not when the next attempt comes too late for it', async () => {
      origin.setScript(refusing(1));
      const late = { firstDelayMs: 100_000, longestDelayMs: 100_000, whileWaitingMs: 5_000, inBackgroundMs: 200_000 };
      await open({ retry: late });
      const { id } = await harness.whole();
      const result = await harness.result(id);
      expect(result).toMatchObject({ kind: 'pending', failure: { reason: 'refused' } });
      if (result.kind === 'pending') expect(result.retryAfterSeconds).toBeGreaterThan(60);
    });
  });

  test('a client that comes back while a retry is pending has it made at once, and gets its answer', async () => {
    origin.setScript(refusing(1));
    await open({ retry: { ...patientInBackground, firstDelayMs: 50_000, longestDelayMs: 50_000 } });
    const { id } = await harness.whole();
    expect(await harness.result(id)).toMatchObject({ kind: 'pending' });
    expect((await harness.answer(id)).status).toBe(200);
    expect((await harness.upload(id)).attempts).toMatchObject([{ status: 503 }, { budgetFrom: 1, status: 200 }]);
  });

  test('but not before the origin wants to be asked again, as the operator may', async () => {
    origin.setScript(refusing(1, [['Retry-After', '30']], 429));
    await open({ retry: { ...patientInBackground, retryOn: [429], whileWaitingMs: 5_000 } });
    const { id } = await harness.whole();
    const told = await harness.result(id);
    expect(told).toMatchObject({ kind: 'pending', failure: { status: 429 } });
    if (told.kind === 'pending') expect(told.retryAfterSeconds).toBeGreaterThan(20);
    if (told.kind === 'pending') expect(told.retryAfterSeconds).toBeLessThanOrEqual(30);
    expect(await harness.result(id)).toMatchObject({ kind: 'pending' });
    expect(origin.exchanges).toHaveLength(1);
    expect(await harness.delivery.redeliver(id)).toBe('begun');
    await until(async () => (await harness.upload(id)).phase === 'answered', 'the answer');
  });

  test('a retry that is pending survives a restart, with its time', async () => {
    origin.setScript(refusing(1, [['Retry-After', '2']]));
    await open({ retry: patientInBackground });
    const { id } = await harness.whole();
    await harness.result(id);
    const { dueAt } = await harness.upload(id);
    await harness.restart();
    harness.delivery.start();
    const { attempts } = await until(async () => {
      const upload = await harness.upload(id);
      return upload.phase === 'answered' && upload;
    }, 'the answer');
    expect(attempts[1]!.startedAt).toBeGreaterThanOrEqual(dueAt!);
    expect(attempts[1]!.budgetSince).toBe(attempts[0]!.startedAt);
  });

  test('trying in the background ends with its budget, and the next client begins a new one', async () => {
    await open(
      { retry: { maxAttempts: 1, inBackgroundMs: 3000, longestDelayMs: 100 } },
      `http://127.0.0.1:${await serverPort()}`,
    );
    const { id } = await harness.whole();
    expect(await harness.result(id)).toMatchObject({ kind: 'pending', failure: { reason: 'unreachable' } });
    await until(async () => (await harness.upload(id)).phase === 'undelivered', 'the end of the budget');
    const { attemptCount } = await harness.upload(id);
    expect(attemptCount).toBeGreaterThan(1);
    expect(await harness.result(id)).toMatchObject({ kind: 'pending' });
    expect((await harness.upload(id)).attempts.at(-1)!.budgetFrom).toBeGreaterThan(attemptCount);
  });

  describe('an origin that fails again and again', () => {
    const breaker = { failures: 2, pauseMs: 60_000 };

    test('is left alone: clients are told soon, nothing is sent, and no attempt is counted', async () => {
      const url = `http://127.0.0.1:${await serverPort()}`;
      await open({ rules: { breaker }, retry: { ...patientInBackground, whileWaitingMs: 1000 } }, url);
      const [first, second, third] = [await harness.whole(), await harness.whole(), await harness.whole()];
      await harness.result(first.id);
      await harness.result(second.id);
      const told = await harness.result(third.id);
      expect(told).toMatchObject({
        kind: 'pending',
        failure: { reason: 'unreachable' },
        upload: { phase: 'complete' },
      });
      if (told.kind === 'pending') expect(told.retryAfterSeconds).toBeGreaterThan(50);
      expect((await harness.upload(third.id)).attempts).toEqual([]);
      expect(harness.lines.filter(({ msg }) => String(msg).includes('failed repeatedly'))).toHaveLength(1);
    });

    test('does not get what only waits for it in the background', async () => {
      origin.setScript((exchange) => exchange.reset());
      await open({ rules: { breaker, guarantee: 'at_least_once' }, retry: patientInBackground });
      const { id } = await harness.whole();
      await harness.result(id);
      await until(
        () => harness.lines.some(({ msg }) => String(msg).includes('failed repeatedly')),
        'the breaker to open',
      );
      expect(origin.exchanges).toHaveLength(2);
      const others = [await harness.whole(), await harness.whole()];
      harness.delivery.start();
      await until(async () => (await harness.upload(id)).dueAt !== undefined, 'the first to be postponed');
      for (const other of others)
        expect(await harness.upload(other.id)).toMatchObject({ phase: 'complete', attempts: [] });
      expect(origin.exchanges).toHaveLength(2);
    });

    test('is asked again after the pause, and everybody gets an answer', async () => {
      let isDown = true;
      origin.setScript((exchange) => (isDown ? exchange.reset() : answerOk(exchange)));
      await open({ rules: { breaker: { failures: 2, pauseMs: 200 }, guarantee: 'at_least_once' } });
      const uploads = await Promise.all([1, 2, 3, 4].map(() => harness.whole()));
      const waiting = uploads.map(({ id }) => harness.answer(id));
      await until(() => origin.exchanges.length >= 2, 'the breaker to open');
      isDown = false;
      for (const answer of await Promise.all(waiting)) expect(answer.status).toBe(200);
    });
  });

  test('an origin gets no more requests at a time than its route allows; the others wait their turn, unclaimed', async () => {
    let release: () => void;
    const released = new Promise<void>((resolve) => (release = resolve));
    let active = 0;
    let most = 0;
    origin.setScript(async (exchange) => {
      most = Math.max(most, ++active);
      await exchange.readBody();
      await released;
      active--;
      await exchange.respond({ status: 200, body: 'ok' });
    });
    await open({ rules: { concurrency: 3 } });
    const uploads = await Promise.all(Array.from({ length: 9 }, () => harness.whole()));
    const answers = uploads.map(({ id }) => harness.answer(id));
    await until(() => active === 3, 'three requests at the origin');
    const phases = await Promise.all(uploads.map(async ({ id }) => (await harness.upload(id)).phase));
    expect(phases.filter((phase) => phase === 'delivering')).toHaveLength(3);
    expect(phases.filter((phase) => phase === 'complete')).toHaveLength(6);
    release!();
    for (const answer of await Promise.all(answers)) expect(answer.status).toBe(200);
    expect(most).toBe(3);
  });
});

describe('respond-async', () => {
  let origin: TestOrigin;
  let app: TestApp;
  let answer: () => void;

  beforeEach(async () => {
    const told = new Promise<void>((resolve) => (answer = resolve));
    origin = await startTestOrigin({ status: 422, headers: [['X-Own', 'yes']], body: 'bad picture', after: told });
  });

  afterEach(async () => {
    answer();
    await app.stop();
    await origin.close();
  });

  function send(method: string, target: string, headers: HeaderLine[] = [], body?: string): Promise<WireResponse> {
    return requestOnce(app.url, { method, target, headers: [['Host', 'api'], ...headers], body });
  }

  async function statusAt(target: string): Promise<Record<string, unknown>> {
    return JSON.parse((await send('GET', target)).body.toString()) as Record<string, unknown>;
  }

  test.each<[string, string, HeaderLine[]]>([
    ['a client that prefers it', '', [['Prefer', 'wait=5, respond-async']]],
    ['every client of a route that says so', 'delivery: { respond: accepted }', []],
  ])('%s gets 202 at once, and the answer at its status URL', async (_, config, headers) => {
    app = await startTestApp({ origin: origin.url, config });
    const accepted = await send('POST', '/files', [['Upload-Complete', '?1'], ...headers], 'hello');
    expect(accepted.status).toBe(202);
    expect(accepted.header('Upload-Complete')).toBe('?1');
    expect(accepted.header('Upload-Offset')).toBe('5');
    expect(accepted.header('Preference-Applied')).toBe('respond-async');
    const status = new URL(accepted.header('Location')!).pathname;
    expect(JSON.parse(accepted.body.toString())).toEqual({ status: accepted.header('Location') });
    const upload = status.replace(/\/status$/, '');

    await origin.waitForRequests(1);
    expect(await statusAt(status)).toMatchObject({ phase: 'delivering', offset: 5, length: 5, attempts: 1 });
    expect((await send('GET', `${upload}/answer`)).status).toBe(404);
    const shown = await send('HEAD', upload);
    expect([shown.header('Upload-Offset'), shown.header('Upload-Complete')]).toEqual(['5', '?0']);

    answer();
    await until(async () => (await statusAt(status))['phase'] === 'answered', 'the answer');
    expect(await statusAt(status)).toMatchObject({ answer: { status: 422, at: 'answer' } });
    const kept = await send('GET', `${upload}/answer`);
    expect([kept.status, kept.header('X-Own'), kept.body.toString()]).toEqual([422, 'yes', 'bad picture']);
    expect(origin.requests.length).toBe(1);
  });

  test('pages of uploads that do not exist are not found, and nothing can be written to them', async () => {
    app = await startTestApp({ origin: origin.url });
    const none = `/.uploads/${'a'.repeat(32)}`;
    expect((await send('GET', `${none}/status`)).status).toBe(404);
    expect((await send('GET', `${none}/answer`)).status).toBe(404);
    expect((await send('DELETE', `${none}/status`)).status).toBe(405);
  });
});
