import type { Lease, LeasePurpose, Leases } from '../lease.js';
import { LeaseLines } from '../lease-lines.js';

/** Where tokens come from: the store, which refuses every older one from then on. */
export interface TokenSource {
  nextToken(id: string, purpose?: LeasePurpose): Promise<number>;
}

export interface EmbeddedLeasesOptions {
  /** How long a holder that was asked may take to give back before it is passed over. */
  readonly graceMs?: number;
}

/** The leases of one process that has its uploads for itself: whose turn it is has the lease. */
export class EmbeddedLeases implements Leases {
  private readonly lines: LeaseLines;

  constructor(
    private readonly tokens: TokenSource,
    { graceMs = 2000 }: EmbeddedLeasesOptions = {},
  ) {
    this.lines = new LeaseLines(graceMs);
  }

  async take(id: string, purpose?: LeasePurpose): Promise<Lease> {
    const turn = this.lines.enter(id);
    try {
      await turn.comes;
      const token = await this.tokens.nextToken(id, purpose);
      turn.begin();
      return { token, signal: turn.signal, release: () => Promise.resolve(turn.end()) };
    } catch (fault) {
      turn.end();
      throw fault;
    }
  }

  drain(): void {
    this.lines.drain();
  }
}
