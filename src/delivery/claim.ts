import { type Log, uploadTag } from '../observe/log.js';
import type { RetryingStore } from './retrying-store.js';

export interface ClaimDeps {
  readonly store: Pick<RetryingStore, 'withRetry' | 'direct'>;
  readonly worker: string;
  readonly clock: () => number;
  readonly monotonic: () => number;
  readonly log: Log;
  /** After this long without a renewal somebody else may take the delivery. */
  readonly claimMs: number;
  /** Aborted when attempts under way have to end. */
  readonly halted: AbortSignal;
}

const NOT_RENEWED = 'a claim could not be renewed';

/** Holds the claim on a delivery while it is under way. `signal` ends the attempt when the claim is lost or all work stops. */
export class DeliveryClaim {
  private readonly controller = new AbortController();
  private readonly timer: NodeJS.Timeout;
  private readonly released = new AbortController();
  private renewing: Promise<void> | undefined;
  private attempt: number | undefined;
  private readonly halt = (): void => this.controller.abort(this.deps.halted.reason);

  constructor(
    private readonly id: string,
    private readonly deps: ClaimDeps,
    /** When it was asked for, by the monotonic clock: its answer may have come late, and so may we. */
    private confirmedAt: number,
  ) {
    this.timer = setInterval(() => this.renewInBackground(), deps.claimMs / 3);
    this.timer.unref();
    deps.halted.addEventListener('abort', this.halt, { once: true });
    if (deps.halted.aborted) this.halt();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** Somebody else may have taken it by now. */
  get mayHaveExpired(): boolean {
    return this.ageMs >= this.deps.claimMs;
  }

  /** Whether it will hold for a while; fails at once when the store is away. */
  async ensureHeld(): Promise<boolean> {
    return this.ageMs < this.deps.claimMs / 3 || this.renew();
  }

  /** This attempt is under way: until a newer one begins, the claim is asked back from whoever took it. */
  coverAttempt(attempt: number): void {
    this.attempt = attempt;
  }

  /**
   * Stops renewing, and waits for a renewal that is under way: one that came after the step which gives the claim up would
   * take it back. The store forgets the claim with the next phase.
   */
  async release(): Promise<void> {
    clearInterval(this.timer);
    // With a reason, or each delivery would make an error with a stack that nobody reads.
    this.released.abort('released');
    this.deps.halted.removeEventListener('abort', this.halt);
    await this.renewing;
  }

  /**
   * Lets anybody take the delivery up at once, after a step of it has failed. Best effort: where the store fails as well,
   * the claim runs out.
   */
  async giveBack(): Promise<void> {
    await this.release();
    const { store, worker, clock, log } = this.deps;
    await store.direct.renewClaim(this.id, worker, clock()).catch((error: unknown) => {
      log.warn({ upload: uploadTag(this.id), err: error }, 'a claim could not be given back: it has to run out');
    });
  }

  private get ageMs(): number {
    return this.deps.monotonic() - this.confirmedAt;
  }

  /** While the store is away until it is back: from then on everybody may take what has run out. */
  private renewInBackground(): void {
    const { store, log } = this.deps;
    const { signal } = this.released;
    this.renewing ??= store
      // Once it is released nothing is asked any more.
      .withRetry(() => signal.aborted || this.renew(), { signal })
      .then(
        (isHeld) => {
          if (!isHeld) this.controller.abort(new Error('the upload has ended, or another worker delivers it'));
        },
        (error: unknown) => {
          // Until it runs out the claim holds, and the next renewal may get through.
          if (!signal.aborted) log.warn({ upload: uploadTag(this.id), err: error }, NOT_RENEWED);
        },
      )
      .finally(() => (this.renewing = undefined));
  }

  private async renew(): Promise<boolean> {
    const { store, worker, clock, monotonic, claimMs } = this.deps;
    const requestedAt = monotonic();
    const isHeld = await store.direct.renewClaim(this.id, worker, clock() + claimMs, this.attempt);
    if (isHeld) this.confirmedAt = requestedAt;
    return isHeld;
  }
}
