import { expect, test } from '@jest/globals';
import { ReplyTimeout } from '../../src/store/redis/health.js';

const never = new Promise<never>(() => undefined);

test('a step nobody answers is given up', async () => {
  await expect(new ReplyTimeout().wait('a', never)).rejects.toThrow('not answered in time');
});

test('an answer that came while this process stood still counts', async () => {
  const patience = new ReplyTimeout();
  const answered = new Promise<string>((resolve) => setImmediate(() => resolve('late')));
  const waiting = patience.wait('a', answered);
  const until = performance.now() + 800;
  while (performance.now() < until) Math.sqrt(until);
  expect(await waiting).toBe('late');
});

test('a step waits behind others as long as those about the same are answered, and no longer', async () => {
  const patience = new ReplyTimeout();
  const order: string[] = [];
  const busy = setInterval(() => void patience.wait('a', Promise.resolve()), 20);
  const behind = patience.wait('a', never).catch(() => order.push('behind others'));
  const alone = patience.wait('b', never).catch(() => order.push('alone'));
  await alone;
  clearInterval(busy);
  await behind;
  expect(order).toEqual(['alone', 'behind others']);
});
