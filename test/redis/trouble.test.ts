import { afterEach, describe, expect, test } from '@jest/globals';
import type { Upload } from '../../src/model/upload.js';
import { answer, HOUR, newUpload } from '../contract/sample-upload.js';
import { CuttingProxy } from '../support/network.js';
import { startSentinels } from '../support/redis-server.js';
import { type OpenedRedis, RedisResources, settingsFor } from '../support/redis-store.js';
import { until, within } from '../support/temporary.js';

describe('trouble', () => {
  const later = Date.now() + HOUR;
  const patient = new AbortController().signal;
  const resources = new RedisResources();
  const { start, opened } = resources;

  afterEach(() => resources.close());

  async function received({ store }: OpenedRedis, size = 5): Promise<Upload> {
    const { id } = await store.create(newUpload());
    return (await store.commit(id, {
      token: 1,
      chunk: { name: 'chunk-1', start: 0, size },
      expiresAt: later,
    })) as Upload;
  }

  const unavailable = (message: string) => ({
    code: 'STORE_UNAVAILABLE',
    retryable: true,
    message: expect.stringContaining(message),
  });

  function said({ lines }: OpenedRedis, words: string): number {
    return lines.filter(({ msg }) => msg.includes(words)).length;
  }

  describe('a Redis that goes away and comes back', () => {
    test('a stopped one fails each step soon, and is used again when it runs on', async () => {
      const server = await start('appendonly yes');
      const redis = await opened(settingsFor(server.port));
      const { id } = await received(redis);
      server.pause();
      await expect(redis.store.get(id)).rejects.toMatchObject(unavailable('does not answer in time'));
      await expect(redis.store.create(newUpload())).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      expect(redis.connection.unavailableReason).toContain('does not answer in time');
      server.resume();
      await until(() => redis.connection.unavailableReason === undefined, 'Redis is ready again');
      expect(await redis.store.get(id)).toMatchObject({ offset: 5 });
      expect([said(redis, 'Redis is not available'), said(redis, 'available again')]).toEqual([1, 1]);
    });

    test('one that comes back with another password says so once more', async () => {
      const server = await start('requirepass one');
      const network = await CuttingProxy.start(server.port);
      resources.endsWith(() => network.stop());
      const redis = await opened(settingsFor(network.port, { password: 'one' }));
      await network.cut();
      await until(() => redis.connection.unavailableReason?.includes('ECONNREFUSED'), 'Redis to be away');
      await server.cli('-a', 'one', 'config', 'set', 'requirepass', 'two');
      await network.restore();
      await until(() => said(redis, 'refuses the user name or the password') > 0, 'the new reason to be said', 20_000);
      expect([said(redis, 'Redis is not available'), said(redis, 'available again')]).toEqual([2, 0]);
    });

    test('it is noticed when nobody asks for anything', async () => {
      const server = await start('appendonly yes');
      const { connection } = await opened(settingsFor(server.port));
      await server.kill();
      await until(() => connection.unavailableReason?.includes('ECONNREFUSED'), 'the loss is known');
      await server.restart();
      await until(() => connection.unavailableReason === undefined, 'the return is known');
    });

    test('a step that cannot be sent fails at once and is never done later', async () => {
      const server = await start('appendonly yes', 'appendfsync always');
      const redis = await opened(settingsFor(server.port));
      const { id } = await received(redis);
      await server.kill();
      await expect(redis.store.cancel(id)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      await expect(redis.store.cancel(id)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      await server.restart();
      await until(() => redis.connection.unavailableReason === undefined, 'Redis is ready again');
      expect(await redis.store.get(id)).toMatchObject({ phase: 'receiving', offset: 5 });
    });

    test('a network that loses everything silently is left behind', async () => {
      const server = await start();
      const network = await CuttingProxy.start(server.port);
      resources.endsWith(() => network.stop());
      const redis = await opened(settingsFor(network.port));
      const { id } = await received(redis);
      const before = network.connections;
      network.hang();
      await expect(redis.store.get(id)).rejects.toMatchObject(unavailable('does not answer in time'));
      await until(() => network.connections > before + 1, 'both connections are made anew', 20_000);
      await network.restore();
      await until(() => redis.connection.unavailableReason === undefined, 'Redis is ready again');
      expect(await redis.store.get(id)).toMatchObject({ offset: 5 });
    });

    test('who waits for a delivery hears of it although the message was lost', async () => {
      const server = await start();
      const network = await CuttingProxy.start(server.port);
      resources.endsWith(() => network.stop());
      const waiting = await opened(settingsFor(network.port));
      const working = await opened(settingsFor(server.port));
      const { id } = await received(working);
      await working.store.commit(id, { token: 1, complete: {}, expiresAt: later });
      await working.store.claimDelivery(id, 'a', later);
      const settled = waiting.store.waitUntilSettled(id, patient);
      // Asked after it had looked for the first time, and answered after that.
      expect(await waiting.store.get(id)).toMatchObject({ phase: 'delivering' });
      await network.cut();
      await working.store.recordAnswer(id, 'a', { answer: answer(0), expiresAt: later });
      await network.restore();
      expect(await within(settled, 'the answer')).toMatchObject({ phase: 'answered' });
    });

    test('one that came back empty is said to need persistence, and is used as a new one', async () => {
      const server = await start();
      const redis = await opened(settingsFor(server.port));
      const { id } = await received(redis);
      const before = redis.connection.storeId;
      await server.restart();
      await until(() => redis.connection.storeId !== before, 'the empty store is recognized');
      expect(said(redis, 'came back empty')).toBe(1);
      expect(redis.lines.find(({ msg }) => msg.includes('came back empty'))).toMatchObject({
        level: 'error',
        msg: expect.stringContaining('`appendonly yes`'),
      });
      expect(await redis.store.get(id)).toBeUndefined();
      expect(await redis.store.commit(id, { token: 1, expiresAt: later })).toBe('gone');
    });

    test('one that was flushed while it ran is noticed too', async () => {
      const server = await start();
      const redis = await opened(settingsFor(server.port));
      await received(redis);
      await server.cli('flushall');
      await until(() => said(redis, 'came back empty') === 1, 'the loss is said');
      await until(() => redis.connection.unavailableReason === undefined, 'it is used again');
      expect(await redis.store.totals()).toEqual({ phases: {}, bytes: 0, reservedBytes: 0 });
    });
  });

  describe('a Redis that takes no writes', () => {
    test('without memory, nothing grows, and what makes room still works', async () => {
      const server = await start('maxmemory-policy noeviction');
      const redis = await opened(settingsFor(server.port));
      const { store, connection } = redis;
      const [growing, cancelled, old] = [await received(redis), await received(redis), await received(redis)];
      const delivered = await received(redis);
      await store.commit(delivered.id, { token: 1, complete: {}, expiresAt: later });
      await store.claimDelivery(delivered.id, 'a', later);
      await store.commit(old.id, { token: 1, expiresAt: 5000 });
      await server.cli('config', 'set', 'maxmemory', '1');
      const chunk = { name: 'chunk-1', start: 0, size: 9 };
      const commit = store.commit(growing.id, { token: 1, chunk, expiresAt: later });
      await expect(commit).rejects.toMatchObject(unavailable('has no memory left: raise its `maxmemory`'));
      await expect(store.create(newUpload())).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      expect(connection.unavailableReason).toContain('has no memory left');
      expect(await store.get(growing.id)).toMatchObject({ offset: 5, phase: 'receiving' });
      expect(await store.cancel(cancelled.id)).toMatchObject({ phase: 'cancelled' });
      expect([...(await store.expired(Date.now()))].sort()).toEqual([cancelled.id, old.id].sort());
      expect(
        await store.recordAnswer(delivered.id, 'a', { answer: answer(1), body: Buffer.from('x'), expiresAt: later }),
      ).toMatchObject({
        phase: 'answered',
      });
      await store.remove(old.id);
      expect((await store.totals()).phases).toMatchObject({ receiving: 1, cancelled: 1, answered: 1 });
      await server.cli('config', 'set', 'maxmemory', '0');
      await until(() => connection.unavailableReason === undefined, 'Redis takes writes again');
      expect(said(redis, 'Redis is not available')).toBe(1);
    });

    test('a master that became a replica is said to be one', async () => {
      const [server, other] = [await start(), await start()];
      const { store, connection } = await opened(settingsFor(server.port));
      await server.cli('replicaof', '127.0.0.1', `${other.port}`);
      await expect(store.create(newUpload())).rejects.toMatchObject(unavailable('is a read-only replica'));
      await until(() => connection.unavailableReason?.includes('is a read-only replica'), 'it is known');
      await server.cli('replicaof', 'no', 'one');
      await until(() => connection.unavailableReason === undefined, 'it takes writes again');
      expect(await store.create(newUpload())).toMatchObject({ phase: 'receiving' });
    });

    test('too few replicas refuse what is not safe enough', async () => {
      const master = await start();
      const replica = await start(`replicaof 127.0.0.1 ${master.port}`);
      const linked = async (): Promise<boolean> => (await master.cli('info', 'replication')).includes('state=online');
      await until(linked, 'replication');
      const redis = await opened(settingsFor(master.port, { replicas: 1 }));
      const { id } = await until(() => received(redis).catch(() => false as const), 'the replica follows');
      replica.pause();
      const commit = { token: 1, chunk: { name: 'chunk-1', start: 0, size: 9 }, expiresAt: later };
      const refused = unavailable('enough replicas in time: see store.replicas');
      await expect(redis.store.commit(id, commit)).rejects.toMatchObject(refused);
      replica.resume();
      const again = await until(
        () => redis.store.commit(id, commit).catch(() => false as const),
        'the replica follows',
      );
      expect(again).toMatchObject({ offset: 9 });
    });
  });

  test('when a Sentinel set replaces its master, the store goes on with the new one', async () => {
    const set = await startSentinels();
    resources.endsWith(() => set.stop());
    const nodes = set.sentinels.map(({ port }) => ({ host: '127.0.0.1', port }));
    const settings = { kind: 'sentinel', nodes, masterName: set.name, prefix: 'rufh', replicas: 1 } as const;
    const redis = await opened({ ...settings, replicas: 0 });
    const sure = await opened(settings);
    const { id } = await received(sure);
    await (await set.master()).kill();
    await until(() => redis.store.get(id).catch(() => false), 'the new master answers', 30_000);
    await until(() => redis.connection.unavailableReason === undefined, 'it is ready');
    expect(await redis.store.get(id)).toMatchObject({ offset: 5 });
    expect(await redis.store.commit(id, { token: 2, complete: {}, expiresAt: later })).toMatchObject({ length: 5 });
  });

  test('what two prefixes keep in one Redis does not meet', async () => {
    const { port } = await start();
    const [one, other] = [await opened(settingsFor(port)), await opened(settingsFor(port, { prefix: 'rufh2' }))];
    const { id } = await received(one);
    expect(await other.store.get(id)).toBeUndefined();
    expect(await other.store.list(undefined, 5)).toEqual({ uploads: [] });
    expect(await other.store.totals()).toEqual({ phases: {}, bytes: 0, reservedBytes: 0 });
    expect(other.connection.storeId).not.toBe(one.connection.storeId);
    expect(other.connection.isNewStore).toBe(true);
  });
});
