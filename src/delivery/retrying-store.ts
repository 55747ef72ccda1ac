import type { Attempt, Chunk, Undelivered, Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { isStoreUnavailable, type KeptAnswer, retryWhileUnavailable, type UploadStore } from '../store/upload-store.js';

/** The store to retry, and what the retries need. */
export interface RetryingStoreOptions {
  /** A store whose steps reject immediately when it is unavailable. */
  readonly store: UploadStore;
  /** Ends all retries, after one last try each. */
  readonly halted: AbortSignal;
  readonly clock: () => number;
  readonly random: () => number;
  readonly log: Log;
  readonly metrics: Metrics;
}

/** The steps of a store that deliveries retry. */
type DeliverySteps = Omit<
  UploadStore,
  | 'canLoseConfirmedSteps'
  | 'index'
  | 'create'
  | 'createUnlessKeyUsed'
  | 'idByClientKey'
  | 'commit'
  | 'invalidate'
  | 'move'
  | 'reseal'
  | 'dueDeliveries'
  | 'expired'
  | 'remove'
  | 'list'
  | 'totals'
  | 'setAsideRecords'
  | 'recordClientInformed'
  | 'recordClientAskedAgain'
  | 'close'
>;

/**
 * A store whose steps are retried while it is unavailable. Deliveries can wait, their steps may be repeated, and results from
 * the origin must not be lost.
 */
export class RetryingStore implements DeliverySteps {
  /** The store without retries. */
  readonly direct: UploadStore;
  private isStoreUnavailable = false;

  constructor(private readonly options: RetryingStoreOptions) {
    this.direct = options.store;
  }

  /** Retries a step while the store is unavailable, until `signal` aborts. Rejects with the step's last error. */
  async withRetry<T>(
    step: () => Promise<T> | T,
    { signal = this.options.halted, onUnavailable = () => {} } = {},
  ): Promise<T> {
    const { random } = this.options;
    const result = await retryWhileUnavailable(step, {
      signal,
      random,
      onUnavailable: (fault) => {
        this.reportUnavailable(fault);
        onUnavailable();
      },
    });
    this.reportAvailable();
    return result;
  }

  /** Runs a step once; logs when the store becomes unavailable and when it is available again. */
  async withoutRetry<T>(step: () => Promise<T>): Promise<T> {
    try {
      const result = await step();
      this.reportAvailable();
      return result;
    } catch (error) {
      if (isStoreUnavailable(error)) this.reportUnavailable(error);
      throw error;
    }
  }

  get(id: string): Promise<Upload | undefined> {
    return this.withRetry(() => this.direct.get(id));
  }

  chunks(id: string): Promise<readonly Chunk[]> {
    return this.withRetry(() => this.direct.chunks(id));
  }

  cancel(id: string): Promise<Upload | 'gone'> {
    return this.withRetry(() => this.direct.cancel(id));
  }

  markLost(id: string): Promise<Upload | 'gone'> {
    return this.withRetry(() => this.direct.markLost(id));
  }

  beginEagerAttempt(id: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.withRetry(() => this.direct.beginEagerAttempt(id, attempt));
  }

  endEagerAttempt(id: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.withRetry(() => this.direct.endEagerAttempt(id, attempt));
  }

  recordEarlyAnswer(id: string, ended: Attempt, kept: KeptAnswer): Promise<Upload | 'stale'> {
    return this.withRetry(() => this.direct.recordEarlyAnswer(id, ended, kept));
  }

  /** A claim whose confirmation was lost counts as held. */
  claimDelivery(id: string, worker: string, until: number, eagerAttempt?: Attempt): Promise<Upload | undefined> {
    const { clock } = this.options;
    const claimMs = until - clock();
    let mayBeHeld = false;
    return this.withRetry(async () => {
      const end = clock() + claimMs;
      const isHeld = mayBeHeld && (await this.direct.renewClaim(id, worker, end));
      if (isHeld) return this.ifContinues(await this.direct.get(id), eagerAttempt);
      mayBeHeld = true;
      return this.direct.claimDelivery(id, worker, end, eagerAttempt);
    });
  }

  renewClaim(id: string, worker: string, until: number, attempt?: number): Promise<boolean> {
    return this.withRetry(() => this.direct.renewClaim(id, worker, until, attempt));
  }

  beginAttempt(id: string, worker: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.withRetry(() => this.direct.beginAttempt(id, worker, attempt));
  }

  endAttempt(id: string, worker: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.withRetry(() => this.direct.endAttempt(id, worker, attempt));
  }

  recordAnswer(id: string, worker: string, kept: KeptAnswer, ended?: Attempt): Promise<Upload | 'stale'> {
    return this.withRetry(() => this.direct.recordAnswer(id, worker, kept, ended));
  }

  postpone(id: string, worker: string, dueAt: number): Promise<Upload | 'stale'> {
    return this.withRetry(() => this.direct.postpone(id, worker, dueAt));
  }

  giveUp(id: string, worker: string, failure: Undelivered): Promise<Upload | 'stale'> {
    return this.withRetry(() => this.direct.giveUp(id, worker, failure));
  }

  answerBody(id: string): Promise<Uint8Array | undefined> {
    return this.withRetry(() => this.direct.answerBody(id));
  }

  waitUntilSettled(id: string, signal: AbortSignal): Promise<Upload | undefined> {
    return this.withRetry(() => this.direct.waitUntilSettled(id, signal), { signal });
  }

  /** The upload if the claim covers the eager attempt `continued`: it is still open and no longer recorded as partial. */
  private ifContinues(upload: Upload | undefined, eagerAttempt: Attempt | undefined): Upload | undefined {
    if (!eagerAttempt) return upload;
    const recorded = upload?.attempts.find(({ number }) => number === eagerAttempt.number);
    return recorded && !recorded.inPart && recorded.reached === undefined ? upload : undefined;
  }

  private reportUnavailable(fault: Error): void {
    this.options.metrics.storeUnavailable();
    if (this.isStoreUnavailable) return;
    this.isStoreUnavailable = true;
    this.options.log.error({ reason: fault.message }, 'the store is unavailable: deliveries wait for it');
  }

  private reportAvailable(): void {
    if (!this.isStoreUnavailable) return;
    this.isStoreUnavailable = false;
    this.options.log.info('the store is available again: deliveries continue');
  }
}
