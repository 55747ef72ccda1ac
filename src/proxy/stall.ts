import type { ClientRequest } from 'node:http';

/** Whose move it is. */
export type AwaitedSide = 'origin' | 'client';

/** How long nothing may move while it is this side's turn; without a number, for ever. */
export type StallLimits = Readonly<Record<AwaitedSide, number | undefined>>;

/** How often it is looked at within the shorter time. */
const CHECKS_PER_LIMIT = 4;

/**
 * Notices that nothing moves between us and the origin any more, and tells whose fault it is. `awaited` gives nothing while
 * neither is waited for, as with a client that is slow to read: then no time counts.
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
    // A request has no socket before it is given one.
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

const MAX_TIMER_MS = 2 ** 31 - 1;
