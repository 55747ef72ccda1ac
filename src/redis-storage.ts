import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { HealthCheck } from './admin/readiness.js';
import type { Config } from './config/config.js';
import type { RedisConfig } from './config/store-config.js';
import { DirectorySync } from './disk/directory-sync.js';
import { nodeName } from './disk/node-name.js';
import { Fault } from './model/fault.js';
import type { Log } from './observe/log.js';
import { LocalSpool } from './spool/local-spool.js';
import {
  assertShareable,
  noteSpoolIdentity,
  type SpoolIdentity,
  spoolIdentity,
  spoolIdentitySince,
} from './spool/shared-directory.js';
import { directoryCheck, lockDirectory, type OtherNodes, type Storage, type StorageRooms } from './storage.js';
import { noteStart } from './store/embedded/last-start.js';
import { RedisConnection } from './store/redis/redis-connection.js';
import { RedisLeases } from './store/redis/redis-leases.js';
import { RedisNodes } from './store/redis/redis-nodes.js';
import type { RedisSettings } from './store/redis/redis-settings.js';
import { RedisStore } from './store/redis/redis-store.js';
import { takeTurn } from './store/redis/redis-turns.js';
import { untilAvailable } from './store/until-available.js';
import { type RecoveryRooms, recoverNode } from './uploads/recovery.js';

type RedisBacked = Config & { readonly store: RedisConfig };

/** The store that many processes share, and a spool that is shared as well or belongs to this node. */
export async function openRedisStorage(config: RedisBacked, { log, clock, opened }: StorageRooms): Promise<Storage> {
  const { data, spool: spoolConfig } = config;
  if (spoolConfig.shared) await assertShareable(data, randomUUID());
  const node = spoolConfig.shared ? undefined : await ownDirectory(config, opened);
  const connection = await RedisConnection.open(await settingsOf(config.store), log, clock);
  opened.push(() => connection.close());
  const store = new RedisStore({ connection, node: node ?? '' });
  opened.push(() => store.close());
  const leases = new RedisLeases(connection);
  opened.push(() => Promise.resolve(leases.close()));
  const spool = new LocalSpool({ directory: data, sync: spoolConfig.sync, shared: spoolConfig.shared });
  connection.onOtherStore((storeId) => noteSpoolIdentity(data, storeId, randomUUID()));
  await claimSpool(config, connection, log);
  await spool.open();
  return {
    store,
    leases,
    spool,
    ...(node === undefined ? {} : { node, others: othersIn(connection) }),
    checks: [directoryCheck(data), storeCheck(connection)],
    recover: () => recoverOwn(config, node, connection, { store, spool, log, clock }),
    mayLookForOrphans: async () =>
      (await isLongOfThisStore(data, clock)) && takeTurn(connection, `orphans:${node ?? ''}`, ORPHANS_TURN_MS),
  };
}

function othersIn(connection: RedisConnection): OtherNodes {
  return {
    nodes: new RedisNodes(connection),
    storeOf: (node) => new RedisStore({ connection, node }),
    mayLook: () => takeTurn(connection, 'gone-nodes', GONE_NODES_TURN_MS),
  };
}

/** For all the processes of one node; a primary process has locked it for its workers. */
async function ownDirectory({ data, workers }: Config, opened: StorageRooms['opened']): Promise<string> {
  if (workers === 1) await lockDirectory(data, opened);
  return nodeName(data);
}

/** A directory that is not the right one is better found out now than by a loss. */
async function claimSpool({ data, spool, workers }: Config, connection: RedisConnection, log: Log): Promise<void> {
  const { storeId, isNewStore } = connection;
  const isOthersToo = spool.shared || workers !== 1;
  const identity = await identityOf(data, storeId, isOthersToo && !isNewStore);
  if (identity === 'same') return;
  if (!isNewStore && (spool.shared || identity === 'other'))
    throw new Fault('CONTRACT_BROKEN', `${data} ${spool.shared ? NOT_THE_SHARED_ONE : NOT_OF_THIS_STORE}`, false);
  if (identity === 'other') log.error({ data }, LOST);
  await noteSpoolIdentity(data, storeId, randomUUID());
}

/** `patiently`: the process that has made the store may be about to say that this is its spool. */
async function identityOf(data: string, storeId: string, patiently: boolean): Promise<SpoolIdentity> {
  for (let tries = 0; ; tries++) {
    const identity = await spoolIdentity(data, storeId);
    if (identity === 'same' || !patiently || tries === MOST_LOOKS) return identity;
    await sleep(LOOK_AGAIN_MS);
  }
}

const MOST_LOOKS = 30;
const LOOK_AGAIN_MS = 100;

const LOST =
  'the spool has bytes that belong to another Redis, and this one is empty: their uploads are lost. This is prevented by ' +
  'persistence (`appendonly yes` in the configuration of Redis)';
const NOT_THE_SHARED_ONE =
  'is not the directory that the other nodes of this Redis use: mount theirs, or choose another store.prefix';
const NOT_OF_THIS_STORE =
  'holds the bytes of another Redis, or of another store.prefix: go back to that, or choose another --data';

/**
 * A spool that several processes use is recovered by whoever takes up an upload. One late answer of Redis does not end a
 * start that has come so far.
 */
async function recoverOwn(
  config: RedisBacked,
  node: string | undefined,
  connection: RedisConnection,
  rooms: Omit<RecoveryRooms, 'leases'>,
): Promise<void> {
  const { data, workers, spool, store } = config;
  if (node === undefined || workers > 1) return;
  const { sameBoot } = await noteStart(data, 0, new DirectorySync(spool.sync));
  // Leases that are held are those of the process before this one: to ask it for each in turn would take minutes.
  const leases = new RedisLeases(connection, { graceMs: 0 });
  const signal = AbortSignal.timeout(Math.max(store.waitMs, LEAST_PATIENCE_MS));
  try {
    await untilAvailable(() => recoverNode({ ...rooms, leases }, node, sameBoot), { signal });
  } finally {
    leases.close();
  }
}

const LEAST_PATIENCE_MS = 5000;

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

/** To a store that came back empty every file is an orphan: until then somebody may give it its data back. */
async function isLongOfThisStore(data: string, clock: () => number): Promise<boolean> {
  const since = await spoolIdentitySince(data);
  return since !== undefined && clock() - since >= RESTORED_WITHIN_MS;
}

const RESTORED_WITHIN_MS = 3_600_000;

/** Reading a whole spool is work enough for one process now and then. */
const ORPHANS_TURN_MS = 60_000;
const GONE_NODES_TURN_MS = 10_000;

function storeCheck(connection: RedisConnection): HealthCheck {
  return { name: 'store', check: () => Promise.resolve(connection.trouble) };
}
