import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { PeriodicTask } from '../concurrency/periodic-task.js';
import { Fault } from '../model/fault.js';
import type { Headers } from '../model/headers.js';
import type { Outcome, RelayedAnswer } from '../model/messages.js';
import type { Route } from '../model/route.js';
import { newestUnknownOutcome, type Undelivered, type UnknownOutcome, type Upload } from '../model/upload.js';
import { isStoreUnavailable, type UploadStore } from '../store/upload-store.js';
import type { DeliveryContext } from './context.js';
import { EagerAttempt, type EagerFeed, isEagerRoute, mayStartEagerly } from './eager.js';
import { keptAnswer } from './kept-answer.js';
import { OriginQueues, type OriginState } from './origin-queue.js';
import { mayRetry, policyOf, retryAfterSeconds, routeOf, secondsUntil } from './retry-policy.js';
import { RetryingStore } from './retrying-store.js';
import { Run, type RunRequest } from './run.js';
import type { SmallContent } from './small-content.js';
import { type InterimListener, type Pending, type RunResult, InformedClients } from './waiters.js';

/** The options of a `Delivery`: its context without the parts that it makes itself, plus its timings. */
export interface DeliveryOptions extends Omit<
  DeliveryContext,
  'store' | 'monotonic' | 'claimMs' | 'returnGraceMs' | 'originQueues' | 'draining' | 'halted'
> {
  readonly store: UploadStore;
  readonly monotonic?: () => number;
  readonly claimMs?: number;
  readonly returnGraceMs?: number;
  /** Interval between searches for due deliveries that no run handles; 1 s by default. */
  readonly pollMs?: number;
  /** Time that running attempts get after `stop`; 10 s by default. */
  readonly stopGraceMs?: number;
}

/** The result of a delivery, or its state when the client's wait ends. */
export type DeliveryResult =
  | { readonly kind: 'answered'; readonly upload: Upload; readonly answer: RelayedAnswer }
  | Extract<Outcome, { readonly kind: 'undelivered' | 'pending' | 'parked' | 'answer-lost' }>
  /** The upload is cancelled, invalid or unknown. */
  | { readonly kind: 'gone'; readonly upload?: Upload };

/**
 * The result of an operator's redelivery. `begun`: an attempt follows once the origin has a free slot; the others name the
 * reason why none does.
 */
export type Redelivery = 'begun' | 'unknown' | 'incomplete' | 'answered' | 'stopping';

/** A client's request for the result of a delivery. */
export interface ResultRequest {
  /** Credentials of this request; they replace those of the creation and those that the origin may have refused. */
  readonly credentials?: Headers;
  /** The lines of this request that records do not have in clear. */
  readonly secretLines?: Headers;
  /** Fields that the authorization service adds to this request, if it was asked again. */
  readonly addedHeaders?: Headers;
  /** Ends the waiting. */
  readonly signal: AbortSignal;
  /** Aborted when no answer can reach the client any more; ends the check of a kept answer. `signal` by default. */
  readonly disconnected?: AbortSignal;
  /** Longest wait for the answer; the route's `waitMs` is both the default and the maximum. */
  readonly waitMs?: number;
  /** The upload as the caller has just read it. */
  readonly snapshot?: Upload;
  /** Receives the origin's interim responses during the wait. */
  readonly onInterim?: InterimListener;
  /** The bytes of the upload, while they are in memory. */
  readonly content?: SmallContent;
}

/** Time for workers to notice that the store is available again and to renew their claims. */
const CLAIM_RECOVERY_MS = 3000;

/** Of this many polls, the first two also list deliveries that are due much later, because the clock may have been set back. */
const POLLS_PER_FULL_SCAN = 60;
/** A delivery that is due later than this is listed by a full scan. */
const FULL_SCAN_BEYOND_MS = 1000;

/** Longer than another node needs to record that a client has received its response. */
const INFORMED_RECORD_DELAY_MS = 100;

/** Delivers each complete upload from the spool to its origin as one request, and keeps the origin's answer for its client. */
export class Delivery {
  private readonly deps: DeliveryContext;
  private readonly informedClients: InformedClients;
  private readonly reportedLosses = new Set<string>();
  private readonly runs = new Map<string, Run>();
  private readonly eagerAttempts = new Map<string, EagerAttempt>();
  private readonly backgroundTasks = new Set<Promise<void>>();
  private readonly draining = new AbortController();
  private readonly halted = new AbortController();
  private readonly polling: PeriodicTask;
  private previouslyDue: ReadonlySet<string> | undefined;
  private pollCount = 0;
  private storeWasUnavailable = false;
  private storeReturnedAt = -Infinity;

  constructor(private readonly options: DeliveryOptions) {
    const signals = { draining: this.draining.signal, halted: this.halted.signal };
    // Every delivery adds a listener to both signals, and Node warns of a leak above ten.
    setMaxListeners(0, signals.draining, signals.halted);
    const monotonic = options.monotonic ?? (() => performance.now());
    const originQueues = new OriginQueues(monotonic, (origin) => {
      options.log.warn({ origin }, 'an origin failed repeatedly: requests to it are paused');
      options.metrics.breakerOpened();
    });
    options.metrics.countQueuedDeliveries(() => originQueues.queued);
    const store = new RetryingStore({ ...options, ...signals });
    this.deps = { claimMs: 15_000, returnGraceMs: 0, ...options, monotonic, store, originQueues, ...signals };
    this.informedClients = new InformedClients(this.deps);
    this.polling = new PeriodicTask(() => this.poll(), options.pollMs ?? 1000);
  }

  /** The origins that this process has delivered to. */
  get origins(): readonly OriginState[] {
    return this.deps.originQueues.states;
  }

  /**
   * Waits for the answer to a complete upload: starts its delivery, joins the running one, or returns the kept answer. The
   * wait ends after the route's `waitMs`, or rejects with the signal's reason; the delivery continues. Rejects with a `Fault`.
   */
  async result(id: string, request: ResultRequest): Promise<DeliveryResult> {
    const { credentials = [], secretLines, addedHeaders, signal, disconnected = signal, waitMs = Infinity } = request;
    const { onInterim, content } = request;
    await this.waitForInformedRecord(id, signal);
    const snapshot =
      request.snapshot && isStableSnapshot(request.snapshot) ? request.snapshot : await this.read(id, request);
    const upload = this.mayBecomeInformed(snapshot) ? await this.readAfterDelay(id, request) : snapshot;
    if (!upload) return { kind: 'gone' };
    if (upload.phase === 'answered' || this.isFinal(upload, credentials))
      return this.settledResult(upload, disconnected);
    if (upload.phase === 'receiving') throw new Error('an incomplete upload cannot be delivered');
    const { delivery } = routeOf(upload, this.deps.routes);
    const limits = { ...delivery.retry, waitMs: Math.min(waitMs, delivery.waitMs) };
    const waitUntil = this.deps.monotonic() + limits.waitMs;
    const running = this.runs.get(id);
    const completing = { credentials, secretLines, addedHeaders };
    running?.join(completing);
    const run = running ?? this.startRun(id, { by: 'client', ...completing, snapshot: upload, content });
    const result = await run.waiters.waitForResult(signal, limits, onInterim);
    return this.toDeliveryResult(id, result, { signal, disconnected }, waitUntil);
  }

  /**
   * Records that a client was informed that the outcome of this attempt is unknown, so that its next request may send the
   * upload again. Must be called after the complete response was sent. Never rejects.
   */
  recordClientInformed(outcome: UnknownOutcome): Promise<void> {
    const recording = this.informedClients.recordInformed(outcome);
    this.track(recording);
    return recording;
  }

  /**
   * Records that a client asks for the state of its complete upload or repeats the creation, which means that it may have
   * lost the response. After an unknown outcome it is informed once more before the upload is sent again. Rejects with a `Fault`.
   */
  async recordClientAsked(snapshot: Upload): Promise<Upload> {
    if (newestUnknownOutcome(snapshot) === undefined) return snapshot;
    const { id } = snapshot;
    await this.waitForInformedRecord(id);
    const { direct } = this.deps.store;
    const upload = (await direct.get(id)) ?? snapshot;
    if (!this.mayBecomeInformed(upload)) return this.informedClients.recordAsked(upload);
    await sleep(INFORMED_RECORD_DELAY_MS);
    return this.informedClients.recordAsked((await direct.get(id)) ?? upload);
  }

  /**
   * Starts the origin's request while the upload is still received, or returns the one already started; undefined if the
   * route or the load of the origin does not allow it. The caller still delivers the complete upload with `result`.
   */
  startEager(upload: Upload): EagerFeed | undefined {
    const { id } = upload;
    const existing = this.eagerAttempts.get(id);
    const route = routeOf(upload, this.deps.routes);
    const { originQueues } = this.deps;
    if (existing || this.draining.signal.aborted || !mayStartEagerly(upload, route)) return existing;
    if (!originQueues.of(route.origin).hasFreeEagerSlot(route.delivery)) return undefined;
    const { upload: revealed, missing, missingAdded } = this.deps.secrets.reveal(upload);
    if (missing.length + missingAdded.length > 0) return undefined;
    const eager = new EagerAttempt(revealed, route, this.deps);
    this.eagerAttempts.set(id, eager);
    this.track(eager.settled().finally(() => this.eagerAttempts.delete(id)));
    return eager;
  }

  /**
   * Whether an upload of this length, which may be unknown, can be delivered eagerly on this route. `busy`: no free slot now.
   */
  eagerAvailability(route: Route, length: number | undefined): 'yes' | 'never' | 'busy' {
    if (!isEagerRoute(route, length)) return 'never';
    return this.deps.originQueues.of(route.origin).hasFreeEagerSlot(route.delivery) ? 'yes' : 'busy';
  }

  /** Aborts the eager request of an upload that was cancelled or has become invalid. */
  stopEager(id: string): void {
    this.eagerAttempts.get(id)?.abort('the upload has ended');
  }

  /**
   * Tries an unanswered upload again for the operator, with a new budget if the last one was used up. The gate is asked again;
   * `skipGate` lets the upload pass without it until this process stops trying.
   */
  async redeliver(id: string, { skipGate = false }: { readonly skipGate?: boolean } = {}): Promise<Redelivery> {
    const upload = await this.deps.store.direct.get(id);
    if (!upload || upload.phase === 'cancelled' || upload.phase === 'invalid') return 'unknown';
    if (upload.phase === 'receiving') return 'incomplete';
    if (upload.phase === 'answered') return 'answered';
    if (this.draining.signal.aborted) return 'stopping';
    const running = this.runs.get(id);
    if (running) running.forceRetry({ skipGate });
    else this.startRun(id, { by: 'operator', skipGate, credentials: [] });
    return 'begun';
  }

  /** The kept answer of an answered upload; undefined if it is lost. Rejects with the signal's reason. */
  keptAnswer(upload: Upload, signal: AbortSignal): Promise<RelayedAnswer | undefined> {
    return keptAnswer(upload, { ...this.deps, reportedLosses: this.reportedLosses }, signal);
  }

  /** Starts polling for due deliveries that no run handles, among them those of a process that died. */
  start(): void {
    this.polling.run();
    this.polling.start();
  }

  /** Deliveries that wait for a slot ask for it again, by the routes that apply now. */
  useNewRoutes(): void {
    this.deps.originQueues.askAgain();
  }

  /** Starts nothing new, gives running attempts `graceMs` to finish, then aborts them. Resolves when all is recorded. */
  async stop(graceMs = this.options.stopGraceMs ?? 10_000): Promise<void> {
    this.polling.cancel();
    this.draining.abort(new Error('the proxy is being stopped'));
    const grace = setTimeout(() => this.halted.abort(this.draining.signal.reason), graceMs);
    await this.polling.stop();
    await Promise.all(this.backgroundTasks);
    clearTimeout(grace);
    await this.deps.origin.close();
  }

  /** Whether delivery was given up, and a client's request does not restart it. */
  private isFinal(upload: Upload, credentials: Headers): boolean {
    const { id, phase, undelivered: failure } = upload;
    if (phase !== 'undelivered' || !failure || this.runs.has(id)) return false;
    const requester = { by: 'client', hasCredentials: credentials.length > 0 } as const;
    return !mayRetry(failure, requester, policyOf(upload, routeOf(upload, this.deps.routes)));
  }

  /** Waits until this process has recorded that the client was informed. Rejects with the signal's reason. */
  private async waitForInformedRecord(id: string, signal?: AbortSignal): Promise<void> {
    const recording = this.informedClients.pendingRecord(id);
    if (!recording) return;
    let stopWaiting = (): void => undefined;
    const aborted = new Promise<void>((resolve) => (stopWaiting = resolve));
    signal?.addEventListener('abort', stopWaiting, { once: true });
    if (signal?.aborted) stopWaiting();
    await Promise.race([recording, aborted]);
    signal?.removeEventListener('abort', stopWaiting);
    signal?.throwIfAborted();
  }

  /** Whether another node may still be recording that this client was informed: the client's next request may overtake that. */
  private mayBecomeInformed(upload: Upload | undefined): boolean {
    const { undelivered } = upload ?? {};
    return this.deps.returnGraceMs > 0 && undelivered?.reason === 'outcome-unknown' && !undelivered.clientKnows;
  }

  private async readAfterDelay(id: string, request: ResultRequest): Promise<Upload | undefined> {
    await sleep(INFORMED_RECORD_DELAY_MS, undefined, { signal: request.signal });
    return this.read(id, request);
  }

  /** Reads the upload. A client that waits for the origin also waits for an unavailable store. */
  private read(id: string, { signal, waitMs = Infinity }: ResultRequest): Promise<Upload | undefined> {
    const { store } = this.deps;
    return waitMs > 0 ? store.withRetry(() => store.direct.get(id), { signal }) : store.direct.get(id);
  }

  private startRun(id: string, request: RunRequest): Run {
    const run = new Run(id, this.deps, { ...request, eager: this.eagerAttempts.get(id) }, () => this.runs.delete(id));
    this.runs.set(id, run);
    this.track(run.drive());
    return run;
  }

  private track(task: Promise<void>): void {
    this.backgroundTasks.add(task);
    void task.finally(() => this.backgroundTasks.delete(task));
  }

  private poll(): Promise<void> {
    return this.startDueRuns().catch((error: unknown) => this.logPollFailure(error));
  }

  /**
   * After the first poll, starts only deliveries that the previous poll found due too: the client of an upload that has just
   * become complete is about to ask for it with newer credentials. Deliveries without a free slot wait for a later poll.
   */
  private async startDueRuns(): Promise<void> {
    const { store, clock, monotonic } = this.deps;
    const beyond = this.pollCount++ % POLLS_PER_FULL_SCAN < 2 ? clock() + FULL_SCAN_BEYOND_MS : undefined;
    const due = await store.withoutRetry(() => store.direct.dueDeliveries(clock(), beyond));
    if (this.storeWasUnavailable) this.storeReturnedAt = monotonic();
    this.storeWasUnavailable = false;
    const { previouslyDue } = this;
    for (const id of due) {
      if (this.draining.signal.aborted) break;
      if (this.runs.has(id) || (previouslyDue && !previouslyDue.has(id))) continue;
      if (await this.mayStartRun(id)) this.startRun(id, { by: 'poll', credentials: [] });
    }
    this.previouslyDue = new Set(due);
  }

  private logPollFailure(error: unknown): void {
    this.storeWasUnavailable ||= isStoreUnavailable(error);
    // RetryingStore has logged an unavailable store already.
    if (!isStoreUnavailable(error)) this.deps.log.error({ err: error }, 'due deliveries could not be listed');
  }

  private async mayStartRun(id: string): Promise<boolean> {
    const { store, clock, monotonic } = this.deps;
    const upload = await store.direct.get(id).catch(undefinedForOneFault);
    if (!upload || this.runs.has(id) || !isDue(clock(), upload)) return false;
    // No claim could be renewed while the store was unavailable; its holders are about to do so.
    if (upload.phase === 'delivering' && monotonic() - this.storeReturnedAt < CLAIM_RECOVERY_MS) return false;
    const { origin, delivery } = routeOf(upload, this.deps.routes);
    return this.deps.originQueues.of(origin).hasFreeSlot(delivery);
  }

  private async toDeliveryResult(
    id: string,
    result: RunResult | Pending,
    { signal, disconnected }: Required<Pick<ResultRequest, 'signal' | 'disconnected'>>,
    /** End of the client's wait, by the monotonic clock. */
    waitUntil: number,
  ): Promise<DeliveryResult> {
    switch (result.kind) {
      case 'answer':
        return { kind: 'answered', upload: result.upload, answer: result.buffered.relay() };
      case 'undelivered':
        return this.undelivered(result.upload, result.failure, disconnected);
      case 'pending':
        return this.pending(id, result, disconnected);
      case 'failed':
        throw result.error;
      case 'elsewhere': {
        const waitMs = waitUntil - this.deps.monotonic();
        const settled = await settledWithin(this.deps.store, id, signal, waitMs);
        if (settled === 'timeout') return this.pending(id, { kind: 'pending' }, disconnected);
        return this.settledResult(settled, disconnected);
      }
    }
  }

  private async settledResult(upload: Upload | undefined, signal: AbortSignal): Promise<DeliveryResult> {
    if (upload?.phase === 'answered') {
      const answer = await this.keptAnswer(upload, signal);
      return answer ? { kind: 'answered', upload, answer } : { kind: 'answer-lost', upload };
    }
    if (upload?.undelivered) return this.undelivered(upload, upload.undelivered, signal);
    return { kind: 'gone', upload };
  }

  private async undelivered(upload: Upload, failure: Undelivered, signal: AbortSignal): Promise<DeliveryResult> {
    const answer = failure.answer && (await this.keptAnswer(upload, signal));
    if (answer) return { kind: 'parked', upload, answer };
    const { retry } = routeOf(upload, this.deps.routes).delivery;
    const seconds = retryAfterSeconds(upload.attempts.at(-1), retry, this.deps.clock());
    return { kind: 'undelivered', upload, failure, retryAfterSeconds: seconds };
  }

  private async pending(id: string, { failure, dueAt }: Pending, signal: AbortSignal): Promise<DeliveryResult> {
    const upload = await this.deps.store.direct.get(id);
    if (!upload || upload.phase === 'answered') return this.settledResult(upload, signal);
    const now = this.deps.monotonic();
    const { retry } = routeOf(upload, this.deps.routes).delivery;
    return {
      kind: 'pending',
      upload,
      failure,
      retryAfterSeconds: secondsUntil(dueAt ?? now + retry.longestDelayMs, now),
    };
  }
}

/** A record that cannot be used now keeps no other upload from being delivered; the store reports it. */
function undefinedForOneFault(error: unknown): undefined {
  if (!(error instanceof Fault) || isStoreUnavailable(error)) throw error;
}

/** Whether an attempt is due. If the last one ended in the future, the clock was set back since, so the next one is due. */
function isDue(now: number, { phase, dueAt = 0, attempts }: Upload): boolean {
  const { endedAt = 0 } = attempts.at(-1) ?? {};
  return phase !== 'complete' || dueAt <= now || endedAt > now;
}

/** Whether an older snapshot is as good as a new one: answers never change, and the claim re-checks uploads without attempts. */
function isStableSnapshot({ phase, attemptCount }: Upload): boolean {
  return phase === 'answered' || (phase === 'complete' && attemptCount === 0);
}

/** The upload once another worker has settled its delivery, or `timeout` after `waitMs`. Rejects with the signal's reason. */
async function settledWithin(
  store: Pick<UploadStore, 'waitUntilSettled'>,
  id: string,
  signal: AbortSignal,
  waitMs: number,
): Promise<Upload | undefined | 'timeout'> {
  const waiting = new AbortController();
  const stopWaiting = (): void => waiting.abort(signal.reason);
  const timer = setTimeout(() => waiting.abort(), waitMs);
  signal.addEventListener('abort', stopWaiting, { once: true });
  if (signal.aborted) stopWaiting();
  try {
    return await store.waitUntilSettled(id, waiting.signal);
  } catch (error) {
    if (waiting.signal.aborted && !signal.aborted) return 'timeout';
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', stopWaiting);
  }
}
