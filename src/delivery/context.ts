import type { Routes } from '../model/route.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { Spool } from '../spool/spool.js';
import type { OriginQueues } from './origin-queue.js';
import type { Origin } from './origin.js';
import type { RetryingStore } from './retrying-store.js';

/** What every delivery works with. */
export interface DeliveryContext {
  readonly store: RetryingStore;
  readonly spool: Spool;
  readonly origin: Origin;
  readonly routes: Routes;
  readonly originQueues: OriginQueues;
  /** Names this process among all that deliver from the same store. */
  readonly worker: string;
  /** The name by which this proxy knows itself again, in `Via`. */
  readonly via?: string;
  /** Whose bytes this process reaches; missing where every node reaches all. */
  readonly node?: string;
  /** The time of the wall, which may be set: for what is written down, and read after a restart or by other nodes. */
  readonly clock: () => number;
  /** Milliseconds by a clock that nobody sets: for every length of time within this process. */
  readonly monotonic: () => number;
  readonly random: () => number;
  readonly log: Log;
  readonly metrics: Metrics;
  /** A claim that nobody has renewed for this long may be taken by another worker. */
  readonly claimMs: number;
  /**
   * A worker whose claim ran out within an attempt has this long to come back with what it learned, before another one
   * says that nobody knows. 0 where no other worker can be alive.
   */
  readonly returnGraceMs: number;
  /** Aborted when nothing new may begin. */
  readonly draining: AbortSignal;
  /** Aborted when attempts under way have to end. */
  readonly halted: AbortSignal;
}
