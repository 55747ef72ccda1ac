import { setTimeout as sleep } from 'node:timers/promises';
import { Fault } from '../model/fault.js';
import type { Route } from '../model/route.js';
import type { Attempt, Chunk, Undelivered, Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import { isStoreUnavailable } from '../store/upload-store.js';
import type { AttemptAnswer, AttemptResult } from './attempt.js';
import type { DeliveryClaim } from './claim.js';
import type { DeliveryContext } from './context.js';
import { reportEnd, reportLoss } from './report.js';
import type { ResponseBuffer } from './response-buffer.js';
import { afterAttempt, policyOf } from './retry-policy.js';
import type { Waiters, Pause, RunResult } from './waiters.js';

/** The next step of a run: another one after a pause, or none. */
export type NextStep = (Pause & { readonly notBefore?: number }) | 'over';

type WithAnswer = AttemptResult & { readonly attempt: Attempt; readonly answered: AttemptAnswer };

const STOPPING: Undelivered = { reason: 'unreachable', problem: 'the proxy is being stopped' };

/** Ends an attempt or a run: records the outcome first, then shows it to the waiting clients. */
export class RunFinish {
  private readonly startedAt: number;
  private claim: Pick<DeliveryClaim, 'release'> | undefined;

  constructor(
    private readonly id: string,
    private readonly deps: DeliveryContext,
    private readonly waiters: Waiters,
    /** Called once, at the end of the run: later requests need a new one. */
    private readonly onOver: () => void,
  ) {
    this.startedAt = deps.monotonic();
  }

  /** Sets the claim that is released before the delivery is postponed or given up. */
  useClaim(claim: Pick<DeliveryClaim, 'release'>): void {
    this.claim = claim;
  }

  /** Records the result of an attempt and decides the next step. `chunks` lists the bytes to remove after an answer. */
  recordResult(
    upload: Upload,
    result: AttemptResult,
    route: Route,
    chunks: () => Promise<readonly Chunk[]>,
  ): Promise<NextStep> {
    if (!hasAnswer(result)) return this.finishUnanswered(upload, result, route);
    return result.answered.isChallenge ? this.park(result) : this.finishAnswered(upload, result, route, chunks);
  }

  /** Records when the next attempt is due, so that any worker can make it. */
  async postpone(pause: Exclude<NextStep, 'over'>): Promise<NextStep> {
    const { store, worker, clock, monotonic } = this.deps;
    const dueAt = Math.round(clock() + pause.until - monotonic());
    await this.claim?.release();
    const postponed = await this.recordStep(() => store.postpone(this.id, worker, dueAt));
    return postponed === 'stale' ? this.finishElsewhere() : pause;
  }

  /** Records that the delivery was given up without an answer. */
  async giveUp(failure: Undelivered): Promise<NextStep> {
    const { store, worker } = this.deps;
    await this.claim?.release();
    const upload = await this.recordStep(() => store.giveUp(this.id, worker, failure));
    if (upload === 'stale') return this.finishElsewhere();
    reportEnd(upload, 'undelivered', this.startedAt, this.deps);
    return this.finish({ kind: 'undelivered', upload, failure });
  }

  /** Ends the run because the proxy is stopping; the next process to start continues the delivery. */
  finishStopped(upload: Upload): 'over' {
    reportEnd(upload, 'postponed', this.startedAt, this.deps);
    return this.finish({ kind: 'undelivered', upload, failure: STOPPING });
  }

  /** Ends the run because the delivery is settled or belongs to another worker. */
  finishElsewhere(): 'over' {
    return this.finish({ kind: 'elsewhere' });
  }

  /** Shows the result to the waiting clients and ends the run. */
  finish(result: RunResult): 'over' {
    this.waiters.show(result);
    this.onOver();
    return 'over';
  }

  private async finishAnswered(
    upload: Upload,
    result: WithAnswer,
    route: Route,
    chunks: () => Promise<readonly Chunk[]>,
  ): Promise<NextStep> {
    const { attempt, answered } = result;
    const { buffered } = answered;
    const onFailure = (): void => {
      buffered.release();
      this.waiters.show({ kind: 'answer', upload, buffered });
      void this.freeSpace(chunks);
    };
    const { keepAnswerMs } = route.delivery;
    const recorded = await recordAnswer({ id: this.id, attempt, answered, keepAnswerMs, onFailure }, this.deps);
    if (recorded === 'stale') return this.endStaleAnswer(upload, buffered);
    buffered.release();
    reportEnd(recorded, 'answered', this.startedAt, this.deps);
    this.finish({ kind: 'answer', upload: recorded, buffered });
    await removeChunks(this.id, await chunks(), this.deps);
    return 'over';
  }

  /** Removes the upload's bytes if the body of its answer found no space on the disk: those bytes may be what fills it. */
  private async freeSpace(chunks: () => Promise<readonly Chunk[]>): Promise<void> {
    const current = await this.deps.store.direct.get(this.id).catch(() => undefined);
    if (current?.phase !== 'answered') return;
    // Chunks that cannot be listed now are removed once the answer is recorded.
    await removeChunks(this.id, await chunks().catch(() => []), this.deps);
  }

  /**
   * The answer could not be recorded. A cancelled upload has no record, so the waiting clients get the answer directly; if
   * another worker has taken over the delivery, only the answer that it records counts.
   */
  private async endStaleAnswer(upload: Upload, buffered: ResponseBuffer): Promise<NextStep> {
    const current = await this.deps.store.get(this.id);
    if (current && current.phase !== 'cancelled') {
      // The cleanup of uploads removes a leftover file.
      await buffered.break(new Error('another worker delivers this upload')).catch(() => undefined);
      return this.finishElsewhere();
    }
    buffered.release();
    return this.finish({ kind: 'answer', upload, buffered });
  }

  /** Keeps the upload for a client with other credentials, and the origin's challenge for one without. */
  private async park({ attempt, answered }: WithAnswer): Promise<NextStep> {
    const { answer, buffered } = answered;
    const problem = `the origin answered ${answer.status}`;
    const ended = await this.endAttempt({ ...attempt, problem });
    buffered.release();
    if (ended === 'stale') return this.finishElsewhere();
    const kept = this.deps.secrets.withholdAnswer(this.id, answer);
    return this.giveUp({ reason: 'unauthorized', status: answer.status, problem, answer: kept });
  }

  private async finishUnanswered(
    upload: Upload,
    { attempt, bytesLost }: AttemptResult,
    route: Route,
  ): Promise<NextStep> {
    const { monotonic, random } = this.deps;
    const endedAt = monotonic();
    const ended = await this.endAttempt(attempt);
    if (ended === 'stale') return this.finishElsewhere();
    if (bytesLost) return this.endLost(ended, attempt.problem);
    this.waiters.attemptFailed();
    const decision = afterAttempt(attempt, policyOf(upload, route), random);
    if (decision.kind === 'give-up') return this.giveUp(decision.failure);
    // Times of the attempt are on the wall clock. The pause is measured from its end, on the monotonic clock.
    const toMonotonic = (at: number): number => endedAt + at - (attempt.endedAt ?? attempt.startedAt);
    const notBefore = attempt.notBefore === undefined ? undefined : toMonotonic(attempt.notBefore);
    const afterMs = Math.max(decision.dueAt - (attempt.endedAt ?? attempt.startedAt), 0);
    this.deps.story?.note(this.id, { kind: 'retry', afterMs });
    return this.postpone({ until: toMonotonic(decision.dueAt), notBefore, failure: decision.failure });
  }

  /** Records the end of this worker's attempt. If another worker has taken the claim meanwhile, takes it back first. */
  private async endAttempt(attempt: Attempt): Promise<Upload | 'stale'> {
    const { store, worker, clock, claimMs } = this.deps;
    return this.recordStep(async () => {
      const ended = await store.endAttempt(this.id, worker, attempt);
      if (ended !== 'stale') return ended;
      const isHeld = await store.renewClaim(this.id, worker, clock() + claimMs, attempt.number);
      return isHeld ? store.endAttempt(this.id, worker, attempt) : 'stale';
    });
  }

  /**
   * Repeats a recording step until it succeeds, because a request that was certainly not sent would otherwise count as
   * one with an unknown outcome. Waiting clients get the failure immediately.
   */
  private async recordStep<T>(step: () => Promise<T>): Promise<T> {
    const onFailure = (error: unknown): void => this.waiters.show({ kind: 'failed', error });
    const outcome = await retryUntilRecorded(this.id, () => catchPermanentFault(step), this.deps, onFailure);
    this.waiters.clearFailure();
    if ('error' in outcome) throw outcome.error;
    return outcome.result;
  }

  /** Ends an upload whose bytes or steps are lost: its client has to start again. */
  async endLost(upload: Upload, problem: string | undefined): Promise<NextStep> {
    const lost = await this.deps.store.markLost(this.id);
    if (lost !== 'gone') reportLoss(upload, problem, this.deps);
    return this.finishElsewhere();
  }
}

/** Returns the result of the step, or an error that a retry cannot mend. Rejects with a retryable fault. */
async function catchPermanentFault<T>(
  step: () => Promise<T>,
): Promise<{ readonly result: T } | { readonly error: unknown }> {
  try {
    return { result: await step() };
  } catch (error) {
    if (error instanceof Fault && error.retryable) throw error;
    return { error };
  }
}

function hasAnswer(result: AttemptResult): result is WithAnswer {
  return result.answered !== undefined;
}

/** Short, because a disk that was full or failed once often accepts the next write. */
const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 3000;
/** How often a step is repeated while the proxy is being stopped. */
const TRIES_WHILE_STOPPING = 4;

interface RecordAnswerTask {
  readonly id: string;
  readonly attempt: Attempt;
  readonly answered: AttemptAnswer;
  readonly keepAnswerMs: number;
  /** The store is available but cannot write: the waiting clients get the answer before it is recorded. */
  readonly onFailure: () => void;
}

/**
 * Makes an answer durable and retries until it is, because without the record the upload might be sent twice. While the store
 * is unavailable the answer is not shown, since another worker may take over the delivery.
 */
async function recordAnswer(
  { id, attempt, answered, keepAnswerMs, onFailure }: RecordAnswerTask,
  deps: DeliveryContext,
): Promise<Upload | 'stale'> {
  const { store, worker, clock } = deps;
  const { body } = answered;
  const answer = deps.secrets.withholdAnswer(id, answered.answer);
  let ended: Attempt | undefined = attempt;
  const record = async (): Promise<Upload | 'stale'> => {
    try {
      const expiresAt = clock() + keepAnswerMs;
      return await store.recordAnswer(id, worker, { answer, body, expiresAt }, ended);
    } catch (error) {
      if (!ended || !isAttemptUnknown(error)) throw error;
      ended = undefined;
      return record();
    }
  };
  return retryUntilRecorded(id, record, deps, onFailure);
}

/**
 * Repeats a step that records the outcome of a delivery until it succeeds, because the outcome cannot be learned again. Rejects
 * with the step's error only while the proxy is being stopped. `onFailure` is called when an available store fails again.
 */
export async function retryUntilRecorded<T>(
  id: string,
  step: () => Promise<T>,
  { log, random, draining }: Pick<DeliveryContext, 'log' | 'random' | 'draining'>,
  onFailure: (error: unknown) => void = () => undefined,
): Promise<T> {
  let triesWhileStopping = 0;
  for (let failures = 0; ; failures++) {
    try {
      const done = await step();
      if (failures > 0)
        log.info({ upload: uploadTag(id), failures }, 'the outcome of a delivery is recorded after all');
      return done;
    } catch (error) {
      if (failures === 0)
        log.error({ upload: uploadTag(id), err: error }, 'the outcome of a delivery could not be recorded, retrying');
      // `onFailure` is not called for a single error: it may show clients an answer that a restart would lose.
      if (failures === 0 && !isStoreUnavailable(error)) continue;
      if (!isStoreUnavailable(error)) onFailure(error);
      if (draining.aborted && ++triesWhileStopping > TRIES_WHILE_STOPPING) throw error;
      await pauseBeforeRetry(triesWhileStopping > 0 ? triesWhileStopping : Math.max(failures, 1), random, draining);
    }
  }
}

/** Pauses for longer after each try. A stop of the proxy ends the pause, so that the next try comes immediately. */
async function pauseBeforeRetry(tries: number, random: () => number, draining: AbortSignal): Promise<void> {
  const longestMs = Math.min(FIRST_RETRY_MS * 2 ** (tries - 1), LONGEST_RETRY_MS);
  const signal = draining.aborted ? undefined : draining;
  // An aborted pause is not a failure.
  await sleep(longestMs / 2 + (longestMs / 2) * random(), undefined, { signal }).catch(() => undefined);
}

/** Whether the store does not know that this attempt began; the answer is then recorded without the attempt. */
function isAttemptUnknown(error: unknown): boolean {
  return error instanceof Fault && error.code === 'CONTRACT_BROKEN';
}

/** Removes the bytes of an answered upload. Never rejects: a chunk that stays is logged. */
export async function removeChunks(
  id: string,
  chunks: readonly Chunk[],
  { spool, log }: DeliveryContext,
): Promise<void> {
  for (const { name } of chunks) {
    try {
      await spool.removeChunk(id, name);
    } catch (error) {
      // The chunk is removed with the upload when that expires.
      log.warn({ upload: uploadTag(id), err: error }, 'a delivered chunk could not be removed');
    }
  }
}
