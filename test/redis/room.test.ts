import { afterEach, describe, expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import type { RedisConnection } from '../../src/store/redis/connection.js';
import { RedisKeys } from '../../src/store/redis/keys.js';
import { RedisUsage } from '../../src/store/redis/usage.js';
import { HOUR, newUpload } from '../contract/sample-upload.js';
import { type OpenedRedis, RedisResources, settingsFor } from '../support/redis-store.js';

const later = Date.now() + HOUR;

describe('records of an older version', () => {
  const resources = new RedisResources();
  afterEach(() => resources.close());

  async function opened(): Promise<OpenedRedis> {
    const server = await resources.start();
    return resources.opened(settingsFor(server.port));
  }

  const hash = ({ connection }: OpenedRedis, key: string): Promise<Record<string, string>> =>
    connection.call(key, (client) => client.hgetall(key));

  /** An older version counts nothing of an upload. */
  async function createdBefore(redis: OpenedRedis, length: number): Promise<string> {
    const { connection, store } = redis;
    const { id } = await store.create(newUpload({ length }));
    const { usage } = connection.keys.bucket(connection.keys.bucketOf(id));
    await connection.call(usage, (client) => client.hdel(connection.keys.upload(id).record, 'counted', 'route'));
    await connection.call(usage, (client) => client.del(usage));
    return id;
  }

  test('an upload that was let in by it can finish where there would be no room for a new one', async () => {
    const redis = await opened();
    const id = await createdBefore(redis, 100);
    const full = { all: { uploads: 0, bytes: 0 }, unwrittenBytes: 0 };
    const chunk = { name: 'chunk-1', start: 0, size: 60 };
    await redis.store.commit(id, { token: 1, chunk, expiresAt: later, capacity: full });
    const end = { token: 1, chunk: { ...chunk, size: 100 }, complete: {}, expiresAt: later, capacity: full };
    expect(await redis.store.commit(id, end)).toMatchObject({ phase: 'complete', offset: 100 });
    const { usage } = redis.connection.keys.bucket(0);
    expect(await hash(redis, usage)).toEqual({ uploads: '1', bytes: '100' });
  });

  test('are counted anew, and nothing else is', async () => {
    const redis = await opened();
    const { connection, store } = redis;
    const { usage, totals } = connection.keys.bucket(0);
    await createdBefore(redis, 1000);
    const made = [
      await store.create(newUpload({ length: 100, route: 'photos', client: 'alice', node: 'a' })),
      await store.create(newUpload({ length: 200, route: 'photos', client: 'bob', node: 'b' })),
      await store.create(newUpload({ route: 'films', client: 'alice' })),
      await store.create(newUpload({ length: 7 })),
    ];
    await store.commit(made[2]!.id, { token: 1, chunk: { name: 'c', start: 0, size: 70_000 }, expiresAt: later });
    await store.cancel(made[3]!.id);
    const before = { usage: await hash(redis, usage), totals: await hash(redis, totals) };
    await connection.call(usage, (client) => client.hincrby(usage, 'uploads:client:carol', 5));
    await connection.call(usage, (client) => client.hincrby(totals, 'complete', 5));
    await new RedisUsage(connection).recount();
    const after = { usage: await hash(redis, usage), totals: await hash(redis, totals) };
    const sum = (name: string, more: number): string => String(Number(before.usage[name] ?? 0) + more);
    expect(after.usage).toEqual({
      ...before.usage,
      uploads: sum('uploads', 1),
      bytes: sum('bytes', 1000),
      'unwritten:': sum('unwritten:', 1000),
    });
    // The first upload was still counted there.
    expect(after.totals).toEqual(before.totals);
    await new RedisUsage(connection).recount();
    expect(await hash(redis, usage)).toEqual(after.usage);
  });
});

test('a server of a cluster that is away holds up no upload of the others', async () => {
  const keys = new RedisKeys('rufh', 'cluster');
  const { usage } = keys.bucket((keys.bucketOf('id') + 1) % 64);
  let isAway = false;
  let hangs = false;
  const connection = {
    keys,
    call: (key: string): Promise<Record<string, string>> => {
      if (key === usage && hangs) return new Promise(() => undefined);
      if (key === usage && isAway) return Promise.reject(new Fault('STORE_UNAVAILABLE', 'it is away', true));
      return Promise.resolve({ uploads: key === usage ? '7' : '1' });
    },
  } as unknown as RedisConnection;
  const used = new RedisUsage(connection, 0);
  const rest = async (): Promise<unknown> => (await used.limitArguments({ id: 'id' }, { all: { uploads: 100 } }))[4];
  expect(await rest()).toBe(100 - 62 - 7);
  isAway = true;
  expect(await rest()).toBe(100 - 62 - 7);
  hangs = true;
  expect(await rest()).toBe(100 - 62 - 7);
});
