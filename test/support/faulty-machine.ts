import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { Delivery } from '../../src/delivery/delivery.js';
import type { Origin } from '../../src/delivery/origin.js';
import type { SyncMode } from '../../src/fs/directory-sync.js';
import { nodeName } from '../../src/fs/node-name.js';
import { Fault } from '../../src/model/fault.js';
import type { Route } from '../../src/model/route.js';
import type { UnknownOutcome } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { assertUsable, claimForEmbedded } from '../../src/spool/data-directory.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { DirectoryLock, thisOwner } from '../../src/store/embedded/directory-lock.js';
import { EmbeddedLeases } from '../../src/store/embedded/embedded-leases.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { Cleanup } from '../../src/uploads/cleanup.js';
import { recover } from '../../src/uploads/recovery.js';
import { UnreadableBytes, UnrecordedBytes } from '../../src/uploads/unknown-bytes.js';
import type { Uploads } from '../../src/uploads/uploads.js';
import { onlyRoute, routeTo } from './delivery-harness.js';
import type { MemoryDisk } from './memory-disk.js';
import { newUploads } from './upload-harness.js';
import { testSecrets } from './secrets.js';

const HOUR = 3_600_000;

/** Longer answers go to the spool. */
export const SHORT_ANSWER = 100;

/** One for all machines, which are many: it is only written to. */
class SharedMetrics extends Metrics {
  override countQueuedDeliveries(): void {
    // A figure that is asked for can belong to one delivery only.
  }
}
const metrics = new SharedMetrics();

export const route: Route = routeTo('http://origin.test', {
  rules: { keepAnswerSize: SHORT_ANSWER },
  retry: { firstDelayMs: 1, longestDelayMs: 2 },
});
const routes = onlyRoute(route);

const owner = await thisOwner();

export interface MachineOptions {
  readonly disk: MemoryDisk;
  readonly origin: Origin;
  readonly sync?: SyncMode;
  /** See `EmbeddedStoreOptions`. */
  readonly maxCachedBytes?: number;
  /** Its clock, and the time that passed, are so far ahead. */
  readonly aheadMs?: number;
}

type Closing = () => Promise<void>;

/** One process: lock and marks of the data directory, the store, the spool, the receiving side and the delivery over a disk. */
export class Machine {
  readonly node: string;
  readonly uploads: Uploads;
  private readonly path: string;

  private constructor(
    private readonly options: MachineOptions,
    private readonly parts: {
      readonly node: string;
      readonly store: EmbeddedStore;
      readonly spool: LocalSpool;
      readonly unreadable: UnreadableBytes;
      readonly uploads: Uploads;
      readonly delivery: Delivery;
      readonly opened: readonly Closing[];
    },
  ) {
    this.path = options.disk.path;
    this.node = parts.node;
    this.uploads = parts.uploads;
  }

  /** As a process starts. */
  static async boot(options: MachineOptions): Promise<Machine> {
    const opened: Closing[] = [];
    try {
      return new Machine(options, await start(options, opened));
    } catch (error) {
      await close(opened);
      throw error;
    }
  }

  /** It crashed, or was stopped: nobody hears it any more. */
  get isGone(): boolean {
    return this.path !== this.options.disk.path;
  }

  /** As after the last byte of a response that says so. */
  clientKnows(end: UnknownOutcome): Promise<void> {
    return this.parts.delivery.recordClientInformed(end);
  }

  async sweep(): Promise<void> {
    const { store, spool, unreadable } = this.parts;
    const leases = new EmbeddedLeases(store);
    const shared = { store, spool, leases, metrics, unreadable, log: silentLog(), clock: clockOf(this.options) };
    await new Cleanup({ ...shared, everyMs: HOUR, orphanAgeMs: 0 }).runOnce();
  }

  /** As SIGTERM ends it. After a crash of its disk: has everything in it end. */
  end(): Promise<void> {
    return close(this.parts.opened);
  }
}

function clockOf({ aheadMs = 0 }: MachineOptions): () => number {
  return () => Date.now() + aheadMs;
}

async function start(options: MachineOptions, opened: Closing[]): Promise<Machine['parts']> {
  const { disk, origin, sync = 'group', maxCachedBytes } = options;
  const clock = clockOf(options);
  const log = silentLog();
  // Beside the data of the embedded store, which takes a directory with such a name for one of a node.
  const node = await nodeName(join(disk.path, 'node'));
  const directory = join(disk.path, 'data');
  await assertUsable({ directory, store: 'embedded', isShared: false });
  const lock = await DirectoryLock.take(directory, lockOptions());
  opened.push(() => lock.release());
  await claimForEmbedded(directory);
  const store = await EmbeddedStore.open({ directory, sync, log, clock, maxCachedBytes });
  opened.push(() => store.close());
  const spool = new LocalSpool({ directory, sync, isMarked: true });
  await spool.open();
  const leases = new EmbeddedLeases(store, { graceMs: 50 });
  const unreadable = new UnreadableBytes({ spool, log, clock, everyMs: 20 });
  opened.push(() => unreadable.stop());
  const unrecorded = new UnrecordedBytes({ log, clock });
  await recover({ store, spool, log, metrics, clock, unreadable, unrecorded });
  unreadable.start((id, files) => Promise.resolve(unrecorded.note(id, files)));
  const shared = { store, spool, log, metrics, clock, secrets: testSecrets() };
  // A claim of a run that failed has to run out, which is to take no time here.
  const times = { claimMs: 300, pollMs: 5, stopGraceMs: 0, random: () => 0.5 };
  const delivery = new Delivery({ ...shared, ...times, origin, routes, worker: randomBytes(8).toString('hex') });
  opened.push(() => delivery.stop());
  const uploads = newUploads({
    ...shared,
    leases,
    delivery,
    pace: sync === 'always' ? { bytes: 0, everyMs: 0 } : { bytes: 1_000_000, everyMs: 1000 },
  });
  delivery.start();
  void store.recoverRest();
  return { node, store, spool, unreadable, uploads, delivery, opened };
}

/** A lock that does not say whose it is has to be watched, for half a second here. Each process is another one. */
function lockOptions(): Parameters<typeof DirectoryLock.take>[1] {
  const nonce = randomBytes(12).toString('hex');
  return { owner: { ...owner, nonce, processStart: 'before' }, heartbeatMs: 4000, staleMs: 10 };
}

/** In the opposite order of opening; a sick disk keeps nothing from ending. */
async function close(opened: readonly Closing[]): Promise<void> {
  for (const each of [...opened].reverse())
    await each().catch((error: unknown) => {
      if (!(error instanceof Fault)) throw error;
    });
}

/** The bytes, in as many buffers as a connection may bring them. */
export function streamOf(bytes: Buffer): Readable {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += 256 * 1024) pieces.push(bytes.subarray(at, at + 256 * 1024));
  return Readable.from(pieces);
}
