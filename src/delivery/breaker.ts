export interface BreakerRules {
  readonly failures: number;
  readonly pauseMs: number;
}

/** `wait`: one request is on its way to find out whether the origin is back. */
export type Admission = 'go' | 'wait' | { readonly until: number };

/**
 * Leaves an origin alone that has failed so many times in a row, so that a dead one is not given a thousand whole uploads.
 * After a pause a single attempt goes out; what becomes of it decides for all.
 */
export class Breaker {
  private failures = 0;
  private openUntil: number | undefined;
  private probing = false;

  admits(now: number): Admission {
    if (this.openUntil === undefined) return 'go';
    if (this.probing) return 'wait';
    return now < this.openUntil ? { until: this.openUntil } : 'go';
  }

  /** True when this attempt is the one that finds out. */
  begun(): boolean {
    this.probing = this.openUntil !== undefined;
    return this.probing;
  }

  /** `lives`: it answered; undefined: nothing was learned. True when the breaker opens with this, for once or once more. */
  ended(lives: boolean | undefined, isProbe: boolean, now: number, rules: BreakerRules): boolean {
    if (isProbe) this.probing = false;
    if (lives === undefined) return false;
    if (lives) {
      this.failures = 0;
      this.openUntil = undefined;
      return false;
    }
    this.failures++;
    const opens = this.openUntil === undefined ? this.failures >= rules.failures : isProbe;
    if (opens) this.openUntil = now + rules.pauseMs;
    return opens;
  }
}
