import { Notifier } from '../concurrency/waiting.js';
import type { OriginInterim } from '../model/messages.js';
import type { RetryRules } from '../model/route.js';
import { newestUnknownOutcome, type Undelivered, type UnknownOutcome, type Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import type { DeliveryContext } from './context.js';
import type { ResponseBuffer } from './response-buffer.js';

/** Receives an interim response of the origin. */
export type InterimListener = (interim: OriginInterim) => void;

/** The result of a run. */
export type RunResult =
  /** The origin's answer, which may still be arriving. */
  | { readonly kind: 'answer'; readonly upload: Upload; readonly buffered: ResponseBuffer }
  | { readonly kind: 'undelivered'; readonly upload: Upload; readonly failure: Undelivered }
  /** The delivery is settled already or belongs to another worker: the store knows the result. */
  | { readonly kind: 'elsewhere' }
  | { readonly kind: 'failed'; readonly error: unknown };

/** The wait has ended without a result. `failure` and `dueAt` (monotonic) are known between attempts, not during one. */
export interface Pending {
  readonly kind: 'pending';
  readonly failure?: Undelivered;
  readonly dueAt?: number;
}

/** A pause before the next attempt, until `until` (monotonic). */
export interface Pause {
  readonly until: number;
  readonly failure: Undelivered;
}

/** The limits of one client's wait. */
export type WaitLimits = Pick<RetryRules, 'maxAttempts' | 'whileWaitingMs'> & {
  /** Longest wait in any case. */
  readonly waitMs: number;
};

/** The requests that wait for one delivery. Each gets the result, or a `Pending` when its wait limits are reached. */
export class Waiters {
  private readonly changed = new Notifier();
  private result: RunResult | undefined;
  private pause: Pause | undefined;
  private failedAttempts = 0;
  private waitingCount = 0;
  private readonly interimListeners = new Set<InterimListener>();

  constructor(private readonly monotonic: () => number) {}

  get isWaiting(): boolean {
    return this.waitingCount > 0;
  }

  show(result: RunResult): void {
    this.result = result;
    this.changed.notifyAll();
  }

  /** Withdraws the result, because its answer broke off. */
  clearResult(): void {
    this.result = undefined;
  }

  /** Passes an interim response to the requests that wait now. */
  relayInterim(interim: OriginInterim): void {
    for (const listener of this.interimListeners) listener(interim);
  }

  /** Withdraws a `failed` result, because a retry of the step has succeeded. */
  clearFailure(): void {
    if (this.result?.kind === 'failed') this.clearResult();
  }

  attemptFailed(): void {
    this.failedAttempts++;
  }

  /** Announces a pause; requests that cannot wait for its end get a `Pending` now. */
  setPause(pause: Pause | undefined): void {
    this.pause = pause;
    this.changed.notifyAll();
  }

  /** Resolves with the result, or with a `Pending` when the limits are reached. Rejects with the signal's reason. */
  async waitForResult(
    signal: AbortSignal,
    limits: WaitLimits,
    onInterim?: InterimListener,
  ): Promise<RunResult | Pending> {
    const start = { at: this.monotonic(), failedAttempts: this.failedAttempts };
    let hasTimedOut = limits.waitMs <= 0;
    const deadline = setTimeout(() => {
      hasTimedOut = true;
      this.changed.notifyAll();
    }, limits.waitMs);
    this.waitingCount++;
    if (onInterim) this.interimListeners.add(onInterim);
    try {
      for (;;) {
        if (this.result) return this.result;
        const { pause } = this;
        if (pause && this.shouldStopWaiting(pause, start, limits))
          return { kind: 'pending', failure: pause.failure, dueAt: pause.until };
        if (hasTimedOut) return { kind: 'pending', failure: pause?.failure, dueAt: pause?.until };
        await this.changed.next(signal);
      }
    } finally {
      clearTimeout(deadline);
      this.waitingCount--;
      if (onInterim) this.interimListeners.delete(onInterim);
    }
  }

  private shouldStopWaiting(
    { until }: Pause,
    start: { readonly at: number; readonly failedAttempts: number },
    { maxAttempts, whileWaitingMs, waitMs }: WaitLimits,
  ): boolean {
    const isTooLate = until > start.at + Math.min(whileWaitingMs, waitMs);
    return isTooLate || this.failedAttempts - start.failedAttempts >= maxAttempts;
  }
}

/**
 * Records which clients were informed that the outcome of an attempt is unknown. Only that record lets their next request send the
 * upload again, so it is made after the response was sent; without it they are informed once more, which does no harm.
 */
export class InformedClients {
  private readonly pending = new Map<string, Promise<void>>();

  constructor(private readonly deps: Pick<DeliveryContext, 'store' | 'log'>) {}

  /** Resolves when the record is made or has failed. Never rejects. */
  recordInformed(outcome: UnknownOutcome): Promise<void> {
    const { id } = outcome;
    const previous = this.pending.get(id) ?? Promise.resolve();
    const recording: Promise<void> = previous
      .then(() => this.record(outcome))
      .catch((error: unknown) => {
        this.deps.log.warn({ upload: uploadTag(id), err: error }, NOT_RECORDED);
      })
      .finally(() => {
        if (this.pending.get(id) === recording) this.pending.delete(id);
      });
    this.pending.set(id, recording);
    return recording;
  }

  /** The recording in progress, if any: a client's next request may arrive before it has finished. */
  pendingRecord(id: string): Promise<void> | undefined {
    return this.pending.get(id);
  }

  /**
   * Withdraws the record, because a client that asks for the state of its upload may have lost the response. Does so only
   * once: a client that asks before each request would otherwise never get its next attempt.
   */
  async recordAsked(upload: Upload): Promise<Upload> {
    const { undelivered: failure } = upload;
    const outcome = newestUnknownOutcome(upload);
    if (!outcome || !failure?.clientKnows || failure.hasAskedAgain) return upload;
    const updated = await this.deps.store.direct.recordClientAskedAgain(outcome.id, outcome.attempt, failure);
    return updated === 'stale' ? upload : updated;
  }

  private async record({ id, attempt }: UnknownOutcome): Promise<void> {
    const { direct } = this.deps.store;
    const upload = await direct.get(id);
    const failure = upload?.undelivered;
    if (!upload || !failure || failure.clientKnows || newestUnknownOutcome(upload)?.attempt !== attempt) return;
    await direct.recordClientInformed(id, attempt, failure);
  }
}

const NOT_RECORDED =
  'a client was informed of an unknown outcome, which could not be recorded: it will be informed again';
