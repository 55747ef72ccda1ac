import { EventEmitter } from 'node:events';
import { expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import type { Upload } from '../../src/model/upload.js';
import type { RedisBus } from '../../src/store/redis/pubsub.js';
import { RedisSettlementWaiters } from '../../src/store/redis/queries.js';
import { newUpload } from '../contract/sample-upload.js';
import { within } from '../support/temporary.js';

test('who leaves while Redis is asked for the first time is let go at once, and nothing of that is left to fail', async () => {
  const unanswered = new Promise<undefined>(() => undefined);
  const settlement = new RedisSettlementWaiters(new EventEmitter() as unknown as RedisBus, () => unanswered);
  const leaving = new AbortController();
  const waiting = settlement.wait('an-upload', leaving.signal);
  leaving.abort(new Error('the client has left'));
  await expect(within(waiting, 'the end of the waiting', 2000)).rejects.toThrow('the client has left');
  settlement.close();
});

test('who begins to wait while Redis is away hears it; those who wait already go on', async () => {
  const bus = new EventEmitter();
  const away = new Fault('STORE_UNAVAILABLE', 'away', true);
  const delivering: Upload = { ...newUpload(), phase: 'delivering', offset: 0, attempts: [], attemptCount: 0 };
  let look = (): Promise<Upload> => Promise.resolve(delivering);
  const settlement = new RedisSettlementWaiters(bus as unknown as RedisBus, () => look());
  const patient = new AbortController().signal;
  const before = settlement.wait(delivering.id, patient);
  look = () => Promise.reject(away);
  await expect(within(settlement.wait(delivering.id, patient), 'the failure')).rejects.toBe(away);
  const answered: Upload = { ...delivering, phase: 'answered' };
  look = () => Promise.resolve(answered);
  bus.emit('settled', delivering.id);
  expect(await within(before, 'the answer')).toBe(answered);
  settlement.close();
});
