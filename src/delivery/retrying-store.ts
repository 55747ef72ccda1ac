import type { Attempt, Chunk, Undelivered, Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { isStoreUnavailable, type KeptAnswer, retryWhileUnavailable, type UploadStore } from '../store/upload-store.js';

export interface RetryingStoreOptions {
  /** Fails at once when it does not answer. */
  readonly store: UploadStore;
  /** Ends all waiting, after one last try each. */
  readonly halted: AbortSignal;
  readonly clock: () => number;
  readonly random: () => number;
  readonly log: Log;
  readonly metrics: Metrics;
}

/** What a delivery asks of a store. */
type DeliverySteps = Omit<
  UploadStore,
  | 'canLoseConfirmedSteps'
  | 'create'
  | 'createUnlessKeyUsed'
  | 'idByClientKey'
  | 'commit'
  | 'invalidate'
  | 'move'
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
 * A store that is asked again until it answers: a delivery has time, each of its steps may be repeated, and what a step has
 * learned from the origin can be learned nowhere else.
 */
export class RetryingStore implements DeliverySteps {
  readonly direct: UploadStore;
  private isStoreUnavailable = false;

  constructor(private readonly options: RetryingStoreOptions) {
    this.direct = options.store;
  }

  /** The step's result; its failure when that is another one than that the store is away, or when nobody waits any more. */
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

  /** The step's result, or its failure, at once; the log hears when the store begins to be away, and when it is back. */
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

  beginEarlyAttempt(id: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.withRetry(() => this.direct.beginEarlyAttempt(id, attempt));
  }

  endEarlyAttempt(id: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.withRetry(() => this.direct.endEarlyAttempt(id, attempt));
  }

  recordEarlyAnswer(id: string, ended: Attempt, kept: KeptAnswer): Promise<Upload | 'stale'> {
    return this.withRetry(() => this.direct.recordEarlyAnswer(id, ended, kept));
  }

  /** A claim whose confirmation was lost is held all the same. */
  claimDelivery(id: string, worker: string, until: number, goesOn?: Attempt): Promise<Upload | undefined> {
    const { clock } = this.options;
    const claimMs = until - clock();
    let isUnsure = false;
    return this.withRetry(async () => {
      const end = clock() + claimMs;
      const isHeld = isUnsure && (await this.direct.renewClaim(id, worker, end));
      if (isHeld) return this.ifContinues(await this.direct.get(id), goesOn);
      isUnsure = true;
      return this.direct.claimDelivery(id, worker, end, goesOn);
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

  giveUp(id: string, worker: string, why: Undelivered): Promise<Upload | 'stale'> {
    return this.withRetry(() => this.direct.giveUp(id, worker, why));
  }

  answerBody(id: string): Promise<Uint8Array | undefined> {
    return this.withRetry(() => this.direct.answerBody(id));
  }

  waitUntilSettled(id: string, signal: AbortSignal): Promise<Upload | undefined> {
    return this.withRetry(() => this.direct.waitUntilSettled(id, signal), { signal });
  }

  /** An early attempt that has ended meanwhile, or was never marked, does not become the whole. */
  private ifContinues(upload: Upload | undefined, goesOn: Attempt | undefined): Upload | undefined {
    if (!goesOn) return upload;
    const noted = upload?.attempts.find(({ number }) => number === goesOn.number);
    return noted && !noted.inPart && noted.reached === undefined ? upload : undefined;
  }

  private reportUnavailable(fault: Error): void {
    this.options.metrics.storeUnavailable();
    if (this.isStoreUnavailable) return;
    this.isStoreUnavailable = true;
    this.options.log.error({ reason: fault.message }, 'the store does not answer: deliveries wait for it');
  }

  private reportAvailable(): void {
    if (!this.isStoreUnavailable) return;
    this.isStoreUnavailable = false;
    this.options.log.info('the store answers again: deliveries go on');
  }
}
