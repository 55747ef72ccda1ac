/** How fast one client may create uploads: so many at once, and so many in a second after that. */
export interface RateLimit {
  readonly perSecond: number;
  readonly burst: number;
}

/** Beyond this number of clients, those that created an upload longest ago are forgotten. */
const MAX_CLIENTS = 10_000;

/**
 * The creations of each client, as the moment at which its allowance will be full again: one number says as much as a
 * bucket of tokens with the time of its last change.
 */
export class CreationRates {
  /** By client; the one that created an upload last is at the end. */
  private readonly fullAt = new Map<string, number>();
  private readonly intervalMs: number;
  private readonly burstMs: number;

  constructor({ perSecond, burst }: RateLimit) {
    this.intervalMs = 1000 / perSecond;
    this.burstMs = this.intervalMs * burst;
  }

  /**
   * Counts a creation, unless the client has created too many; then returns the seconds after which it may create the
   * next one. `now` is in monotonic milliseconds. An undefined client has no limit.
   */
  take(client: string | undefined, now: number): number | undefined {
    if (client === undefined) return undefined;
    const fullAt = Math.max(this.fullAt.get(client) ?? now, now) + this.intervalMs;
    const waitMs = fullAt - now - this.burstMs;
    // The sum of many intervals is not exact.
    if (waitMs > 0.001) return waitMs / 1000;
    this.fullAt.delete(client);
    this.fullAt.set(client, fullAt);
    this.forget(now);
    return undefined;
  }

  /** The number of clients that are remembered. */
  get size(): number {
    return this.fullAt.size;
  }

  private forget(now: number): void {
    for (const [client, fullAt] of this.fullAt) {
      if (fullAt > now && this.fullAt.size <= MAX_CLIENTS) return;
      this.fullAt.delete(client);
    }
  }
}
