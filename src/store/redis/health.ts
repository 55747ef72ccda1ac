import { performance } from 'node:perf_hooks';
import { PeriodicTask } from '../../concurrency/periodic-task.js';
import type { Fault } from '../../model/fault.js';
import type { Log } from '../../observe/log.js';
import { isTransient } from './errors.js';

const PROBE_INTERVAL_MS = 1000;

/** Probes Redis periodically, keeps the reason of an outage, and logs when it begins and ends. */
export class RedisHealth {
  private reason: string | undefined;
  /** Messages logged during the current outage. */
  private readonly loggedMessages = new Set<string>();
  private unavailableSinceMs = 0;
  private readonly periodic = new PeriodicTask(() => this.runProbe(), PROBE_INTERVAL_MS);

  constructor(
    private readonly probe: () => Promise<void>,
    private readonly log: Log,
  ) {}

  start(): void {
    this.periodic.start();
  }

  /** The reason why Redis is unavailable, for humans; undefined while it is available. */
  get unavailableReason(): string | undefined {
    return this.reason;
  }

  /** Records a failed command without waiting for the next probe. */
  reportFailure(fault: Fault): void {
    const { message } = fault;
    if (this.reason === undefined) this.unavailableSinceMs = performance.now();
    if (this.mustBeLogged(fault)) this.log.error(`Redis is not available: ${message}`);
    this.reason = message;
  }

  stop(): Promise<void> {
    return this.periodic.stop();
  }

  /**
   * An outage causes many different messages, so only the first is logged, except for an error that the operator has to
   * fix, such as a wrong password.
   */
  private mustBeLogged({ message, cause }: Fault): boolean {
    if (this.reason === undefined) this.loggedMessages.clear();
    else if (isTransient(cause) || this.loggedMessages.has(message)) return false;
    this.loggedMessages.add(message);
    return true;
  }

  private async runProbe(): Promise<void> {
    try {
      await this.probe();
    } catch (fault) {
      return this.reportFailure(fault as Fault);
    }
    if (this.reason !== undefined)
      this.log.info({ awayMs: Math.round(performance.now() - this.unavailableSinceMs) }, 'Redis is available again');
    this.reason = undefined;
  }
}

/** A server that replies to nothing for this long is unavailable. */
const SILENCE_LIMIT_MS = 700;
/** No step waits longer than this, even if the server replies to others. */
const STEP_LIMIT_MS = 3000;

/**
 * Limits the time that a step waits for its reply. A step behind many others may take longer, as long as the same
 * server keeps replying.
 */
export class ReplyTimeout {
  private readonly lastReplyAt = new Map<string, number>();

  async wait<T>(server: string, reply: Promise<T>): Promise<T> {
    const startedAt = performance.now();
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<never>((_, reject) => {
      const check = (): void => {
        const lastHeardAt = Math.max(startedAt, this.lastReplyAt.get(server) ?? 0);
        const remainingMs = Math.min(lastHeardAt + SILENCE_LIMIT_MS, startedAt + STEP_LIMIT_MS) - performance.now();
        if (remainingMs > 0) timer = setTimeout(check, remainingMs);
        // If this process was suspended, the reply has arrived but is not read yet.
        else setImmediate(() => reject(new Error('not answered in time')));
      };
      timer = setTimeout(check, SILENCE_LIMIT_MS);
    });
    try {
      const result = await Promise.race([reply, timeout]);
      this.lastReplyAt.set(server, performance.now());
      return result;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Smaller differences come from the network, not from the clocks. */
const NOTICEABLE_MS = 250;

export interface SettlingOptions {
  /** Monotonic milliseconds since some moment. */
  readonly monotonic: () => number;
  /**
   * A new clock difference counts alone after this long, since every upload from before the change has had its full
   * lifetime then.
   */
  readonly settleMs: number;
}

const NEVER_SETTLES: SettlingOptions = { monotonic: () => 0, settleMs: Infinity };

/**
 * The clock of Redis, by which all nodes judge what is due or expired, whatever their own clocks say. The difference
 * between the clocks is only changed when it is noticeable, so that distances between two times stay exact.
 */
export class ServerClock {
  private aheadMs = 0;
  private changedAt = 0;
  /** The smallest and largest difference since the last settled one. */
  private differences: { readonly least: number; readonly most: number } | undefined;

  constructor(
    readonly now: () => number,
    private readonly settling: SettlingOptions = NEVER_SETTLES,
  ) {}

  /** Takes a time reading from Redis, `serverMs`, that was requested at `sentAt` on our clock. */
  observe(serverMs: number, sentAt: number): void {
    const repliedAt = this.now();
    const aheadMs = serverMs - (sentAt + repliedAt) / 2;
    const toleranceMs = (repliedAt - sentAt) / 2;
    const { monotonic, settleMs } = this.settling;
    if (Math.abs(aheadMs - this.aheadMs) > NOTICEABLE_MS + toleranceMs) {
      this.aheadMs = Math.round(aheadMs);
      this.changedAt = monotonic();
    }
    const isSettled = this.differences === undefined || monotonic() - this.changedAt >= settleMs;
    const { least, most } = isSettled ? { least: this.aheadMs, most: this.aheadMs } : this.differences!;
    this.differences = { least: Math.min(least, this.aheadMs), most: Math.max(most, this.aheadMs) };
  }

  /** A time on our clock, on the clock of Redis, as a script argument or a score. */
  toServerTime(ours: number): number | '+inf' {
    return shifted(ours, this.aheadMs);
  }

  /**
   * The expiry of an upload on the clock of Redis: never too early for nodes that do not know yet that the clock was
   * set.
   */
  toServerExpiry(ours: number): number | '+inf' {
    return shifted(ours, this.differences?.most ?? this.aheadMs);
  }

  /** The current time for expiry, on the clock of Redis: setting that clock forward expires no upload. */
  toServerCutoff(ours: number): number | '+inf' {
    return shifted(ours, this.differences?.least ?? this.aheadMs);
  }

  /** The expiry of an upload on our clock, from a score or field in Redis. */
  toLocalExpiry(theirs: string): number {
    return theirs === '+inf' ? Infinity : Number(theirs) - (this.differences?.least ?? this.aheadMs);
  }
}

function shifted(ours: number, aheadMs: number): number | '+inf' {
  return ours === Infinity ? '+inf' : ours + aheadMs;
}
