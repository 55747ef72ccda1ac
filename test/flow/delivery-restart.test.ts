import { type AddressInfo, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Attempt, Upload } from '../../src/model/upload.js';
import { bodyOf, DeliveryRoom, type RoomOptions } from '../support/delivery-room.js';
import { answerOk, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { serverPort } from '../support/server-port.js';
import { until, within } from '../support/temporary.js';

describe('restarts', () => {
  let origin: RawOrigin;
  let room: DeliveryRoom;

  beforeEach(async () => {
    origin = await startRawOrigin();
  });

  afterEach(async () => {
    await room.close();
    await origin.close();
  });

  async function open(options: RoomOptions = {}): Promise<void> {
    room = await DeliveryRoom.open(origin.url, options);
  }

  async function reaches(id: string, phase: Upload['phase']): Promise<Upload> {
    return until(async () => {
      const upload = await room.upload(id);
      return upload.phase === phase && upload;
    }, `the upload to be ${phase}`);
  }

  function attempt(fields: Partial<Attempt> = {}): Attempt {
    return { number: 1, budgetFrom: 1, origin: origin.url, startedAt: Date.now(), ...fields };
  }

  /** As a process leaves an upload that dies while delivering it. */
  async function leftDelivering(method: string, ...steps: Attempt[]): Promise<Upload> {
    const upload = await room.whole({ request: { method } });
    await room.store.claimDelivery(upload.id, 'dead', Date.now() + 60_000);
    for (const step of steps) {
      await room.store.beginAttempt(upload.id, 'dead', { ...step, reached: undefined });
      if (step.reached) await room.store.endAttempt(upload.id, 'dead', step);
    }
    await room.restart();
    return room.upload(upload.id);
  }

  test('a whole upload that nobody had begun to deliver is delivered', async () => {
    await open();
    const upload = await room.whole();
    await room.restart();
    room.delivery.start();
    await reaches(upload.id, 'answered');
    expect(origin.exchanges).toHaveLength(1);
  });

  test('an upload that was claimed, but of which no attempt had begun, is delivered', async () => {
    await open();
    const { id } = await leftDelivering('POST');
    room.delivery.start();
    await reaches(id, 'answered');
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a POST that may have been sent is not sent again: it waits, visibly, for its client', async () => {
    await open();
    const { id } = await leftDelivering('POST', attempt());
    room.delivery.start();
    const { undelivered, attempts } = await reaches(id, 'undelivered');
    expect(undelivered).toMatchObject({ reason: 'outcome-unknown', problem: expect.stringMatching(/stopped/) });
    expect(attempts).toMatchObject([{ number: 1, reached: 'sent', problem: expect.stringMatching(/stopped/) }]);
    expect(await room.result(id)).toMatchObject({ kind: 'undelivered', failure: { reason: 'outcome-unknown' } });
    expect(origin.exchanges).toHaveLength(0);
    expect(await bodyOf(await room.answer(id))).toEqual(Buffer.from('ok'));
    expect((await room.upload(id)).attempts).toMatchObject([{ number: 1 }, { number: 2, budgetFrom: 2 }]);
  });

  test('a client that comes back before the restart has been dealt with learns the same, and may then ask again', async () => {
    await open();
    const { id } = await leftDelivering('POST', attempt());
    expect(await room.result(id)).toMatchObject({ kind: 'undelivered', failure: { reason: 'outcome-unknown' } });
    expect(origin.exchanges).toHaveLength(0);
    expect((await room.answer(id)).status).toBe(200);
  });

  test('that its client was told of an unknown outcome is remembered across a restart', async () => {
    await open();
    const { id } = await leftDelivering('POST', attempt());
    expect(await room.result(id)).toMatchObject({ kind: 'undelivered' });
    await room.restart();
    expect((await room.answer(id)).status).toBe(200);
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a PUT that may have been sent is sent again', async () => {
    await open();
    const { id } = await leftDelivering('PUT', attempt());
    room.delivery.start();
    const { attempts } = await reaches(id, 'answered');
    expect(attempts).toMatchObject([
      { number: 1, reached: 'sent' },
      { number: 2, budgetFrom: 1, reached: 'answered' },
    ]);
  });

  test('what certainly never reached the origin is sent', async () => {
    await open();
    const { id } = await leftDelivering('POST', attempt({ reached: 'never-sent', endedAt: 1 }));
    room.delivery.start();
    await reaches(id, 'answered');
    expect(origin.exchanges).toHaveLength(1);
  });

  test('what the origin had refused with a status of retry_on is sent', async () => {
    await open();
    const { id } = await leftDelivering('POST', attempt({ reached: 'answered', status: 503, endedAt: 1 }));
    room.delivery.start();
    await reaches(id, 'answered');
    expect(origin.exchanges).toHaveLength(1);
  });

  test('an answer that was lost with the process counts as an unknown outcome', async () => {
    await open();
    const { id } = await leftDelivering('POST', attempt({ reached: 'answered', status: 201, endedAt: 1 }));
    room.delivery.start();
    expect((await reaches(id, 'undelivered')).undelivered?.reason).toBe('outcome-unknown');
    expect(origin.exchanges).toHaveLength(0);
  });

  test('a budget that was used up before the restart is not begun anew', async () => {
    await open({ retry: { maxAttempts: 2 } });
    const failed = (number: number) => attempt({ number, reached: 'never-sent', endedAt: 1, problem: 'ECONNREFUSED' });
    const { id } = await leftDelivering('POST', failed(1), failed(2));
    room.delivery.start();
    expect((await reaches(id, 'undelivered')).undelivered?.reason).toBe('unreachable');
    expect(origin.exchanges).toHaveLength(0);
  });

  test('a postponed delivery is taken up when it is due', async () => {
    await open();
    const upload = await room.whole();
    await room.store.claimDelivery(upload.id, 'dead', Date.now() + 60_000);
    const dueAt = Date.now() + 150;
    await room.store.postpone(upload.id, 'dead', dueAt);
    await room.restart();
    room.delivery.start();
    const { attempts } = await reaches(upload.id, 'answered');
    expect(attempts[0]!.startedAt).toBeGreaterThanOrEqual(dueAt);
  });

  test('an undelivered upload is left to its client', async () => {
    await open();
    const upload = await room.whole();
    await room.store.claimDelivery(upload.id, 'dead', Date.now() + 60_000);
    await room.store.giveUp(upload.id, 'dead', { reason: 'unreachable', problem: 'ECONNREFUSED' });
    const other = await room.whole();
    await room.restart();
    room.delivery.start();
    await reaches(other.id, 'answered');
    expect((await room.upload(upload.id)).phase).toBe('undelivered');
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a process that dies while the origin works leaves one request behind, whatever is tried', async () => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      if (exchange.index > 0) await answerOk(exchange);
    });
    await open();
    const upload = await room.whole();
    room.result(upload.id).catch(() => undefined);
    await (await origin.exchange(0)).readBody();
    await room.restart();
    room.delivery.start();
    await reaches(upload.id, 'undelivered');
    expect(await room.result(upload.id)).toMatchObject({ kind: 'undelivered', failure: { reason: 'outcome-unknown' } });
    expect(origin.exchanges).toHaveLength(1);
    expect((await room.answer(upload.id)).status).toBe(200);
    const [first, second] = origin.exchanges.map((exchange) => exchange.header('idempotency-key'));
    expect(first).toBe(second);
  });
});

describe('stops', () => {
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
    expect(await result).toMatchObject({ kind: 'undelivered', failure: { reason: 'outcome-unknown' } });
    expect(await room.upload(upload.id)).toMatchObject({ phase: 'undelivered', attempts: [{ reached: 'sent' }] });
    await exchange.closed;
  });

  test('a PUT that was broken off goes on after the next start', async () => {
    await open({ delivery: { stopGraceMs: 20 } });
    const upload = await room.whole({ request: { method: 'PUT' } });
    const result = room.result(upload.id);
    await origin.exchange(0);
    await room.delivery.stop();
    expect(await result).toMatchObject({ kind: 'undelivered', failure: { problem: 'the proxy is being stopped' } });
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
    expect(await result).toMatchObject({ kind: 'undelivered', failure: { problem: 'the proxy is being stopped' } });
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
});
