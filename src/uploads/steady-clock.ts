/** A larger difference between two looks is a step of the clock, not its drift. */
const STEP_MS = 10_000;

export interface SteadyClockOptions {
  /** The time of the system, which may be set at any moment. */
  readonly wall: () => number;
  /** Milliseconds that really passed since some moment. */
  readonly monotonic: () => number;
  /** A step is believed after this long: then everything from before it has had its whole time. */
  readonly settleMs: number;
}

/**
 * The time as it is read for the end of uploads: a clock that is put forward ends nothing early, nor does one that was put
 * back and is put right again. A time behind the present only keeps an upload longer.
 */
export class SteadyClock {
  /** The least that the wall was ahead of the monotonic clock since the last step was believed. */
  private leastAheadMs: number;
  private lastAheadMs: number;
  private steppedAt = -Infinity;

  constructor(private readonly options: SteadyClockOptions) {
    this.leastAheadMs = this.lastAheadMs = options.wall() - options.monotonic();
  }

  /** To be asked often: a step is only seen between two questions. */
  now(): number {
    const { wall, monotonic, settleMs } = this.options;
    const passed = monotonic();
    const aheadMs = wall() - passed;
    if (Math.abs(aheadMs - this.lastAheadMs) > STEP_MS) this.steppedAt = passed;
    this.lastAheadMs = aheadMs;
    if (aheadMs < this.leastAheadMs || passed - this.steppedAt >= settleMs) this.leastAheadMs = aheadMs;
    return passed + this.leastAheadMs;
  }
}
