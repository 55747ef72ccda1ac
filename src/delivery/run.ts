import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { OriginInterim } from '../model/messages.js';
import type { Gate, Route } from '../model/route.js';
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
import { type CompletingRequest, type RevealedRequest, withCompletingRequest, withSecrets } from './origin-request.js';
import { noteAttempt, reportAttempt, reportRefusal } from './report.js';
import type { ResponseBuffer } from './response-buffer.js';
import {
  beforeAttempt,
  RetryDelay,
  isPartiallySent,
  PROCESS_STOPPED,
  mayRetry,
  policyOf,
  RetryBudget,
  routeOf,
  type StartDecision,
} from './retry-policy.js';
import { frameBytes, type SmallContent } from './small-content.js';
import { Waiters } from './waiters.js';

const BREAKER_OPEN: Undelivered = {
  reason: 'unreachable',
  problem: 'the origin failed repeatedly: requests to it are paused',
};

type GrantedSlot = Extract<Slot, { readonly kind: 'granted' }>;

/** Stands in for a slot in a step that sends nothing. */
const NO_SLOT: GrantedSlot = { kind: 'granted', end: () => undefined };

/** The reason for a run, and the client data it starts with. */
export interface RunRequest extends CompletingRequest {
  /** The requester of the run: a client or the operator may reopen a delivery that ended without an answer. */
  readonly by: 'poll' | 'client' | 'operator';
  /** The operator lets the upload pass without the gate. */
  readonly skipGate?: boolean;
  /** An attempt that began while the upload was received; the run completes it if it can. */
  readonly eager?: EagerAttempt;
  /** The upload as the caller has just read it. */
  readonly snapshot?: Upload;
  /** The bytes of the upload, while they are in memory. */
  readonly content?: SmallContent;
}

interface SendTask {
  readonly claimed: Upload;
  readonly revealed: RevealedRequest;
  readonly chunks: readonly Chunk[];
  readonly route: Route;
  readonly attempt: Attempt;
  readonly signal: AbortSignal;
}

/** Delivers one upload from this worker: claims it, makes as many attempts as the policy allows, and records the outcome. */
export class Run {
  readonly waiters: Waiters;
  private readonly retryDelay: RetryDelay;
  private readonly runFinish: RunFinish;
  private readonly budget: RetryBudget;
  private completingRequest: CompletingRequest;
  private eager: EagerAttempt | undefined;
  private chunksRead: Promise<readonly Chunk[]> | undefined;
  /** The number of the newest attempt (0: none) when a retry of an ended delivery was requested and allowed. */
  private retryRequestedAfter: number | undefined;
  /** `waived`: the operator lets the upload pass. */
  private gate: 'to-ask' | 'waived' = 'to-ask';
  /** The gate that has let the upload pass; a reload may have replaced it. */
  private passedGate: Gate | undefined;

  constructor(
    private readonly id: string,
    private readonly deps: DeliveryContext,
    private readonly request: RunRequest,
    /** Called once, when later requests need a new run. */
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

  /** Adds a request that wants the result. The next attempt uses its credentials, and starts now if the origin allows it. */
  join(request: CompletingRequest): void {
    // Stored values need no other fields of a later request, which must not take the place of newer credentials.
    const hasValues = !this.deps.secrets.areKept && request.secretLines?.length;
    if (request.credentials.length > 0 || request.addedHeaders || hasValues) this.completingRequest = request;
    if (this.retryDelay.retryNow()) this.waiters.setPause(undefined);
  }

  /** Starts the next attempt now, even if the origin asked to wait. A gate that was passed is asked again. */
  forceRetry({ skipGate }: { readonly skipGate: boolean }): void {
    this.gate = skipGate ? 'waived' : 'to-ask';
    this.passedGate = undefined;
    if (this.retryDelay.forceRetryNowOrNext()) this.waiters.setPause(undefined);
  }

  /** Runs until the delivery is over for this worker. Never rejects. */
  async drive(): Promise<void> {
    try {
      for (let next = await this.step(this.request.snapshot); next !== 'over'; next = await this.step()) {
        this.waiters.setPause(next);
        const settledElsewhere = await this.pause(next);
        this.waiters.setPause(undefined);
        if (settledElsewhere) return void this.runFinish.finishElsewhere();
      }
    } catch (error) {
      // The record is unchanged, so the worker that takes over the expired claim knows what was sent: nothing is sent twice.
      this.deps.log.error({ upload: uploadTag(this.id), err: error }, 'a delivery failed');
      this.runFinish.finish({ kind: 'failed', error });
    }
  }

  /**
   * Waits until the next attempt is due. Returns true if another worker has settled the delivery meanwhile; `undelivered`
   * does not count, because this run may be meant to retry it.
   */
  private async pause({ until, notBefore }: Exclude<NextStep, 'over'>): Promise<boolean> {
    const waiting = new AbortController();
    const settledElsewhere = this.deps.store.waitUntilSettled(this.id, waiting.signal).then(
      (upload) => {
        if (upload?.phase === 'undelivered') return false;
        this.retryDelay.forceRetry();
        return true;
      },
      () => false,
    );
    await this.retryDelay.pause(until, notBefore);
    waiting.abort();
    return settledElsewhere;
  }

  /** Makes one step. It takes a slot before it claims the upload, so that another worker may claim it while this one waits. */
  private async step(snapshot?: Upload): Promise<NextStep> {
    const afterEager = await this.continueEager();
    if (afterEager) return afterEager;
    const upload = await this.loadDeliverable(snapshot);
    if (!upload) return 'over';
    const slot = this.decideStart(upload).kind === 'send' ? await this.acquireSlot(upload) : NO_SLOT;
    if (slot.kind === 'stopped') return this.runFinish.finishStopped(upload);
    if (slot.kind === 'later') return { until: slot.at, notBefore: slot.at, failure: BREAKER_OPEN };
    try {
      return await this.claimAndDeliver(slot);
    } finally {
      slot.end();
    }
  }

  /** Completes the eager attempt, the first time it is called; undefined if there is none or it cannot be completed. */
  private async continueEager(): Promise<NextStep | undefined> {
    const { eager } = this;
    this.eager = undefined;
    const begun = await eager?.begun;
    if (!eager || !begun || this.deps.draining.aborted) return undefined;
    const { store, worker, clock, monotonic, claimMs, routes } = this.deps;
    const requestedAt = monotonic();
    const attempt = { ...begun, ...this.budget.begin(begun.number) };
    const upload = await store.claimDelivery(this.id, worker, clock() + claimMs, attempt);
    // The attempt has ended, or another worker delivers the complete upload.
    if (!upload) return eager.abort('the complete upload is not for this attempt');
    const claim = new DeliveryClaim(this.id, this.deps, requestedAt);
    this.runFinish.useClaim(claim);
    claim.coverAttempt(attempt.number);
    try {
      if (!(await store.withRetry(() => claim.ensureHeld()))) {
        eager.abort('another worker delivers the complete upload');
        return this.runFinish.finishElsewhere();
      }
      const { onInterim } = this;
      const result = await eager.finish(upload, attempt, {
        signal: claim.signal,
        onAnswer: this.answerListener(upload),
        onInterim,
      });
      return await this.runFinish.recordResult(upload, result, routeOf(upload, routes), this.chunks);
    } catch (error) {
      await claim.giveBack();
      throw error;
    } finally {
      await claim.release();
    }
  }

  /** The upload if this run may deliver it; otherwise the run is finished. */
  private async loadDeliverable(snapshot: Upload | undefined): Promise<Upload | undefined> {
    const upload = snapshot ?? (await this.deps.store.get(this.id));
    const { by } = this.request;
    const mayTry =
      upload?.phase === 'complete' ||
      upload?.phase === 'delivering' ||
      (upload?.phase === 'undelivered' && by !== 'poll' && this.requestRetry(upload));
    if (!mayTry || upload.node !== this.deps.node) this.runFinish.finishElsewhere();
    else if (this.deps.draining.aborted) this.runFinish.finishStopped(upload);
    else return upload;
    return undefined;
  }

  /** Whether the request that started this run may reopen the undelivered upload, with a new budget. */
  private requestRetry(upload: Upload): boolean {
    const { by } = this.request;
    const failure = upload.undelivered;
    if (!failure || by === 'poll') return true;
    const requester =
      by === 'operator' ? { by } : { by, hasCredentials: this.completingRequest.credentials.length > 0 };
    const isAllowed = mayRetry(failure, requester, policyOf(upload, routeOf(upload, this.deps.routes)));
    this.retryRequestedAfter = isAllowed ? newestNumber(upload) : undefined;
    return isAllowed;
  }

  private decideStart(upload: Upload): StartDecision {
    const policy = policyOf(upload, routeOf(upload, this.deps.routes));
    return beforeAttempt(upload.attempts.at(-1), this.isRetryRequested(upload), policy);
  }

  /** Whether the requested retry still applies. A client's request does not cover an attempt that another worker has made since. */
  private isRetryRequested(upload: Upload): boolean {
    if (this.retryRequestedAfter === undefined) return false;
    return this.request.by === 'operator' || this.retryRequestedAfter === newestNumber(upload);
  }

  private async acquireSlot(upload: Upload): Promise<Exclude<Slot, { kind: 'again' }>> {
    const { originQueues, draining, routes } = this.deps;
    const isUrgent = (): boolean => this.waiters.isWaiting;
    for (;;) {
      const { origin, delivery } = routeOf(upload, routes);
      const slot = await originQueues.of(origin).acquire({ limits: delivery, isUrgent, signal: draining });
      if (slot.kind !== 'again') return slot;
    }
  }

  private async claimAndDeliver(slot: GrantedSlot): Promise<NextStep> {
    const { store, worker, clock, monotonic, claimMs } = this.deps;
    const requestedAt = monotonic();
    const claiming = store.claimDelivery(this.id, worker, clock() + claimMs);
    const [upload, chunks] = await Promise.all([claiming, this.chunks()]);
    if (!upload) return this.runFinish.finishElsewhere();
    // The bytes have just been moved to another node, which delivers them.
    if (upload.node !== this.deps.node) {
      await this.runFinish.postpone({ until: monotonic(), failure: BREAKER_OPEN });
      return this.runFinish.finishElsewhere();
    }
    const claim = new DeliveryClaim(this.id, this.deps, requestedAt);
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
    const settled = await this.waitForPreviousWorker(upload, claim);
    if (settled) return settled;
    await this.closeOpenAttempt(upload.attempts.at(-1));
    const start = this.decideStart(upload);
    if (start.kind === 'give-up') return this.runFinish.giveUp(start.failure);
    // The upload may be sent after all, which takes a slot.
    if (slot === NO_SLOT) return this.runFinish.postpone({ until: monotonic(), failure: BREAKER_OPEN });
    this.retryRequestedAfter = undefined;
    const afterGate = await this.passGate(upload, route, signal);
    if (afterGate) return afterGate;
    const revealed = withSecrets(upload, this.completingRequest, this.deps.secrets);
    if ('problem' in revealed) return this.runFinish.giveUp({ reason: 'unauthorized', problem: revealed.problem });
    const { number, budgetFrom, budgetSince } = start;
    const budget = this.budget.begin(budgetFrom, budgetSince);
    const attempt = { number, ...budget, origin: route.origin, startedAt: clock() };
    const begun = await this.beginAttempt(attempt, claim);
    if (begun === 'stale') return this.runFinish.finishElsewhere();
    claim.coverAttempt(number);
    if (claim.mayHaveExpired)
      return this.runFinish.recordResult(begun, { attempt: notSent(attempt) }, route, this.chunks);
    const result = await this.sendAttempt({ claimed: begun, revealed, chunks, route, attempt, signal });
    slot.end(originIsHealthy(result, signal));
    return this.runFinish.recordResult(begun, result, route, this.chunks);
  }

  /** The chunks, which are read only once, because those of a complete upload do not change. */
  private readonly chunks = (): Promise<readonly Chunk[]> => (this.chunksRead ??= this.deps.store.chunks(this.id));

  /** Begins the attempt under a fresh claim: a worker that took over an expired one would have to treat the attempt as lost. */
  private beginAttempt(attempt: Attempt, claim: DeliveryClaim): Promise<Upload | 'stale'> {
    const { store, worker } = this.deps;
    return store.withRetry(async () =>
      (await claim.ensureHeld()) ? store.direct.beginAttempt(this.id, worker, attempt) : ('stale' as const),
    );
  }

  /**
   * Returns the next step if the gate did not let the upload pass. The gate is asked once for all attempts, and again for
   * the operator.
   */
  private async passGate(upload: Upload, route: Route, signal: AbortSignal): Promise<NextStep | undefined> {
    const { gate } = route.delivery;
    if (!gate || this.gate === 'waived' || isDeepStrictEqual(gate, this.passedGate)) return undefined;
    const isWaived = (): boolean => this.gate === 'waived';
    const gateOutcome = await passGate({ upload, gate, route, signal, isWaived }, this.deps);
    switch (gateOutcome.kind) {
      case 'open':
        if (!isWaived()) this.passedGate = gate;
        return undefined;
      case 'quarantined':
        return this.runFinish.giveUp(gateOutcome.failure);
      case 'failed':
        return this.runFinish.postpone(gateOutcome);
      case 'lost':
        return this.runFinish.endLost(upload, gateOutcome.problem);
      case 'answered':
        reportRefusal(gateOutcome.upload, this.deps);
        return this.runFinish.finishElsewhere();
      case 'stale':
        return this.runFinish.finishElsewhere();
    }
  }

  /**
   * Waits `returnGraceMs` for the previous worker if it left an attempt open; undefined if it did not return. That worker may
   * only have been suspended, and its answer can be recorded until a newer attempt begins.
   */
  private async waitForPreviousWorker({ attempts }: Upload, claim: DeliveryClaim): Promise<NextStep | undefined> {
    const { store, returnGraceMs, draining } = this.deps;
    const newest = attempts.at(-1);
    const isOpen = newest !== undefined && newest.reached === undefined && !isPartiallySent(newest);
    if (!isOpen || returnGraceMs === 0) return undefined;
    const waiting = new AbortController();
    const signal = AbortSignal.any([claim.signal, draining, waiting.signal]);
    // The checks below find out why the wait ended.
    const end = (): void => undefined;
    await Promise.race([
      sleep(returnGraceMs, undefined, { signal }).catch(end),
      store.waitUntilSettled(this.id, signal).then(end, () => new Promise<void>(() => undefined)),
    ]);
    waiting.abort();
    const upload = await store.get(this.id);
    if (draining.aborted && upload) return this.runFinish.finishStopped(upload);
    if (upload?.phase !== 'delivering' || claim.signal.aborted) return this.runFinish.finishElsewhere();
    return (await store.withRetry(() => claim.ensureHeld())) ? undefined : this.runFinish.finishElsewhere();
  }

  /** Records the end of an attempt whose process died. */
  private async closeOpenAttempt(newest: Attempt | undefined): Promise<void> {
    if (!newest || newest.reached !== undefined) return;
    const { store, worker, clock } = this.deps;
    const reached = isPartiallySent(newest) ? 'sent-in-part' : 'sent';
    const closed = { ...newest, endedAt: clock(), reached, problem: PROCESS_STOPPED } as const;
    await store.endAttempt(this.id, worker, closed);
    noteAttempt(this.id, closed, this.deps);
  }

  private async sendAttempt({ claimed, revealed, chunks, route, attempt, signal }: SendTask): Promise<AttemptResult> {
    const { metrics } = this.deps;
    const { onInterim } = this;
    const { request, addedHeaders, completing = this.completingRequest } = revealed;
    const upload = withCompletingRequest({ ...claimed, request, addedHeaders }, route, completing);
    const { framing } = route.delivery;
    const bytes = this.request.content?.take();
    const openBody = () =>
      bytes ? frameBytes(upload, framing, bytes) : frameBody(upload, framing, chunks, this.deps.spool);
    const onAnswer = this.answerListener(claimed);
    metrics.activeDeliveries.inc();
    const call = { upload, route, openBody, attempt, signal, onAnswer, onInterim };
    const result = await tryOnce(call, this.deps);
    metrics.activeDeliveries.dec();
    reportAttempt(upload, result.attempt, this.deps);
    return result;
  }

  private readonly onInterim = (interim: OriginInterim): void => this.waiters.relayInterim(interim);

  /**
   * Shows a long answer to the waiting clients while it arrives; a short one is recorded first, so that a crash cannot take
   * back what a client has seen. If a long answer breaks off, its readers fail and later clients wait for the next attempt.
   */
  private answerListener(upload: Upload): (buffered: ResponseBuffer | undefined) => void {
    const { waiters } = this;
    return (buffered) => {
      waiters.clearResult();
      buffered?.onLongResponse(() => waiters.show({ kind: 'answer', upload, buffered }));
    };
  }
}

/** 0 before the first attempt. */
function newestNumber({ attempts }: Upload): number {
  return attempts.at(-1)?.number ?? 0;
}

function notSent(attempt: Attempt): Attempt {
  return {
    ...attempt,
    endedAt: attempt.startedAt,
    reached: 'never-sent',
    problem: 'the process was suspended for too long before it sent',
  };
}
