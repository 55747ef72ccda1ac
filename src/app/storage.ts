import { constants } from 'node:fs';
import type { HealthCheck } from '../admin/admin.js';
import { unknownProblem } from '../admin/uploads-api.js';
import type { Config } from '../config/config.js';
import { reportLoss } from '../delivery/report.js';
import { access } from '../fs/files.js';
import { Fault } from '../model/fault.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { assertUsable, claimForEmbedded } from '../spool/data-directory.js';
import { LocalSpool } from '../spool/local-spool.js';
import { spoolIdentitySince, spoolMark } from '../spool/shared-directory.js';
import type { Spool } from '../spool/spool.js';
import { DirectoryLock } from '../store/embedded/directory-lock.js';
import { EmbeddedLeases, EmbeddedStore } from '../store/embedded/embedded-store.js';
import type { Leases } from '../store/leases.js';
import type { Nodes } from '../store/nodes.js';
import type { LeftoverAge, SetAsideRecord, UploadStore } from '../store/upload-store.js';
import { recover, recoverOne, recoverRecord, type RecoveryDeps } from '../uploads/recovery.js';
import { type UnknownUploads, UnreadableBytes, UnrecordedBytes } from '../uploads/unknown-bytes.js';

export { assertUsable };

/** Ends what was opened; run in the opposite order of opening. */
export type Closer = () => Promise<unknown>;

/** Where records and bytes are, and what has to hold there. */
export interface Storage {
  readonly store: UploadStore;
  readonly leases: Leases;
  readonly spool: Spool;
  /** Other processes may deliver the same uploads: one whose claim ran out may be alive. */
  readonly othersDeliver: boolean;
  /** The node that new uploads name; undefined where every node reaches the bytes. */
  readonly node?: string;
  readonly checks: readonly HealthCheck[];
  /** Where each node has bytes of its own: who else is there, and the store as one of them sees it. */
  readonly others?: OtherNodes;
  /** Whether another node of that name has ever said that it is there. */
  readonly isAnnounced?: (node: string) => Promise<boolean>;
  /** Whether the spool is this store's, and the turn is this process's of all that share it. */
  readonly mayRemoveOrphans: () => Promise<boolean>;
  /** Since when the spool is this store's. */
  readonly spoolSince: () => Promise<number | undefined>;
  /** Uploads that the start has found without a record; missing where several stores may be right. */
  readonly unrecorded?: UnrecordedBytes;
  /** Removes what is old and belongs to no record from where the records are; missing where they are in no directory. */
  readonly clearLeftovers?: (age: LeftoverAge) => Promise<void>;
  /** Uploads that were in the spool when it became this store's. */
  readonly takenOver?: () => Promise<ReadonlySet<string>>;
  /** Uploads whose bytes the disk does not list. */
  readonly unreadable: UnreadableBytes;
  /** All that is there of uploads and cannot be read: records and bytes. */
  readonly setAside: () => Promise<readonly SetAsideRecord[]>;
  /** What is in the spool of uploads that the store does not know, and that it should. */
  readonly unknownUploads?: () => UnknownUploads | undefined;
  /** Brings records and bytes together after a crash, before the first request. */
  recover(): Promise<void>;
}

export interface OtherNodes {
  readonly nodes: Nodes;
  readonly storeOf: (node: string) => UploadStore;
  /** Given to one process of all, to look after nodes that are gone. */
  readonly mayCheckLostNodes: () => Promise<boolean>;
}

/** Times that nobody needs to set, but tests. */
export interface Timings {
  /** Files that no record counts go after this time; long enough for any writer that was merely slow. */
  readonly orphanAgeMs: number;
  /** Reading a whole spool is work enough for one process now and then. */
  readonly orphansTurnMs: number;
  /** How often nodes that share a spool show that they use it, and how long a start that doubts watches for that. */
  readonly spoolTouchMs: number;
  readonly spoolWatchMs: number;
  /** How often the disk is asked again for bytes that it did not list. */
  readonly lookAgainMs: number;
  /** How often a spool that was taken over is searched for what its store before has left. */
  readonly unknownBytesMs: number;
  /** How long a process that stands still within a delivery keeps the right to it. */
  readonly claimMs: number;
  /** How much longer others wait for what it learned, before they take that for lost. */
  readonly returnGraceMs: number;
}

export const TIMINGS: Timings = {
  orphanAgeMs: 3_600_000,
  orphansTurnMs: 60_000,
  spoolTouchMs: 5_000,
  spoolWatchMs: 20_000,
  lookAgainMs: 5_000,
  unknownBytesMs: 60_000,
  claimMs: 15_000,
  returnGraceMs: 15_000,
};

/** What opening needs besides the configuration. */
export interface StorageDeps {
  readonly timings: Timings;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly clock: () => number;
  /** The time by which uploads expire: a clock that is set forward ends none of them. */
  readonly expiryClock: () => number;
  /** No upload, answer or body lives longer without being touched. */
  readonly longestAgeMs: number;
  /** Takes what has to be closed again. */
  readonly opened: Closer[];
}

/** The store and spool of one process, with nothing else to run. */
export async function openEmbeddedStorage(config: Config, deps: StorageDeps): Promise<Storage> {
  const { data: directory, spool: spoolConfig } = config;
  const { sync } = spoolConfig;
  const { log, clock, timings, opened } = deps;
  await assertUsable({ directory, store: 'embedded', shared: false });
  await lockDirectory(directory, opened);
  const id = await claimForEmbedded(directory);
  const store = await EmbeddedStore.open({
    directory,
    sync,
    log,
    clock,
    expiryClock: deps.expiryClock,
    onLoss: (upload, problem) => reportLoss(upload, problem, deps),
    retryMs: timings.lookAgainMs,
  });
  opened.push(() => store.close());
  const leases = new EmbeddedLeases(store);
  const spool = new LocalSpool({ directory, sync, isMarked: true });
  await spool.open();
  const unreadable = new UnreadableBytes({ spool, log, clock, everyMs: timings.lookAgainMs });
  opened.push(() => unreadable.stop());
  const setAside = allSetAside(store, unreadable);
  const unrecorded = new UnrecordedBytes({ log, clock });
  const recovery = { ...deps, store, leases, spool, unreadable, unrecorded, ...lostIn(store) };
  store.recoverWith((found) => recoverRecord(found, recovery));
  return {
    store,
    leases,
    spool,
    unreadable,
    setAside,
    othersDeliver: false,
    unrecorded,
    unknownUploads: () => unrecorded.known,
    checks: [directoryCheck(directory), recordsCheck(setAside), roomCheck(store), unknownCheck(() => unrecorded.known)],
    recover: async () => {
      await recover(recovery);
      unreadable.start((id, files) => recoverOne(id, files, recovery));
    },
    // It may have been mounted over since the start.
    mayRemoveOrphans: async () => (await spoolMark(directory)) === id,
    spoolSince: () => spoolIdentitySince(directory),
    clearLeftovers: (age) => store.clearLeftovers(age),
  };
}

/** What the embedded store knows of uploads that were damaged. */
function lostIn(store: EmbeddedStore): Pick<RecoveryDeps, 'giveUpLost' | 'hasLostLine'> {
  return { giveUpLost: (id) => store.giveUpLost(id), hasLostLine: (id) => store.hasLostLine(id) };
}

/** For this process alone, as long as it runs. */
export async function lockDirectory(directory: string, opened: Closer[]): Promise<void> {
  const lock = await DirectoryLock.take(directory);
  opened.push(() => lock.release());
  lock.lost.addEventListener('abort', () => {
    throw new Fault('DIRECTORY_IN_USE', 'another process has taken over the data directory', false);
  });
}

/** Each upload once: with an unreadable record nobody can look after its bytes either. */
export function allSetAside(
  store: Pick<UploadStore, 'setAsideRecords'>,
  unreadable: Pick<UnreadableBytes, 'list'>,
): () => Promise<readonly SetAsideRecord[]> {
  return async () => {
    const records = await store.setAsideRecords();
    const ids = new Set(records.map(({ id }) => id));
    return [...records, ...unreadable.list().filter(({ id }) => !ids.has(id))];
  };
}

/** One sick record, or one sick directory of the spool, must not take all other uploads out of service. */
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

/** Requests still pass through, and uploads can be ended, which makes room. */
function roomCheck(store: Pick<EmbeddedStore, 'acceptsBytes'>): HealthCheck {
  const problem = 'the disk has no room: nothing new is received';
  return {
    name: 'room',
    isInformational: true,
    check: () => Promise.resolve(store.acceptsBytes ? undefined : problem),
  };
}

/** New uploads and everything that passes through are served as ever, and no restart brings back what is not there. */
export function unknownCheck(known: () => UnknownUploads | undefined): HealthCheck {
  return {
    name: 'unknown uploads',
    isInformational: true,
    check: () => {
      const unknown = known();
      return Promise.resolve(unknown && unknownProblem(unknown));
    },
  };
}

export function directoryCheck(directory: string): HealthCheck {
  return {
    name: 'data',
    check: async () => {
      await access(directory, constants.R_OK | constants.W_OK);
      return undefined;
    },
  };
}
