import type { RedisSettings } from '../../src/store/redis/errors.js';
import { REDIS_PROGRAMS, type RedisOptions } from './redis-server.js';
import { startRedis, startRedisCluster, startSentinels } from './redis-servers.js';
import { only } from './thoroughness.js';

/** Somewhere a store can be: real servers, in one of the ways they are run. */
export interface RedisPlace {
  /** How to get there. Each prefix is a world of its own. */
  settings(prefix?: string): RedisSettings;
  stop(): Promise<void>;
}

/** Every way that we support; what holds in one has to hold in all. */
const REDIS_PLACES: Readonly<Record<string, () => Promise<RedisPlace>>> = {
  'Redis 7': () => single(),
  'Redis 6.2': () => single({ program: REDIS_PROGRAMS['Redis 6.2'] }),
  Valkey: () => single({ program: REDIS_PROGRAMS.Valkey }),
  'Redis 7, three masters': () => cluster(),
  'Redis 6.2, three masters': () => cluster({ program: REDIS_PROGRAMS['Redis 6.2'] }),
  'Redis 7 with sentinels': () => sentinels(),
};

/** Those that a contract suite runs on: the oldest server and the most that a client has to find its way through, or all. */
export const CONTRACT_PLACES = only(
  Object.entries(REDIS_PLACES),
  ([name]) => name === 'Redis 6.2' || name === 'Redis 7, three masters',
);

/** Nobody is killed there: a server of a busy machine that is late is not to lose its place. */
const NEVER_MISSED_MS = 5_000;

async function single(options: RedisOptions = {}): Promise<RedisPlace> {
  const server = await startRedis(options);
  return {
    settings: (prefix = 'rufh') => ({ kind: 'single', nodes: [{ host: '127.0.0.1', port: server.port }], prefix }),
    stop: () => server.stop(),
  };
}

async function cluster(options: RedisOptions = {}): Promise<RedisPlace> {
  const servers = await startRedisCluster({ ...options, missedAfterMs: NEVER_MISSED_MS });
  // The others are found by themselves.
  const nodes = servers.masters.slice(0, 1).map(({ port }) => ({ host: '127.0.0.1', port }));
  return { settings: (prefix = 'rufh') => ({ kind: 'cluster', nodes, prefix }), stop: () => servers.stop() };
}

async function sentinels(): Promise<RedisPlace> {
  const set = await startSentinels({ missedAfterMs: NEVER_MISSED_MS });
  const nodes = set.sentinels.map(({ port }) => ({ host: '127.0.0.1', port }));
  return {
    settings: (prefix = 'rufh') => ({ kind: 'sentinel', nodes, masterName: set.name, prefix }),
    stop: () => set.stop(),
  };
}
