import { performance } from 'node:perf_hooks';
import type { Fault } from '../../model/fault.js';
import type { Log } from '../../observe/log.js';
import { isTransient } from './errors.js';

const PROBE_INTERVAL_MS = 1000;

/** Asks Redis again and again whether it is well, remembers what is wrong, and says in the log when that changes. */
export class RedisHealth {
  private reason: string | undefined;
  /** What was said since it is away. */
  private readonly loggedMessages = new Set<string>();
  private unavailableSinceMs = 0;
  private timer: NodeJS.Timeout | undefined;
  private pendingProbe: Promise<void> | undefined;

  constructor(
    private readonly probe: () => Promise<void>,
    private readonly log: Log,
  ) {}

  start(): void {
    this.timer = setInterval(() => {
      this.pendingProbe ??= this.runProbe().finally(() => (this.pendingProbe = undefined));
    }, PROBE_INTERVAL_MS).unref();
  }

  /** What is wrong, for people; undefined when nothing is. */
  get unavailableReason(): string | undefined {
    return this.reason;
  }

  /** A command has failed: no need to wait for the next beat. */
  reportFailure(fault: Fault): void {
    const { message } = fault;
    if (this.reason === undefined) this.unavailableSinceMs = performance.now();
    if (this.mustBeLogged(fault)) this.log.error(`Redis is not available: ${message}`);
    this.reason = message;
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.pendingProbe;
  }

  /** One outage has many words; but that somebody has to change something, as a password, is said whatever came before. */
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

/** A server that answers nothing for so long is away. */
const SILENCE_LIMIT_MS = 700;
/** And one that answers others, but not this: no step is waited for longer. */
const STEP_LIMIT_MS = 3000;

/**
 * Decides when a step is waited for no longer. Behind many others a step may take its time; what counts is that the
 * server goes on answering those who ask about the same.
 */
export class ReplyTimeout {
  private readonly lastReplyAt = new Map<string, number>();

  async wait<T>(server: string, reply: Promise<T>): Promise<T> {
    const begunAt = performance.now();
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<never>((_, reject) => {
      const check = (): void => {
        const lastHeardAt = Math.max(begunAt, this.lastReplyAt.get(server) ?? 0);
        const remainingMs = Math.min(lastHeardAt + SILENCE_LIMIT_MS, begunAt + STEP_LIMIT_MS) - performance.now();
        if (remainingMs > 0) timer = setTimeout(check, remainingMs);
        // When this process stood still, the answer is here already, only not read.
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

/** Differences below this come from the way to Redis, not from the clocks. */
const NOTICEABLE_MS = 250;

export interface SettlingOptions {
  /** Milliseconds that really passed since some moment. */
  readonly monotonic: () => number;
  /** A new difference of the clocks is believed after this long: then everything from before it has had its whole time. */
  readonly settleMs: number;
}

const NEVER_SETTLES: SettlingOptions = { monotonic: () => 0, settleMs: Infinity };

/**
 * The clock of Redis, by which all nodes judge what is due or over, whatever their own clocks say. Times of ours that
 * were apart by a millisecond are so on its clock as well: how far the clocks differ is not measured anew each time.
 */
export class ServerClock {
  private aheadMs = 0;
  private changedAt = 0;
  /** Between which differences it was since a new one was believed, or since its time was first heard. */
  private differences: { readonly least: number; readonly most: number } | undefined;

  constructor(
    readonly now: () => number,
    private readonly settling: SettlingOptions = NEVER_SETTLES,
  ) {}

  /** What Redis said its time is, in reply to a question of that moment. */
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

  /** A time of ours, on the clock of Redis; as an argument or a score. */
  toServerTime(ours: number): number | '+inf' {
    return shifted(ours, this.aheadMs);
  }

  /** When an upload is to expire, on the clock of Redis: no earlier for nodes that have not yet heard that it was set. */
  toServerExpiry(ours: number): number | '+inf' {
    return shifted(ours, this.differences?.most ?? this.aheadMs);
  }

  /** The time by which uploads expire: a clock of Redis that is set forward ends none of them. */
  toServerCutoff(ours: number): number | '+inf' {
    return shifted(ours, this.differences?.least ?? this.aheadMs);
  }

  /** When an upload expires, on our clock; of what a script or a score says. */
  toLocalExpiry(theirs: string): number {
    return theirs === '+inf' ? Infinity : Number(theirs) - (this.differences?.least ?? this.aheadMs);
  }
}

function shifted(ours: number, aheadMs: number): number | '+inf' {
  return ours === Infinity ? '+inf' : ours + aheadMs;
}
