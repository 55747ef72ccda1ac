import { EventEmitter } from 'node:events';
import { expect, test } from '@jest/globals';
import type { RedisBus } from '../../src/store/redis/redis-bus.js';
import { RedisSettlement } from '../../src/store/redis/redis-settlement.js';
import { within } from '../support/temporary.js';

test('who leaves while Redis is asked for the first time is let go at once, and nothing of that is left to fail', async () => {
  const unanswered = new Promise<undefined>(() => undefined);
  const settlement = new RedisSettlement(new EventEmitter() as unknown as RedisBus, () => unanswered);
  const leaving = new AbortController();
  const waiting = settlement.wait('an-upload', leaving.signal);
  leaving.abort(new Error('the client has left'));
  await expect(within(waiting, 'the end of the waiting', 2000)).rejects.toThrow('the client has left');
  settlement.close();
});
