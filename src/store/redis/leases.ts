import { randomUUID } from 'node:crypto';
import { type Lease, LeaseQueues, type LeasePurpose, type Leases, type LeaseRequest } from '../leases.js';
import type { RedisConnection } from './connection.js';

/** A message can be lost: who waits looks by itself that often. */
const POLL_MS = 200;

/**
 * Leases among all processes that share a Redis. Requests of one process stand in a line; each draws a ticket when it
 * comes, and the ticket is its token: among processes, too, the newest wins, and who is granted after a newer one is stale
 * from the start. Holders are asked by message, or hear of it with their next renewal.
 */
export class RedisLeases implements Leases {
  private readonly queues: LeaseQueues;
  private readonly scripts: LeaseScripts;
  private readonly times: LeaseTimes;
  private readonly held = new Map<string, RedisLease>();
  private readonly waiting = new Map<string, Notifier>();

  constructor(
    private readonly connection: LeaseConnection,
    { graceMs = 2000, leaseMs = 15_000 }: Partial<LeaseTimes> = {},
  ) {
    this.times = { graceMs, leaseMs };
    this.queues = new LeaseQueues(graceMs);
    this.scripts = new LeaseScripts(connection, randomUUID(), this.times);
    connection.bus.on('ask', this.onAsk);
    connection.bus.on('free', this.onFree);
    connection.bus.on('reconnected', this.onReconnected);
  }

  /** Fails within a second when Redis cannot be asked. */
  async take(id: string, purpose: LeasePurpose = 'to-write'): Promise<Lease> {
    const request = this.queues.enqueue(id);
    try {
      const drawn = await this.scripts.draw(id, request.isFirst, purpose);
      await request.ready;
      const { state, ticket } = drawn.state === 'held' ? await this.obtain(id, drawn.ticket, purpose) : drawn;
      return state === 'stale' ? staleLease(ticket, request) : this.hold(id, ticket, request, state);
    } catch (fault) {
      request.end();
      throw fault;
    }
  }

  drain(): void {
    this.queues.drain();
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
  private async obtain(id: string, ticket: number, purpose: LeasePurpose): Promise<TakeResult> {
    const notifier = new Notifier();
    this.waiting.set(id, notifier);
    try {
      for (;;) {
        const taken = await this.scripts.take(id, ticket, purpose);
        if (taken.state !== 'held') return taken;
        await notifier.notified(Math.min(taken.waitMs, POLL_MS));
      }
    } finally {
      this.waiting.delete(id);
    }
  }

  private hold(id: string, ticket: number, request: LeaseRequest, state: TakeResult['state']): Lease {
    const lease: RedisLease = new RedisLease(ticket, request, {
      leaseMs: this.times.leaseMs,
      renew: () => this.scripts.renew(id, ticket),
      giveBack: () => this.scripts.release(id, ticket),
      onEnd: () => this.held.get(id) === lease && this.held.delete(id),
    });
    // One that was passed over was asked by the line, and has nothing to renew any more.
    this.held.get(id)?.abandon();
    this.held.set(id, lease);
    if (state === 'asked') lease.requestRelease();
    request.markHeld();
    return lease;
  }

  /** The message says which ticket wants it: one that is older than the lease was answered long ago. */
  private readonly onAsk = (message: string): void => {
    const [id, ticket] = message.split(' ') as [string, string];
    const lease = this.held.get(id);
    if (lease && lease.token < Number(ticket)) lease.requestRelease();
  };

  private readonly onFree = (id: string): void => this.waiting.get(id)?.notify();

  private readonly onReconnected = (): void => {
    for (const bell of this.waiting.values()) bell.notify();
    for (const lease of this.held.values()) void lease.renewNow();
  };
}

/** Of one that came too late: it can change nothing, and nobody has to wait for it. */
function staleLease(token: number, request: LeaseRequest): Lease {
  request.requestRelease('taken-over');
  request.markHeld();
  return { token, signal: request.signal, release: () => Promise.resolve(request.end()) };
}

/** Remembers that it was rung while nobody listened. */
class Notifier {
  private isNotified = false;
  private wake: (() => void) | undefined;

  notify(): void {
    this.isNotified = true;
    this.wake?.();
  }

  /** Fulfilled when it has rung since the last time, or after a while. */
  async notified(withinMs: number): Promise<void> {
    if (!this.isNotified) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.wake = resolve;
        timer = setTimeout(resolve, withinMs);
      });
      clearTimeout(timer);
    }
    this.isNotified = false;
    this.wake = undefined;
  }
}

export interface LeaseUpkeep {
  readonly leaseMs: number;
  readonly renew: () => Promise<RenewalResult>;
  /** In Redis; the process's own line goes on without it. */
  readonly giveBack: () => Promise<void>;
  readonly onEnd: () => void;
}

/** Sooner than the next renewal, because the last one came to nothing. */
const RETRY_MS = 500;

/**
 * A lease that is renewed until it is given back. Its holder is told when somebody else wants it or has it, and when it
 * could not be renewed for as long as it lasts.
 */
export class RedisLease implements Lease {
  private renewalTimer: NodeJS.Timeout | undefined;
  private expiryTimer: NodeJS.Timeout | undefined;
  private isRenewing = false;
  private hasEnded = false;
  private released: Promise<void> | undefined;

  constructor(
    readonly token: number,
    private readonly request: LeaseRequest,
    private readonly upkeep: LeaseUpkeep,
  ) {
    this.extend();
  }

  get signal(): AbortSignal {
    return this.request.signal;
  }

  /** Somebody with a newer ticket wants it. */
  requestRelease(): void {
    this.request.requestRelease('taken-over');
  }

  /** Looks whether it is still ours, out of turn. */
  async renewNow(): Promise<void> {
    if (this.isRenewing || this.hasEnded) return;
    clearTimeout(this.renewalTimer);
    this.isRenewing = true;
    const renewed = await this.upkeep.renew().catch(() => undefined);
    this.isRenewing = false;
    this.handleRenewal(renewed);
  }

  /** The next of this process need not wait for Redis. */
  release(): Promise<void> {
    return (this.released ??= this.giveBack());
  }

  /** No more renewals: from now on it ends by itself. */
  abandon(): void {
    this.hasEnded = true;
    clearTimeout(this.renewalTimer);
    clearTimeout(this.expiryTimer);
  }

  private async giveBack(): Promise<void> {
    const isOurs = !this.hasEnded;
    this.abandon();
    this.request.end();
    this.upkeep.onEnd();
    // What Redis does not hear of ends there when its time is over.
    if (isOurs) await this.upkeep.giveBack().catch(() => undefined);
  }

  private handleRenewal(renewed: RenewalResult | undefined): void {
    if (this.hasEnded) return;
    if (renewed === undefined) return this.renewIn(Math.min(RETRY_MS, this.upkeep.leaseMs / 3));
    if (renewed === 'lost' || renewed === 'taken-over') return this.lose(renewed);
    if (renewed === 'asked') this.requestRelease();
    this.extend();
  }

  private extend(): void {
    const { leaseMs } = this.upkeep;
    clearTimeout(this.expiryTimer);
    this.expiryTimer = setTimeout(() => this.lose('lost'), leaseMs);
    this.renewIn(leaseMs / 3);
  }

  private renewIn(ms: number): void {
    this.renewalTimer = setTimeout(() => void this.renewNow(), ms);
  }

  private lose(why: 'lost' | 'taken-over'): void {
    this.abandon();
    this.request.requestRelease(why);
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
export interface TakeResult {
  readonly state: 'granted' | 'asked' | 'stale' | 'held';
  readonly ticket: number;
  /** For `held`: after this time the holder may be passed over. */
  readonly waitMs: number;
}

export type RenewalResult = 'held' | 'asked' | 'taken-over' | 'lost';

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
  draw(id: string, isFirst: boolean, purpose: LeasePurpose): Promise<TakeResult> {
    return this.runTake(id, '', isFirst, purpose);
  }

  /** Comes back with a ticket, when its turn has come. */
  take(id: string, ticket: number, purpose: LeasePurpose): Promise<TakeResult> {
    return this.runTake(id, ticket, true, purpose);
  }

  async renew(id: string, ticket: number): Promise<RenewalResult> {
    const { lease, record } = this.connection.keys.upload(id);
    const args = [this.process, ticket, this.times.leaseMs, this.keepMs];
    return (await this.connection.run('renew-lease', [lease, record], args)) as RenewalResult;
  }

  async release(id: string, ticket: number): Promise<void> {
    const { lease, channel } = this.connection.keys.upload(id);
    await this.connection.run('release-lease', [lease, channel], [id, this.process, ticket, KEEP_FREE_MS]);
  }

  private async runTake(id: string, ticket: number | '', isFirst: boolean, purpose: LeasePurpose): Promise<TakeResult> {
    const { lease, record, channel } = this.connection.keys.upload(id);
    const { leaseMs, graceMs } = this.times;
    const options = [isFirst ? '1' : '0', leaseMs, graceMs, this.keepMs, purpose];
    const args = [id, this.process, ticket, ...options];
    const reply = await this.connection.runDurably('take-lease', [lease, record, channel], args);
    const [state, drawn, waitMs] = reply as [TakeResult['state'], number, number];
    return { state, ticket: drawn, waitMs };
  }
}
