import { setTimeout as sleep } from 'node:timers/promises';
import type { Headers } from '../model/headers.js';
import type { OriginInterim } from '../model/messages.js';
import type { Route } from '../model/route.js';
import type { Attempt, Chunk, Undelivered, Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import { originIsHealthy, type AttemptResult, tryOnce } from './attempt.js';
import { DeliveryClaim } from './claim.js';
import type { DeliveryContext } from './context.js';
import type { EagerAttempt } from './eager.js';
import { RunFinish, type NextStep } from './finish.js';
import { passGate } from './gate.js';
import { frameBody } from './origin-body.js';
import type { Slot } from './origin-queue.js';
import { withCompletingRequest } from './origin-request.js';
import { reportAttempt, reportRefusal } from './report.js';
import type { ResponseBuffer } from './response-buffer.js';
import {
  beforeAttempt,
  RetryDelay,
  isPartiallySent,
  LOST_WITH_PROCESS,
  mayRetry,
  policyOf,
  RetryBudget,
  routeOf,
  type Start,
} from './retry-policy.js';
import { Waiters } from './waiters.js';

const BREAKER_OPEN: Undelivered = { reason: 'unreachable', problem: 'the origin failed too often and is left alone' };

type GrantedSlot = Extract<Slot, { readonly kind: 'granted' }>;

/** For a step that sends nothing. */
const NO_SLOT: GrantedSlot = { kind: 'granted', end: () => undefined };

export interface RunRequest {
  /** Who asks: what ended without an answer may be tried again for them. */
  readonly by: 'nobody' | 'client' | 'operator';
  /** The operator lets it pass without asking the gate. */
  readonly skipGate?: boolean;
  /** The newest that a client brought. */
  readonly credentials: Headers;
  /** Fields that the authorization service adds to the request that brought them, where it was asked again. */
  readonly addedHeaders?: Headers;
  /** An attempt that began while the upload was received, and may become the one. */
  readonly eager?: EagerAttempt;
  /** The upload as it was a moment ago. */
  readonly snapshot?: Upload;
}

/** One upload's delivery by this worker, from its claim to its end, in as many attempts as the policy allows. */
export class Run {
  readonly waiters: Waiters;
  private readonly retryDelay: RetryDelay;
  private readonly runFinish: RunFinish;
  private readonly budget: RetryBudget;
  private completingRequest: Pick<RunRequest, 'credentials' | 'addedHeaders'>;
  private eager: EagerAttempt | undefined;
  private chunksRead: Promise<readonly Chunk[]> | undefined;
  /** Somebody who may asked for what had ended after this attempt (0: before any) to be tried again. */
  private retryRequestedAfter: number | undefined;
  /** `waived`: by the operator. */
  private gate: 'to-ask' | 'passed' | 'waived' = 'to-ask';

  constructor(
    private readonly id: string,
    private readonly deps: DeliveryContext,
    private readonly request: RunRequest,
    /** Called once, when who comes later needs a run of their own. */
    onOver: () => void,
  ) {
    this.waiters = new Waiters(deps.monotonic);
    this.runFinish = new RunFinish(id, deps, this.waiters, onOver);
    this.retryDelay = new RetryDelay(deps.monotonic, deps.draining);
    this.budget = new RetryBudget(deps);
    this.completingRequest = request;
    this.eager = request.eager;
    if (request.skipGate) this.gate = 'waived';
  }

  /** Another client came, perhaps with newer credentials: the next attempt uses them, and is made now if it may be. */
  join(request: Pick<RunRequest, 'credentials' | 'addedHeaders'>): void {
    if (request.credentials.length > 0 || request.addedHeaders) this.completingRequest = request;
    if (this.retryDelay.retryNow()) this.waiters.setPause(undefined);
  }

  /** The operator wants the next attempt now, whatever the origin asked for. A gate that was passed is asked once more. */
  forceRetry({ skipGate }: { readonly skipGate: boolean }): void {
    this.gate = skipGate ? 'waived' : 'to-ask';
    if (this.retryDelay.forceRetryNowOrNext()) this.waiters.setPause(undefined);
  }

  /** Never fails. */
  async drive(): Promise<void> {
    try {
      for (let next = await this.step(this.request.snapshot); next !== 'over'; next = await this.step()) {
        this.waiters.setPause(next);
        const hasEnded = await this.pause(next);
        this.waiters.setPause(undefined);
        if (hasEnded) return void this.runFinish.finishElsewhere();
      }
    } catch (error) {
      // The record stays as it is: when the claim has run out, what it says decides, and nothing is sent twice.
      this.deps.log.error({ upload: uploadTag(this.id), err: error }, 'a delivery failed');
      this.runFinish.finish({ kind: 'failed', error });
    }
  }

  /** True when somebody else has ended it meanwhile; one that is left undelivered may be what this run is asked to change. */
  private async pause({ until, notBefore }: Exclude<NextStep, 'over'>): Promise<boolean> {
    const over = new AbortController();
    const ended = this.deps.store.waitUntilSettled(this.id, over.signal).then(
      (upload) => {
        if (upload?.phase === 'undelivered') return false;
        this.retryDelay.forceRetry();
        return true;
      },
      () => false,
    );
    await this.retryDelay.pause(until, notBefore);
    over.abort();
    return ended;
  }

  /** Takes its slot at the origin before the claim: while it waits for it, the record says so and anybody may take it. */
  private async step(before?: Upload): Promise<NextStep> {
    const gone = await this.continueEager();
    if (gone) return gone;
    const known = await this.loadDeliverable(before);
    if (!known) return 'over';
    const slot = this.decideStart(known).kind === 'send' ? await this.acquireSlot(known) : NO_SLOT;
    if (slot.kind === 'stopped') return this.runFinish.finishStopped(known);
    if (slot.kind === 'later') return { until: slot.at, notBefore: slot.at, why: BREAKER_OPEN };
    try {
      return await this.claimAndDeliver(slot);
    } finally {
      slot.end();
    }
  }

  /** What follows the early attempt, when that could be made whole; once. */
  private async continueEager(): Promise<NextStep | undefined> {
    const { eager } = this;
    this.eager = undefined;
    const early = await eager?.begun;
    if (!eager || !early || this.deps.draining.aborted) return undefined;
    const { store, worker, clock, monotonic, claimMs, routes } = this.deps;
    const askedAt = monotonic();
    const whole = { ...early, ...this.budget.begin(early.number) };
    const upload = await store.claimDelivery(this.id, worker, clock() + claimMs, whole);
    // It has ended, or the whole is delivered by somebody else.
    if (!upload) return eager.abort('the whole is not for this attempt');
    const claim = new DeliveryClaim(this.id, this.deps, askedAt);
    this.runFinish.useClaim(claim);
    claim.coverAttempt(whole.number);
    try {
      if (!(await store.withRetry(() => claim.ensureHeld()))) {
        eager.abort('another worker delivers the whole');
        return this.runFinish.finishElsewhere();
      }
      const { onInterim } = this;
      const tried = await eager.finish(upload, whole, {
        signal: claim.signal,
        onAnswer: this.answerListener(upload),
        onInterim,
      });
      return await this.runFinish.afterAttempt(upload, tried, routeOf(upload, routes), this.chunks);
    } catch (error) {
      await claim.giveBack();
      throw error;
    } finally {
      await claim.release();
    }
  }

  /** The upload, when it is this run's to deliver. */
  private async loadDeliverable(before: Upload | undefined): Promise<Upload | undefined> {
    const known = before ?? (await this.deps.store.get(this.id));
    const { by } = this.request;
    const mayTry =
      known?.phase === 'complete' ||
      known?.phase === 'delivering' ||
      (known?.phase === 'undelivered' && by !== 'nobody' && this.mayTryAgain(known));
    if (!mayTry || known.node !== this.deps.node) this.runFinish.finishElsewhere();
    else if (this.deps.draining.aborted) this.runFinish.finishStopped(known);
    else return known;
    return undefined;
  }

  /** Whether asking begins a new budget. */
  private mayTryAgain(known: Upload): boolean {
    const { by } = this.request;
    const why = known.undelivered;
    if (!why || by === 'nobody') return true;
    const asker = by === 'operator' ? { by } : { by, hasCredentials: this.completingRequest.credentials.length > 0 };
    const isAsked = mayRetry(why, asker, policyOf(known, routeOf(known, this.deps.routes)));
    this.retryRequestedAfter = isAsked ? newestNumber(known) : undefined;
    return isAsked;
  }

  private decideStart(upload: Upload): Start {
    const policy = policyOf(upload, routeOf(upload, this.deps.routes));
    return beforeAttempt(upload.attempts.at(-1), this.isRetryRequested(upload), policy);
  }

  /** A client that asked after one attempt knows nothing of a newer one, which another worker made meanwhile. */
  private isRetryRequested(upload: Upload): boolean {
    if (this.retryRequestedAfter === undefined) return false;
    return this.request.by === 'operator' || this.retryRequestedAfter === newestNumber(upload);
  }

  private acquireSlot(upload: Upload): Promise<Slot> {
    const { originQueues, draining, routes } = this.deps;
    const { origin, delivery } = routeOf(upload, routes);
    return originQueues
      .of(origin)
      .acquire({ limits: delivery, isUrgent: () => this.waiters.isWaiting, signal: draining });
  }

  private async claimAndDeliver(slot: GrantedSlot): Promise<NextStep> {
    const { store, worker, clock, monotonic, claimMs } = this.deps;
    const askedAt = monotonic();
    const claiming = store.claimDelivery(this.id, worker, clock() + claimMs);
    const [upload, chunks] = await Promise.all([claiming, this.chunks()]);
    if (!upload) return this.runFinish.finishElsewhere();
    // Its bytes have just been moved: they are delivered from there.
    if (upload.node !== this.deps.node) {
      await this.runFinish.postpone({ until: monotonic(), why: BREAKER_OPEN });
      return this.runFinish.finishElsewhere();
    }
    const claim = new DeliveryClaim(this.id, this.deps, askedAt);
    this.runFinish.useClaim(claim);
    try {
      return await this.deliver(upload, chunks, slot, claim);
    } catch (error) {
      await claim.giveBack();
      throw error;
    } finally {
      await claim.release();
    }
  }

  private async deliver(
    upload: Upload,
    chunks: readonly Chunk[],
    slot: GrantedSlot,
    claim: DeliveryClaim,
  ): Promise<NextStep> {
    const { clock, monotonic, routes } = this.deps;
    const { signal } = claim;
    const route = routeOf(upload, routes);
    const waitForPreviousWorker = await this.isLost(upload, route, claim);
    if (waitForPreviousWorker !== true) return waitForPreviousWorker;
    await this.closeOpenAttempt(upload.attempts.at(-1));
    const start = this.decideStart(upload);
    if (start.kind === 'give-up') return this.runFinish.giveUp(start.why);
    // It may be sent after all: with a slot.
    if (slot === NO_SLOT) return this.runFinish.postpone({ until: monotonic(), why: BREAKER_OPEN });
    this.retryRequestedAfter = undefined;
    const shut = await this.passGate(upload, route, signal);
    if (shut) return shut;
    const { number, budgetFrom, budgetSince } = start;
    const budget = this.budget.begin(budgetFrom, budgetSince);
    const attempt = { number, ...budget, origin: route.origin, startedAt: clock() };
    const begun = await this.beginAttempt(attempt, claim);
    if (begun === 'stale') return this.runFinish.finishElsewhere();
    claim.coverAttempt(number);
    if (claim.mayHaveExpired)
      return this.runFinish.afterAttempt(begun, { attempt: notSent(attempt) }, route, this.chunks);
    const tried = await this.sendAttempt(begun, chunks, route, attempt, signal);
    slot.end(originIsHealthy(tried, signal));
    return this.runFinish.afterAttempt(begun, tried, route, this.chunks);
  }

  /** Once: of what is whole they stay the same. */
  private readonly chunks = (): Promise<readonly Chunk[]> => (this.chunksRead ??= this.deps.store.chunks(this.id));

  /** Under a claim that holds for a while: who took one that ran out would have to take this attempt for lost. */
  private beginAttempt(attempt: Attempt, claim: DeliveryClaim): Promise<Upload | 'stale'> {
    const { store, worker } = this.deps;
    return store.withRetry(async () =>
      (await claim.ensureHeld()) ? store.direct.beginAttempt(this.id, worker, attempt) : ('stale' as const),
    );
  }

  /** What follows when the gate did not let the upload pass; asked once for all attempts, and again for the operator. */
  private async passGate(upload: Upload, route: Route, signal: AbortSignal): Promise<NextStep | undefined> {
    const { gate } = route.delivery;
    if (!gate || this.gate !== 'to-ask') return undefined;
    const isWaived = (): boolean => this.gate === 'waived';
    const gateOutcome = await passGate({ upload, gate, route, signal, isWaived }, this.deps);
    switch (gateOutcome.kind) {
      case 'open':
        if (!isWaived()) this.gate = 'passed';
        return undefined;
      case 'shut':
        return this.runFinish.giveUp(gateOutcome.why);
      case 'failed':
        return this.runFinish.postpone(gateOutcome);
      case 'lost':
        return this.runFinish.lose(upload, gateOutcome.problem);
      case 'answered':
        reportRefusal(gateOutcome.upload, this.deps);
        return this.runFinish.finishElsewhere();
      case 'stale':
        return this.runFinish.finishElsewhere();
    }
  }

  /**
   * Whether nobody comes back with the attempt that was left open: its worker may only have stood still, or the clock by
   * which its claim ran out was set. Until a newer attempt begins its answer can be recorded, and so it is waited for, also
   * where the origin may be asked twice.
   */
  private async isLost({ attempts }: Upload, route: Route, claim: DeliveryClaim): Promise<true | NextStep> {
    const { store, returnGraceMs, draining } = this.deps;
    const newest = attempts.at(-1);
    const isOpen = newest !== undefined && newest.reached === undefined && !isPartiallySent(newest);
    if (!isOpen || returnGraceMs === 0) return true;
    const waiting = new AbortController();
    const signal = AbortSignal.any([claim.signal, draining, waiting.signal]);
    // An early end of the waiting is seen by what is asked after it.
    const end = (): void => undefined;
    await Promise.race([
      sleep(returnGraceMs, undefined, { signal }).catch(end),
      store.waitUntilSettled(this.id, signal).then(end, () => new Promise<void>(() => undefined)),
    ]);
    waiting.abort();
    const known = await store.get(this.id);
    if (draining.aborted && known) return this.runFinish.finishStopped(known);
    if (known?.phase !== 'delivering' || claim.signal.aborted) return this.runFinish.finishElsewhere();
    return (await store.withRetry(() => claim.ensureHeld())) ? true : this.runFinish.finishElsewhere();
  }

  /** Its process died within it: now the record says so. */
  private async closeOpenAttempt(newest: Attempt | undefined): Promise<void> {
    if (!newest || newest.reached !== undefined) return;
    const { store, worker, clock } = this.deps;
    const reached = isPartiallySent(newest) ? 'sent-in-part' : 'sent';
    const closed = { ...newest, endedAt: clock(), reached, problem: LOST_WITH_PROCESS } as const;
    await store.endAttempt(this.id, worker, closed);
  }

  private async sendAttempt(
    claimed: Upload,
    chunks: readonly Chunk[],
    route: Route,
    attempt: Attempt,
    signal: AbortSignal,
  ): Promise<AttemptResult> {
    const { metrics } = this.deps;
    const { completingRequest: completing, onInterim } = this;
    const upload = withCompletingRequest(claimed, route, completing);
    const openBody = () => frameBody(upload, route.delivery.framing, chunks, this.deps.spool);
    const onAnswer = this.answerListener(claimed);
    metrics.activeDeliveries.inc();
    const call = { upload, route, openBody, attempt, signal, onAnswer, onInterim };
    const tried = await tryOnce(call, this.deps);
    metrics.activeDeliveries.dec();
    reportAttempt(upload, tried.attempt, this.deps);
    return tried;
  }

  private readonly onInterim = (interim: OriginInterim): void => this.waiters.relayInterim(interim);

  /**
   * A crash must not make untrue what a client was shown: a short answer is recorded first. Whoever was shown a long one
   * that broke off fails with it; who comes after that waits for what follows.
   */
  private answerListener(upload: Upload): (buffered: ResponseBuffer | undefined) => void {
    const { waiters } = this;
    return (buffered) => {
      waiters.clearResult();
      buffered?.onLongResponse(() => waiters.show({ kind: 'answer', upload, buffered }));
    };
  }
}

function newestNumber({ attempts }: Upload): number {
  return attempts.at(-1)?.number ?? 0;
}

function notSent(attempt: Attempt): Attempt {
  return {
    ...attempt,
    endedAt: attempt.startedAt,
    reached: 'never-sent',
    problem: 'the process was stopped for too long before it sent',
  };
}
