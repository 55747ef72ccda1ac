import { Fault } from '../model/fault.js';
import type { Route } from '../model/route.js';
import type { Attempt, Chunk, Undelivered, Upload } from '../model/upload.js';
import type { AnswerTape } from './answer-tape.js';
import type { Answered, Tried } from './attempt.js';
import type { Audience, Pause, RunResult } from './audience.js';
import type { HeldClaim } from './claim.js';
import { recordAnswer, removeChunks, untilRecorded } from './record.js';
import { reportEnd, reportLoss } from './report.js';
import { afterAttempt } from './retry.js';
import type { Rooms } from './rooms.js';
import { policyOf } from './terms.js';

/** What follows a step: a pause and another step, or nothing. */
export type Next = (Pause & { readonly notBefore?: number }) | 'over';

type WithAnswer = Tried & { readonly attempt: Attempt; readonly answered: Answered };

const STOPPING: Undelivered = { reason: 'unreachable', problem: 'the proxy is being stopped' };

/** What becomes of a delivery after an attempt, written down before anybody hears of it. */
export class Ending {
  private readonly startedAt: number;
  private claim: Pick<HeldClaim, 'release'> | undefined;

  constructor(
    private readonly id: string,
    private readonly rooms: Rooms,
    private readonly audience: Audience,
    /** Called once, when who comes later needs a run of their own. */
    private readonly onOver: () => void,
  ) {
    this.startedAt = rooms.monotonic();
  }

  /** The claim that the next step gives up. */
  endsWith(claim: Pick<HeldClaim, 'release'>): void {
    this.claim = claim;
  }

  /** `chunks`: of the upload, when they have to be removed. */
  after(upload: Upload, tried: Tried, route: Route, chunks: () => Promise<readonly Chunk[]>): Promise<Next> {
    if (!hasAnswer(tried)) return this.unanswered(upload, tried, route);
    return tried.answered.isChallenge ? this.park(tried) : this.record(upload, tried, route, chunks);
  }

  async postpone(pause: Exclude<Next, 'over'>): Promise<Next> {
    const { store, worker, clock, monotonic } = this.rooms;
    const dueAt = Math.round(clock() + pause.until - monotonic());
    await this.claim?.release();
    const postponed = await this.noted(() => store.postpone(this.id, worker, dueAt));
    return postponed === 'stale' ? this.elsewhere() : pause;
  }

  async giveUp(why: Undelivered): Promise<Next> {
    const { store, worker } = this.rooms;
    await this.claim?.release();
    const upload = await this.noted(() => store.giveUp(this.id, worker, why));
    if (upload === 'stale') return this.elsewhere();
    reportEnd(upload, 'undelivered', this.startedAt, this.rooms);
    return this.finish({ kind: 'undelivered', upload, why });
  }

  /** Nothing new may begin: whoever starts next takes it up. */
  stopped(upload: Upload): 'over' {
    reportEnd(upload, 'postponed', this.startedAt, this.rooms);
    return this.finish({ kind: 'undelivered', upload, why: STOPPING });
  }

  elsewhere(): 'over' {
    return this.finish({ kind: 'elsewhere' });
  }

  finish(result: RunResult): 'over' {
    this.audience.show(result);
    this.onOver();
    return 'over';
  }

  private async record(
    upload: Upload,
    tried: WithAnswer,
    route: Route,
    chunks: () => Promise<readonly Chunk[]>,
  ): Promise<Next> {
    const { tape } = tried.answered;
    const recorded = await recordAnswer(this.id, tried, route, this.rooms, () => {
      tape.release();
      this.audience.show({ kind: 'tape', upload, tape });
      void this.makeRoom(chunks);
    });
    if (recorded === 'stale') return this.overtaken(upload, tape);
    tape.release();
    reportEnd(recorded, 'answered', this.startedAt, this.rooms);
    this.finish({ kind: 'tape', upload: recorded, tape });
    await removeChunks(this.id, await chunks(), this.rooms);
    return 'over';
  }

  /** Where the disk has taken the status of the answer but not its body, the bytes of the upload may be what fills it. */
  private async makeRoom(chunks: () => Promise<readonly Chunk[]>): Promise<void> {
    const known = await this.rooms.store.atOnce.get(this.id).catch(() => undefined);
    if (known?.phase !== 'answered') return;
    // What cannot be listed now is removed when the answer is recorded whole.
    await removeChunks(this.id, await chunks().catch(() => []), this.rooms);
  }

  /**
   * A cancelled upload has no record any more, but those who wait for its answer get it. Where another worker has taken the
   * delivery over, only what that one records is the answer.
   */
  private async overtaken(upload: Upload, tape: AnswerTape): Promise<Next> {
    const known = await this.rooms.store.get(this.id);
    if (known && known.phase !== 'cancelled') {
      // What cannot be removed is the sweep's business.
      await tape.break(new Error('another worker delivers this upload')).catch(() => undefined);
      return this.elsewhere();
    }
    tape.release();
    return this.finish({ kind: 'tape', upload, tape });
  }

  /** The bytes stay for a client with other credentials, and what the origin said for one without. */
  private async park({ attempt, answered }: WithAnswer): Promise<Next> {
    const { answer, tape } = answered;
    const problem = `the origin answered ${answer.status}`;
    const ended = await this.endAttempt({ ...attempt, problem });
    tape.release();
    if (ended === 'stale') return this.elsewhere();
    return this.giveUp({ reason: 'unauthorized', status: answer.status, problem, answer });
  }

  private async unanswered(begun: Upload, { attempt, bytesLost }: Tried, route: Route): Promise<Next> {
    const { monotonic, random } = this.rooms;
    const endedAt = monotonic();
    const ended = await this.endAttempt(attempt);
    if (ended === 'stale') return this.elsewhere();
    if (bytesLost) return this.lose(ended, attempt.problem);
    this.audience.attemptFailed();
    const verdict = afterAttempt(attempt, policyOf(begun, route), random);
    if (verdict.kind === 'give-up') return this.giveUp(verdict.why);
    // The attempt's own times tell how long to wait from its end on.
    const onOurClock = (at: number): number => endedAt + at - (attempt.endedAt ?? attempt.startedAt);
    const notBefore = attempt.notBefore === undefined ? undefined : onOurClock(attempt.notBefore);
    return this.postpone({ until: onOurClock(verdict.dueAt), notBefore, why: verdict.why });
  }

  /** As the one who made it: when the claim was taken meanwhile, it is asked back first. */
  private async endAttempt(attempt: Attempt): Promise<Upload | 'stale'> {
    const { store, worker, clock, claimMs } = this.rooms;
    return this.noted(async () => {
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
  private async noted<T>(step: () => Promise<T>): Promise<T> {
    const onTrouble = (error: unknown): void => this.audience.show({ kind: 'failed', error });
    const outcome = await untilRecorded(this.id, () => unlessHopeless(step), this.rooms, onTrouble);
    this.audience.takeBackFailure();
    if ('error' in outcome) throw outcome.error;
    return outcome.done;
  }

  /** State that was lost is never guessed: the client finds the upload gone and begins anew. */
  async lose(upload: Upload, problem: string | undefined): Promise<Next> {
    const lost = await this.rooms.store.lose(this.id);
    if (lost !== 'gone') reportLoss(upload, problem, this.rooms);
    return this.elsewhere();
  }
}

/** What a step came to, where doing it again can change nothing. */
async function unlessHopeless<T>(step: () => Promise<T>): Promise<{ readonly done: T } | { readonly error: unknown }> {
  try {
    return { done: await step() };
  } catch (error) {
    if (error instanceof Fault && error.retryable) throw error;
    return { error };
  }
}

function hasAnswer(tried: Tried): tried is WithAnswer {
  return tried.answered !== undefined;
}
