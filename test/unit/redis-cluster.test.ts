import { afterEach, expect, test } from '@jest/globals';
import { answer, HOUR, newUpload } from '../contract/sample-upload.js';
import { settingsFor, type OpenedRedis } from '../support/opened-redis.js';
import { RedisRoom } from '../support/redis-room.js';
import type { RedisServer } from '../support/redis-server.js';
import { startRedisCluster, type RedisCluster } from '../support/redis-servers.js';
import { until, within } from '../support/temporary.js';

const later = Date.now() + HOUR;
const patient = new AbortController().signal;
const room = new RedisRoom();

afterEach(() => room.close());

async function start(replicas: number): Promise<RedisCluster> {
  const cluster = await startRedisCluster({ replicas });
  room.endsWith(() => cluster.stop());
  return cluster;
}

function opened({ masters }: RedisCluster): Promise<OpenedRedis> {
  const nodes = masters.map(({ port }) => ({ host: '127.0.0.1', port }));
  return room.opened(settingsFor(1, { kind: 'cluster', nodes }));
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
