import { constants } from 'node:fs';
import type { HealthCheck } from '../admin/admin.js';
import { unknownUploadsProblem } from '../admin/uploads-api.js';
import type { Config } from '../config/config.js';
import { reportLoss } from '../delivery/report.js';
import { access } from '../fs/files.js';
import { Fault } from '../model/fault.js';
import type { Stories } from '../model/story.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { assertUsable, claimForEmbedded } from '../spool/data-directory.js';
import type { DiskSpace } from '../spool/disk-space.js';
import { LocalSpool } from '../spool/local-spool.js';
import { spoolMarkTime, readSpoolMark } from '../spool/shared-directory.js';
import type { Spool } from '../spool/spool.js';
import { DirectoryLock } from '../store/embedded/directory-lock.js';
import { EmbeddedLeases } from '../store/embedded/embedded-leases.js';
import { EmbeddedStore } from '../store/embedded/embedded-store.js';
import type { Leases } from '../store/leases.js';
import { NotedLeases } from '../store/noted-leases.js';
import type { Nodes } from '../store/nodes.js';
import type { LeftoverAge, SetAsideRecord, Totals, UploadStore } from '../store/upload-store.js';
import { type OwnRecoveryDeps, recover } from '../uploads/recovery.js';
import { type UnknownUploads, UnreadableBytes, UnrecordedBytes } from '../uploads/unknown-bytes.js';
import { openHistoryFiles } from './history.js';

export { assertUsable };

/** Closes one resource. Closers run in reverse order of opening. */
export type Closer = () => Promise<unknown>;

/** The store, the leases and the spool of the configured kind, with their checks and maintenance. */
export interface Storage {
  readonly store: UploadStore;
  readonly leases: Leases;
  readonly spool: Spool;
  /** The stories of uploads; missing if none are kept. */
  readonly story?: Stories;
  /** Other processes may deliver the same uploads, so one whose claim expired may still be running. */
  readonly othersDeliver: boolean;
  /** The node to record in new uploads; undefined if all nodes share a spool. */
  readonly node?: string;
  readonly checks: readonly HealthCheck[];
  /** The other nodes, if each node has a spool of its own. */
  readonly others?: OtherNodes;
  /** Whether a node of this name was ever announced. */
  readonly isAnnounced?: (node: string) => Promise<boolean>;
  /** The spool belongs to this store, and no other process has scanned it recently. */
  readonly mayRemoveOrphans: () => Promise<boolean>;
  /** Since when the spool belongs to this store, in milliseconds since the epoch. */
  readonly spoolSince: () => Promise<number | undefined>;
  /** Uploads that had no record at the start; missing if another store may have their records. */
  readonly unrecorded?: UnrecordedBytes;
  /** Removes old files that belong to no record; missing if the records are not in a directory. */
  readonly clearLeftovers?: (age: LeftoverAge) => Promise<void>;
  /** Ids of uploads that were in the spool when it became this store's. */
  readonly takenOver?: () => Promise<ReadonlySet<string>>;
  /** Uploads whose directory in the spool cannot be read. */
  readonly unreadable: UnreadableBytes;
  /** All uploads whose record or bytes exist but cannot be read. */
  readonly setAsideRecords: () => Promise<readonly SetAsideRecord[]>;
  /** Uploads in the spool that the store should know but does not. */
  readonly unknownUploads?: () => UnknownUploads | undefined;
  /** Makes records and bytes agree after a crash, or prepares it, before the first request. */
  recover(): Promise<void>;
  /** Continues the recovery beside requests; missing where `recover` does all of it. */
  recoverRest?(): Promise<void>;
}

/** Access to the other nodes of a cluster and to their uploads. */
export interface OtherNodes {
  readonly nodes: Nodes;
  /** The store as the given node sees it. */
  readonly storeOf: (node: string) => UploadStore;
  /** True for one process in the cluster at a time. */
  readonly mayCheckLostNodes: () => Promise<boolean>;
}

/** Times that only tests change. */
export interface Timings {
  /** Files that belong to no record are removed after this time, which exceeds the delay of any slow writer. */
  readonly orphanAgeMs: number;
  /** Interval at which one of the processes scans the spool for such files. */
  readonly orphanScanIntervalMs: number;
  /** Interval at which nodes mark a shared spool as in use. */
  readonly spoolTouchMs: number;
  /** Time that a start watches for such marks if the spool may belong to another store. */
  readonly spoolWatchMs: number;
  /** Interval at which reading unreadable directories is retried. */
  readonly unreadableRetryMs: number;
  /** Interval at which a taken-over spool is scanned for uploads of the previous store. */
  readonly unknownBytesScanMs: number;
  /** Time that a stalled process keeps the lease of an upload in Redis. */
  readonly leaseMs: number;
  /** Time that a stalled process keeps its claim on a delivery. */
  readonly claimMs: number;
  /** Additional time that others wait for its result before they consider it lost. */
  readonly returnGraceMs: number;
  /** Interval at which the files of certificates are looked at. */
  readonly certificatePollMs: number;
  /** Time after which a client that created too many uploads is told so. */
  readonly refusalDelayMs: number;
}

/** The timings of a proxy outside of tests. */
export const TIMINGS: Timings = {
  orphanAgeMs: 3_600_000,
  orphanScanIntervalMs: 60_000,
  spoolTouchMs: 5_000,
  spoolWatchMs: 20_000,
  unreadableRetryMs: 5_000,
  unknownBytesScanMs: 60_000,
  leaseMs: 15_000,
  claimMs: 15_000,
  returnGraceMs: 15_000,
  certificatePollMs: 5_000,
  refusalDelayMs: 1000,
};

/** The dependencies of a storage besides its configuration. */
export interface StorageDeps {
  readonly timings: Timings;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly clock: () => number;
  /** The disk of the data. */
  readonly space: DiskSpace;
  /** The clock for expiry: setting the system clock forward expires no upload. */
  readonly expiryClock: () => number;
  /** The longest time that any upload or answer is kept without a change; a reload can make it longer. */
  readonly longestAgeMs: () => number;
  /** A closer is added for each opened resource. */
  readonly closers: Closer[];
}

/** Opens the embedded store and the spool of one process. */
export async function openEmbeddedStorage(config: Config, deps: StorageDeps): Promise<Storage> {
  const { data: directory, spool: spoolConfig, history } = config;
  const { sync } = spoolConfig;
  const { log, clock, timings, closers } = deps;
  await assertUsable({ directory, store: 'embedded', isShared: false });
  await lockDirectory(directory, closers);
  const id = await claimForEmbedded(directory);
  const totals = (): Promise<Totals> => store.totals();
  const story = openHistoryFiles({ directory, ...history, totals }, deps);
  const store: EmbeddedStore = await EmbeddedStore.open({
    directory,
    sync,
    log,
    clock,
    expiryClock: deps.expiryClock,
    onLoss: (upload, problem) => reportLoss(upload, problem, { ...deps, story }),
    retryMs: timings.unreadableRetryMs,
  });
  closers.push(() => store.close());
  const leases = notedLeases(new EmbeddedLeases(store), story);
  const spool = new LocalSpool({ directory, sync, isMarked: true });
  await spool.open();
  const unreadable = new UnreadableBytes({ spool, log, clock, everyMs: timings.unreadableRetryMs });
  closers.push(() => unreadable.stop());
  const setAside = allSetAsideRecords(store, unreadable);
  const unrecorded = new UnrecordedBytes({ log, clock });
  const recovery = new EmbeddedRecovery({ ...deps, story, store, spool, unreadable, unrecorded });
  return {
    store,
    leases,
    spool,
    ...(story && { story }),
    unreadable,
    setAsideRecords: setAside,
    othersDeliver: false,
    unrecorded,
    unknownUploads: () => unrecorded.known,
    checks: [directoryCheck(directory), recordsCheck(setAside), roomCheck(store), unknownCheck(() => unrecorded.known)],
    recover: () => recovery.begin(),
    recoverRest: () => recovery.finish(),
    // Since the start another file system may have been mounted over the directory.
    mayRemoveOrphans: async () => recovery.hasEnded && (await readSpoolMark(directory)) === id,
    spoolSince: () => spoolMarkTime(directory),
    clearLeftovers: (age) => store.clearLeftovers(age),
  };
}

/** The leases, which note their changes of hands if histories are kept. */
function notedLeases(leases: Leases, story: Stories | undefined): Leases {
  return story ? new NotedLeases(leases, story) : leases;
}

/** The recovery of all uploads in a data directory that only this process uses. */
class EmbeddedRecovery {
  /** Every record has been compared with its bytes. */
  hasEnded = false;

  constructor(private readonly deps: OwnRecoveryDeps & { readonly store: EmbeddedStore }) {}

  /** Must end before the first request. */
  async begin(): Promise<void> {
    const { unreadable, unrecorded } = this.deps;
    await recover(this.deps);
    unreadable.start((id, files) => Promise.resolve(unrecorded.note(id, files)));
  }

  /** Recovers the uploads that no request needs, beside requests. */
  async finish(): Promise<void> {
    try {
      this.hasEnded = await this.deps.store.recoverRest();
    } catch (error) {
      this.deps.log.error({ err: error }, 'the recovery of the uploads that are not in use has failed');
    }
  }
}

/**
 * Locks the directory until this process ends. Losing the lock ends the process with an uncaught `DIRECTORY_IN_USE`.
 */
export async function lockDirectory(directory: string, closers: Closer[]): Promise<void> {
  const lock = await DirectoryLock.take(directory);
  closers.push(() => lock.release());
  lock.lost.addEventListener('abort', () => {
    throw new Fault('DIRECTORY_IN_USE', 'another process has taken over the data directory', false);
  });
}

/** Unreadable records and bytes, each upload once: without its record the bytes cannot be recovered anyway. */
export function allSetAsideRecords(
  store: Pick<UploadStore, 'setAsideRecords'>,
  unreadable: Pick<UnreadableBytes, 'list'>,
): () => Promise<readonly SetAsideRecord[]> {
  return async () => {
    const records = await store.setAsideRecords();
    const ids = new Set(records.map(({ id }) => id));
    return [...records, ...unreadable.list().filter(({ id }) => !ids.has(id))];
  };
}

/** Informational, because one unreadable record or directory must not make all other uploads unavailable. */
export function recordsCheck(setAside: () => Promise<readonly SetAsideRecord[]>): HealthCheck {
  return {
    name: 'records',
    isInformational: true,
    check: async () => {
      const count = (await setAside()).length;
      return count === 0 ? undefined : `${count} cannot be read; \`rufh-proxy uploads list\` names them`;
    },
  };
}

/** Informational, because requests still pass through and ending uploads frees space. */
function roomCheck(store: Pick<EmbeddedStore, 'acceptsBytes'>): HealthCheck {
  const problem = 'the disk has no room: nothing new is received';
  return {
    name: 'room',
    isInformational: true,
    check: () => Promise.resolve(store.acceptsBytes ? undefined : problem),
  };
}

/** Informational, because other requests are unaffected and a restart would not help. */
export function unknownCheck(known: () => UnknownUploads | undefined): HealthCheck {
  return {
    name: 'unknown uploads',
    isInformational: true,
    check: () => {
      const unknown = known();
      return Promise.resolve(unknown && unknownUploadsProblem(unknown));
    },
  };
}

/** Rejects if the directory cannot be read or written. */
export function directoryCheck(directory: string): HealthCheck {
  return {
    name: 'data',
    check: async () => {
      await access(directory, constants.R_OK | constants.W_OK);
      return undefined;
    },
  };
}
