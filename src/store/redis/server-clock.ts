/** Differences below this come from the way to Redis, not from the clocks. */
const NOTICEABLE_MS = 250;

/**
 * The clock of Redis, by which all nodes judge what is due or over, whatever their own clocks say. Times of ours that
 * were apart by a millisecond are so on its clock as well: how far the clocks differ is not measured anew each time.
 */
export class ServerClock {
  private aheadMs = 0;

  constructor(readonly now: () => number) {}

  /** What Redis said its time is, in reply to a question of that moment. */
  note(serverMs: number, askedAt: number): void {
    const repliedAt = this.now();
    const aheadMs = serverMs - (askedAt + repliedAt) / 2;
    const unsureMs = (repliedAt - askedAt) / 2;
    if (Math.abs(aheadMs - this.aheadMs) > NOTICEABLE_MS + unsureMs) this.aheadMs = Math.round(aheadMs);
  }

  /** A time of ours, on the clock of Redis; as an argument or a score. */
  at(ours: number): number | '+inf' {
    return ours === Infinity ? '+inf' : ours + this.aheadMs;
  }

  /** The same the other way, of what a script or a score says. */
  ours(theirs: string): number {
    return theirs === '+inf' ? Infinity : Number(theirs) - this.aheadMs;
  }
}
