import { performance } from 'node:perf_hooks';
import type { Fault } from '../../model/fault.js';
import type { Log } from '../../observe/log.js';
import { mayPass } from './errors.js';

const BEAT_MS = 1000;

/** Asks Redis again and again whether it is well, remembers what is wrong, and says in the log when that changes. */
export class RedisHealth {
  private problem: string | undefined;
  /** What was said since it is away. */
  private readonly said = new Set<string>();
  private since = 0;
  private timer: NodeJS.Timeout | undefined;
  private beating: Promise<void> | undefined;

  constructor(
    private readonly beat: () => Promise<void>,
    private readonly log: Log,
  ) {}

  start(): void {
    this.timer = setInterval(() => {
      this.beating ??= this.ask().finally(() => (this.beating = undefined));
    }, BEAT_MS).unref();
  }

  /** What is wrong, for people; undefined when nothing is. */
  get trouble(): string | undefined {
    return this.problem;
  }

  /** A command has failed: no need to wait for the next beat. */
  noteTrouble(fault: Fault): void {
    const { message } = fault;
    if (this.problem === undefined) this.since = performance.now();
    if (this.isNewTrouble(fault)) this.log.error(`Redis is not available: ${message}`);
    this.problem = message;
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.beating;
  }

  /** One outage has many words; but that somebody has to change something, as a password, is said whatever came before. */
  private isNewTrouble({ message, cause }: Fault): boolean {
    if (this.problem === undefined) this.said.clear();
    else if (mayPass(cause) || this.said.has(message)) return false;
    this.said.add(message);
    return true;
  }

  private async ask(): Promise<void> {
    try {
      await this.beat();
    } catch (fault) {
      return this.noteTrouble(fault as Fault);
    }
    if (this.problem !== undefined)
      this.log.info({ awayMs: Math.round(performance.now() - this.since) }, 'Redis is available again');
    this.problem = undefined;
  }
}

/** A server that answers nothing for so long is away. */
const SILENT_MS = 700;
/** And one that answers others, but not this: no step is waited for longer. */
const MOST_MS = 3000;

/**
 * Decides when a step is waited for no longer. Behind many others a step may take its time; what counts is that the
 * server goes on answering those who ask about the same.
 */
export class ReplyTimeout {
  private readonly answeredAt = new Map<string, number>();

  async wait<T>(about: string, reply: Promise<T>): Promise<T> {
    const begunAt = performance.now();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const look = (): void => {
        const heardAt = Math.max(begunAt, this.answeredAt.get(about) ?? 0);
        const remainingMs = Math.min(heardAt + SILENT_MS, begunAt + MOST_MS) - performance.now();
        if (remainingMs > 0) timer = setTimeout(look, remainingMs);
        // When this process stood still, the answer is here already, only not read.
        else setImmediate(() => reject(new Error('not answered in time')));
      };
      timer = setTimeout(look, SILENT_MS);
    });
    try {
      const answer = await Promise.race([reply, late]);
      this.answeredAt.set(about, performance.now());
      return answer;
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
