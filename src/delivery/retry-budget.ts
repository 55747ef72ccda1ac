type Clocks = { readonly clock: () => number; readonly monotonic: () => number };

/** The fields by which an attempt names the budget it belongs to. */
export interface Budget {
  readonly budgetFrom: number;
  readonly budgetSince: number;
}

/**
 * Since when trying goes on, as one run measures it: the record has a time of the wall, which means less with each step of
 * that clock. So each attempt is told anew how long ago its budget began, by the time of the wall that is now.
 */
export class RetryBudget {
  private from: number | undefined;
  private beganAt = 0;

  constructor(private readonly clocks: Clocks) {}

  /** The budget of an attempt that is about to begin. `since`: as the record says it; missing for a new one. */
  begin(budgetFrom: number, since?: number): Budget {
    const now = this.clocks.clock();
    if (since === undefined || this.from !== budgetFrom) {
      // Nothing began later than now, whatever clock said so.
      this.beganAt = this.clocks.monotonic() - Math.max(now - (since ?? now), 0);
      this.from = budgetFrom;
    }
    return { budgetFrom, budgetSince: now - Math.round(this.clocks.monotonic() - this.beganAt) };
  }
}
