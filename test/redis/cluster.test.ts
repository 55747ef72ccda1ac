import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { RedisConnection } from '../../src/store/redis/connection.js';
import { ServerClock } from '../../src/store/redis/health.js';
import { RedisKeys } from '../../src/store/redis/keys.js';
import { tryAcquire } from '../../src/store/redis/nodes.js';
import { RedisStore } from '../../src/store/redis/redis-store.js';
import { answer, attempt, HOUR, newId, newUpload } from '../contract/sample-upload.js';
import { type RedisCluster, RedisServer, startRedisCluster } from '../support/redis-server.js';
import { type OpenedRedis, openRedis, RedisResources, settingsFor } from '../support/redis-store.js';
import { until, within } from '../support/temporary.js';

describe('cluster', () => {
  const later = Date.now() + HOUR;
  const patient = new AbortController().signal;
  const resources = new RedisResources();

  afterEach(() => resources.close());

  async function start(replicas: number): Promise<RedisCluster> {
    const cluster = await startRedisCluster({ replicas });
    resources.endsWith(() => cluster.stop());
    return cluster;
  }

  function opened({ masters }: RedisCluster): Promise<OpenedRedis> {
    const nodes = masters.map(({ port }) => ({ host: '127.0.0.1', port }));
    return resources.opened(settingsFor(1, { kind: 'cluster', nodes }));
  }

  /** Uploads enough that every server has some. */
  async function delivering({ store }: OpenedRedis, count = 60): Promise<string[]> {
    const made = await Promise.all(Array.from({ length: count }, () => store.create(newUpload())));
    for (const { id } of made) {
      await store.commit(id, { token: 1, complete: {}, expiresAt: later });
      await store.claimDelivery(id, 'w', later);
    }
    return made.map(({ id }) => id);
  }

  /** Until its replica has all that it was told so far. */
  async function untilReplicated(master: RedisServer): Promise<void> {
    const offset = async (pattern: RegExp): Promise<number> =>
      Number(pattern.exec(await master.cli('info', 'replication'))?.[1]);
    const told = await offset(/master_repl_offset:(\d+)/);
    await until(async () => (await offset(/^slave0:.*offset=(\d+)/m)) >= told, 'the replica to have it');
  }

  test('a cluster that replaces one of its masters is followed, with what it knows and what it tells', async () => {
    const cluster = await start(1);
    const [waiting, working] = [await opened(cluster), await opened(cluster)];
    const ids = await delivering(working);
    const settled = ids.map((id) => waiting.store.waitUntilSettled(id, patient));
    await untilReplicated(cluster.masters[0]!);
    await cluster.masters[0]!.kill();
    const readAll = (): Promise<unknown> => Promise.all(ids.map((id) => working.store.get(id))).catch(() => false);
    await until(readAll, 'every upload is known again', 30_000);
    await until(() => working.connection.unavailableReason === undefined, 'it is ready again');
    for (const id of ids)
      await until(
        () => working.store.recordAnswer(id, 'w', { answer: answer(0), expiresAt: later }).catch(() => false),
        'the answer',
      );
    for (const upload of await within(Promise.all(settled), 'those who wait')) expect(upload?.phase).toBe('answered');
    expect((await working.store.totals()).phases).toEqual({ answered: ids.length });
    await until(() => waiting.connection.unavailableReason === undefined, 'the other is ready as well');
    expect(waiting.lines.filter(({ msg }) => msg.startsWith('Redis is not available')).length).toBeLessThan(4);
  });

  test('messages of every server are heard again after it was away', async () => {
    const cluster = await start(0);
    const [waiting, working] = [await opened(cluster), await opened(cluster)];
    const ids = await delivering(working);
    const heard = new Set<string>();
    waiting.connection.bus.on('settled', (id) => heard.add(id));
    await Promise.all(cluster.masters.map((master) => master.restart()));
    await until(
      async () => (await cluster.masters[0]!.cli('cluster', 'info')).includes('cluster_state:ok'),
      'the cluster',
    );
    const again = await until(
      () => delivering(working, 60).catch(() => false as const),
      'it takes uploads again',
      30_000,
    );
    // Their store is new: what was known before the restart is gone.
    expect(await working.store.get(ids[0]!)).toBeUndefined();
    const all = async (): Promise<boolean> => {
      await Promise.allSettled(again.map((id) => working.store.cancel(id)));
      return again.every((id) => heard.has(id));
    };
    await until(all, () => `${heard.size} of ${again.length} were heard`, 30_000);
  });
});

describe('nodes apart', () => {
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
      expect(await b.beginEagerAttempt(id, attempt(1, { inPart: true }))).toBe('stale');
      expect(await a.commit(id, { token: 2, chunk, complete: {}, expiresAt: later })).toMatchObject({ offset: 5 });
      expect(await b.claimDelivery(id, 'w', later)).toBeUndefined();
      expect(await a.claimDelivery(id, 'w', later)).toMatchObject({ phase: 'delivering', attempts: [] });
    });

    test('are answered early from elsewhere only with what is kept in the record', async () => {
      const a = redis.store;
      const { id } = await a.create(newUpload({ node: 'a' }));
      await a.beginEagerAttempt(id, attempt(1, { inPart: true }));
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
      expect(await a.totals()).toEqual({ phases: {}, bytes: 0, reservedBytes: 0 });
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
});

describe('work', () => {
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
});
