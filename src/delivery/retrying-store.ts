import type { Attempt, Chunk, Undelivered, Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { isAway, type KeptAnswer, untilAvailable, type UploadStore } from '../store/upload-store.js';

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
type Steps = Omit<
  UploadStore,
  | 'mayForget'
  | 'create'
  | 'createFirst'
  | 'holderOf'
  | 'commit'
  | 'invalidate'
  | 'move'
  | 'dueDeliveries'
  | 'expired'
  | 'remove'
  | 'list'
  | 'totals'
  | 'setAside'
  | 'noteClientKnows'
  | 'noteClientAsks'
  | 'close'
>;

/**
 * A store that is asked again until it answers: a delivery has time, each of its steps may be repeated, and what a step has
 * learned from the origin can be learned nowhere else.
 */
export class RetryingStore implements Steps {
  readonly atOnce: UploadStore;
  private isAway = false;

  constructor(private readonly options: RetryingStoreOptions) {
    this.atOnce = options.store;
  }

  /** The step's result; its failure when that is another one than that the store is away, or when nobody waits any more. */
  async ask<T>(step: () => Promise<T> | T, { signal = this.options.halted, onAway = () => {} } = {}): Promise<T> {
    const { random } = this.options;
    const result = await untilAvailable(step, {
      signal,
      random,
      onAway: (fault) => {
        this.noteAway(fault);
        onAway();
      },
    });
    this.noteThere();
    return result;
  }

  /** The step's result, or its failure, at once; the log hears when the store begins to be away, and when it is back. */
  async askOnce<T>(step: () => Promise<T>): Promise<T> {
    try {
      const result = await step();
      this.noteThere();
      return result;
    } catch (error) {
      if (isAway(error)) this.noteAway(error);
      throw error;
    }
  }

  get(id: string): Promise<Upload | undefined> {
    return this.ask(() => this.atOnce.get(id));
  }

  chunks(id: string): Promise<readonly Chunk[]> {
    return this.ask(() => this.atOnce.chunks(id));
  }

  cancel(id: string): Promise<Upload | 'gone'> {
    return this.ask(() => this.atOnce.cancel(id));
  }

  lose(id: string): Promise<Upload | 'gone'> {
    return this.ask(() => this.atOnce.lose(id));
  }

  beginEarly(id: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.ask(() => this.atOnce.beginEarly(id, attempt));
  }

  endEarly(id: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.ask(() => this.atOnce.endEarly(id, attempt));
  }

  answerEarly(id: string, ended: Attempt, kept: KeptAnswer): Promise<Upload | 'stale'> {
    return this.ask(() => this.atOnce.answerEarly(id, ended, kept));
  }

  /** A claim whose confirmation was lost is held all the same. */
  claimDelivery(id: string, worker: string, until: number, goesOn?: Attempt): Promise<Upload | undefined> {
    const { clock } = this.options;
    const claimMs = until - clock();
    let isUnsure = false;
    return this.ask(async () => {
      const end = clock() + claimMs;
      const isHeld = isUnsure && (await this.atOnce.renewClaim(id, worker, end));
      if (isHeld) return this.ifGoesOn(await this.atOnce.get(id), goesOn);
      isUnsure = true;
      return this.atOnce.claimDelivery(id, worker, end, goesOn);
    });
  }

  renewClaim(id: string, worker: string, until: number, attempt?: number): Promise<boolean> {
    return this.ask(() => this.atOnce.renewClaim(id, worker, until, attempt));
  }

  beginAttempt(id: string, worker: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.ask(() => this.atOnce.beginAttempt(id, worker, attempt));
  }

  endAttempt(id: string, worker: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.ask(() => this.atOnce.endAttempt(id, worker, attempt));
  }

  recordAnswer(id: string, worker: string, kept: KeptAnswer, ended?: Attempt): Promise<Upload | 'stale'> {
    return this.ask(() => this.atOnce.recordAnswer(id, worker, kept, ended));
  }

  postpone(id: string, worker: string, dueAt: number): Promise<Upload | 'stale'> {
    return this.ask(() => this.atOnce.postpone(id, worker, dueAt));
  }

  giveUp(id: string, worker: string, why: Undelivered): Promise<Upload | 'stale'> {
    return this.ask(() => this.atOnce.giveUp(id, worker, why));
  }

  answerBody(id: string): Promise<Uint8Array | undefined> {
    return this.ask(() => this.atOnce.answerBody(id));
  }

  settled(id: string, signal: AbortSignal): Promise<Upload | undefined> {
    return this.ask(() => this.atOnce.settled(id, signal), { signal });
  }

  /** An early attempt that has ended meanwhile, or was never marked, does not become the whole. */
  private ifGoesOn(upload: Upload | undefined, goesOn: Attempt | undefined): Upload | undefined {
    if (!goesOn) return upload;
    const noted = upload?.attempts.find(({ number }) => number === goesOn.number);
    return noted && !noted.inPart && noted.reached === undefined ? upload : undefined;
  }

  private noteAway(fault: Error): void {
    this.options.metrics.storeUnavailable();
    if (this.isAway) return;
    this.isAway = true;
    this.options.log.error({ reason: fault.message }, 'the store does not answer: deliveries wait for it');
  }

  private noteThere(): void {
    if (!this.isAway) return;
    this.isAway = false;
    this.options.log.info('the store answers again: deliveries go on');
  }
}
