import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe } from '@jest/globals';
import { silentLog } from '../../src/observe/log.js';
import { RedisConnection } from '../../src/store/redis/redis-connection.js';
import type { RedisSettings } from '../../src/store/redis/redis-settings.js';
import { RedisStore } from '../../src/store/redis/redis-store.js';
import { REDIS_PROGRAMS } from '../support/redis-server.js';
import { startRedis, startRedisCluster, startSentinels } from '../support/redis-servers.js';
import { describeStore, type StoreUnderTest } from './store-contract.js';
import { describeStoreModel } from './store-model-contract.js';

type Servers = Pick<RedisSettings, 'kind' | 'nodes' | 'masterName'> & { readonly stop: () => Promise<void> };

const addressOf = ({ port }: { readonly port: number }) => ({ host: '127.0.0.1', port });

async function single(program?: string): Promise<Servers> {
  const server = await startRedis({ program });
  return { kind: 'single', nodes: [addressOf(server)], stop: () => server.stop() };
}

async function cluster(program?: string): Promise<Servers> {
  const servers = await startRedisCluster({ program });
  return { kind: 'cluster', nodes: servers.masters.slice(0, 1).map(addressOf), stop: () => servers.stop() };
}

async function sentinels(): Promise<Servers> {
  const set = await startSentinels();
  return { kind: 'sentinel', nodes: set.sentinels.map(addressOf), masterName: set.name, stop: () => set.stop() };
}

/** Each test has a prefix of its own; a store that is opened again has a connection of its own. */
async function makeStore({ kind, nodes, masterName }: Servers): Promise<StoreUnderTest> {
  const settings = { kind, nodes, masterName, prefix: randomBytes(6).toString('hex') };
  let close = (): Promise<void> => Promise.resolve();
  const open = async (): Promise<RedisStore> => {
    const connection = await RedisConnection.open(settings, silentLog());
    const store = new RedisStore({ connection, node: '' });
    close = async () => {
      await store.close();
      await connection.close();
    };
    return store;
  };
  return {
    store: await open(),
    claimsAreShared: true,
    reopen: async () => {
      await close();
      return open();
    },
    dispose: () => close(),
  };
}

describe.each<[string, () => Promise<Servers>]>([
  ['Redis 7', () => single()],
  ['Redis 6.2', () => single(REDIS_PROGRAMS['Redis 6.2'])],
  ['Valkey', () => single(REDIS_PROGRAMS.Valkey)],
  ['Redis 7 Cluster', () => cluster()],
  ['Redis 6.2 Cluster', () => cluster(REDIS_PROGRAMS['Redis 6.2'])],
  ['Sentinel', sentinels],
])('%s', (name, start) => {
  let servers: Servers;
  beforeAll(async () => {
    servers = await start();
  });
  afterAll(() => servers.stop());

  describeStore(name, () => makeStore(servers));
  describeStoreModel(name, () => makeStore(servers), 15);
});
