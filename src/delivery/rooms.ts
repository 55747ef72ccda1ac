import type { Routes } from '../model/route.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { Spool } from '../spool/spool.js';
import type { Origin } from './origin.js';
import type { AllTurns } from './origin-turns.js';
import type { PatientStore } from './patient-store.js';

/** What every delivery works with. */
export interface Rooms {
  readonly store: PatientStore;
  readonly spool: Spool;
  readonly origin: Origin;
  readonly routes: Routes;
  readonly turns: AllTurns;
  /** Names this process among all that deliver from the same store. */
  readonly worker: string;
  /** Whose bytes this process reaches; missing where every node reaches all. */
  readonly node?: string;
  readonly clock: () => number;
  readonly random: () => number;
  readonly log: Log;
  readonly metrics: Metrics;
  /** A claim that nobody has renewed for this long may be taken by another worker. */
  readonly claimMs: number;
  /** Aborted when nothing new may begin. */
  readonly draining: AbortSignal;
  /** Aborted when attempts under way have to end. */
  readonly halted: AbortSignal;
}
