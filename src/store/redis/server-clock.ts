/** Differences below this come from the way to Redis, not from the clocks. */
const NOTICEABLE_MS = 250;

export interface SettlingOptions {
  /** Milliseconds that really passed since some moment. */
  readonly monotonic: () => number;
  /** A new difference of the clocks is believed after this long: then everything from before it has had its whole time. */
  readonly settleMs: number;
}

const NEVER: SettlingOptions = { monotonic: () => 0, settleMs: Infinity };

/**
 * The clock of Redis, by which all nodes judge what is due or over, whatever their own clocks say. Times of ours that
 * were apart by a millisecond are so on its clock as well: how far the clocks differ is not measured anew each time.
 */
export class ServerClock {
  private aheadMs = 0;
  private changedAt = 0;
  /** Between which differences it was since a new one was believed, or since its time was first heard. */
  private seen: { readonly least: number; readonly most: number } | undefined;

  constructor(
    readonly now: () => number,
    private readonly settling: SettlingOptions = NEVER,
  ) {}

  /** What Redis said its time is, in reply to a question of that moment. */
  note(serverMs: number, askedAt: number): void {
    const repliedAt = this.now();
    const aheadMs = serverMs - (askedAt + repliedAt) / 2;
    const unsureMs = (repliedAt - askedAt) / 2;
    const { monotonic, settleMs } = this.settling;
    if (Math.abs(aheadMs - this.aheadMs) > NOTICEABLE_MS + unsureMs) {
      this.aheadMs = Math.round(aheadMs);
      this.changedAt = monotonic();
    }
    const isSettled = this.seen === undefined || monotonic() - this.changedAt >= settleMs;
    const { least, most } = isSettled ? { least: this.aheadMs, most: this.aheadMs } : this.seen!;
    this.seen = { least: Math.min(least, this.aheadMs), most: Math.max(most, this.aheadMs) };
  }

  /** A time of ours, on the clock of Redis; as an argument or a score. */
  at(ours: number): number | '+inf' {
    return on(ours, this.aheadMs);
  }

  /** When an upload is to expire, on the clock of Redis: no earlier for nodes that have not yet heard that it was set. */
  endAt(ours: number): number | '+inf' {
    return on(ours, this.seen?.most ?? this.aheadMs);
  }

  /** The time by which uploads expire: a clock of Redis that is set forward ends none of them. */
  expiryAt(ours: number): number | '+inf' {
    return on(ours, this.seen?.least ?? this.aheadMs);
  }

  /** When an upload expires, on our clock; of what a script or a score says. */
  expiresAt(theirs: string): number {
    return theirs === '+inf' ? Infinity : Number(theirs) - (this.seen?.least ?? this.aheadMs);
  }
}

function on(ours: number, aheadMs: number): number | '+inf' {
  return ours === Infinity ? '+inf' : ours + aheadMs;
}
