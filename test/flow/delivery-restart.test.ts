import { type AddressInfo, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Attempt, Upload } from '../../src/model/upload.js';
import { bodyOf, DeliveryHarness, type DeliveryHarnessOptions } from '../support/delivery-harness.js';
import { answerOk, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { serverPort, until, within } from '../support/temporary.js';

describe('restarts', () => {
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

  async function reaches(id: string, phase: Upload['phase']): Promise<Upload> {
    return until(async () => {
      const upload = await harness.upload(id);
      return upload.phase === phase && upload;
    }, `the upload to be ${phase}`);
  }

  function attempt(fields: Partial<Attempt> = {}): Attempt {
    return { number: 1, budgetFrom: 1, origin: origin.url, startedAt: Date.now(), ...fields };
  }

  /** As a process leaves an upload that dies while delivering it. */
  async function leftDelivering(method: string, ...steps: Attempt[]): Promise<Upload> {
    const upload = await harness.whole({ request: { method } });
    await harness.store.claimDelivery(upload.id, 'dead', Date.now() + 60_000);
    for (const step of steps) {
      await harness.store.beginAttempt(upload.id, 'dead', { ...step, reached: undefined });
      if (step.reached) await harness.store.endAttempt(upload.id, 'dead', step);
    }
    await harness.restart();
    return harness.upload(upload.id);
  }

  test('a whole upload that nobody had begun to deliver is delivered', async () => {
    await open();
    const upload = await harness.whole();
    await harness.restart();
    harness.delivery.start();
    await reaches(upload.id, 'answered');
    expect(origin.exchanges).toHaveLength(1);
  });

  test('an upload that was claimed, but of which no attempt had begun, is delivered', async () => {
    await open();
    const { id } = await leftDelivering('POST');
    harness.delivery.start();
    await reaches(id, 'answered');
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a POST that may have been sent is not sent again: it waits, visibly, for its client', async () => {
    await open();
    const { id } = await leftDelivering('POST', attempt());
    harness.delivery.start();
    const { undelivered, attempts } = await reaches(id, 'undelivered');
    expect(undelivered).toMatchObject({ reason: 'outcome-unknown', problem: expect.stringMatching(/stopped/) });
    expect(attempts).toMatchObject([{ number: 1, reached: 'sent', problem: expect.stringMatching(/stopped/) }]);
    expect(await harness.result(id)).toMatchObject({ kind: 'undelivered', failure: { reason: 'outcome-unknown' } });
    expect(origin.exchanges).toHaveLength(0);
    expect(await bodyOf(await harness.answer(id))).toEqual(Buffer.from('ok'));
    expect((await harness.upload(id)).attempts).toMatchObject([{ number: 1 }, { number: 2, budgetFrom: 2 }]);
  });

  test('a client that comes back before the restart has been dealt with learns the same, and may then ask again', async () => {
    await open();
    const { id } = await leftDelivering('POST', attempt());
    expect(await harness.result(id)).toMatchObject({ kind: 'undelivered', failure: { reason: 'outcome-unknown' } });
    expect(origin.exchanges).toHaveLength(0);
    expect((await harness.answer(id)).status).toBe(200);
  });

  test('that its client was told of an unknown outcome is remembered across a restart', async () => {
    await open();
    const { id } = await leftDelivering('POST', attempt());
    expect(await harness.result(id)).toMatchObject({ kind: 'undelivered' });
    await harness.restart();
    expect((await harness.answer(id)).status).toBe(200);
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a PUT that may have been sent is sent again', async () => {
    await open();
    const { id } = await leftDelivering('PUT', attempt());
    harness.delivery.start();
    const { attempts } = await reaches(id, 'answered');
    expect(attempts).toMatchObject([
      { number: 1, reached: 'sent' },
      { number: 2, budgetFrom: 1, reached: 'answered' },
    ]);
  });

  test('what certainly never reached the origin is sent', async () => {
    await open();
    const { id } = await leftDelivering('POST', attempt({ reached: 'never-sent', endedAt: 1 }));
    harness.delivery.start();
    await reaches(id, 'answered');
    expect(origin.exchanges).toHaveLength(1);
  });

  test('what the origin had refused with a status of retry_on is sent', async () => {
    await open();
    const { id } = await leftDelivering('POST', attempt({ reached: 'answered', status: 503, endedAt: 1 }));
    harness.delivery.start();
    await reaches(id, 'answered');
    expect(origin.exchanges).toHaveLength(1);
  });

  test('an answer that was lost with the process counts as an unknown outcome', async () => {
    await open();
    const { id } = await leftDelivering('POST', attempt({ reached: 'answered', status: 201, endedAt: 1 }));
    harness.delivery.start();
    expect((await reaches(id, 'undelivered')).undelivered?.reason).toBe('outcome-unknown');
    expect(origin.exchanges).toHaveLength(0);
  });

  test('a budget that was used up before the restart is not begun anew', async () => {
    await open({ retry: { maxAttempts: 2 } });
    const failed = (number: number) => attempt({ number, reached: 'never-sent', endedAt: 1, problem: 'ECONNREFUSED' });
    const { id } = await leftDelivering('POST', failed(1), failed(2));
    harness.delivery.start();
    expect((await reaches(id, 'undelivered')).undelivered?.reason).toBe('unreachable');
    expect(origin.exchanges).toHaveLength(0);
  });

  test('a postponed delivery is taken up when it is due', async () => {
    await open();
    const upload = await harness.whole();
    await harness.store.claimDelivery(upload.id, 'dead', Date.now() + 60_000);
    const dueAt = Date.now() + 150;
    await harness.store.postpone(upload.id, 'dead', dueAt);
    await harness.restart();
    harness.delivery.start();
    const { attempts } = await reaches(upload.id, 'answered');
    expect(attempts[0]!.startedAt).toBeGreaterThanOrEqual(dueAt);
  });

  test('an undelivered upload is left to its client', async () => {
    await open();
    const upload = await harness.whole();
    await harness.store.claimDelivery(upload.id, 'dead', Date.now() + 60_000);
    await harness.store.giveUp(upload.id, 'dead', { reason: 'unreachable', problem: 'ECONNREFUSED' });
    const other = await harness.whole();
    await harness.restart();
    harness.delivery.start();
    await reaches(other.id, 'answered');
    expect((await harness.upload(upload.id)).phase).toBe('undelivered');
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a process that dies while the origin works leaves one request behind, whatever is tried', async () => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      if (exchange.index > 0) await answerOk(exchange);
    });
    await open();
    const upload = await harness.whole();
    harness.result(upload.id).catch(() => undefined);
    await (await origin.exchange(0)).readBody();
    await harness.restart();
    harness.delivery.start();
    await reaches(upload.id, 'undelivered');
    expect(await harness.result(upload.id)).toMatchObject({
      kind: 'undelivered',
      failure: { reason: 'outcome-unknown' },
    });
    expect(origin.exchanges).toHaveLength(1);
    expect((await harness.answer(upload.id)).status).toBe(200);
    const [first, second] = origin.exchanges.map((exchange) => exchange.header('idempotency-key'));
    expect(first).toBe(second);
  });
});

describe('stops', () => {
  let origin: RawOrigin;
  let harness: DeliveryHarness;
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
    await harness.close();
    await origin.close();
  });

  async function open(options: DeliveryHarnessOptions = {}, url = origin.url): Promise<void> {
    harness = await DeliveryHarness.open(url, options);
  }

  test('an attempt under way may come to its end within the grace', async () => {
    await open({ delivery: { stopGraceMs: 10_000 } });
    const upload = await harness.whole();
    const answer = harness.answer(upload.id);
    await origin.exchange(0);
    const stopped = harness.delivery.stop();
    release();
    expect((await bodyOf(await answer)).toString()).toBe('ok');
    await stopped;
    expect((await harness.upload(upload.id)).phase).toBe('answered');
    await until(() => origin.openConnections === 0, 'the connection to be ended');
  });

  test('after the grace it is broken off, and a POST is recorded as what it is: sent, outcome unknown', async () => {
    await open({ delivery: { stopGraceMs: 20 } });
    const upload = await harness.whole();
    const result = harness.result(upload.id);
    const exchange = await origin.exchange(0);
    await within(harness.delivery.stop(), 'the stop');
    expect(await result).toMatchObject({ kind: 'undelivered', failure: { reason: 'outcome-unknown' } });
    expect(await harness.upload(upload.id)).toMatchObject({ phase: 'undelivered', attempts: [{ reached: 'sent' }] });
    await exchange.closed;
  });

  test('a PUT that was broken off goes on after the next start', async () => {
    await open({ delivery: { stopGraceMs: 20 } });
    const upload = await harness.whole({ request: { method: 'PUT' } });
    const result = harness.result(upload.id);
    await origin.exchange(0);
    await harness.delivery.stop();
    expect(await result).toMatchObject({
      kind: 'undelivered',
      failure: { reason: 'unreachable', problem: 'the proxy is being stopped' },
    });
    expect((await harness.upload(upload.id)).phase).toBe('complete');
    release();
    await harness.restart();
    harness.delivery.start();
    await until(async () => (await harness.upload(upload.id)).phase === 'answered', 'the next process to deliver it');
  });

  test('a delivery that waits for its next attempt does not hold up the stop', async () => {
    await open({ retry: { firstDelayMs: 60_000, longestDelayMs: 60_000 } }, `http://127.0.0.1:${await serverPort()}`);
    const upload = await harness.whole();
    const result = harness.result(upload.id);
    await until(async () => (await harness.upload(upload.id)).dueAt !== undefined, 'the delivery to be postponed');
    await within(harness.delivery.stop(), 'the stop');
    expect(await result).toMatchObject({
      kind: 'undelivered',
      failure: { reason: 'unreachable', problem: 'the proxy is being stopped' },
    });
    const { phase, dueAt } = await harness.upload(upload.id);
    expect(phase).toBe('complete');
    expect(dueAt).toBeGreaterThan(Date.now());
    // It has not ended, so it counts as postponed, and no line says that it was given up.
    expect(await harness.metrics.text()).toContain('rufh_delivery_duration_seconds_count{outcome="postponed"} 1');
    expect(harness.lines.filter((line) => line['phase'] === 'undelivered')).toEqual([]);
  });

  test('nothing new begins after the stop: the upload stays complete', async () => {
    await open();
    await harness.delivery.stop();
    const upload = await harness.whole();
    expect(await harness.result(upload.id)).toMatchObject({ kind: 'undelivered', retryAfterSeconds: 1 });
    expect(await harness.upload(upload.id)).toMatchObject({ phase: 'complete', attempts: [] });
    expect(origin.exchanges).toHaveLength(0);
  });

  test('an attempt that waits for a connection ends with the stop, never sent', async () => {
    const taken: Socket[] = [];
    const silent = createServer((socket) => void taken.push(socket.resume().on('error', () => undefined)));
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    // A TLS handshake that is never answered.
    await open({}, `https://127.0.0.1:${(silent.address() as AddressInfo).port}`);
    const upload = await harness.whole();
    const result = harness.result(upload.id);
    await until(() => taken.length === 1, 'the connection');
    await within(harness.delivery.stop(), 'the stop');
    expect((await result).kind).toBe('undelivered');
    expect(await harness.upload(upload.id)).toMatchObject({ phase: 'complete', attempts: [{ reached: 'never-sent' }] });
    await until(() => taken[0]!.destroyed, 'the connection to be ended');
    await new Promise((resolve) => silent.close(resolve));
  });
});
