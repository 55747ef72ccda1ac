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
 * The time as the removal of uploads reads it: a clock that is put forward ends nothing early. Times behind the present, as
 * after a clock was put back, are read as they are: they only keep an upload longer.
 */
export class SteadyClock {
  private aheadMs: number;
  private lastAheadMs: number;
  private steppedAt = -Infinity;

  constructor(private readonly options: SteadyClockOptions) {
    this.aheadMs = this.lastAheadMs = options.wall() - options.monotonic();
  }

  /** To be asked often: a step is only seen between two questions. */
  now(): number {
    const { wall, monotonic, settleMs } = this.options;
    const [time, passed] = [wall(), monotonic()];
    const aheadMs = time - passed;
    if (Math.abs(aheadMs - this.lastAheadMs) > STEP_MS) this.steppedAt = passed;
    this.lastAheadMs = aheadMs;
    if (passed - this.steppedAt >= settleMs) this.aheadMs = aheadMs;
    return Math.min(time, passed + this.aheadMs);
  }
}
