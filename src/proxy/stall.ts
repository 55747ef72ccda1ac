import type { ClientRequest } from 'node:http';

/** The side whose next bytes the proxy waits for. */
export type AwaitedSide = 'origin' | 'client';

/** Maximum silence of each side while the proxy waits for it, in milliseconds; undefined: no limit. */
export type StallLimits = Readonly<Record<AwaitedSide, number | undefined>>;

/** Number of checks within the shorter limit. */
const CHECKS_PER_LIMIT = 4;

/**
 * Detects that no bytes move on the connection to the origin, and reports the side that caused it. No time counts while
 * `awaited` returns undefined, for example with a client that reads slowly.
 */
export class StallDetector {
  private readonly timer: NodeJS.Timeout;
  private readonly intervalMs: number;
  private lastMovedBytes = 0;
  private lastAwaited: AwaitedSide | undefined;
  private stalledMs = 0;

  constructor(
    private readonly request: ClientRequest,
    private readonly limits: StallLimits,
    private readonly awaited: () => AwaitedSide | undefined,
    private readonly onStall: (whose: AwaitedSide) => void,
  ) {
    this.intervalMs = Math.max(
      1,
      Math.ceil(Math.min(limits.origin ?? Infinity, limits.client ?? Infinity) / CHECKS_PER_LIMIT),
    );
    this.timer = setInterval(() => this.check(), Math.min(this.intervalMs, MAX_TIMER_MS));
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private check(): void {
    const { socket } = this.request;
    // A new request has no socket yet.
    const movedBytes = socket ? socket.bytesRead + socket.bytesWritten : 0;
    const awaited = this.awaited();
    this.stalledMs =
      movedBytes === this.lastMovedBytes && awaited !== undefined && awaited === this.lastAwaited
        ? this.stalledMs + this.intervalMs
        : 0;
    this.lastMovedBytes = movedBytes;
    this.lastAwaited = awaited;
    if (awaited === undefined || this.stalledMs < (this.limits[awaited] ?? Infinity)) return;
    this.stop();
    this.onStall(awaited);
  }
}

/** Node's limit; a longer timer would fire immediately. */
const MAX_TIMER_MS = 2 ** 31 - 1;
