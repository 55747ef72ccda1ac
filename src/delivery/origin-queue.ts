import { maxEagerDeliveries } from '../model/route.js';

export interface OriginLimits {
  /** Most requests at a time. */
  readonly concurrency: number;
  readonly breaker: BreakerRules;
}

export interface SlotRequest {
  readonly limits: OriginLimits;
  /** A client waits for this one: it goes before those nobody waits for. */
  readonly isUrgent: () => boolean;
  /** It is held for as long as a client uploads. */
  readonly isEager?: true;
  readonly signal: AbortSignal;
}

export type Slot =
  | {
      readonly kind: 'granted';
      /** To be called once, when the origin is done with it. `lives`: it answered; undefined: nothing was learned of it. */
      readonly end: (isHealthy?: boolean) => void;
    }
  /** The origin has failed too often: no turn before `at` (monotonic). */
  | { readonly kind: 'later'; readonly at: number }
  | { readonly kind: 'stopped' };

interface QueuedRequest extends SlotRequest {
  readonly settle: (slot: Slot) => void;
}

/** Every so many turns the one that was asked for first is given, urgent or not: nobody waits for ever. */
const OLDEST_FIRST_EVERY = 4;

/** Who may send to one origin, and when: so many at a time, in order, and none while it is taken for dead. */
export class OriginQueue {
  private readonly breaker = new Breaker();
  private readonly waiting = new Set<QueuedRequest>();
  private active = 0;
  private activeEager = 0;
  private grantedCount = 0;

  constructor(
    private readonly monotonic: () => number,
    private readonly onOpened: () => void,
  ) {}

  get queued(): number {
    return this.waiting.size;
  }

  /** Whether a turn that is asked for now would be given at once. */
  hasFreeSlot({ concurrency }: OriginLimits): boolean {
    return this.active + this.waiting.size < concurrency && this.breaker.admission(this.monotonic()) === 'go';
  }

  /**
   * The same for an eager delivery: at most half of the turns, rounded down, are those of clients that are still uploading,
   * and none as long as a whole upload waits for one. Slow clients would hold up all others.
   */
  hasFreeEagerSlot(rules: OriginLimits): boolean {
    return this.waiting.size === 0 && this.activeEager < maxEagerDeliveries(rules) && this.hasFreeSlot(rules);
  }

  acquire(request: SlotRequest): Promise<Slot> {
    return new Promise((resolve) => {
      const stop = (): void => settle({ kind: 'stopped' });
      const settle = (slot: Slot): void => {
        request.signal.removeEventListener('abort', stop);
        this.waiting.delete(queued);
        resolve(slot);
      };
      const queued: QueuedRequest = { ...request, settle };
      if (request.signal.aborted) return stop();
      request.signal.addEventListener('abort', stop, { once: true });
      this.waiting.add(queued);
      this.grantSlots();
    });
  }

  private grantSlots(): void {
    for (let next = this.next(); next; next = this.next()) {
      const admission = this.breaker.admission(this.monotonic());
      if (admission === 'wait') return;
      if (admission === 'go') {
        if (this.active >= next.limits.concurrency) return;
        next.settle(this.begin(next));
      } else next.settle({ kind: 'later', at: admission.until });
    }
  }

  private next(): QueuedRequest | undefined {
    const [oldest] = this.waiting;
    if (this.grantedCount % OLDEST_FIRST_EVERY === OLDEST_FIRST_EVERY - 1) return oldest;
    for (const asked of this.waiting) if (asked.isUrgent()) return asked;
    return oldest;
  }

  private begin({ limits, isEager }: SlotRequest): Slot {
    this.active++;
    if (isEager) this.activeEager++;
    this.grantedCount++;
    const isProbe = this.breaker.onAttemptStart();
    let isOver = false;
    const end = (isHealthy?: boolean): void => {
      if (isOver) return;
      isOver = true;
      this.active--;
      if (isEager) this.activeEager--;
      if (this.breaker.onAttemptEnd(isHealthy, isProbe, this.monotonic(), limits.breaker)) this.onOpened();
      this.grantSlots();
    };
    return { kind: 'granted', end };
  }
}

/** The turns of every origin that was ever delivered to. */
export class OriginQueues {
  private readonly origins = new Map<string, OriginQueue>();

  constructor(
    private readonly monotonic: () => number,
    private readonly onOpened: (origin: string) => void,
  ) {}

  /** `url`: of a route; routes to one server share its turns, whatever path they put before their targets. */
  of(url: string): OriginQueue {
    const { origin } = new URL(url);
    const known = this.origins.get(origin) ?? new OriginQueue(this.monotonic, () => this.onOpened(origin));
    this.origins.set(origin, known);
    return known;
  }

  get queued(): number {
    return [...this.origins.values()].reduce((sum, { queued }) => sum + queued, 0);
  }
}

interface BreakerRules {
  readonly failures: number;
  readonly pauseMs: number;
}

/** `wait`: one request is on its way to find out whether the origin is back. */
type Admission = 'go' | 'wait' | { readonly until: number };

/**
 * Leaves an origin alone that has failed so many times in a row, so that a dead one is not given a thousand whole uploads.
 * After a pause a single attempt goes out; what becomes of it decides for all.
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

  /** True when this attempt is the one that finds out. */
  onAttemptStart(): boolean {
    this.probing = this.openUntil !== undefined;
    return this.probing;
  }

  /** `lives`: it answered; undefined: nothing was learned. True when the breaker opens with this, for once or once more. */
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
