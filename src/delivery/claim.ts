import { type Log, uploadTag } from '../observe/log.js';
import type { RetryingStore } from './retrying-store.js';

/** The dependencies of a `DeliveryClaim`. */
export interface ClaimDeps {
  readonly store: Pick<RetryingStore, 'withRetry' | 'direct'>;
  readonly worker: string;
  readonly clock: () => number;
  readonly monotonic: () => number;
  readonly log: Log;
  /** A claim expires when it was not renewed for this long; another worker may then take it. */
  readonly claimMs: number;
  /** Aborted when running attempts have to end. */
  readonly halted: AbortSignal;
}

const NOT_RENEWED = 'a delivery claim could not be renewed';

/** Holds and renews the claim on a running delivery. `signal` aborts when the claim is lost or the process halts. */
export class DeliveryClaim {
  private readonly controller = new AbortController();
  private readonly renewalTimer: NodeJS.Timeout;
  private readonly released = new AbortController();
  private renewing: Promise<void> | undefined;
  private coveredAttempt: number | undefined;
  private readonly halt = (): void => this.controller.abort(this.deps.halted.reason);

  constructor(
    private readonly id: string,
    private readonly deps: ClaimDeps,
    /** The time of the request for the claim, by the monotonic clock: the claim cannot have started earlier. */
    private confirmedAt: number,
  ) {
    this.renewalTimer = setInterval(() => this.renewInBackground(), deps.claimMs / 3);
    this.renewalTimer.unref();
    deps.halted.addEventListener('abort', this.halt, { once: true });
    if (deps.halted.aborted) this.halt();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** Whether the claim may have expired, so that another worker may hold it. */
  get mayHaveExpired(): boolean {
    return this.ageMs >= this.deps.claimMs;
  }

  /**
   * Whether the claim holds for at least two thirds of `claimMs`; renews it if necessary. Rejects if the store is
   * unavailable.
   */
  async ensureHeld(): Promise<boolean> {
    return this.ageMs < this.deps.claimMs / 3 || this.renew();
  }

  /** Lets a renewal take the claim back from another worker, unless that one has begun a newer attempt than this. */
  coverAttempt(attempt: number): void {
    this.coveredAttempt = attempt;
  }

  /**
   * Stops renewing and waits for a running renewal, which could otherwise take the claim back after the step that gives it up.
   * The store drops the claim with the next phase.
   */
  async release(): Promise<void> {
    clearInterval(this.renewalTimer);
    // Without a reason, abort() would create an error with a stack for each delivery.
    this.released.abort('released');
    this.deps.halted.removeEventListener('abort', this.halt);
    await this.renewing;
  }

  /**
   * Lets any worker take over the delivery immediately, after one of its steps has failed. Never rejects: if the store
   * fails as well, the claim expires.
   */
  async giveBack(): Promise<void> {
    await this.release();
    const { store, worker, clock, log } = this.deps;
    await store.direct.renewClaim(this.id, worker, clock()).catch((error: unknown) => {
      log.warn({ upload: uploadTag(this.id), err: error }, 'a delivery claim could not be given back: it will expire');
    });
  }

  private get ageMs(): number {
    return this.deps.monotonic() - this.confirmedAt;
  }

  /** Retries while the store is unavailable: when it returns, other workers may take expired claims. */
  private renewInBackground(): void {
    const { store, log } = this.deps;
    const { signal } = this.released;
    this.renewing ??= store
      // A retry after the release must not take the claim back.
      .withRetry(() => signal.aborted || this.renew(), { signal })
      .then(
        (isHeld) => {
          if (!isHeld) this.controller.abort(new Error('the upload has ended, or another worker delivers it'));
        },
        (error: unknown) => {
          // The claim holds until it expires, and the next renewal may succeed.
          if (!signal.aborted) log.warn({ upload: uploadTag(this.id), err: error }, NOT_RENEWED);
        },
      )
      .finally(() => (this.renewing = undefined));
  }

  private async renew(): Promise<boolean> {
    const { store, worker, clock, monotonic, claimMs } = this.deps;
    const requestedAt = monotonic();
    const isHeld = await store.direct.renewClaim(this.id, worker, clock() + claimMs, this.coveredAttempt);
    if (isHeld) this.confirmedAt = requestedAt;
    return isHeld;
  }
}
