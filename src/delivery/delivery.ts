import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Headers } from '../model/headers.js';
import type { RelayedAnswer } from '../model/messages.js';
import type { Route } from '../model/route.js';
import { newestUnknownOutcome, type Undelivered, type UnknownOutcome, type Upload } from '../model/upload.js';
import { isStoreUnavailable, type UploadStore } from '../store/upload-store.js';
import type { DeliveryContext } from './context.js';
import { EagerAttempt, type EagerFeed, isEager, mayStartEarly } from './eager.js';
import { keptAnswer } from './kept-answer.js';
import { OriginQueues } from './origin-queue.js';
import { mayRetry, policyOf, retryAfterSeconds, routeOf, secondsUntil } from './retry-policy.js';
import { RetryingStore } from './retrying-store.js';
import { Run, type RunRequest } from './run.js';
import { type InterimListener, type Pending, type RunResult, InformedClients } from './waiters.js';

export interface DeliveryOptions extends Omit<
  DeliveryContext,
  'store' | 'monotonic' | 'claimMs' | 'returnGraceMs' | 'originQueues' | 'draining' | 'halted'
> {
  readonly store: UploadStore;
  readonly monotonic?: () => number;
  readonly claimMs?: number;
  readonly returnGraceMs?: number;
  /** How often to look for deliveries that nobody drives. */
  readonly pollMs?: number;
  /** How long attempts under way may go on after `stop`. */
  readonly stopGraceMs?: number;
}

export type DeliveryResult =
  | { readonly kind: 'answered'; readonly upload: Upload; readonly answer: RelayedAnswer }
  | {
      readonly kind: 'undelivered';
      readonly upload: Upload;
      readonly why: Undelivered;
      readonly retryAfterSeconds: number;
    }
  /** No answer yet, and the client was held open long enough: the delivery goes on. */
  | {
      readonly kind: 'pending';
      readonly upload: Upload;
      /** Why the newest attempt brought no answer; missing while one is under way. */
      readonly why?: Undelivered;
      readonly retryAfterSeconds: number;
    }
  /** The origin wants other credentials: its answer for a client that has none. */
  | { readonly kind: 'parked'; readonly upload: Upload; readonly answer: RelayedAnswer }
  /** It was answered, and its kept answer is damaged or missing. */
  | { readonly kind: 'answer-lost'; readonly upload: Upload }
  /** Cancelled, invalid or forgotten. */
  | { readonly kind: 'gone'; readonly upload?: Upload };

/** `begun`: an attempt follows as soon as the origin can be asked. The others say why there is none. */
export type Redelivery = 'begun' | 'unknown' | 'incomplete' | 'answered' | 'stopping';

export interface ResultRequest {
  /** Newer than those of the creation, and than those that the origin may have refused. */
  readonly credentials?: Headers;
  /** Fields that the authorization service adds to this request, where it was asked again. */
  readonly addedHeaders?: Headers;
  /** Ends the waiting. */
  readonly signal: AbortSignal;
  /** Nobody can get an answer any more: ends looking through a kept one; `to` when it is missing. */
  readonly disconnected?: AbortSignal;
  /** How long to wait for the answer; the route's `waitMs` when not given, and never longer. */
  readonly waitMs?: number;
  /** The upload as it was a moment ago. */
  readonly snapshot?: Upload;
  /** Hears the origin's interim responses while it waits. */
  readonly onInterim?: InterimListener;
}

/** Longer than it takes a worker to notice that a store is back that was away. */
const CLAIM_RECOVERY_MS = 3000;

/** The first two rounds, and two a minute, also look at those that are not due for a while: a clock may have been set back. */
const POLLS_PER_FULL_SCAN = 60;
const MAX_PLAUSIBLE_DELAY_MS = 1000;

/** Longer than another node takes to note that a client has its response. */
const INFORMED_RECORD_DELAY_MS = 100;

/** Spool → origin: each whole upload becomes one request, and its answer is kept for whoever asks. */
export class Delivery {
  private readonly deps: DeliveryContext;
  private readonly informedClients: InformedClients;
  private readonly reportedLosses = new Set<string>();
  private readonly running = new Map<string, Run>();
  private readonly eagerAttempts = new Map<string, EagerAttempt>();
  private readonly backgroundTasks = new Set<Promise<void>>();
  private readonly draining = new AbortController();
  private readonly halted = new AbortController();
  private pollTimer: NodeJS.Timeout | undefined;
  private polling: Promise<void> | undefined;
  private previouslyDue: ReadonlySet<string> | undefined;
  private pollCount = 0;
  private storeWasUnavailable = false;
  private storeReturnedAt = -Infinity;

  constructor(private readonly options: DeliveryOptions) {
    const signals = { draining: this.draining.signal, halted: this.halted.signal };
    // Every delivery listens to both: Node would take many of them for a leak.
    setMaxListeners(0, signals.draining, signals.halted);
    const monotonic = options.monotonic ?? (() => performance.now());
    const originQueues = new OriginQueues(monotonic, (origin) => {
      options.log.warn({ origin }, 'an origin failed too often and is left alone for a while');
      options.metrics.breakerOpened();
    });
    options.metrics.countQueuedDeliveries(() => originQueues.queued);
    const store = new RetryingStore({ ...options, ...signals });
    this.deps = { claimMs: 15_000, returnGraceMs: 0, ...options, monotonic, store, originQueues, ...signals };
    this.informedClients = new InformedClients(this.deps);
  }

  /**
   * The answer to a whole upload: starts its delivery, joins the one that is running, or gives the kept answer. Waiting
   * ends with the route's patience, or with the signal and its reason; the delivery goes on. Fails with a `Fault`.
   */
  async result(id: string, request: ResultRequest): Promise<DeliveryResult> {
    const {
      credentials = [],
      addedHeaders,
      signal: to,
      disconnected: gone = to,
      waitMs = Infinity,
      onInterim,
    } = request;
    await this.waitForInformedRecord(id, to);
    const seen =
      request.snapshot && isStableSnapshot(request.snapshot) ? request.snapshot : await this.read(id, request);
    const known = this.mayBecomeInformed(seen) ? await this.readAfterDelay(id, request) : seen;
    if (!known) return { kind: 'gone' };
    if (known.phase === 'answered' || this.isFinal(known, credentials)) return this.settledResult(known, gone);
    if (known.phase === 'receiving') throw new Error('an upload that is not whole cannot be delivered');
    const { delivery } = routeOf(known, this.deps.routes);
    const patience = { ...delivery.retry, waitMs: Math.min(waitMs, delivery.waitMs) };
    const until = this.deps.monotonic() + patience.waitMs;
    const running = this.running.get(id);
    running?.join({ credentials, addedHeaders });
    const run = running ?? this.startRun(id, { by: 'client', credentials, addedHeaders, snapshot: known });
    const signals = { to, gone };
    return this.toDeliveryResult(id, await run.waiters.waitForResult(to, patience, onInterim), signals, until);
  }

  /**
   * A client has the whole response that says that the outcome of this attempt is unknown: its next request may have the
   * upload sent once more. Only to be called after that response was sent. Never fails.
   */
  recordClientInformed(end: UnknownOutcome): Promise<void> {
    const noting = this.informedClients.recordInformed(end);
    this.track(noting);
    return noting;
  }

  /**
   * A client asks where its whole upload stands, or repeats its creation: as one does that lost its response. After an
   * unknown outcome it has to be told once more before the upload is sent again. Fails with a `Fault`.
   */
  async recordClientAsked(known: Upload): Promise<Upload> {
    if (newestUnknownOutcome(known) === undefined) return known;
    const { id } = known;
    await this.waitForInformedRecord(id);
    const { direct } = this.deps.store;
    const seen = (await direct.get(id)) ?? known;
    if (!this.mayBecomeInformed(seen)) return this.informedClients.recordAsked(seen);
    await sleep(INFORMED_RECORD_DELAY_MS);
    return this.informedClients.recordAsked((await direct.get(id)) ?? seen);
  }

  /**
   * Whoever receives this upload feeds its origin meanwhile, where the route wants that and the origin has room: begins the
   * request, or goes on with it. Whatever becomes of it, the whole is delivered by `result`.
   */
  startEager(upload: Upload): EagerFeed | undefined {
    const { id } = upload;
    const known = this.eagerAttempts.get(id);
    const route = routeOf(upload, this.deps.routes);
    const { originQueues } = this.deps;
    if (known || this.draining.signal.aborted || !mayStartEarly(upload, route)) return known;
    if (!originQueues.of(route.origin).hasFreeEagerSlot(route.delivery)) return undefined;
    const eager = new EagerAttempt(upload, route, this.deps);
    this.eagerAttempts.set(id, eager);
    this.track(eager.settled().finally(() => this.eagerAttempts.delete(id)));
    return eager;
  }

  /** Whether the origin of a route gets the bytes of such an upload as they come: never, or not now. */
  eagerAvailability(route: Route, length: number | undefined): 'yes' | 'never' | 'busy' {
    if (!isEager(route, length)) return 'never';
    return this.deps.originQueues.of(route.origin).hasFreeEagerSlot(route.delivery) ? 'yes' : 'busy';
  }

  /** The upload has no future: what its origin was given of it is cut. */
  stopEager(id: string): void {
    this.eagerAttempts.get(id)?.abort('the upload has ended');
  }

  /**
   * The operator has what was not answered tried again, with a new budget where the last one had ended. The gate is asked
   * again, unless the operator lets the upload pass it: for as long as this process tries.
   */
  async redeliver(id: string, { skipGate = false }: { readonly skipGate?: boolean } = {}): Promise<Redelivery> {
    const known = await this.deps.store.direct.get(id);
    if (!known || known.phase === 'cancelled' || known.phase === 'invalid') return 'unknown';
    if (known.phase === 'receiving') return 'incomplete';
    if (known.phase === 'answered') return 'answered';
    if (this.draining.signal.aborted) return 'stopping';
    const running = this.running.get(id);
    if (running) running.forceRetry({ skipGate });
    else this.startRun(id, { by: 'operator', skipGate, credentials: [] });
    return 'begun';
  }

  /** The recorded answer of an answered upload; undefined when it is lost. Fails with the signal and its reason. */
  keptAnswer(upload: Upload, to: AbortSignal): Promise<RelayedAnswer | undefined> {
    return keptAnswer(upload, { ...this.deps, reportedLosses: this.reportedLosses }, to);
  }

  /** Takes up deliveries that nobody drives: those of a process that died at once, those that become due from then on. */
  start(): void {
    this.poll();
    this.pollTimer = setInterval(() => this.poll(), this.options.pollMs ?? 1000);
    this.pollTimer.unref();
  }

  /** Begins nothing new, lets attempts under way come to their end for a while, then breaks them off; all is recorded. */
  async stop(): Promise<void> {
    clearInterval(this.pollTimer);
    this.draining.abort(new Error('the proxy is being stopped'));
    const grace = setTimeout(() => this.halted.abort(this.draining.signal.reason), this.options.stopGraceMs ?? 10_000);
    await this.polling;
    await Promise.all(this.backgroundTasks);
    clearTimeout(grace);
    await this.deps.origin.close();
  }

  /** Trying has ended, and that a client asks changes nothing. */
  private isFinal(known: Upload, credentials: Headers): boolean {
    const { id, phase, undelivered: why } = known;
    if (phase !== 'undelivered' || !why || this.running.has(id)) return false;
    const asker = { by: 'client', hasCredentials: credentials.length > 0 } as const;
    return !mayRetry(why, asker, policyOf(known, routeOf(known, this.deps.routes)));
  }

  /** A note that is being made is waited for, as long as somebody waits for the result. */
  private async waitForInformedRecord(id: string, to?: AbortSignal): Promise<void> {
    const noting = this.informedClients.pendingRecord(id);
    if (!noting) return;
    let leave = (): void => undefined;
    const leaving = new Promise<void>((resolve) => (leave = resolve));
    to?.addEventListener('abort', leave, { once: true });
    if (to?.aborted) leave();
    await Promise.race([noting, leaving]);
    to?.removeEventListener('abort', leave);
    to?.throwIfAborted();
  }

  /** Another node may be about to note that this client was told: it comes with its next request right behind that. */
  private mayBecomeInformed(seen: Upload | undefined): boolean {
    const { undelivered } = seen ?? {};
    return this.deps.returnGraceMs > 0 && undelivered?.reason === 'outcome-unknown' && !undelivered.clientKnows;
  }

  private async readAfterDelay(id: string, request: ResultRequest): Promise<Upload | undefined> {
    await sleep(INFORMED_RECORD_DELAY_MS, undefined, { signal: request.signal });
    return this.read(id, request);
  }

  /** Whoever waits for the origin waits for the store as well. */
  private read(id: string, { signal: to, waitMs = Infinity }: ResultRequest): Promise<Upload | undefined> {
    const { store } = this.deps;
    return waitMs > 0 ? store.withRetry(() => store.direct.get(id), { signal: to }) : store.direct.get(id);
  }

  private startRun(id: string, request: RunRequest): Run {
    const run = new Run(id, this.deps, { ...request, eager: this.eagerAttempts.get(id) }, () =>
      this.running.delete(id),
    );
    this.running.set(id, run);
    this.track(run.drive());
    return run;
  }

  private track(drive: Promise<void>): void {
    this.backgroundTasks.add(drive);
    void drive.finally(() => this.backgroundTasks.delete(drive));
  }

  private poll(): void {
    this.polling ??= this.startDueRuns()
      .catch((error: unknown) => this.logPollFailure(error))
      .finally(() => (this.polling = undefined));
  }

  /**
   * After the first round only what was due in the round before: an upload that has just become whole is about to be asked
   * for, with credentials that are newer than the stored ones. What its origin has no room for stays for later rounds.
   */
  private async startDueRuns(): Promise<void> {
    const { store, clock, monotonic } = this.deps;
    const beyond = this.pollCount++ % POLLS_PER_FULL_SCAN < 2 ? clock() + MAX_PLAUSIBLE_DELAY_MS : undefined;
    const due = await store.withoutRetry(() => store.direct.dueDeliveries(clock(), beyond));
    if (this.storeWasUnavailable) this.storeReturnedAt = monotonic();
    this.storeWasUnavailable = false;
    const before = this.previouslyDue;
    for (const id of due) {
      if (this.draining.signal.aborted) break;
      if (this.running.has(id) || (before && !before.has(id))) continue;
      if (await this.mayStartRun(id)) this.startRun(id, { by: 'nobody', credentials: [] });
    }
    this.previouslyDue = new Set(due);
  }

  private logPollFailure(error: unknown): void {
    this.storeWasUnavailable ||= isStoreUnavailable(error);
    // Those who wait for a store that is away have said so.
    if (!isStoreUnavailable(error)) this.deps.log.error({ err: error }, 'due deliveries could not be listed');
  }

  private async mayStartRun(id: string): Promise<boolean> {
    const { store, clock, monotonic } = this.deps;
    const upload = await store.direct.get(id);
    if (!upload || this.running.has(id) || !isDueBy(clock(), upload)) return false;
    // While the store was away no claim could be renewed: those who hold one are about to come back to it.
    if (upload.phase === 'delivering' && monotonic() - this.storeReturnedAt < CLAIM_RECOVERY_MS) return false;
    const { origin, delivery } = routeOf(upload, this.deps.routes);
    return this.deps.originQueues.of(origin).hasFreeSlot(delivery);
  }

  private async toDeliveryResult(
    id: string,
    result: RunResult | Pending,
    { to, gone }: { readonly to: AbortSignal; readonly gone: AbortSignal },
    until: number,
  ): Promise<DeliveryResult> {
    switch (result.kind) {
      case 'answer':
        return { kind: 'answered', upload: result.upload, answer: result.buffered.relay() };
      case 'undelivered':
        return this.undelivered(result.upload, result.why, gone);
      case 'pending':
        return this.pending(id, result, gone);
      case 'failed':
        throw result.error;
      case 'elsewhere': {
        const settled = await settledWithin(this.deps.store, id, to, until - this.deps.monotonic());
        return settled === 'late' ? this.pending(id, { kind: 'pending' }, gone) : this.settledResult(settled, gone);
      }
    }
  }

  private async settledResult(upload: Upload | undefined, gone: AbortSignal): Promise<DeliveryResult> {
    if (upload?.phase === 'answered') {
      const answer = await this.keptAnswer(upload, gone);
      return answer ? { kind: 'answered', upload, answer } : { kind: 'answer-lost', upload };
    }
    if (upload?.undelivered) return this.undelivered(upload, upload.undelivered, gone);
    return { kind: 'gone', upload };
  }

  private async undelivered(upload: Upload, why: Undelivered, gone: AbortSignal): Promise<DeliveryResult> {
    const answer = why.answer && (await this.keptAnswer(upload, gone));
    if (answer) return { kind: 'parked', upload, answer };
    const { retry } = routeOf(upload, this.deps.routes).delivery;
    const seconds = retryAfterSeconds(upload.attempts.at(-1), retry, this.deps.clock());
    return { kind: 'undelivered', upload, why, retryAfterSeconds: seconds };
  }

  private async pending(id: string, { why, dueAt }: Pending, gone: AbortSignal): Promise<DeliveryResult> {
    const upload = await this.deps.store.direct.get(id);
    if (!upload || upload.phase === 'answered') return this.settledResult(upload, gone);
    const now = this.deps.monotonic();
    const { retry } = routeOf(upload, this.deps.routes).delivery;
    return {
      kind: 'pending',
      upload,
      why,
      retryAfterSeconds: secondsUntil(dueAt ?? now + retry.longestDelayMs, now),
    };
  }
}

/** An attempt that ended later than now was made before a clock was set back: nobody knows how long ago, so it is due. */
function isDueBy(now: number, { phase, dueAt = 0, attempts }: Upload): boolean {
  const { endedAt = 0 } = attempts.at(-1) ?? {};
  return phase !== 'complete' || dueAt <= now || endedAt > now;
}

/** What is true of it for as long as anybody cares: an answer stays, and where nothing was tried the claim will tell. */
function isStableSnapshot({ phase, attemptCount }: Upload): boolean {
  return phase === 'answered' || (phase === 'complete' && attemptCount === 0);
}

/** How another worker's delivery came out, or `late` when that takes longer. Rejects with the signal's reason. */
async function settledWithin(
  store: Pick<UploadStore, 'waitUntilSettled'>,
  id: string,
  signal: AbortSignal,
  waitMs: number,
): Promise<Upload | undefined | 'late'> {
  const waiting = new AbortController();
  const leave = (): void => waiting.abort(signal.reason);
  const timer = setTimeout(() => waiting.abort(), waitMs);
  signal.addEventListener('abort', leave, { once: true });
  if (signal.aborted) leave();
  try {
    return await store.waitUntilSettled(id, waiting.signal);
  } catch (error) {
    if (waiting.signal.aborted && !signal.aborted) return 'late';
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', leave);
  }
}
