import { afterEach, describe, expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import { settingsFor, type OpenedRedis } from '../support/opened-redis.js';
import { RedisRoom } from '../support/redis-room.js';
import { until } from '../support/temporary.js';

const room = new RedisRoom();

afterEach(() => room.close());

const said = ({ lines }: OpenedRedis, words: string): number => lines.filter(({ msg }) => msg.includes(words)).length;

describe('a Redis whose data are others than before', () => {
  test('is told to those who have to note it, again until they have', async () => {
    const server = await room.start();
    const redis = await room.opened(settingsFor(server.port));
    const noted: string[] = [];
    redis.connection.onStoreReplaced((storeId) => {
      noted.push(storeId);
      return noted.length > 1 ? Promise.resolve() : Promise.reject(new Fault('STORAGE_FULL', '/data is full', true));
    });
    await server.cli('flushall');
    await until(() => redis.connection.unavailableReason === '/data is full', 'the failure is known');
    await until(() => redis.connection.unavailableReason === undefined, 'it is noted');
    expect(noted).toEqual([redis.connection.storeId, redis.connection.storeId]);
    expect(said(redis, 'came back empty')).toBe(1);
  });

  test('is noted by every process, whichever of them found it out', async () => {
    const server = await room.start();
    const both = [await room.opened(settingsFor(server.port)), await room.opened(settingsFor(server.port))];
    const noted = new Set<string>();
    let told = 0;
    for (const { connection } of both)
      connection.onStoreReplaced((storeId) => {
        told += 1;
        return Promise.resolve(void noted.add(storeId));
      });
    await server.cli('flushall');
    await until(() => told === 2, 'both are told');
    expect([...noted]).toEqual([both[0]!.connection.storeId]);
  });

  test('is no loss as long as it is only a replica that is not filled yet', async () => {
    const [master, replica] = [await room.start(), await room.start()];
    const redis = await room.opened(settingsFor(replica.port));
    await replica.cli('replicaof', '127.0.0.1', `${master.port}`);
    await until(() => redis.connection.unavailableReason?.includes('is a read-only replica'), 'it is known to be one');
    expect(said(redis, 'came back empty')).toBe(0);
  });
});
