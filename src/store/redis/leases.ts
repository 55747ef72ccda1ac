import { randomUUID } from 'node:crypto';
import { type Lease, LeaseQueues, type LeasePurpose, type Leases, type LeaseRequest } from '../leases.js';
import type { RedisConnection } from './connection.js';

/** A message can be lost: who waits looks by itself that often. */
const LOOK_MS = 200;

/**
 * Leases among all processes that share a Redis. Requests of one process stand in a line; each draws a ticket when it
 * comes, and the ticket is its token: among processes, too, the newest wins, and who is granted after a newer one is stale
 * from the start. Holders are asked by message, or hear of it with their next renewal.
 */
export class RedisLeases implements Leases {
  private readonly lines: LeaseQueues;
  private readonly scripts: LeaseScripts;
  private readonly times: LeaseTimes;
  private readonly held = new Map<string, RedisLease>();
  private readonly waiting = new Map<string, Notifier>();

  constructor(
    private readonly connection: LeaseConnection,
    { graceMs = 2000, leaseMs = 15_000 }: Partial<LeaseTimes> = {},
  ) {
    this.times = { graceMs, leaseMs };
    this.lines = new LeaseQueues(graceMs);
    this.scripts = new LeaseScripts(connection, randomUUID(), this.times);
    connection.bus.on('ask', this.onAsk);
    connection.bus.on('free', this.onFree);
    connection.bus.on('reconnected', this.onReconnected);
  }

  /** Fails within a second when Redis cannot be asked. */
  async take(id: string, purpose: LeasePurpose = 'to-write'): Promise<Lease> {
    const turn = this.lines.enqueue(id);
    try {
      const drawn = await this.scripts.draw(id, turn.isFirst, purpose);
      await turn.ready;
      const { state, ticket } = drawn.state === 'held' ? await this.obtain(id, drawn.ticket, purpose) : drawn;
      return state === 'stale' ? staleLease(ticket, turn) : this.hold(id, ticket, turn, state);
    } catch (fault) {
      turn.end();
      throw fault;
    }
  }

  drain(): void {
    this.lines.drain();
  }

  /** Nothing is heard or renewed any more: what is held ends by itself. */
  close(): void {
    const { bus } = this.connection;
    bus.off('ask', this.onAsk);
    bus.off('free', this.onFree);
    bus.off('reconnected', this.onReconnected);
    for (const lease of this.held.values()) lease.abandon();
  }

  /** Asks again and again, until the holder has given back or may be passed over. */
  private async obtain(id: string, ticket: number, purpose: LeasePurpose): Promise<Taken> {
    const bell = new Notifier();
    this.waiting.set(id, bell);
    try {
      for (;;) {
        const taken = await this.scripts.take(id, ticket, purpose);
        if (taken.state !== 'held') return taken;
        await bell.notified(Math.min(taken.waitMs, LOOK_MS));
      }
    } finally {
      this.waiting.delete(id);
    }
  }

  private hold(id: string, ticket: number, turn: LeaseRequest, state: Taken['state']): Lease {
    const lease: RedisLease = new RedisLease(ticket, turn, {
      leaseMs: this.times.leaseMs,
      renew: () => this.scripts.renew(id, ticket),
      giveBack: () => this.scripts.release(id, ticket),
      onEnd: () => this.held.get(id) === lease && this.held.delete(id),
    });
    // One that was passed over was asked by the line, and has nothing to renew any more.
    this.held.get(id)?.abandon();
    this.held.set(id, lease);
    if (state === 'asked') lease.ask();
    turn.markHeld();
    return lease;
  }

  /** The message says which ticket wants it: one that is older than the lease was answered long ago. */
  private readonly onAsk = (message: string): void => {
    const [id, ticket] = message.split(' ') as [string, string];
    const lease = this.held.get(id);
    if (lease && lease.token < Number(ticket)) lease.ask();
  };

  private readonly onFree = (id: string): void => this.waiting.get(id)?.notify();

  private readonly onReconnected = (): void => {
    for (const bell of this.waiting.values()) bell.notify();
    for (const lease of this.held.values()) void lease.renewNow();
  };
}

/** Of one that came too late: it can change nothing, and nobody has to wait for it. */
function staleLease(token: number, turn: LeaseRequest): Lease {
  turn.requestRelease('taken-over');
  turn.markHeld();
  return { token, signal: turn.signal, release: () => Promise.resolve(turn.end()) };
}

/** Remembers that it was rung while nobody listened. */
class Notifier {
  private isRung = false;
  private wake: (() => void) | undefined;

  notify(): void {
    this.isRung = true;
    this.wake?.();
  }

  /** Fulfilled when it has rung since the last time, or after a while. */
  async notified(withinMs: number): Promise<void> {
    if (!this.isRung) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.wake = resolve;
        timer = setTimeout(resolve, withinMs);
      });
      clearTimeout(timer);
    }
    this.isRung = false;
    this.wake = undefined;
  }
}

export interface LeaseUpkeep {
  readonly leaseMs: number;
  readonly renew: () => Promise<Renewed>;
  /** In Redis; the process's own line goes on without it. */
  readonly giveBack: () => Promise<void>;
  readonly onEnd: () => void;
}

/** Sooner than the next renewal, because the last one came to nothing. */
const AGAIN_MS = 500;

/**
 * A lease that is renewed until it is given back. Its holder is told when somebody else wants it or has it, and when it
 * could not be renewed for as long as it lasts.
 */
export class RedisLease implements Lease {
  private renewal: NodeJS.Timeout | undefined;
  private end: NodeJS.Timeout | undefined;
  private isRenewing = false;
  private isOver = false;
  private released: Promise<void> | undefined;

  constructor(
    readonly token: number,
    private readonly turn: LeaseRequest,
    private readonly upkeep: LeaseUpkeep,
  ) {
    this.lasts();
  }

  get signal(): AbortSignal {
    return this.turn.signal;
  }

  /** Somebody with a newer ticket wants it. */
  ask(): void {
    this.turn.requestRelease('taken-over');
  }

  /** Looks whether it is still ours, out of turn. */
  async renewNow(): Promise<void> {
    if (this.isRenewing || this.isOver) return;
    clearTimeout(this.renewal);
    this.isRenewing = true;
    const answer = await this.upkeep.renew().catch(() => undefined);
    this.isRenewing = false;
    this.heed(answer);
  }

  /** The next of this process need not wait for Redis. */
  release(): Promise<void> {
    return (this.released ??= this.giveBack());
  }

  /** No more renewals: from now on it ends by itself. */
  abandon(): void {
    this.isOver = true;
    clearTimeout(this.renewal);
    clearTimeout(this.end);
  }

  private async giveBack(): Promise<void> {
    const isOurs = !this.isOver;
    this.abandon();
    this.turn.end();
    this.upkeep.onEnd();
    // What Redis does not hear of ends there when its time is over.
    if (isOurs) await this.upkeep.giveBack().catch(() => undefined);
  }

  private heed(answer: Renewed | undefined): void {
    if (this.isOver) return;
    if (answer === undefined) return this.renewIn(Math.min(AGAIN_MS, this.upkeep.leaseMs / 3));
    if (answer === 'lost' || answer === 'taken-over') return this.lose(answer);
    if (answer === 'asked') this.ask();
    this.lasts();
  }

  private lasts(): void {
    const { leaseMs } = this.upkeep;
    clearTimeout(this.end);
    this.end = setTimeout(() => this.lose('lost'), leaseMs);
    this.renewIn(leaseMs / 3);
  }

  private renewIn(ms: number): void {
    this.renewal = setTimeout(() => void this.renewNow(), ms);
  }

  private lose(why: 'lost' | 'taken-over'): void {
    this.abandon();
    this.turn.requestRelease(why);
  }
}

/** What the leases need of the way to Redis. */
export type LeaseConnection = Pick<RedisConnection, 'run' | 'runDurably' | 'keys' | 'bus'>;

export interface LeaseTimes {
  /** How long a holder that was asked may take to give back before it is passed over. */
  readonly graceMs: number;
  /** How long a lease lasts that is not renewed. */
  readonly leaseMs: number;
}

/** `asked`: granted, but someone newer waits already. `stale`: someone newer has had it. */
export interface Taken {
  readonly state: 'granted' | 'asked' | 'stale' | 'held';
  readonly ticket: number;
  /** For `held`: after this time the holder may be passed over. */
  readonly waitMs: number;
}

export type Renewed = 'held' | 'asked' | 'taken-over' | 'lost';

/** What is known of a lease is kept at least so long, even if nobody gives it back. */
const KEEP_HELD_MS = 60_000;
/** And so long after it was given back: who asks for uploads that do not exist should not fill the memory of Redis. */
const KEEP_FREE_MS = 5000;

/** The scripts of leases, as one process calls them. */
export class LeaseScripts {
  private readonly keepMs: number;

  constructor(
    private readonly connection: LeaseConnection,
    /** Random: no two objects have the same, not even one after the other. */
    private readonly process: string,
    private readonly times: LeaseTimes,
  ) {
    this.keepMs = Math.max(KEEP_HELD_MS, 4 * times.leaseMs);
  }

  /** Draws a ticket, and takes the lease with it if the turn has come and it can be had. */
  draw(id: string, isTurn: boolean, purpose: LeasePurpose): Promise<Taken> {
    return this.runTake(id, '', isTurn, purpose);
  }

  /** Comes back with a ticket, when its turn has come. */
  take(id: string, ticket: number, purpose: LeasePurpose): Promise<Taken> {
    return this.runTake(id, ticket, true, purpose);
  }

  async renew(id: string, ticket: number): Promise<Renewed> {
    const { lease, record } = this.connection.keys.upload(id);
    const args = [this.process, ticket, this.times.leaseMs, this.keepMs];
    return (await this.connection.run('renew-lease', [lease, record], args)) as Renewed;
  }

  async release(id: string, ticket: number): Promise<void> {
    const { lease, news } = this.connection.keys.upload(id);
    await this.connection.run('release-lease', [lease, news], [id, this.process, ticket, KEEP_FREE_MS]);
  }

  private async runTake(id: string, ticket: number | '', isTurn: boolean, purpose: LeasePurpose): Promise<Taken> {
    const { lease, record, news } = this.connection.keys.upload(id);
    const { leaseMs, graceMs } = this.times;
    const how = [isTurn ? '1' : '0', leaseMs, graceMs, this.keepMs, purpose];
    const args = [id, this.process, ticket, ...how];
    const reply = await this.connection.runDurably('take-lease', [lease, record, news], args);
    const [state, drawn, waitMs] = reply as [Taken['state'], number, number];
    return { state, ticket: drawn, waitMs };
  }
}
