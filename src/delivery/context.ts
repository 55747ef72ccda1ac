import type { Routes } from '../model/route.js';
import type { StoryWriter } from '../model/story.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { UploadSecrets } from '../secrets/upload-secrets.js';
import type { Spool } from '../spool/spool.js';
import type { OriginQueues } from './origin-queue.js';
import type { Origin } from './origin.js';
import type { RetryingStore } from './retrying-store.js';

/** Dependencies and timings shared by all deliveries of this process. */
export interface DeliveryContext {
  readonly store: RetryingStore;
  readonly spool: Spool;
  readonly origin: Origin;
  readonly secrets: UploadSecrets;
  readonly routes: Routes;
  readonly originQueues: OriginQueues;
  /** Unique name of this process among all processes that deliver from the same store. */
  readonly worker: string;
  /** This proxy's name in `Via`, by which it detects loops. */
  readonly via?: string;
  /** The node whose bytes this process can read; missing if every node can read all. */
  readonly node?: string;
  /** Wall clock in milliseconds, which an operator may set: for recorded times, because other processes read them later. */
  readonly clock: () => number;
  /** Monotonic clock in milliseconds: for every duration within this process. */
  readonly monotonic: () => number;
  readonly random: () => number;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Missing if no histories are kept. */
  readonly story?: StoryWriter;
  /** A claim expires when it was not renewed for this long; another worker may then take it. */
  readonly claimMs: number;
  /**
   * A worker whose claim expired during an attempt has this long to record its result, before another worker records the
   * outcome as unknown. 0 where no other worker can be alive.
   */
  readonly returnGraceMs: number;
  /** Aborted when no new attempt may start. */
  readonly draining: AbortSignal;
  /** Aborted when running attempts have to end. */
  readonly halted: AbortSignal;
}
