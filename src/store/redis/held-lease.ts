import type { Lease } from '../lease.js';
import type { Turn } from '../lease-lines.js';
import type { Renewed } from './lease-scripts.js';

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
export class HeldLease implements Lease {
  private renewal: NodeJS.Timeout | undefined;
  private end: NodeJS.Timeout | undefined;
  private isRenewing = false;
  private isOver = false;
  private released: Promise<void> | undefined;

  constructor(
    readonly token: number,
    private readonly turn: Turn,
    private readonly upkeep: LeaseUpkeep,
  ) {
    this.lasts();
  }

  get signal(): AbortSignal {
    return this.turn.signal;
  }

  /** Somebody with a newer ticket wants it. */
  ask(): void {
    this.turn.ask('taken-over');
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
    this.turn.ask(why);
  }
}
