import type { LeasePurpose } from '../lease.js';
import type { RedisConnection } from './redis-connection.js';

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
