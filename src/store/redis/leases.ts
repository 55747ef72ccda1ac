import { randomUUID } from 'node:crypto';
import { Notifier } from '../../concurrency/waiting.js';
import { type Lease, LeaseQueues, type LeasePurpose, type Leases, type LeaseRequest } from '../leases.js';
import type { RedisConnection } from './connection.js';

/** Messages can be lost, so a waiting request also polls at this interval. */
const POLL_MS = 200;

/**
 * Leases shared by all processes of one Redis. The requests of one process form a queue; each draws a ticket on
 * arrival, and the ticket becomes the token. The newest ticket wins, and a lease granted after a newer one is stale
 * from the start. Holders are asked to release by message or in the reply to a renewal.
 * Reasons: docs/decisions/0014.
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

  /** Rejects when Redis is unavailable. */
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

  /** Ends all listening and renewing; held leases expire. */
  close(): void {
    const { bus } = this.connection;
    bus.off('ask', this.onAsk);
    bus.off('free', this.onFree);
    bus.off('reconnected', this.onReconnected);
    for (const lease of this.held.values()) lease.abandon();
  }

  /** Repeats the request until the holder has released the lease or may be passed over. */
  private async obtain(id: string, ticket: number, purpose: LeasePurpose): Promise<TakeResult> {
    const changes = new Notifier();
    this.waiting.set(id, changes);
    try {
      for (;;) {
        const deadline = new AbortController();
        // Waits from before the request on, so that a release at the same moment is not missed.
        const change = changes.next(deadline.signal).catch(() => undefined);
        const taken = await this.scripts.take(id, ticket, purpose);
        if (taken.state !== 'held') return taken;
        const timer = setTimeout(() => deadline.abort(), Math.min(taken.waitMs, POLL_MS));
        await change;
        clearTimeout(timer);
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
    // A holder that was passed over was asked to release by the queue and has nothing to renew.
    this.held.get(id)?.abandon();
    this.held.set(id, lease);
    if (state === 'asked') lease.requestRelease();
    request.markHeld();
    return lease;
  }

  /** The message names the ticket that wants the lease; a ticket older than the lease was handled before. */
  private readonly onAsk = (message: string): void => {
    const [id, ticket] = message.split(' ') as [string, string];
    const lease = this.held.get(id);
    if (lease && lease.token < Number(ticket)) lease.requestRelease();
  };

  private readonly onFree = (id: string): void => this.waiting.get(id)?.notifyAll();

  private readonly onReconnected = (): void => {
    for (const changes of this.waiting.values()) changes.notifyAll();
    for (const lease of this.held.values()) void lease.renewNow();
  };
}

/** The lease of a request that came too late: it can change nothing, and no request waits for it. */
function staleLease(token: number, request: LeaseRequest): Lease {
  request.requestRelease('taken-over');
  request.markHeld();
  return { token, signal: request.signal, release: () => Promise.resolve(request.end()) };
}

export interface LeaseUpkeep {
  readonly leaseMs: number;
  readonly renew: () => Promise<RenewalResult>;
  /** Releases the lease in Redis; the process's own queue does not wait for it. */
  readonly giveBack: () => Promise<void>;
  readonly onEnd: () => void;
}

/** The pause after a failed renewal, shorter than the usual one. */
const RETRY_MS = 500;

/**
 * A lease that is renewed until it is released. Its holder is asked to release when another request wants the lease
 * or has it, and when it could not be renewed until it expired.
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

  /** Asks the holder to release for a newer ticket. */
  requestRelease(): void {
    this.request.requestRelease('taken-over');
  }

  /** Renews immediately, to find out whether the lease is still ours. */
  async renewNow(): Promise<void> {
    if (this.isRenewing || this.hasEnded) return;
    clearTimeout(this.renewalTimer);
    this.isRenewing = true;
    const renewed = await this.upkeep.renew().catch(() => undefined);
    this.isRenewing = false;
    this.applyRenewal(renewed);
  }

  /** Releases the lease; the next request of this process does not wait for Redis. */
  release(): Promise<void> {
    return (this.released ??= this.giveBack());
  }

  /** Ends the renewals, so that the lease expires. */
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
    // If Redis does not get this, the lease expires.
    if (isOurs) await this.upkeep.giveBack().catch(() => undefined);
  }

  private applyRenewal(renewed: RenewalResult | undefined): void {
    if (this.hasEnded) return;
    if (renewed === undefined) return this.renewIn(Math.min(RETRY_MS, this.upkeep.leaseMs / 3));
    if (renewed === 'lost' || renewed === 'taken-over') return this.markLost(renewed);
    if (renewed === 'asked') this.requestRelease();
    this.extend();
  }

  private extend(): void {
    const { leaseMs } = this.upkeep;
    clearTimeout(this.expiryTimer);
    this.expiryTimer = setTimeout(() => this.markLost('lost'), leaseMs);
    this.renewIn(leaseMs / 3);
  }

  private renewIn(ms: number): void {
    this.renewalTimer = setTimeout(() => void this.renewNow(), ms);
  }

  private markLost(reason: 'lost' | 'taken-over'): void {
    this.abandon();
    this.request.requestRelease(reason);
  }
}

/** The parts of `RedisConnection` that leases use. */
export type LeaseConnection = Pick<RedisConnection, 'run' | 'runDurably' | 'keys' | 'bus'>;

export interface LeaseTimes {
  /** Time that a holder may take to release before it is passed over. */
  readonly graceMs: number;
  /** Duration of a lease without renewal. */
  readonly leaseMs: number;
}

/**
 * `asked`: granted, but a newer request waits. `stale`: a newer request has had the lease. `held`: another process
 * holds it.
 */
export interface TakeResult {
  readonly state: 'granted' | 'asked' | 'stale' | 'held';
  readonly ticket: number;
  /** For `held`: the time until the holder may be passed over. */
  readonly waitMs: number;
}

/** The state of a lease after its renewal. `asked`: held, but a newer request waits. `lost`: Redis no longer knows it. */
export type RenewalResult = 'held' | 'asked' | 'taken-over' | 'lost';

/** The minimum time that Redis keeps the state of a lease that is never released. */
const KEEP_HELD_MS = 60_000;
/** Time that Redis keeps the state of a released lease: requests for unknown uploads must not fill its memory. */
const KEEP_FREE_MS = 5000;

/** The lease scripts, called for one process. */
export class LeaseScripts {
  private readonly keepMs: number;

  constructor(
    private readonly connection: LeaseConnection,
    /** A random name that is never used twice. */
    private readonly process: string,
    private readonly times: LeaseTimes,
  ) {
    this.keepMs = Math.max(KEEP_HELD_MS, 4 * times.leaseMs);
  }

  /**
   * Draws a ticket. Also takes the lease if the request is the first of its process's queue and the lease is
   * available.
   */
  draw(id: string, isFirst: boolean, purpose: LeasePurpose): Promise<TakeResult> {
    return this.runTake(id, '', isFirst, purpose);
  }

  /** Takes the lease with a ticket drawn before, once the request is first in its process's queue. */
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
