import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { HealthCheck } from '../admin/admin.js';
import type { Config } from '../config/config.js';
import type { RedisConfig } from '../config/store.js';
import { nodeName, existingNodeName } from '../fs/node-name.js';
import type { Log } from '../observe/log.js';
import { noteNode } from '../spool/data-directory.js';
import { LocalSpool } from '../spool/local-spool.js';
import { assertUnused, isShareable, spoolIdentitySince, spoolMark, SpoolUse } from '../spool/shared-directory.js';
import { assertClaimable, claimSpool, forgetTakeovers, noteStore, readTakeovers } from '../spool/spool-claim.js';
import { RedisConnection } from '../store/redis/connection.js';
import { describeAddresses, type RedisSettings } from '../store/redis/errors.js';
import { RedisLeases } from '../store/redis/leases.js';
import { RedisNodes, tryAcquire } from '../store/redis/nodes.js';
import { RedisStore } from '../store/redis/redis-store.js';
import { retryWhileUnavailable } from '../store/upload-store.js';
import { recoverNode, recoverOne, type RecoveryDeps } from '../uploads/recovery.js';
import { UnknownBytes, UnreadableBytes } from '../uploads/unknown-bytes.js';
import {
  allSetAside,
  assertUsable,
  directoryCheck,
  lockDirectory,
  type OtherNodes,
  recordsCheck,
  type Storage,
  type StorageDeps,
  unknownCheck,
} from './storage.js';

type RedisBacked = Config & { readonly store: RedisConfig };

/** The store that many processes share, and a spool that is shared as well or belongs to this node. */
export async function openRedisStorage(config: RedisBacked, deps: StorageDeps): Promise<Storage> {
  const { log, clock, longestAgeMs, timings, opened } = deps;
  const { data, spool: spoolConfig } = config;
  const { shared } = spoolConfig;
  await assertUsable({ directory: data, store: 'redis', shared });
  const room = new SharedRoom(data, log);
  const prepare = once(() => (shared ? room.tryOut() : ownDirectory(config, opened)));
  const settings = await settingsOf(config.store);
  const connection = await RedisConnection.open(settings, log, {
    clock,
    maxUploadAgeMs: longestAgeMs,
    beforeNew: async (isStillNew) => {
      if (shared) await assertUnused(data, { name: nameOf(settings), isStillNew, log, watchMs: timings.spoolWatchMs });
      // A directory of its own is locked by this: whoever used it is gone.
      await prepare();
    },
    spool: {
      name: async () => (shared ? 'shared' : `of ${(await existingNodeName(data)) ?? 'nobody'}`),
      mark: async () => (await spoolMark(data)) ?? '',
    },
  });
  opened.push(() => connection.close());
  const { storeId, isNewStore, previousMark } = connection;
  const isOthersToo = shared || config.workers > 1;
  const claim = { directory: data, shared, isOthersToo, storeId, isNewStore, unfinished: previousMark, log };
  await assertClaimable(claim);
  await prepare();
  connection.onStoreReplaced((otherId) => noteStore(data, otherId));
  if (await claimSpool(claim)) await connection.confirmMarked();
  else connection.retryMarking();
  const node = shared ? undefined : await nodeName(data);
  if (node !== undefined) await noteNode({ directory: data, store: 'redis', shared }, storeId, node);
  const store = new RedisStore({ connection, node: node ?? '' });
  opened.push(() => store.close());
  const leases = new RedisLeases(connection);
  opened.push(() => Promise.resolve(leases.close()));
  const spool = new LocalSpool({ directory: data, sync: spoolConfig.sync, shared, isMarked: true });
  const use = new SpoolUse({
    directory: data,
    shared,
    storeId: () => knownStore(connection),
    log,
    everyMs: timings.spoolTouchMs,
  });
  opened.push(() => use.stop());
  await spool.open();
  const unreadable = new UnreadableBytes({ spool, log, clock, everyMs: timings.lookAgainMs });
  opened.push(() => unreadable.stop());
  const setAside = allSetAside(store, unreadable);
  const nodes = new RedisNodes(connection);
  const recovery = { ...deps, store, leases, spool, unreadable };
  const unknown = new UnknownBytes({
    spool,
    store,
    unreadable,
    log,
    takeovers: () => readTakeovers(data),
    forget: (takeovers) => forgetTakeovers(data, takeovers),
    everyMs: timings.unknownBytesMs,
  });
  opened.push(() => unknown.stop());
  return {
    store,
    leases,
    spool,
    unreadable,
    setAside,
    othersDeliver: shared || config.workers > 1,
    ...(node === undefined ? {} : { node, others: othersIn(connection) }),
    unknownUploads: () => unknown.known,
    checks: [
      directoryCheck(data),
      storeCheck(connection),
      recordsCheck(setAside),
      ...(shared ? [room.check] : []),
      unknownCheck(() => unknown.known),
    ],
    recover: async () => {
      const isOwn = node !== undefined && config.workers === 1;
      if (isOwn) await recoverOwn(config, node, connection, recovery);
      // A spool that several processes use is recovered by whoever takes up an upload.
      unreadable.start(async (id, files) => {
        if (isOwn) await recoverOne(id, files, recovery, node);
      });
      unknown.start();
    },
    ...(node === undefined ? {} : { isAnnounced: async (name: string) => (await nodes.find(name)) !== undefined }),
    mayRemoveOrphans: async () =>
      (await isLongOfThisStore(data, connection, clock)) &&
      tryAcquire(connection, `orphans:${node ?? ''}`, timings.orphansTurnMs),
    spoolSince: () => spoolIdentitySince(data),
    takenOver: async () => (await readTakeovers(data))?.ids ?? new Set(),
  };
}

/** Without Redis nobody can tell whether it was emptied meanwhile, and the spool said to be that of its new data. */
function knownStore({ storeId, unavailableReason: unavailableReason, isMarked }: RedisConnection): string | undefined {
  return unavailableReason === undefined && isMarked ? storeId : undefined;
}

/** For people: what has to be right for a node to find the data of the others. */
function nameOf(settings: RedisSettings): string {
  return `${describeAddresses(settings)} (database ${settings.database ?? 0}, store.prefix ${settings.prefix})`;
}

function othersIn(connection: RedisConnection): OtherNodes {
  return {
    nodes: new RedisNodes(connection),
    storeOf: (node) => new RedisStore({ connection, node }),
    mayCheckLostNodes: () => tryAcquire(connection, 'gone-nodes', GONE_NODES_TURN_MS),
  };
}

/**
 * A shared directory is tried out by writing to it. Where it has no room for that, the start goes on: requests pass through,
 * and uploads can be ended, which makes room. It is tried out with the first check that finds room.
 */
class SharedRoom {
  private isTriedOut = true;

  constructor(
    private readonly directory: string,
    private readonly log: Log,
  ) {}

  /** Fails where the directory does not do what many machines need. */
  async tryOut(): Promise<void> {
    this.isTriedOut = await isShareable(this.directory, randomUUID());
    if (!this.isTriedOut) this.log.error({ code: 'STORAGE_FULL', data: this.directory }, NO_ROOM);
  }

  readonly check: HealthCheck = {
    name: 'room',
    isInformational: true,
    check: async () => {
      this.isTriedOut ||= await isShareable(this.directory, randomUUID());
      return this.isTriedOut ? undefined : 'the disk has no room: nothing new is received';
    },
  };
}

const NO_ROOM =
  'the disk of the data directory has no room: requests pass through, and uploads can be looked at and ended, but nothing is ' +
  'received, and nobody has tried whether the directory can be shared, until there is room';

/** For all the processes of one node; a primary process has locked it for its workers. */
async function ownDirectory({ data, workers }: Config, opened: StorageDeps['opened']): Promise<void> {
  if (workers === 1) await lockDirectory(data, opened);
}

/** Done at the first call alone, unless that failed. */
function once(task: () => Promise<void>): () => Promise<void> {
  let isDone = false;
  return async () => {
    if (!isDone) await task();
    isDone = true;
  };
}

/** One late answer of Redis does not end a start that has come so far. */
async function recoverOwn(
  { store }: RedisBacked,
  node: string,
  connection: RedisConnection,
  deps: Omit<RecoveryDeps, 'leases'>,
): Promise<void> {
  // Leases that are held are those of the process before this one: to ask it for each in turn would take minutes.
  const leases = new RedisLeases(connection, { graceMs: 0 });
  const signal = AbortSignal.timeout(Math.max(store.waitMs, LEAST_PATIENCE_MS));
  try {
    await retryWhileUnavailable(() => recoverNode({ ...deps, leases }, node), { signal });
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
async function isLongOfThisStore(data: string, { storeId }: RedisConnection, clock: () => number): Promise<boolean> {
  if ((await spoolMark(data)) !== storeId) return false;
  const since = await spoolIdentitySince(data);
  return since !== undefined && clock() - since >= RESTORED_WITHIN_MS;
}

const RESTORED_WITHIN_MS = 3_600_000;

const GONE_NODES_TURN_MS = 10_000;

function storeCheck(connection: RedisConnection): HealthCheck {
  return { name: 'store', check: () => Promise.resolve(connection.unavailableReason) };
}
