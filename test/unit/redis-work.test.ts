import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { answer, attempt, HOUR, newUpload } from '../contract/sample-upload.js';
import { openRedis, settingsFor, type OpenedRedis } from '../support/opened-redis.js';
import { RedisServer } from '../support/redis-server.js';

const later = Date.now() + HOUR;
let server: RedisServer;
let redis: OpenedRedis;

beforeAll(async () => {
  server = await RedisServer.start();
});
afterAll(() => server.stop());
beforeEach(async () => {
  redis = await openRedis(settingsFor(server.port));
});
afterEach(() => redis.close());

/** How often each command was called, by us and within scripts, while something happened. */
async function calls(work: () => Promise<unknown>): Promise<Record<string, number>> {
  const before = await counts();
  await work();
  const after = await counts();
  // Of all that is measured here only the pulse asks for the time: each time with one script, one read and one write.
  const pulses = (after['time'] ?? 0) - (before['time'] ?? 0);
  const since = (name: string): number =>
    after[name]! - (before[name] ?? 0) - (PULSE.includes(name) ? pulses : 0) - (name === 'info' ? 1 : 0);
  const changed = Object.keys(after).map((name) => [name, since(name)] as const);
  return Object.fromEntries(changed.filter(([name, count]) => count > 0 && name !== 'ping'));
}

const PULSE = ['time', 'evalsha', 'hget', 'hset'];

async function counts(): Promise<Record<string, number>> {
  const lines = (await server.cli('info', 'commandstats')).matchAll(/cmdstat_([^:]+):calls=(\d+)/g);
  return Object.fromEntries([...lines].map(([, name, count]) => [name!, Number(count)]));
}

/** Steps sent to the server: each is one round trip. */
async function trips(work: () => Promise<unknown>): Promise<number> {
  const { evalsha = 0, eval: first = 0, get = 0, lrange = 0, ...rest } = await calls(work);
  const outside = rest['hgetall'] !== undefined && evalsha + first === 0 ? rest['hgetall'] : 0;
  return evalsha + first + get + lrange + outside;
}

describe('the work of a commit', () => {
  test('is the same for the first and the two-thousandth, within a chunk and with a new one', async () => {
    const { store } = redis;
    const { id } = await store.create(newUpload());
    let offset = 0;
    const grown = (token: number, start: number) => () =>
      store.commit(id, {
        token,
        chunk: { name: `chunk-${token}`, start, size: (offset += 7) - start },
        expiresAt: later,
      });
    await grown(1, 0)();
    const firstWithin = await calls(grown(1, 0));
    const firstNew = await calls(grown(2, offset));
    for (let token = 3; token <= 2000; token++) await grown(token, offset)();
    expect(await store.chunks(id)).toHaveLength(2000);
    const start = offset;
    expect(await calls(grown(2001, start))).toEqual(firstNew);
    expect(await calls(grown(2001, start))).toEqual(firstWithin);
  });
});

describe('round trips', () => {
  test('each verb about one upload is one', async () => {
    const { store } = redis;
    const { id } = await store.create(newUpload());
    const chunk = { name: 'chunk-1', start: 0, size: 5 };
    const steps: readonly (() => Promise<unknown>)[] = [
      () => store.create(newUpload()),
      () => store.get(id),
      () => store.commit(id, { token: 1, chunk, expiresAt: later }),
      () => store.commit(id, { token: 1, chunk, complete: {}, expiresAt: later }),
      () => store.chunks(id),
      () => store.claimDelivery(id, 'a', later),
      () => store.renewClaim(id, 'a', later),
      () => store.beginAttempt(id, 'a', attempt(1)),
      () => store.endAttempt(id, 'a', attempt(1, { endedAt: 5, reached: 'answered' })),
      () => store.recordAnswer(id, 'a', { answer: answer(1), body: Buffer.from('x'), expiresAt: later }),
      () => store.answerBody(id),
      () => store.waitUntilSettled(id, new AbortController().signal),
      () => store.cancel(id),
      () => store.remove(id),
    ];
    const counted: number[] = [];
    for (const step of steps) counted.push(await trips(step));
    expect(counted).toEqual(steps.map(() => 1));
  });
});
