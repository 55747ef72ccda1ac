import { readFile } from 'node:fs/promises';
import type { HealthCheck } from './admin/readiness.js';
import type { Config } from './config/config.js';
import type { RedisConfig } from './config/store-config.js';
import { nodeName } from './disk/node-name.js';
import { LocalSpool } from './spool/local-spool.js';
import { directoryCheck, lockDirectory, type Storage, type StorageRooms } from './storage.js';
import { RedisConnection } from './store/redis/redis-connection.js';
import { RedisLeases } from './store/redis/redis-leases.js';
import { RedisNodes } from './store/redis/redis-nodes.js';
import type { RedisSettings } from './store/redis/redis-settings.js';
import { RedisStore } from './store/redis/redis-store.js';
import { takeTurn } from './store/redis/redis-turns.js';

/** The store that many processes share, and a spool that is shared as well or belongs to this node. */
export async function openRedisStorage(
  config: Config & { readonly store: RedisConfig },
  { log, clock, opened }: StorageRooms,
): Promise<Storage> {
  const { data, spool: spoolConfig } = config;
  const node = spoolConfig.shared ? undefined : await ownDirectory(config, opened);
  const connection = await RedisConnection.open(await settingsOf(config.store), log, clock);
  opened.push(() => connection.close());
  const store = new RedisStore({ connection, node: node ?? '' });
  opened.push(() => store.close());
  const leases = new RedisLeases(connection);
  opened.push(() => Promise.resolve(leases.close()));
  const spool = new LocalSpool({ directory: data, sync: spoolConfig.sync });
  await spool.open();
  return {
    store,
    leases,
    spool,
    ...(node === undefined ? {} : { node, nodes: new RedisNodes(connection) }),
    checks: [directoryCheck(data), storeCheck(connection)],
    recover: () => Promise.resolve(),
    mayLookForOrphans: () => takeTurn(connection, `orphans:${node ?? ''}`, ORPHANS_TURN_MS),
  };
}

/** For all the processes of one node; a primary process has locked it for its workers. */
async function ownDirectory({ data, workers }: Config, opened: StorageRooms['opened']): Promise<string> {
  if (workers === 1) await lockDirectory(data, opened);
  return nodeName(data);
}

async function settingsOf(config: RedisConfig): Promise<RedisSettings> {
  const { nodes, socketPath, tls, sentinelUsername, sentinelPassword, ...rest } = config;
  return {
    ...rest,
    nodes: socketPath === undefined ? nodes : [{ path: socketPath }],
    ...(tls ? { tls: await tlsOf(tls) } : {}),
    sentinel: {
      ...(sentinelUsername === undefined ? {} : { username: sentinelUsername }),
      ...(sentinelPassword === undefined ? {} : { password: sentinelPassword }),
    },
  };
}

async function tlsOf({ ca, cert, key, serverName }: NonNullable<RedisConfig['tls']>): Promise<RedisSettings['tls']> {
  return {
    ...(ca === undefined ? {} : { ca: await readFile(ca) }),
    ...(cert === undefined ? {} : { cert: await readFile(cert) }),
    ...(key === undefined ? {} : { key: await readFile(key) }),
    ...(serverName === undefined ? {} : { serverName }),
  };
}

/** Reading a whole spool is work enough for one process now and then. */
const ORPHANS_TURN_MS = 60_000;

function storeCheck(connection: RedisConnection): HealthCheck {
  return { name: 'store', check: () => Promise.resolve(connection.trouble) };
}
