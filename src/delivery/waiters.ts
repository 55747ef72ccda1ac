import { Notifier } from '../concurrency/waiting.js';
import type { OriginInterim } from '../model/messages.js';
import type { RetryRules } from '../model/route.js';
import { newestUnknownOutcome, type Undelivered, type UnknownOutcome, type Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import type { DeliveryContext } from './context.js';
import type { ResponseBuffer } from './response-buffer.js';

export type InterimListener = (interim: OriginInterim) => void;

/** What a delivery came to. */
export type RunResult =
  /** The answer, which may still be growing. */
  | { readonly kind: 'answer'; readonly upload: Upload; readonly buffered: ResponseBuffer }
  | { readonly kind: 'undelivered'; readonly upload: Upload; readonly why: Undelivered }
  /** Not for this worker: settled already, or being delivered by another. */
  | { readonly kind: 'elsewhere' }
  | { readonly kind: 'failed'; readonly error: unknown };

/** Waited long enough: `why` and `dueAt` (monotonic) when the next attempt is known, neither while one is under way. */
export interface Pending {
  readonly kind: 'pending';
  readonly why?: Undelivered;
  readonly dueAt?: number;
}

/** No attempt before `until` (monotonic), for a reason that is known. */
export interface Pause {
  readonly until: number;
  readonly why: Undelivered;
}

export type WaitLimits = Pick<RetryRules, 'maxAttempts' | 'whileWaitingMs'> & {
  /** Held open at most this long, whatever happens. */
  readonly waitMs: number;
};

/** Those who wait for one delivery: each hears its result, or is let go when its patience is over. */
export class Waiters {
  private readonly changed = new Notifier();
  private result: RunResult | undefined;
  private pause: Pause | undefined;
  private failures = 0;
  private listeners = 0;
  private readonly interimListeners = new Set<InterimListener>();

  constructor(private readonly monotonic: () => number) {}

  get isWaiting(): boolean {
    return this.listeners > 0;
  }

  show(result: RunResult): void {
    this.result = result;
    this.changed.notifyAll();
  }

  /** What was shown did not come to its end. */
  clearResult(): void {
    this.result = undefined;
  }

  /** An interim response is for those who wait now. */
  relayInterim(interim: OriginInterim): void {
    for (const listener of this.interimListeners) listener(interim);
  }

  /** The machine that failed does its work again. */
  clearFailure(): void {
    if (this.result?.kind === 'failed') this.clearResult();
  }

  attemptFailed(): void {
    this.failures++;
  }

  /** Nothing happens before the pause is over: who cannot wait that long is told now. */
  setPause(pause: Pause | undefined): void {
    this.pause = pause;
    this.changed.notifyAll();
  }

  /** Fulfilled as soon as there is an answer to read, or the end, or patience is over. Rejects with the signal's reason. */
  async waitForResult(
    signal: AbortSignal,
    limits: WaitLimits,
    onInterim?: InterimListener,
  ): Promise<RunResult | Pending> {
    const start = { at: this.monotonic(), failures: this.failures };
    let hasTimedOut = limits.waitMs <= 0;
    const deadline = setTimeout(() => {
      hasTimedOut = true;
      this.changed.notifyAll();
    }, limits.waitMs);
    this.listeners++;
    if (onInterim) this.interimListeners.add(onInterim);
    try {
      for (;;) {
        if (this.result) return this.result;
        const { pause } = this;
        if (pause && this.shouldStopWaiting(pause, start, limits))
          return { kind: 'pending', why: pause.why, dueAt: pause.until };
        if (hasTimedOut) return { kind: 'pending', why: pause?.why, dueAt: pause?.until };
        await this.changed.next(signal);
      }
    } finally {
      clearTimeout(deadline);
      this.listeners--;
      if (onInterim) this.interimListeners.delete(onInterim);
    }
  }

  private shouldStopWaiting(
    { until }: Pause,
    start: { readonly at: number; readonly failures: number },
    { maxAttempts, whileWaitingMs, waitMs }: WaitLimits,
  ): boolean {
    const isTooLate = until > start.at + Math.min(whileWaitingMs, waitMs);
    return isTooLate || this.failures - start.failures >= maxAttempts;
  }
}

/**
 * Notes which clients were told that the outcome of an attempt is unknown. Only the note lets their next request send the
 * upload once more, so it is made after the response was sent: without it they are told again, which does no harm.
 */
export class InformedClients {
  private readonly pending = new Map<string, Promise<void>>();

  constructor(private readonly deps: Pick<DeliveryContext, 'store' | 'log'>) {}

  /** Fulfilled when the note is made, or is known not to be. Never fails. */
  recordInformed(end: UnknownOutcome): Promise<void> {
    const { id } = end;
    const before = this.pending.get(id) ?? Promise.resolve();
    const noting: Promise<void> = before
      .then(() => this.record(end))
      .catch((error: unknown) => {
        this.deps.log.warn({ upload: uploadTag(id), err: error }, NOT_RECORDED);
      })
      .finally(() => {
        if (this.pending.get(id) === noting) this.pending.delete(id);
      });
    this.pending.set(id, noting);
    return noting;
  }

  /** The next request of a client may come before the note of its last response is made. */
  pendingRecord(id: string): Promise<void> | undefined {
    return this.pending.get(id);
  }

  /**
   * A client asks as one does that lost a response: what it was sent proves nothing, and the first time it is to be told
   * once more. Clients that ask before each request would never come to their next attempt if every time counted.
   */
  async recordAsked(upload: Upload): Promise<Upload> {
    const { undelivered: why } = upload;
    const end = newestUnknownOutcome(upload);
    if (!end || !why?.clientKnows || why.hasAskedAgain) return upload;
    const noted = await this.deps.store.direct.recordClientAskedAgain(end.id, end.attempt, why);
    return noted === 'stale' ? upload : noted;
  }

  private async record({ id, attempt }: UnknownOutcome): Promise<void> {
    const { direct } = this.deps.store;
    const upload = await direct.get(id);
    const why = upload?.undelivered;
    if (!upload || !why || why.clientKnows || newestUnknownOutcome(upload)?.attempt !== attempt) return;
    await direct.recordClientInformed(id, attempt, why);
  }
}

const NOT_RECORDED = 'that a client was told of an unknown outcome could not be noted: it will be told once more';
