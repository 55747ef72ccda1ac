/** Why a holder is asked to give its lease back. */
export type ReleaseReason = 'taken-over' | 'draining' | 'lost';

/** The right to write one upload. */
export interface Lease {
  /** Larger than every token of this upload before it. */
  readonly token: number;
  /** Aborted, with a `GiveBack` as its reason, when the holder should commit what it has and release. */
  readonly signal: AbortSignal;
  /** Lets the next one in. May be called more than once. */
  release(): Promise<void>;
}

/** What it is wanted for. To look at an upload or to end it: given also where nothing that grows has room any more. */
export type LeasePurpose = 'to-write' | 'to-look' | 'to-end';

/**
 * At most one holder an upload is asked to write; the newest request wins. A holder that does not answer is passed
 * over after a grace time: what keeps it harmless is the store's fence, not this interface.
 */
export interface Leases {
  /** Asks the holder to give back, waits for it a moment, then takes over anyway. Those who wait come in order. */
  take(id: string, purpose?: LeasePurpose): Promise<Lease>;
  /** Asks every holder of this node to give back; who comes later gets a lease that is asked back at once. */
  drain(): void;
}

/**
 * The requests of one process. Those for the same upload form a line: each asks the one before it to give back, so that
 * whoever stands in the middle gets its turn, knowing that it should be short. Nothing is kept of uploads nobody wants.
 */
export class LeaseQueues {
  private readonly newestRequests = new Map<string, LeaseRequest>();
  private draining = false;

  /** `graceMs`: how long one that was asked may take to give back before it is passed over. */
  constructor(private readonly graceMs: number) {}

  /**
   * The end of the upload's line. While draining, turns come but are asked back at once: an offset can still be told, and
   * a body that has just begun ends before it makes the stop wait.
   */
  enqueue(id: string): LeaseRequest {
    const previous = this.newestRequests.get(id);
    const request = new LeaseRequest(previous, this.graceMs, () => {
      if (this.newestRequests.get(id) === request) this.newestRequests.delete(id);
    });
    this.newestRequests.set(id, request);
    if (this.draining) request.requestRelease('draining');
    previous?.requestRelease('taken-over');
    return request;
  }

  drain(): void {
    this.draining = true;
    for (const turn of this.newestRequests.values()) turn.requestRelease('draining');
  }
}

/** One request's place in the line of an upload. */
export class LeaseRequest {
  /** Fulfilled when the one before is over, or is passed over. */
  readonly ready: Promise<void>;
  /** Nobody was before it. */
  readonly isFirst: boolean;
  private isReady: boolean;
  private readonly controller = new AbortController();
  private readonly held = deferred();
  private readonly ended = deferred();

  constructor(
    previous: LeaseRequest | undefined,
    graceMs: number,
    private readonly onEnd: () => void,
  ) {
    this.isFirst = this.isReady = previous === undefined;
    this.ready = previous
      ? previous.endedOrPassedOver(graceMs).then(() => void (this.isReady = true))
      : Promise.resolve();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  requestRelease(why: ReleaseReason): void {
    this.controller.abort(why);
  }

  /** It has what it waited for: its time to give back counts from now on. */
  markHeld(): void {
    this.held.resolve();
  }

  /** Those behind a turn that ends before it came still wait for those before it. */
  end(): void {
    this.held.resolve();
    this.ended.resolve();
    if (this.isReady) this.onEnd();
    else void this.ready.then(this.onEnd);
  }

  /** Fulfilled when this turn has ended, or has had the grace time since it began. */
  private async endedOrPassedOver(graceMs: number): Promise<void> {
    await this.ready;
    await this.held.promise;
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
