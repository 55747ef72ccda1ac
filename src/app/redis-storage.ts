import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { HealthCheck } from '../admin/admin.js';
import type { Config } from '../config/config.js';
import type { RedisConfig } from '../config/store.js';
import { nodeName, existingNodeName } from '../fs/node-name.js';
import type { Log } from '../observe/log.js';
import { noteNode } from '../spool/data-directory.js';
import { LocalSpool } from '../spool/local-spool.js';
import { assertUnused, isShareable, spoolMarkTime, readSpoolMark, SpoolUse } from '../spool/shared-directory.js';
import { assertClaimable, claimSpool, forgetTakeovers, claimForStore, readTakeovers } from '../spool/spool-claim.js';
import { RedisConnection } from '../store/redis/connection.js';
import { describeAddresses, type RedisSettings } from '../store/redis/errors.js';
import { RedisLeases } from '../store/redis/leases.js';
import { RedisNodes, tryAcquire } from '../store/redis/nodes.js';
import { RedisStore } from '../store/redis/redis-store.js';
import { Recounts } from '../store/redis/usage.js';
import { retryWhileUnavailable } from '../store/upload-store.js';
import { recoverNode, recoverOne, type RecoveryDeps } from '../uploads/recovery.js';
import { UnknownBytes, UnreadableBytes } from '../uploads/unknown-bytes.js';
import {
  allSetAsideRecords,
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

/** Opens the Redis store that many processes share, and a spool that is shared too or belongs to this node. */
export async function openRedisStorage(config: RedisBacked, deps: StorageDeps): Promise<Storage> {
  const { log, clock, timings, closers } = deps;
  const { data } = config;
  const isShared = config.spool.shared;
  await assertUsable({ directory: data, store: 'redis', isShared });
  const sharedDirectory = new SharedDirectory(data, log);
  const { connection, storeId } = await connect(config, deps, sharedDirectory);
  const node = isShared ? undefined : await nodeName(data);
  if (node !== undefined) await noteNode({ directory: data, store: 'redis', isShared }, storeId, node);
  const store = new RedisStore({ connection, node: node ?? '' });
  closers.push(() => store.close());
  const recounts = new Recounts(connection);
  closers.push(() => recounts.stop());
  recounts.start();
  const leases = new RedisLeases(connection, { leaseMs: timings.leaseMs });
  closers.push(() => Promise.resolve(leases.close()));
  const { spool, unreadable } = await openSpool(config, connection, deps);
  const setAsideRecords = allSetAsideRecords(store, unreadable);
  const nodes = new RedisNodes(connection);
  const recovery = { ...deps, store, leases, spool, unreadable };
  const unknown = new UnknownBytes({
    spool,
    store,
    unreadable,
    log,
    takeovers: () => readTakeovers(data),
    forget: (takeovers) => forgetTakeovers(data, takeovers),
    everyMs: timings.unknownBytesScanMs,
  });
  closers.push(() => unknown.stop());
  return {
    store,
    leases,
    spool,
    unreadable,
    setAsideRecords,
    othersDeliver: isUsedByOthers(config),
    ...(node === undefined ? {} : { node, others: otherNodes(connection) }),
    unknownUploads: () => unknown.known,
    checks: [
      directoryCheck(data),
      storeCheck(connection),
      recordsCheck(setAsideRecords),
      ...(isShared ? [sharedDirectory.check] : []),
      unknownCheck(() => unknown.known),
    ],
    recover: async () => {
      const isOwn = node !== undefined && config.workers === 1;
      if (isOwn) await recoverOwn(config, node, connection, recovery);
      // In a spool of several processes each upload is recovered by the process that continues it.
      unreadable.start(async (id, files) => {
        if (isOwn) await recoverOne(id, files, recovery, node);
      });
      unknown.start();
    },
    ...(node === undefined ? {} : { isAnnounced: async (name: string) => (await nodes.find(name)) !== undefined }),
    mayRemoveOrphans: async () =>
      (await hasBelongedLongToStore(data, connection, clock)) &&
      tryAcquire(connection, `orphans:${node ?? ''}`, timings.orphanScanIntervalMs),
    spoolSince: () => spoolMarkTime(data),
    takenOver: async () => (await readTakeovers(data))?.ids ?? new Set(),
  };
}

/**
 * Connects to Redis, and claims the directory for its store. `connection.storeId` changes later if Redis loses its
 * data.
 */
async function connect(
  config: RedisBacked,
  { log, clock, longestAgeMs, timings, closers }: StorageDeps,
  sharedDirectory: SharedDirectory,
): Promise<{ readonly connection: RedisConnection; readonly storeId: string }> {
  const { data, spool } = config;
  const { shared: isShared } = spool;
  const prepare = once(() => (isShared ? sharedDirectory.test() : lockOwnDirectory(config, closers)));
  const settings = await settingsOf(config.store);
  const connection = await RedisConnection.open(settings, log, {
    clock,
    get maxUploadAgeMs() {
      return longestAgeMs();
    },
    beforeNew: async (isStillNew) => {
      if (isShared)
        await assertUnused(data, { name: describeStore(settings), isStillNew, log, watchMs: timings.spoolWatchMs });
      // Locks a directory of this node's own, so that no earlier process uses it any more.
      await prepare();
    },
    spool: {
      name: async () => (isShared ? 'shared' : `of ${(await existingNodeName(data)) ?? 'nobody'}`),
      mark: async () => (await readSpoolMark(data)) ?? '',
    },
  });
  closers.push(() => connection.close());
  const { storeId, isNewStore, previousMark } = connection;
  const claim = {
    directory: data,
    isShared,
    startsConcurrently: isUsedByOthers(config),
    storeId,
    isNewStore,
    unfinishedStartMark: previousMark,
    log,
  };
  await assertClaimable(claim);
  await prepare();
  connection.onStoreReplaced((otherId) => claimForStore(data, otherId));
  if (await claimSpool(claim)) await connection.confirmMarked();
  else connection.retryMarking();
  return { connection, storeId };
}

/** Opens the spool, shows other nodes that it is in use, and collects the uploads in it that cannot be read. */
async function openSpool(
  { data, spool: { shared: isShared, sync } }: RedisBacked,
  connection: RedisConnection,
  { log, clock, timings, closers }: StorageDeps,
): Promise<{ readonly spool: LocalSpool; readonly unreadable: UnreadableBytes }> {
  const spool = new LocalSpool({ directory: data, sync, isShared, isMarked: true });
  const use = new SpoolUse({
    directory: data,
    shared: isShared,
    storeId: () => verifiedStoreId(connection),
    log,
    everyMs: timings.spoolTouchMs,
  });
  closers.push(() => use.stop());
  await spool.open();
  const unreadable = new UnreadableBytes({ spool, log, clock, everyMs: timings.unreadableRetryMs });
  closers.push(() => unreadable.stop());
  return { spool, unreadable };
}

/** Other processes use the spool too: other nodes, or other workers of this one. */
function isUsedByOthers({ spool, workers }: RedisBacked): boolean {
  return spool.shared || workers > 1;
}

/** Undefined while Redis is unavailable: it may have been emptied, so the spool must not be attributed to it. */
function verifiedStoreId({ storeId, unavailableReason, isMarked }: RedisConnection): string | undefined {
  return unavailableReason === undefined && isMarked ? storeId : undefined;
}

/** The settings that must agree on all nodes, for messages. */
function describeStore(settings: RedisSettings): string {
  return `${describeAddresses(settings)} (database ${settings.database ?? 0}, store.prefix ${settings.prefix})`;
}

function otherNodes(connection: RedisConnection): OtherNodes {
  return {
    nodes: new RedisNodes(connection),
    storeOf: (node) => new RedisStore({ connection, node }),
    mayCheckLostNodes: () => tryAcquire(connection, 'gone-nodes', LOST_NODES_INTERVAL_MS),
  };
}

/**
 * Tests a shared directory by writing to it. If the disk is full the start continues, because requests still pass
 * through and ending uploads frees space; the test is repeated with each health check until there is space.
 */
class SharedDirectory {
  private isTested = true;

  constructor(
    private readonly directory: string,
    private readonly log: Log,
  ) {}

  /** Rejects if several machines cannot share the directory. */
  async test(): Promise<void> {
    this.isTested = await isShareable(this.directory, randomUUID());
    if (!this.isTested) this.log.error({ code: 'STORAGE_FULL', data: this.directory }, DISK_FULL);
  }

  readonly check: HealthCheck = {
    name: 'room',
    isInformational: true,
    check: async () => {
      this.isTested ||= await isShareable(this.directory, randomUUID());
      return this.isTested ? undefined : 'the disk has no room: nothing new is received';
    },
  };
}

const DISK_FULL =
  'the disk of the data directory is full: requests pass through and uploads can be inspected and ended, but until there is ' +
  'space no uploads are received, and the directory is not tested for sharing';

/** Locks the directory for this node; with several workers the primary process has done it. */
async function lockOwnDirectory({ data, workers }: Config, closers: StorageDeps['closers']): Promise<void> {
  if (workers === 1) await lockDirectory(data, closers);
}

/** Runs the task on each call until it has succeeded once. */
function once(task: () => Promise<void>): () => Promise<void> {
  let isDone = false;
  return async () => {
    if (!isDone) await task();
    isDone = true;
  };
}

/** Recovers this node's uploads, and retries while Redis is unavailable instead of ending the start. */
async function recoverOwn(
  { store }: RedisBacked,
  node: string,
  connection: RedisConnection,
  deps: Omit<RecoveryDeps, 'leases'>,
): Promise<void> {
  // Held leases belong to this node's previous process, and asking it for each of them would take minutes.
  const leases = new RedisLeases(connection, { graceMs: 0 });
  const signal = AbortSignal.timeout(Math.max(store.waitMs, MIN_RECOVERY_WAIT_MS));
  try {
    await retryWhileUnavailable(() => recoverNode({ ...deps, leases }, node), { signal });
  } finally {
    leases.close();
  }
}

const MIN_RECOVERY_WAIT_MS = 5000;

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

/** For a Redis that was emptied every file is an orphan, so operators get time to restore its data first. */
async function hasBelongedLongToStore(
  data: string,
  { storeId }: RedisConnection,
  clock: () => number,
): Promise<boolean> {
  if ((await readSpoolMark(data)) !== storeId) return false;
  const since = await spoolMarkTime(data);
  return since !== undefined && clock() - since >= RESTORE_PERIOD_MS;
}

const RESTORE_PERIOD_MS = 3_600_000;

const LOST_NODES_INTERVAL_MS = 10_000;

function storeCheck(connection: RedisConnection): HealthCheck {
  return { name: 'store', check: () => Promise.resolve(connection.unavailableReason) };
}
