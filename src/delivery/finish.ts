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

/** What follows a step: a pause and another step, or nothing. */
export type NextStep = (Pause & { readonly notBefore?: number }) | 'over';

type WithAnswer = AttemptResult & { readonly attempt: Attempt; readonly answered: AttemptAnswer };

const STOPPING: Undelivered = { reason: 'unreachable', problem: 'the proxy is being stopped' };

/** What becomes of a delivery after an attempt, written down before anybody hears of it. */
export class RunFinish {
  private readonly startedAt: number;
  private claim: Pick<DeliveryClaim, 'release'> | undefined;

  constructor(
    private readonly id: string,
    private readonly deps: DeliveryContext,
    private readonly waiters: Waiters,
    /** Called once, when who comes later needs a run of their own. */
    private readonly onOver: () => void,
  ) {
    this.startedAt = deps.monotonic();
  }

  /** The claim that the next step gives up. */
  useClaim(claim: Pick<DeliveryClaim, 'release'>): void {
    this.claim = claim;
  }

  /** `chunks`: of the upload, when they have to be removed. */
  afterAttempt(
    upload: Upload,
    tried: AttemptResult,
    route: Route,
    chunks: () => Promise<readonly Chunk[]>,
  ): Promise<NextStep> {
    if (!hasAnswer(tried)) return this.unanswered(upload, tried, route);
    return tried.answered.isChallenge ? this.park(tried) : this.record(upload, tried, route, chunks);
  }

  async postpone(pause: Exclude<NextStep, 'over'>): Promise<NextStep> {
    const { store, worker, clock, monotonic } = this.deps;
    const dueAt = Math.round(clock() + pause.until - monotonic());
    await this.claim?.release();
    const postponed = await this.recordStep(() => store.postpone(this.id, worker, dueAt));
    return postponed === 'stale' ? this.finishElsewhere() : pause;
  }

  async giveUp(why: Undelivered): Promise<NextStep> {
    const { store, worker } = this.deps;
    await this.claim?.release();
    const upload = await this.recordStep(() => store.giveUp(this.id, worker, why));
    if (upload === 'stale') return this.finishElsewhere();
    reportEnd(upload, 'undelivered', this.startedAt, this.deps);
    return this.finish({ kind: 'undelivered', upload, why });
  }

  /** Nothing new may begin: whoever starts next takes it up. */
  finishStopped(upload: Upload): 'over' {
    reportEnd(upload, 'postponed', this.startedAt, this.deps);
    return this.finish({ kind: 'undelivered', upload, why: STOPPING });
  }

  finishElsewhere(): 'over' {
    return this.finish({ kind: 'elsewhere' });
  }

  finish(result: RunResult): 'over' {
    this.waiters.show(result);
    this.onOver();
    return 'over';
  }

  private async record(
    upload: Upload,
    tried: WithAnswer,
    route: Route,
    chunks: () => Promise<readonly Chunk[]>,
  ): Promise<NextStep> {
    const { buffered } = tried.answered;
    const recorded = await recordAnswer(this.id, tried, route, this.deps, () => {
      buffered.release();
      this.waiters.show({ kind: 'answer', upload, buffered });
      void this.freeSpace(chunks);
    });
    if (recorded === 'stale') return this.handleStaleAnswer(upload, buffered);
    buffered.release();
    reportEnd(recorded, 'answered', this.startedAt, this.deps);
    this.finish({ kind: 'answer', upload: recorded, buffered });
    await removeChunks(this.id, await chunks(), this.deps);
    return 'over';
  }

  /** Where the disk has taken the status of the answer but not its body, the bytes of the upload may be what fills it. */
  private async freeSpace(chunks: () => Promise<readonly Chunk[]>): Promise<void> {
    const known = await this.deps.store.direct.get(this.id).catch(() => undefined);
    if (known?.phase !== 'answered') return;
    // What cannot be listed now is removed when the answer is recorded whole.
    await removeChunks(this.id, await chunks().catch(() => []), this.deps);
  }

  /**
   * A cancelled upload has no record any more, but those who wait for its answer get it. Where another worker has taken the
   * delivery over, only what that one records is the answer.
   */
  private async handleStaleAnswer(upload: Upload, buffered: ResponseBuffer): Promise<NextStep> {
    const known = await this.deps.store.get(this.id);
    if (known && known.phase !== 'cancelled') {
      // What cannot be removed is the sweep's business.
      await buffered.break(new Error('another worker delivers this upload')).catch(() => undefined);
      return this.finishElsewhere();
    }
    buffered.release();
    return this.finish({ kind: 'answer', upload, buffered });
  }

  /** The bytes stay for a client with other credentials, and what the origin said for one without. */
  private async park({ attempt, answered }: WithAnswer): Promise<NextStep> {
    const { answer, buffered } = answered;
    const problem = `the origin answered ${answer.status}`;
    const ended = await this.endAttempt({ ...attempt, problem });
    buffered.release();
    if (ended === 'stale') return this.finishElsewhere();
    return this.giveUp({ reason: 'unauthorized', status: answer.status, problem, answer });
  }

  private async unanswered(begun: Upload, { attempt, bytesLost }: AttemptResult, route: Route): Promise<NextStep> {
    const { monotonic, random } = this.deps;
    const endedAt = monotonic();
    const ended = await this.endAttempt(attempt);
    if (ended === 'stale') return this.finishElsewhere();
    if (bytesLost) return this.lose(ended, attempt.problem);
    this.waiters.attemptFailed();
    const verdict = afterAttempt(attempt, policyOf(begun, route), random);
    if (verdict.kind === 'give-up') return this.giveUp(verdict.why);
    // The attempt's own times tell how long to wait from its end on.
    const onOurClock = (at: number): number => endedAt + at - (attempt.endedAt ?? attempt.startedAt);
    const notBefore = attempt.notBefore === undefined ? undefined : onOurClock(attempt.notBefore);
    return this.postpone({ until: onOurClock(verdict.dueAt), notBefore, why: verdict.why });
  }

  /** As the one who made it: when the claim was taken meanwhile, it is asked back first. */
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
   * A step that a machine refuses is done again until it is done: what was certainly never sent would become something that
   * nobody knows. Those who wait do not wait for that.
   */
  private async recordStep<T>(step: () => Promise<T>): Promise<T> {
    const onTrouble = (error: unknown): void => this.waiters.show({ kind: 'failed', error });
    const outcome = await retryUntilRecorded(this.id, () => catchPermanentFault(step), this.deps, onTrouble);
    this.waiters.clearFailure();
    if ('error' in outcome) throw outcome.error;
    return outcome.done;
  }

  /** State that was lost is never guessed: the client finds the upload gone and begins anew. */
  async lose(upload: Upload, problem: string | undefined): Promise<NextStep> {
    const lost = await this.deps.store.markLost(this.id);
    if (lost !== 'gone') reportLoss(upload, problem, this.deps);
    return this.finishElsewhere();
  }
}

/** What a step came to, where doing it again can change nothing. */
async function catchPermanentFault<T>(
  step: () => Promise<T>,
): Promise<{ readonly done: T } | { readonly error: unknown }> {
  try {
    return { done: await step() };
  } catch (error) {
    if (error instanceof Fault && error.retryable) throw error;
    return { error };
  }
}

function hasAnswer(tried: AttemptResult): tried is WithAnswer {
  return tried.answered !== undefined;
}

/** A disk that was full or failed once often takes the next write. */
const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 3000;
/** So often it is tried again when the proxy is being stopped. */
const TRIES_WHILE_STOPPING = 4;

/**
 * Makes an answer durable. A store that fails is asked again and again: nothing else can bring this answer back, and
 * without it the upload might be sent twice. One that is away only has to come back; nobody hears the answer before,
 * because another worker may take the delivery over meanwhile. `onTrouble`: the store is there but cannot take it, and
 * those who wait should not wait for that.
 */
async function recordAnswer(
  id: string,
  { attempt, answered }: { readonly attempt: Attempt; readonly answered: AttemptAnswer },
  route: Route,
  deps: DeliveryContext,
  onTrouble: () => void,
): Promise<Upload | 'stale'> {
  const { store, worker, clock } = deps;
  const { answer, body } = answered;
  let ended: Attempt | undefined = attempt;
  const record = async (): Promise<Upload | 'stale'> => {
    try {
      const expiresAt = clock() + route.delivery.keepAnswerMs;
      return await store.recordAnswer(id, worker, { answer, body, expiresAt }, ended);
    } catch (error) {
      if (!ended || !isAttemptUnknown(error)) throw error;
      ended = undefined;
      return record();
    }
  };
  return retryUntilRecorded(id, record, deps, onTrouble);
}

/**
 * Repeats a step that writes down what came of a delivery until it is done: it was learned at the origin, and can be learned
 * nowhere else. Gives up with its failure only when the proxy stops.
 */
export async function retryUntilRecorded<T>(
  id: string,
  step: () => Promise<T>,
  { log, random, draining }: Pick<DeliveryContext, 'log' | 'random' | 'draining'>,
  onFailure: (error: unknown) => void = () => undefined,
): Promise<T> {
  let lastTries = 0;
  for (let failures = 0; ; failures++) {
    try {
      const done = await step();
      if (failures > 0) log.info({ upload: uploadTag(id), failures }, 'what came of a delivery is recorded after all');
      return done;
    } catch (error) {
      if (failures === 0)
        log.error({ upload: uploadTag(id), err: error }, 'what came of a delivery could not be recorded');
      // Before anybody hears it: an error that comes once must not leave them with what a restart would not know.
      if (failures === 0 && !isStoreUnavailable(error)) continue;
      if (!isStoreUnavailable(error)) onFailure(error);
      if (draining.aborted && ++lastTries > TRIES_WHILE_STOPPING) throw error;
      await pauseBeforeRetry(lastTries > 0 ? lastTries : Math.max(failures, 1), random, draining);
    }
  }
}

/** The stop ends a pause, so that what is full by now is tried again at once. */
async function pauseBeforeRetry(attempt: number, random: () => number, draining: AbortSignal): Promise<void> {
  const longestMs = Math.min(FIRST_RETRY_MS * 2 ** (attempt - 1), LONGEST_RETRY_MS);
  const signal = draining.aborted ? undefined : draining;
  // An early end of the pause is no failure.
  await sleep(longestMs / 2 + (longestMs / 2) * random(), undefined, { signal }).catch(() => undefined);
}

/** The store has lost its newest steps, and with them that this attempt began: then the answer counts without it. */
function isAttemptUnknown(error: unknown): boolean {
  return error instanceof Fault && error.code === 'CONTRACT_BROKEN';
}

/** The answer stands for the upload from now on; its bytes are not needed any more. */
export async function removeChunks(
  id: string,
  chunks: readonly Chunk[],
  { spool, log }: DeliveryContext,
): Promise<void> {
  for (const { name } of chunks) {
    try {
      await spool.removeChunk(id, name);
    } catch (error) {
      // It goes with the upload when that expires.
      log.warn({ upload: uploadTag(id), err: error }, 'a delivered chunk could not be removed');
    }
  }
}
