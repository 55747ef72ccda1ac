import { setTimeout as sleep } from 'node:timers/promises';
import type { Headers } from '../model/headers.js';
import type { Route } from '../model/route.js';
import type { Attempt, Chunk, Undelivered, Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import type { AnswerTape } from './answer-tape.js';
import { tryOnce, type Tried } from './attempt.js';
import { Change } from './change.js';
import { HeldClaim } from './claim.js';
import { recordAnswer, removeChunks } from './record.js';
import { reportAttempt, reportEnd, reportLoss } from './report.js';
import { afterAttempt, beforeAttempt, LOST_WITH_PROCESS, mayAskAgain, type RetryPolicy } from './retry.js';
import type { Rooms } from './rooms.js';
import { policyOf, routeOf } from './terms.js';

export type RunResult =
  /** The answer, which may still be growing. */
  | { readonly kind: 'tape'; readonly upload: Upload; readonly tape: AnswerTape }
  | { readonly kind: 'undelivered'; readonly upload: Upload; readonly why: Undelivered }
  /** Not for this worker: settled already, or being delivered by another. */
  | { readonly kind: 'elsewhere' }
  | { readonly kind: 'failed'; readonly error: unknown };

const STOPPING: Undelivered = { reason: 'unreachable', problem: 'the proxy is being stopped' };

/** The next attempt follows after so many milliseconds, or none does. */
type Next = number | 'over';

/** One upload's delivery by this worker, from its claim to its end, in as many attempts as the policy allows. */
export class Run {
  private readonly changed = new Change();
  private readonly startedAt: number;
  private result: RunResult | undefined;
  private waiting = 0;

  constructor(
    private readonly id: string,
    private readonly rooms: Rooms,
    private readonly request: {
      /** A client asks: what ended without an answer may be tried again. */
      isAsked: boolean;
      /** The newest that a client brought. */
      credentials: Headers;
    },
    /** Called once, when who comes later needs a run of their own. */
    private readonly onOver: () => void,
  ) {
    this.startedAt = rooms.clock();
  }

  /** A client that waits with others brought newer credentials: the next attempt uses them. */
  renew(credentials: Headers): void {
    if (credentials.length > 0) this.request.credentials = credentials;
  }

  /** Fulfilled as soon as there is an answer to read, or the end. Rejects with the signal's reason. */
  async outcome(signal: AbortSignal): Promise<RunResult> {
    this.waiting++;
    try {
      while (!this.result) await this.changed.next(signal);
      return this.result;
    } finally {
      this.waiting--;
    }
  }

  /** Never fails. */
  async drive(): Promise<void> {
    try {
      for (let next = await this.step(); next !== 'over'; next = await this.step())
        await sleep(next, undefined, { signal: this.rooms.draining }).catch(() => undefined);
    } catch (error) {
      // The record stays as it is: when the claim has run out, what it says decides, and nothing is sent twice.
      this.rooms.log.error({ upload: uploadTag(this.id), err: error }, 'a delivery failed');
      this.finish({ kind: 'failed', error });
    }
  }

  private async step(): Promise<Next> {
    const upload = await this.claim();
    if (!upload) return 'over';
    const claim = new HeldClaim(this.id, this.rooms);
    try {
      return await this.deliver(upload, claim.signal);
    } finally {
      claim.release();
    }
  }

  private async claim(): Promise<Upload | undefined> {
    const { store, worker, clock, claimMs, draining, routes } = this.rooms;
    const known = await store.get(this.id);
    const wasGivenUp = known?.phase === 'undelivered';
    const mayTry = known?.phase === 'complete' || known?.phase === 'delivering' || (wasGivenUp && this.request.isAsked);
    if (mayTry && draining.aborted) {
      reportEnd(known, 'postponed', this.startedAt, this.rooms);
      this.finish({ kind: 'undelivered', upload: known, why: STOPPING });
      return undefined;
    }
    this.request.isAsked &&= wasGivenUp && mayAskAgain(known.undelivered, policyOf(known, routeOf(known, routes)));
    const claimed = mayTry ? await store.claimDelivery(this.id, worker, clock() + claimMs) : undefined;
    if (!claimed) this.finish({ kind: 'elsewhere' });
    return claimed;
  }

  private async deliver(upload: Upload, signal: AbortSignal): Promise<Next> {
    const { store, worker, clock, routes } = this.rooms;
    const route = routeOf(upload, routes);
    const policy = policyOf(upload, route);
    await this.closeLeftOpen(upload.attempts.at(-1));
    const start = beforeAttempt(upload.attempts.at(-1), this.request.isAsked, policy);
    if (start.kind === 'give-up') return this.giveUp(start.why);
    this.request.isAsked = false;
    const { number, budgetFrom } = start;
    const attempt = { number, budgetFrom, origin: route.origin, startedAt: clock() };
    const begun = await store.beginAttempt(this.id, worker, attempt);
    if (begun === 'stale') return this.elsewhere();
    const chunks = await store.chunks(this.id);
    const tried = await this.try({ upload: begun, route, chunks, attempt, signal });
    if (tried.answered) return this.record(begun, { ...tried, answered: tried.answered }, route, chunks);
    return this.goOn(tried, policy);
  }

  /** Its process died within it: now the record says so. */
  private async closeLeftOpen(newest: Attempt | undefined): Promise<void> {
    if (!newest || newest.reached !== undefined) return;
    const { store, worker, clock } = this.rooms;
    const closed = { ...newest, endedAt: clock(), reached: 'sent', problem: LOST_WITH_PROCESS } as const;
    await store.endAttempt(this.id, worker, closed);
  }

  private async try(call: {
    readonly upload: Upload;
    readonly route: Route;
    readonly chunks: readonly Chunk[];
    readonly attempt: Attempt;
    readonly signal: AbortSignal;
  }): Promise<Tried> {
    const { metrics } = this.rooms;
    const { credentials } = this.request;
    // A crash must not make untrue what a client was shown: a short answer is recorded first. Whoever was shown a long one
    // that broke off fails with it; who comes after that waits for what follows.
    const onTape = (tape: AnswerTape | undefined): void => {
      this.result = undefined;
      tape?.whenLong(() => this.show({ kind: 'tape', upload: call.upload, tape }));
    };
    metrics.activeDeliveries.inc();
    const tried = await tryOnce({ ...call, credentials, onTape }, this.rooms);
    metrics.activeDeliveries.dec();
    reportAttempt(this.id, tried.attempt, this.rooms);
    return tried;
  }

  private async record(
    upload: Upload,
    tried: Required<Pick<Tried, 'attempt' | 'answered'>>,
    route: Route,
    chunks: readonly Chunk[],
  ): Promise<Next> {
    const { tape } = tried.answered;
    const recorded = await recordAnswer(this.id, tried, route, this.rooms, () => {
      tape.release();
      this.show({ kind: 'tape', upload, tape });
    });
    tape.release();
    // A cancelled upload has no record any more, but those who wait for its answer get it.
    if (recorded === 'stale') return this.finish({ kind: 'tape', upload, tape });
    reportEnd(recorded, 'answered', this.startedAt, this.rooms);
    this.finish({ kind: 'tape', upload: recorded, tape });
    await removeChunks(this.id, chunks, this.rooms);
    return 'over';
  }

  /** There is no answer. */
  private async goOn({ attempt, bytesLost }: Tried, policy: RetryPolicy): Promise<Next> {
    const { store, worker, clock, random } = this.rooms;
    const ended = await store.endAttempt(this.id, worker, attempt);
    if (ended === 'stale') return this.elsewhere();
    if (bytesLost) return this.deactivate(ended, attempt.problem);
    const verdict = afterAttempt(attempt, policy, random);
    if (verdict.kind === 'give-up') return this.giveUp(verdict.why);
    const postponed = await store.postpone(this.id, worker, clock() + verdict.afterMs);
    return postponed === 'stale' ? this.elsewhere() : verdict.afterMs;
  }

  private async giveUp(verdict: Undelivered): Promise<Next> {
    const isTold = this.waiting > 0 && verdict.reason === 'outcome-unknown';
    const why: Undelivered = isTold ? { ...verdict, clientKnows: true } : verdict;
    const upload = await this.rooms.store.giveUp(this.id, this.rooms.worker, why);
    if (upload === 'stale') return this.elsewhere();
    reportEnd(upload, 'undelivered', this.startedAt, this.rooms);
    return this.finish({ kind: 'undelivered', upload, why });
  }

  /** State that was lost is never guessed: the client finds the upload gone and begins anew. */
  private async deactivate(upload: Upload, problem: string | undefined): Promise<Next> {
    reportLoss(upload, problem, this.rooms);
    await this.rooms.store.cancel(this.id);
    return this.elsewhere();
  }

  private elsewhere(): 'over' {
    return this.finish({ kind: 'elsewhere' });
  }

  private finish(result: RunResult): 'over' {
    this.show(result);
    this.onOver();
    return 'over';
  }

  private show(result: RunResult): void {
    this.result = result;
    this.changed.announce();
  }
}
