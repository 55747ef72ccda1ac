import { maxEagerDeliveries } from '../model/route.js';

/** The limits of one origin: simultaneous requests, and failures before requests to it are paused. */
export interface OriginLimits {
  /** Maximum number of simultaneous requests. */
  readonly concurrency: number;
  readonly breaker: BreakerRules;
}

/** A request for permission to send to an origin. */
export interface SlotRequest {
  readonly limits: OriginLimits;
  /** Whether a client waits for this delivery, which then goes before deliveries without a waiting client. */
  readonly isUrgent: () => boolean;
  /** An eager delivery, which holds its slot while its client uploads. */
  readonly isEager?: true;
  readonly signal: AbortSignal;
}

/** Permission to send one request to an origin, or the reason why there is none. */
export type Slot =
  | {
      readonly kind: 'granted';
      /** Frees the slot. `isHealthy` tells whether the origin responded; undefined if the attempt does not show it. */
      readonly end: (isHealthy?: boolean) => void;
    }
  /** The origin has failed repeatedly: there is no slot before `at` (monotonic). */
  | { readonly kind: 'later'; readonly at: number }
  /** The routes have changed: the request belongs to another queue, or has other limits. */
  | { readonly kind: 'again' }
  | { readonly kind: 'stopped' };

/** An origin as this process sees it. */
export interface OriginState {
  readonly origin: string;
  /** `open`: no requests for now. `probing`: one request finds out whether it works again. */
  readonly breaker: 'closed' | 'open' | 'probing';
  /** Requests in progress, and those that wait for a slot. */
  readonly active: number;
  readonly queued: number;
}

interface QueuedRequest extends SlotRequest {
  readonly settle: (slot: Slot) => void;
}

/** Every fourth slot goes to the oldest request, urgent or not, so that no request waits forever. */
const OLDEST_FIRST_EVERY = 4;

/** Grants the slots of one origin: a limited number at a time, in order, and none while its breaker is open. */
export class OriginQueue {
  private readonly breaker = new Breaker();
  private readonly queue = new Set<QueuedRequest>();
  private active = 0;
  private activeEager = 0;
  private grantedCount = 0;

  constructor(
    private readonly monotonic: () => number,
    private readonly onBreakerOpened: () => void,
  ) {}

  get queued(): number {
    return this.queue.size;
  }

  get state(): Omit<OriginState, 'origin'> {
    return { breaker: this.breaker.state, active: this.active, queued: this.queue.size };
  }

  /** Whether a slot requested now would be granted immediately. */
  hasFreeSlot({ concurrency }: OriginLimits): boolean {
    return this.active + this.queue.size < concurrency && this.breaker.admission(this.monotonic()) === 'go';
  }

  /**
   * The same for an eager delivery. Eager deliveries get at most half of the slots, rounded down, and none while a complete
   * upload waits, because slow clients would hold up all others.
   */
  hasFreeEagerSlot(limits: OriginLimits): boolean {
    return this.queue.size === 0 && this.activeEager < maxEagerDeliveries(limits) && this.hasFreeSlot(limits);
  }

  /** Waits for a slot. Resolves as `stopped` when the request's signal aborts; never rejects. */
  acquire(request: SlotRequest): Promise<Slot> {
    return new Promise((resolve) => {
      const stop = (): void => settle({ kind: 'stopped' });
      const settle = (slot: Slot): void => {
        request.signal.removeEventListener('abort', stop);
        this.queue.delete(queued);
        resolve(slot);
      };
      const queued: QueuedRequest = { ...request, settle };
      if (request.signal.aborted) return stop();
      request.signal.addEventListener('abort', stop, { once: true });
      this.queue.add(queued);
      this.grantSlots();
    });
  }

  /** Answers all waiting requests with `again`, in their order. */
  askAgain(): void {
    for (const request of [...this.queue]) request.settle({ kind: 'again' });
  }

  private grantSlots(): void {
    for (let next = this.next(); next; next = this.next()) {
      const admission = this.breaker.admission(this.monotonic());
      if (admission === 'wait') return;
      if (admission === 'go') {
        if (this.active >= next.limits.concurrency) return;
        next.settle(this.grant(next));
      } else next.settle({ kind: 'later', at: admission.until });
    }
  }

  private next(): QueuedRequest | undefined {
    const [oldest] = this.queue;
    if (this.grantedCount % OLDEST_FIRST_EVERY === OLDEST_FIRST_EVERY - 1) return oldest;
    for (const request of this.queue) if (request.isUrgent()) return request;
    return oldest;
  }

  private grant({ limits, isEager }: SlotRequest): Slot {
    this.active++;
    if (isEager) this.activeEager++;
    this.grantedCount++;
    const isProbe = this.breaker.onAttemptStart();
    let hasEnded = false;
    const end = (isHealthy?: boolean): void => {
      if (hasEnded) return;
      hasEnded = true;
      this.active--;
      if (isEager) this.activeEager--;
      if (this.breaker.onAttemptEnd(isHealthy, isProbe, this.monotonic(), limits.breaker)) this.onBreakerOpened();
      this.grantSlots();
    };
    return { kind: 'granted', end };
  }
}

/** The queues of all origins that this process has delivered to. */
export class OriginQueues {
  private readonly queues = new Map<string, OriginQueue>();

  constructor(
    private readonly monotonic: () => number,
    private readonly onBreakerOpened: (origin: string) => void,
  ) {}

  /** The queue of a route's origin URL. Routes to the same server share a queue, whatever the path of the URL. */
  of(url: string): OriginQueue {
    const { origin } = new URL(url);
    const queue = this.queues.get(origin) ?? new OriginQueue(this.monotonic, () => this.onBreakerOpened(origin));
    this.queues.set(origin, queue);
    return queue;
  }

  /** Answers the waiting requests of all origins with `again`. */
  askAgain(): void {
    for (const queue of this.queues.values()) queue.askAgain();
  }

  get states(): OriginState[] {
    return [...this.queues].map(([origin, queue]) => ({ origin, ...queue.state }));
  }

  /** Requests that wait for a slot at any origin. */
  get queued(): number {
    return [...this.queues.values()].reduce((sum, { queued }) => sum + queued, 0);
  }
}

interface BreakerRules {
  /** Failures in a row that open the breaker. */
  readonly failures: number;
  readonly pauseMs: number;
}

/** Whether the breaker admits a request. `wait`: until the result of the probe is known. `until` is monotonic. */
type Admission = 'go' | 'wait' | { readonly until: number };

/**
 * Circuit breaker: pauses an origin after a number of failures in a row, so that not every waiting upload is sent to a dead one.
 * After the pause a single attempt probes the origin, and its result closes the breaker or opens it again.
 */
class Breaker {
  private failures = 0;
  private openUntil: number | undefined;
  private probing = false;

  admission(now: number): Admission {
    if (this.openUntil === undefined) return 'go';
    if (this.probing) return 'wait';
    return now < this.openUntil ? { until: this.openUntil } : 'go';
  }

  get state(): OriginState['breaker'] {
    if (this.openUntil === undefined) return 'closed';
    return this.probing ? 'probing' : 'open';
  }

  /** Returns true if the attempt that starts now is the probe. */
  onAttemptStart(): boolean {
    this.probing = this.openUntil !== undefined;
    return this.probing;
  }

  /** Returns true if the result opens the breaker, for the first time or again. An undefined `isHealthy` changes nothing. */
  onAttemptEnd(isHealthy: boolean | undefined, isProbe: boolean, now: number, rules: BreakerRules): boolean {
    if (isProbe) this.probing = false;
    if (isHealthy === undefined) return false;
    if (isHealthy) {
      this.failures = 0;
      this.openUntil = undefined;
      return false;
    }
    this.failures++;
    const opens = this.openUntil === undefined ? this.failures >= rules.failures : isProbe;
    if (opens) this.openUntil = now + rules.pauseMs;
    return opens;
  }
}
