import type { GiveBack, Lease, Leases } from '../lease.js';

/** Where tokens come from: the store, which refuses every older one from then on. */
export interface TokenSource {
  nextToken(id: string): Promise<number>;
}

export interface EmbeddedLeasesOptions {
  /** How long a holder that was asked may take to give back before it is passed over. */
  readonly graceMs?: number;
}

/**
 * The leases of one process. Requests for one upload form a line: each asks the one before it to give back, so that
 * whoever stands in the middle gets its turn, knowing that it should be short. Nothing is kept of uploads nobody holds.
 */
export class EmbeddedLeases implements Leases {
  private readonly last = new Map<string, Turn>();
  private draining = false;
  private readonly graceMs: number;

  constructor(
    private readonly tokens: TokenSource,
    { graceMs = 2000 }: EmbeddedLeasesOptions = {},
  ) {
    this.graceMs = graceMs;
  }

  /**
   * While draining, leases are given but asked back at once: an offset can still be told, and a body that has just
   * begun ends before it makes the stop wait.
   */
  async take(id: string): Promise<Lease> {
    const before = this.last.get(id);
    const turn = new Turn(() => {
      if (this.last.get(id) === turn) this.last.delete(id);
    });
    this.last.set(id, turn);
    if (this.draining) turn.ask('draining');
    before?.ask('taken-over');
    await before?.over(this.graceMs);
    try {
      return turn.begin(await this.tokens.nextToken(id));
    } catch (fault) {
      turn.end();
      throw fault;
    }
  }

  drain(): void {
    this.draining = true;
    for (const turn of this.last.values()) turn.ask('draining');
  }
}

/** One request's place in the line of an upload. */
class Turn {
  private readonly controller = new AbortController();
  private readonly begun = deferred();
  private readonly ended = deferred();

  constructor(private readonly onEnd: () => void) {}

  ask(why: GiveBack): void {
    this.controller.abort(why);
  }

  begin(token: number): Lease {
    this.begun.resolve();
    const release = (): Promise<void> => {
      this.end();
      return Promise.resolve();
    };
    return { token, signal: this.controller.signal, release };
  }

  end(): void {
    this.begun.resolve();
    this.ended.resolve();
    this.onEnd();
  }

  /** Fulfilled when this turn is over, or has had the grace time since it began. */
  async over(graceMs: number): Promise<void> {
    await this.begun.promise;
    const grace = deferred();
    const timer = setTimeout(grace.resolve, graceMs);
    await Promise.race([this.ended.promise, grace.promise]);
    clearTimeout(timer);
  }
}

interface Deferred {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
}

function deferred(): Deferred {
  let resolve!: () => void;
  const promise = new Promise<void>((fulfil) => (resolve = fulfil));
  return { promise, resolve };
}
