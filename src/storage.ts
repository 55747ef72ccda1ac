import { access, constants } from 'node:fs/promises';
import type { HealthCheck } from './admin/readiness.js';
import type { Config } from './config/config.js';
import { Fault } from './model/fault.js';
import type { Log } from './observe/log.js';
import { assertUsable, claimForEmbedded } from './spool/data-directory.js';
import type { Spool } from './spool/spool.js';
import { LocalSpool } from './spool/local-spool.js';
import { spoolIdentitySince, spoolMark } from './spool/shared-directory.js';
import { DirectoryLock } from './store/embedded/directory-lock.js';
import { EmbeddedLeases } from './store/embedded/embedded-leases.js';
import { EmbeddedStore } from './store/embedded/embedded-store.js';
import type { Leases } from './store/lease.js';
import type { Nodes } from './store/nodes.js';
import type { UploadStore } from './store/upload-store.js';
import { recover } from './uploads/recovery.js';

export { assertUsable };

/** Ends what was opened; run in the opposite order of opening. */
export type Closing = () => Promise<unknown>;

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
  /** Whether the spool is this store's, and the turn is this process's of all that share it. */
  readonly mayLookForOrphans: () => Promise<boolean>;
  /** Since when the spool is this store's. */
  readonly spoolSince: () => Promise<number | undefined>;
  /** Brings records and bytes together after a crash, before the first request. */
  recover(): Promise<void>;
}

export interface OtherNodes {
  readonly nodes: Nodes;
  readonly storeOf: (node: string) => UploadStore;
  /** Given to one process of all, to look after nodes that are gone. */
  readonly mayLook: () => Promise<boolean>;
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
}

export const TIMINGS: Timings = {
  orphanAgeMs: 3_600_000,
  orphansTurnMs: 60_000,
  spoolTouchMs: 5_000,
  spoolWatchMs: 20_000,
};

/** What opening needs besides the configuration. */
export interface StorageRooms {
  readonly timings: Timings;
  readonly log: Log;
  readonly clock: () => number;
  /** Takes what has to be closed again. */
  readonly opened: Closing[];
}

/** The store and spool of one process, with nothing else to run. */
export async function openEmbeddedStorage(config: Config, { log, opened }: StorageRooms): Promise<Storage> {
  const { data: directory, spool: spoolConfig } = config;
  const { sync } = spoolConfig;
  await assertUsable({ directory, store: 'embedded', shared: false });
  await lockDirectory(directory, opened);
  const id = await claimForEmbedded(directory);
  const store = await EmbeddedStore.open({ directory, sync, log });
  opened.push(() => store.close());
  const leases = new EmbeddedLeases(store);
  const spool = new LocalSpool({ directory, sync, isMarked: true });
  await spool.open();
  return {
    store,
    leases,
    spool,
    othersDeliver: false,
    checks: [directoryCheck(directory), recordsCheck(store), roomCheck(store)],
    recover: () => recover({ store, leases, spool, log, giveUpLost: (id) => store.giveUpLost(id) }),
    // It may have been mounted over since the start.
    mayLookForOrphans: async () => (await spoolMark(directory)) === id,
    spoolSince: () => spoolIdentitySince(directory),
  };
}

/** For this process alone, as long as it runs. */
export async function lockDirectory(directory: string, opened: Closing[]): Promise<void> {
  const lock = await DirectoryLock.take(directory);
  opened.push(() => lock.release());
  lock.lost.addEventListener('abort', () => {
    throw new Fault('DIRECTORY_IN_USE', 'another process has taken over the data directory', false);
  });
}

/** One sick record must not take all others out of service. */
function recordsCheck(store: Pick<UploadStore, 'setAside'>): HealthCheck {
  return {
    name: 'records',
    isOnlyTold: true,
    check: async () => {
      const count = (await store.setAside()).length;
      return count === 0 ? undefined : `${count} cannot be read; \`rufh-proxy uploads list\` names them`;
    },
  };
}

/** Requests still pass through, and uploads can be ended, which makes room. */
function roomCheck(store: Pick<EmbeddedStore, 'takesBytes'>): HealthCheck {
  const problem = 'the disk has no room: nothing new is received';
  return { name: 'room', isOnlyTold: true, check: () => Promise.resolve(store.takesBytes ? undefined : problem) };
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
