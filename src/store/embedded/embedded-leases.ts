import { type Lease, LeaseQueues, type LeasePurpose, type Leases } from '../leases.js';

/** Gives lease tokens. Each makes every older token of the upload stale. */
export interface TokenSource {
  nextToken(id: string, purpose?: LeasePurpose): Promise<number>;
}

export interface EmbeddedLeasesOptions {
  /** Time that a holder has to release the lease before the next request takes it; 2 seconds by default. */
  readonly graceMs?: number;
}

/** The leases of the only process that uses a data directory. The first request in the queue of an upload holds its lease. */
export class EmbeddedLeases implements Leases {
  private readonly queues: LeaseQueues;

  constructor(
    private readonly tokens: TokenSource,
    { graceMs = 2000 }: EmbeddedLeasesOptions = {},
  ) {
    this.queues = new LeaseQueues(graceMs);
  }

  async take(id: string, purpose?: LeasePurpose): Promise<Lease> {
    const request = this.queues.enqueue(id);
    try {
      await request.ready;
      const token = await this.tokens.nextToken(id, purpose);
      request.markHeld();
      return { token, signal: request.signal, release: () => Promise.resolve(request.end()) };
    } catch (fault) {
      request.end();
      throw fault;
    }
  }

  drain(): void {
    this.queues.drain();
  }
}
