import type { StoryWriter } from '../model/story.js';
import type { Lease, LeasePurpose, Leases, ReleaseReason } from './leases.js';

/** Leases whose changes of hands are noted in the stories of their uploads. */
export class NotedLeases implements Leases {
  private readonly held = new Map<string, Lease>();

  constructor(
    private readonly leases: Leases,
    private readonly story: StoryWriter,
    private readonly monotonic: () => number = () => performance.now(),
  ) {}

  async take(id: string, purpose: LeasePurpose = 'to-write'): Promise<Lease> {
    const askedAt = this.monotonic();
    const former = this.held.get(id);
    const lease = await this.leases.take(id, purpose);
    const { token } = lease;
    if (former) {
      const waitedMs = Math.round(this.monotonic() - askedAt);
      this.story.note(id, { kind: 'takeover', lease: token, from: former.token, purpose, waitedMs });
    }
    return this.noteEnd(id, lease);
  }

  drain(): void {
    this.leases.drain();
  }

  private noteEnd(id: string, lease: Lease): Lease {
    const { token, signal } = lease;
    const onAbort = (): void => {
      const reason = signal.reason as ReleaseReason;
      if (reason === 'taken-over' || this.held.get(id) !== noted) return;
      this.story.note(id, { kind: 'lease-ended', lease: token, reason });
    };
    const noted: Lease = {
      token,
      signal,
      release: () => {
        signal.removeEventListener('abort', onAbort);
        if (this.held.get(id) === noted) this.held.delete(id);
        return lease.release();
      },
    };
    signal.addEventListener('abort', onAbort, { once: true });
    this.held.set(id, noted);
    return noted;
  }
}
