import type { Socket } from 'node:net';
import { ChurningSet } from '../model/churning-set.js';
import { MAX_TIMER_MS } from '../model/timer.js';

/** The side whose next bytes the proxy waits for. */
export type AwaitedSide = 'origin' | 'client';

/** Maximum silence of each side while the proxy waits for it, in milliseconds; undefined: no limit. */
export type StallLimits = Readonly<Record<AwaitedSide, number | undefined>>;

/** Number of checks within the shorter limit. */
const CHECKS_PER_LIMIT = 4;

/** An exchange that may stall. */
export interface StallListener {
  /** The side that is awaited now; undefined: neither. */
  awaitedSide(): AwaitedSide | undefined;
  /** Called at most once. */
  onStall(whose: AwaitedSide): void;
}

/**
 * Detects that no bytes move on the connection to the origin, and reports the side that caused it. No time counts while
 * neither side is awaited, for example with a client that reads slowly.
 */
export class StallDetector {
  /** In the set of its timer. */
  position = 0;
  private readonly intervalMs: number;
  private readonly timer: SharedTimer;
  private lastMovedBytes = 0;
  private lastAwaited: AwaitedSide | undefined;
  private stalledMs = 0;
  private hasStarted = false;

  constructor(
    private readonly exchange: { readonly socket: Socket | undefined },
    private readonly limits: StallLimits,
    private readonly listener: StallListener,
  ) {
    const shortestMs = Math.min(limits.origin ?? Infinity, limits.client ?? Infinity);
    this.intervalMs = Math.min(MAX_TIMER_MS, Math.max(1, Math.ceil(shortestMs / CHECKS_PER_LIMIT)));
    this.timer = SharedTimer.every(this.intervalMs);
    this.timer.add(this);
  }

  stop(): void {
    this.timer.remove(this);
  }

  /** Called once in every interval. */
  check(): void {
    const { socket } = this.exchange;
    // The first interval is shorter than the others, because the timer is shared.
    const passedMs = this.hasStarted ? this.intervalMs : 0;
    this.hasStarted = true;
    // An exchange that waits for its connection has no socket yet.
    const movedBytes = socket ? socket.bytesRead + socket.bytesWritten : 0;
    const awaited = this.listener.awaitedSide();
    this.stalledMs =
      movedBytes === this.lastMovedBytes && awaited !== undefined && awaited === this.lastAwaited
        ? this.stalledMs + passedMs
        : 0;
    this.lastMovedBytes = movedBytes;
    this.lastAwaited = awaited;
    if (awaited === undefined || this.stalledMs < (this.limits[awaited] ?? Infinity)) return;
    this.stop();
    this.listener.onStall(awaited);
  }
}

/** One timer for all detectors with the same interval, which runs while there are some. */
class SharedTimer {
  private static readonly timers = new Map<number, SharedTimer>();
  private readonly detectors = new ChurningSet<StallDetector>();
  private timer: NodeJS.Timeout | undefined;

  private constructor(private readonly intervalMs: number) {}

  static every(intervalMs: number): SharedTimer {
    const timer = SharedTimer.timers.get(intervalMs) ?? new SharedTimer(intervalMs);
    SharedTimer.timers.set(intervalMs, timer);
    return timer;
  }

  add(detector: StallDetector): void {
    this.detectors.add(detector);
    this.timer ??= setInterval(() => this.tick(), this.intervalMs).unref();
  }

  remove(detector: StallDetector): void {
    this.detectors.delete(detector);
  }

  /** The timer outlives short gaps between exchanges, so that a request costs none of its own. */
  private tick(): void {
    for (const detector of this.detectors.all()) detector.check();
    if (this.detectors.size > 0) return;
    clearInterval(this.timer);
    this.timer = undefined;
  }
}
