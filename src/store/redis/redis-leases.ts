import { randomUUID } from 'node:crypto';
import type { Lease, LeasePurpose, Leases } from '../lease.js';
import { LeaseLines, type Turn } from '../lease-lines.js';
import { HeldLease } from './held-lease.js';
import { LeaseScripts, type LeaseConnection, type LeaseTimes, type Taken } from './lease-scripts.js';

/** A message can be lost: who waits looks by itself that often. */
const LOOK_MS = 200;

/**
 * Leases among all processes that share a Redis. Requests of one process stand in a line; each draws a ticket when it
 * comes, and the ticket is its token: among processes, too, the newest wins, and who is granted after a newer one is stale
 * from the start. Holders are asked by message, or hear of it with their next renewal.
 */
export class RedisLeases implements Leases {
  private readonly lines: LeaseLines;
  private readonly scripts: LeaseScripts;
  private readonly times: LeaseTimes;
  private readonly held = new Map<string, HeldLease>();
  private readonly waiting = new Map<string, Bell>();

  constructor(
    private readonly connection: LeaseConnection,
    { graceMs = 2000, leaseMs = 15_000 }: Partial<LeaseTimes> = {},
  ) {
    this.times = { graceMs, leaseMs };
    this.lines = new LeaseLines(graceMs);
    this.scripts = new LeaseScripts(connection, randomUUID(), this.times);
    connection.bus.on('ask', this.onAsk);
    connection.bus.on('free', this.onFree);
    connection.bus.on('reconnected', this.onReconnected);
  }

  /** Fails within a second when Redis cannot be asked. */
  async take(id: string, purpose: LeasePurpose = 'to-write'): Promise<Lease> {
    const turn = this.lines.enter(id);
    try {
      const drawn = await this.scripts.draw(id, turn.isFirst, purpose);
      await turn.comes;
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
    const bell = new Bell();
    this.waiting.set(id, bell);
    try {
      for (;;) {
        const taken = await this.scripts.take(id, ticket, purpose);
        if (taken.state !== 'held') return taken;
        await bell.rings(Math.min(taken.waitMs, LOOK_MS));
      }
    } finally {
      this.waiting.delete(id);
    }
  }

  private hold(id: string, ticket: number, turn: Turn, state: Taken['state']): Lease {
    const lease: HeldLease = new HeldLease(ticket, turn, {
      leaseMs: this.times.leaseMs,
      renew: () => this.scripts.renew(id, ticket),
      giveBack: () => this.scripts.release(id, ticket),
      onEnd: () => this.held.get(id) === lease && this.held.delete(id),
    });
    // One that was passed over was asked by the line, and has nothing to renew any more.
    this.held.get(id)?.abandon();
    this.held.set(id, lease);
    if (state === 'asked') lease.ask();
    turn.begin();
    return lease;
  }

  /** The message says which ticket wants it: one that is older than the lease was answered long ago. */
  private readonly onAsk = (message: string): void => {
    const [id, ticket] = message.split(' ') as [string, string];
    const lease = this.held.get(id);
    if (lease && lease.token < Number(ticket)) lease.ask();
  };

  private readonly onFree = (id: string): void => this.waiting.get(id)?.ring();

  private readonly onReconnected = (): void => {
    for (const bell of this.waiting.values()) bell.ring();
    for (const lease of this.held.values()) void lease.renewNow();
  };
}

/** Of one that came too late: it can change nothing, and nobody has to wait for it. */
function staleLease(token: number, turn: Turn): Lease {
  turn.ask('taken-over');
  turn.begin();
  return { token, signal: turn.signal, release: () => Promise.resolve(turn.end()) };
}

/** Remembers that it was rung while nobody listened. */
class Bell {
  private isRung = false;
  private wake: (() => void) | undefined;

  ring(): void {
    this.isRung = true;
    this.wake?.();
  }

  /** Fulfilled when it has rung since the last time, or after a while. */
  async rings(withinMs: number): Promise<void> {
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
