import type { ClientRequest } from 'node:http';

/** Whose move it is. */
export type Awaited = 'origin' | 'client';

/** How long nothing may move while it is this side's turn; without a number, for ever. */
export type StallLimits = Readonly<Record<Awaited, number | undefined>>;

/** How often it is looked at within the shorter time. */
const LOOKS = 4;

/**
 * Notices that nothing moves between us and the origin any more, and tells whose fault it is. `awaited` gives nothing while
 * neither is waited for, as with a client that is slow to read: then no time counts.
 */
export class Stall {
  private readonly timer: NodeJS.Timeout;
  private readonly everyMs: number;
  private moved = 0;
  private whose: Awaited | undefined;
  private forMs = 0;

  constructor(
    private readonly request: ClientRequest,
    private readonly limits: StallLimits,
    private readonly awaited: () => Awaited | undefined,
    private readonly stalled: (whose: Awaited) => void,
  ) {
    this.everyMs = Math.max(1, Math.ceil(Math.min(limits.origin ?? Infinity, limits.client ?? Infinity) / LOOKS));
    this.timer = setInterval(() => this.look(), Math.min(this.everyMs, LONGEST_TIMER_MS));
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private look(): void {
    const { socket } = this.request;
    // A request has no socket before it is given one.
    const moved = socket ? socket.bytesRead + socket.bytesWritten : 0;
    const whose = this.awaited();
    this.forMs = moved === this.moved && whose !== undefined && whose === this.whose ? this.forMs + this.everyMs : 0;
    this.moved = moved;
    this.whose = whose;
    if (whose === undefined || this.forMs < (this.limits[whose] ?? Infinity)) return;
    this.stop();
    this.stalled(whose);
  }
}

const LONGEST_TIMER_MS = 2 ** 31 - 1;
