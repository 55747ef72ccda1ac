import { access, constants } from 'node:fs/promises';
import type { HealthCheck } from './admin/readiness.js';
import type { Config } from './config/config.js';
import { Fault } from './model/fault.js';
import type { Log } from './observe/log.js';
import type { Spool } from './spool/spool.js';
import { LocalSpool } from './spool/local-spool.js';
import { DirectoryLock } from './store/embedded/directory-lock.js';
import { EmbeddedLeases } from './store/embedded/embedded-leases.js';
import { EmbeddedStore } from './store/embedded/embedded-store.js';
import type { Leases } from './store/lease.js';
import type { Nodes } from './store/nodes.js';
import type { UploadStore } from './store/upload-store.js';
import { recover } from './uploads/recovery.js';

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
  /** Given to one process of all that share the spool; missing where there is but one. */
  readonly mayLookForOrphans?: () => Promise<boolean>;
  /** Brings records and bytes together after a crash, before the first request. */
  recover(): Promise<void>;
}

export interface OtherNodes {
  readonly nodes: Nodes;
  readonly storeOf: (node: string) => UploadStore;
  /** Given to one process of all, to look after nodes that are gone. */
  readonly mayLook: () => Promise<boolean>;
}

/** What opening needs besides the configuration. */
export interface StorageRooms {
  readonly log: Log;
  readonly clock: () => number;
  /** Takes what has to be closed again. */
  readonly opened: Closing[];
}

/** The store and spool of one process, with nothing else to run. */
export async function openEmbeddedStorage(config: Config, { log, opened }: StorageRooms): Promise<Storage> {
  await lockDirectory(config.data, opened);
  const { sync } = config.spool;
  const store = await EmbeddedStore.open({ directory: config.data, sync, log });
  opened.push(() => store.close());
  const leases = new EmbeddedLeases(store);
  const spool = new LocalSpool({ directory: config.data, sync });
  await spool.open();
  return {
    store,
    leases,
    spool,
    othersDeliver: false,
    checks: [directoryCheck(config.data)],
    recover: () => recover({ store, leases, spool, log, giveUpLost: (id) => store.giveUpLost(id) }),
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

export function directoryCheck(directory: string): HealthCheck {
  return {
    name: 'data',
    check: async () => {
      await access(directory, constants.R_OK | constants.W_OK);
      return undefined;
    },
  };
}
