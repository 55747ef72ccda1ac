import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { RedisConnection } from '../../src/store/redis/connection.js';
import { ServerClock } from '../../src/store/redis/health.js';
import { RedisKeys } from '../../src/store/redis/keys.js';
import { tryAcquire } from '../../src/store/redis/nodes.js';
import { RedisStore } from '../../src/store/redis/redis-store.js';
import { answer, attempt, HOUR, newId, newUpload } from '../contract/sample-upload.js';
import { type OpenedRedis, openRedis, settingsFor } from '../support/opened-redis.js';
import { RedisServer } from '../support/redis-server.js';
import { until } from '../support/temporary.js';

const later = Date.now() + HOUR;
let server: RedisServer;
let redis: OpenedRedis;
let b: RedisStore;

beforeAll(async () => {
  server = await RedisServer.start();
});
afterAll(() => server.stop());
beforeEach(async () => {
  await server.cli('flushall');
  redis = await openRedis(settingsFor(server.port), 'a');
  b = new RedisStore({ connection: redis.connection, node: 'b' });
});
afterEach(async () => {
  await b.close();
  await redis.close();
});

describe('uploads whose bytes are with a node', () => {
  test('are due and expire there only, whoever changes them', async () => {
    const a = redis.store;
    const { id } = await b.create(newUpload({ node: 'a', expiresAt: 1000 }));
    expect([await a.expired(1000), await b.expired(1000)]).toEqual([[id], []]);
    await a.commit(id, { token: 1, complete: {}, expiresAt: later });
    expect([await a.dueDeliveries(0), await b.dueDeliveries(0)]).toEqual([[id], []]);
    await a.claimDelivery(id, 'w', 1000);
    expect(await b.renewClaim(id, 'w', 2000)).toBe(true);
    // A claim is a length of time, and begins when Redis hears of it.
    expect([await a.dueDeliveries(4000), await b.dueDeliveries(4000)]).toEqual([[id], []]);
    expect(await b.cancel(id)).toMatchObject({ phase: 'cancelled', node: 'a' });
    expect([await a.dueDeliveries(2000), await b.dueDeliveries(2000)]).toEqual([[], []]);
  });

  test('grow, are missed and are delivered there only', async () => {
    const a = redis.store;
    const { id } = await a.create(newUpload({ node: 'a' }));
    const chunk = { name: 'c', start: 0, size: 5 };
    expect(await b.commit(id, { token: 2, chunk, expiresAt: later })).toBe('stale');
    expect(await b.invalidate(id, 2)).toBe('stale');
    expect(await b.beginEarlyAttempt(id, attempt(1, { inPart: true }))).toBe('stale');
    expect(await a.commit(id, { token: 2, chunk, complete: {}, expiresAt: later })).toMatchObject({ offset: 5 });
    expect(await b.claimDelivery(id, 'w', later)).toBeUndefined();
    expect(await a.claimDelivery(id, 'w', later)).toMatchObject({ phase: 'delivering', attempts: [] });
  });

  test('are answered early from elsewhere only with what is kept in the record', async () => {
    const a = redis.store;
    const { id } = await a.create(newUpload({ node: 'a' }));
    await a.beginEarlyAttempt(id, attempt(1, { inPart: true }));
    await a.move(id, 2, 'b');
    const ended = attempt(1, { inPart: true, endedAt: 5, reached: 'answered', status: 413 });
    const long = { answer: { ...answer(4), body: { in: 'spool', name: 'answer' } as const }, expiresAt: later };
    expect(await a.recordEarlyAnswer(id, ended, long)).toBe('stale');
    expect(await b.get(id)).toMatchObject({ phase: 'receiving' });
    const short = { answer: answer(4), body: Buffer.from('body'), expiresAt: later };
    expect(await a.recordEarlyAnswer(id, ended, short)).toMatchObject({ phase: 'answered', node: 'b' });
  });

  test('take their deliveries and their end with them when they move', async () => {
    const a = redis.store;
    const { id } = await a.create(newUpload({ node: 'a' }));
    await a.commit(id, { token: 1, complete: {}, expiresAt: 2000 });
    expect(await a.move(id, 2, 'b')).toMatchObject({ node: 'b' });
    expect([await a.dueDeliveries(0), await b.dueDeliveries(0)]).toEqual([[], [id]]);
    expect([await a.expired(2000), await b.expired(2000)]).toEqual([[], [id]]);
    expect(await a.move(id, 3, 'a')).toMatchObject({ node: 'a' });
    await b.remove(id);
    expect([await a.dueDeliveries(0), await b.dueDeliveries(0)]).toEqual([[], []]);
    expect(await server.cli('keys', `*${id}*`)).toBe('');
  });

  test('leave nothing behind but what the installation is', async () => {
    const a = redis.store;
    const { id } = await a.create(newUpload({ node: 'b' }));
    await b.commit(id, { token: 1, chunk: { name: 'c', start: 0, size: 5 }, expiresAt: later });
    await a.remove(id);
    expect((await server.cli('keys', '*')).split('\n').sort()).toEqual(['{rufh:0}:totals', '{rufh}:store']);
    expect(await a.totals()).toEqual({ phases: {}, bytes: 0 });
  });
});

test.each([-2 * HOUR, 2 * HOUR])(
  'a node whose clock is apart by %s ms sees each upload end when it ends',
  async (apart) => {
    const clock = (): number => Date.now() + apart;
    const other = await RedisConnection.open(settingsFor(server.port), silentLog(), { clock });
    const store = new RedisStore({ connection: other, node: 'a' });
    try {
      const made = await redis.store.create(newUpload({ node: 'a' }));
      const seen = await store.get(made.id);
      expect(Math.abs(seen!.expiresAt - clock() - (made.expiresAt - Date.now()))).toBeLessThan(1000);
      const end = clock() + HOUR;
      const kept = (await store.commit(made.id, { token: 1, expiresAt: end })) as Upload;
      expect(Math.abs(kept.expiresAt - end)).toBeLessThan(1000);
      expect(Math.abs((await redis.store.get(made.id))!.expiresAt - later)).toBeLessThan(60_000);
      const endless = await store.create(newUpload({ node: 'a', expiresAt: Infinity }));
      expect((await redis.store.get(endless.id))!.expiresAt).toBe(Infinity);
    } finally {
      await store.close();
      await other.close();
    }
  },
);

test('an upload that has expired is handed out to one of those who sweep', async () => {
  const { id } = await redis.store.create(newUpload({ node: 'a', expiresAt: 1000 }));
  const another = new RedisStore({ connection: redis.connection, node: 'a' });
  const handedOut = await Promise.all([redis.store.expired(1000), another.expired(1000), another.expired(1000)]);
  expect(handedOut.flat()).toEqual([id]);
  await another.close();
});

test('a turn is for one at a time, and comes again', async () => {
  const { connection } = redis;
  const asked = await Promise.all([1, 2, 3].map(() => tryAcquire(connection, 'orphans', 1000)));
  expect(asked.filter((isOurs) => isOurs)).toHaveLength(1);
  expect(await tryAcquire(connection, 'other', 40)).toBe(true);
  await until(() => tryAcquire(connection, 'orphans', 1000), 'the turn comes again');
});

describe('keys', () => {
  test('of an upload and its indexes are in one slot, and uploads are spread over all', () => {
    const keys = new RedisKeys('rufh', 'cluster');
    const buckets = new Set<number>();
    for (let count = 0; count < 2000; count++) {
      const id = newId();
      const bucket = keys.bucketOf(id);
      buckets.add(bucket);
      for (const key of [
        ...Object.values<string>({ ...keys.upload(id) }),
        keys.due(bucket, 'n'),
        keys.expires(bucket, ''),
      ])
        expect(key).toMatch(new RegExp(`^\\{rufh:${bucket}\\}:`));
    }
    expect(buckets.size).toBe(64);
  });

  test('of an id are the same in every version: what is stored must be found again', () => {
    const id = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA';
    expect(new RedisKeys('rufh', 'cluster').upload(id).record).toBe(`{rufh:46}:u:${id}`);
    expect(new RedisKeys('rufh', 'single').upload(id).record).toBe(`{rufh:0}:u:${id}`);
  });
});

describe("the server's clock", () => {
  test('is followed when it differs noticeably, and not with every hurdle on the way', () => {
    let now = 1_000_000;
    const clock = new ServerClock(() => now);
    clock.observe(1_000_100, now);
    expect(clock.toServerTime(5000)).toBe(5000);
    clock.observe(1_060_000, now);
    expect(clock.toServerTime(5000)).toBe(65_000);
    const askedAt = now;
    now += 600;
    clock.observe(1_060_600, askedAt);
    expect(clock.toServerTime(5000)).toBe(65_000);
    expect(clock.toServerTime(Infinity)).toBe('+inf');
  });
});
