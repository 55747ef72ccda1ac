/** The reason why a lease has to be released: a newer request, a drain, or a lease that could not be renewed. */
export type ReleaseReason = 'taken-over' | 'draining' | 'lost';

/** The right to write one upload. */
export interface Lease {
  /** Larger than every earlier token of this upload. */
  readonly token: number;
  /** Aborted, with a `ReleaseReason` as its reason, when the holder should commit its bytes and release. */
  readonly signal: AbortSignal;
  /** Lets the next request have the lease; further calls do nothing. */
  release(): Promise<void>;
}

/**
 * The purpose of a lease. `to-read` and `to-end` are granted even when a full disk or a full store admits no more
 * bytes.
 */
export type LeasePurpose = 'to-write' | 'to-read' | 'to-end';

/**
 * At most one holder writes an upload, and the newest request wins. A holder that does not release within a grace
 * time is passed over; the store's check of tokens, not this interface, keeps it from writing afterwards.
 */
export interface Leases {
  /**
   * Asks the holder to release, waits for the grace time, then takes the lease anyway. Waiting requests are served in
   * order.
   */
  take(id: string, purpose?: LeasePurpose): Promise<Lease>;
  /** Asks every holder of this node to release; later leases are asked to release immediately. */
  drain(): void;
}

/**
 * The lease requests of one process, one queue per upload. Each request asks the one before it to release, so that even
 * a request in the middle of the queue gets a short turn. Uploads without requests use no memory.
 */
export class LeaseQueues {
  private readonly newestRequests = new Map<string, LeaseRequest>();
  private draining = false;

  /** `graceMs`: how long a holder may take to release before it is passed over. */
  constructor(private readonly graceMs: number) {}

  /**
   * Adds a request to the upload's queue. While draining, requests are still served but asked to release immediately:
   * offsets can be read, and a body that has just begun does not delay the stop.
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
    for (const request of this.newestRequests.values()) request.requestRelease('draining');
  }
}

/** A request in the queue of an upload. */
export class LeaseRequest {
  /** Resolves when the previous request has ended or was passed over. */
  readonly ready: Promise<void>;
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

  requestRelease(reason: ReleaseReason): void {
    this.controller.abort(reason);
  }

  /** Starts the grace time for this request, which holds the lease now. */
  markHeld(): void {
    this.held.resolve();
  }

  /** A request that ends before its turn stays in the queue, because those after it still wait for those before it. */
  end(): void {
    this.held.resolve();
    this.ended.resolve();
    if (this.isReady) this.onEnd();
    else void this.ready.then(this.onEnd);
  }

  /** Resolves when this request has ended, or has held the lease for the grace time. */
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
