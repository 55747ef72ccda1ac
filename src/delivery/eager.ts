import type { RelayedAnswer } from '../model/outcome.js';
import { eagerTurns, type Route } from '../model/route.js';
import type { Attempt, Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import { provesLife, tryOnce, type AttemptCall, type Tried } from './attempt.js';
import type { AnswerTape } from './answer-tape.js';
import type { InterimListener } from './audience.js';
import { EagerBody } from './eager-body.js';
import { settleEarly } from './eager-ending.js';
import { reportAttempt } from './report.js';
import type { Rooms } from './rooms.js';

/** What an origin said before it had all. `parked`: it wants other credentials, and the upload can go on with them. */
export interface EarlyAnswer {
  readonly kind: 'answered' | 'parked';
  readonly upload: Upload;
  readonly answer: RelayedAnswer;
}

/** The receiving side of an early attempt. */
export interface Feed {
  /** Aborted when there is an early answer: what else the client has to say interests nobody. */
  readonly heardEnough: AbortSignal;
  /** More is committed. */
  grew(upload: Upload): void;
  /** Who brings bytes now hears the origin's interim responses, in place of who brought some before. */
  hearInterims(listener: InterimListener | undefined): void;
  /** Once for each answer: who asks after that goes on with the upload. */
  takeEarlyAnswer(): EarlyAnswer | undefined;
}

const EAGER = { isUrgent: () => true, isEager: true } as const;

/** Whether the route feeds its origin with uploads of this length, which may not be known. */
export function isEager({ delivery, authorize }: Route, length: number | undefined): boolean {
  const { mode, eager, gate } = delivery;
  if (mode !== 'eager' || gate || authorize.recheck || eagerTurns(delivery) === 0) return false;
  return length === undefined ? eager.unknownLength === 'chunked' : length > 0;
}

/** Whether the origin's request can begin before the upload is whole. Once an upload: after that the spool delivers it. */
export function mayBeginEarly({ phase, attemptCount, length }: Upload, route: Route): boolean {
  return phase === 'receiving' && attemptCount === 0 && isEager(route, length);
}

/**
 * The one attempt that begins with its upload. Until somebody has claimed the whole it cannot be whole itself, so that
 * whatever ends it, a fresh one from the spool may follow.
 */
export class EagerAttempt implements Feed {
  /** The attempt as it is in the record; undefined when there is none. Never rejects. */
  readonly begun: Promise<Attempt | undefined>;
  private readonly body: EagerBody;
  private readonly cutting = new AbortController();
  private readonly enough = new AbortController();
  private readonly idle: NodeJS.Timeout;
  private readonly tried: Promise<Tried | undefined>;
  private tellBegun!: (attempt: Attempt | undefined) => void;
  private early: EarlyAnswer | undefined;
  private tape: AnswerTape | undefined;
  /** Of the delivery that has taken this attempt over. */
  private onTape: AttemptCall['onTape'] | undefined;
  private onInterim: InterimListener | undefined;

  constructor(
    private readonly upload: Upload,
    private readonly route: Route,
    private readonly rooms: Rooms,
  ) {
    const { framing, eager } = route.delivery;
    this.body = new EagerBody(upload, framing, rooms);
    this.begun = new Promise((resolve) => (this.tellBegun = resolve));
    this.idle = setTimeout(() => this.cut('the client paused'), eager.idleMs);
    this.idle.unref();
    rooms.draining.addEventListener('abort', this.onDraining, { once: true });
    this.tried = this.run();
  }

  get heardEnough(): AbortSignal {
    return this.enough.signal;
  }

  grew({ offset }: Upload): void {
    this.idle.refresh();
    this.body.grew(offset);
  }

  hearInterims(listener: InterimListener | undefined): void {
    if (!this.onTape) this.onInterim = listener;
  }

  takeEarlyAnswer(): EarlyAnswer | undefined {
    const { early } = this;
    this.early = undefined;
    return early;
  }

  /** Ends it, unless the whole was given to it already. */
  cut(why: string): undefined {
    if (!this.onTape) this.cutting.abort(new Error(why));
  }

  /** Fulfilled when nothing more comes of it, except for the delivery that has taken it over. Never rejects. */
  async over(): Promise<void> {
    try {
      const tried = await this.tried;
      if (tried && !this.onTape) await this.settle(tried);
    } catch (error) {
      // The record says that it was in part, which is what matters to whoever delivers the whole.
      this.rooms.log.error({ upload: uploadTag(this.upload.id), err: error }, 'an early attempt failed');
    }
    this.stopListening();
  }

  /** Its upload is whole, the attempt is `whole` now, and the claim on it is held as long as `signal` says. */
  async finish(
    upload: Upload,
    whole: Attempt,
    { signal, onTape, onInterim }: Pick<AttemptCall, 'signal' | 'onTape' | 'onInterim'>,
  ): Promise<Tried> {
    const stop = (): void => this.cutting.abort(signal.reason);
    this.onTape = onTape;
    this.onInterim = onInterim;
    this.stopListening();
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    if (this.tape) onTape(this.tape);
    this.body.letGo(upload);
    const tried = await this.tried;
    signal.removeEventListener('abort', stop);
    if (!tried) throw new Error('an attempt that was claimed has not begun');
    const ended = { ...this.judged(tried).attempt, ...budgetOf(whole) };
    Reflect.deleteProperty(ended, 'inPart');
    reportAttempt(this.upload, ended, this.rooms);
    return this.isChallengedEarly(tried) ? { attempt: ended } : { ...tried, attempt: ended };
  }

  private readonly onDraining = (): void => this.cut('the proxy is being stopped');

  private async run(): Promise<Tried | undefined> {
    const { turns, metrics } = this.rooms;
    const { origin, delivery } = this.route;
    const turn = await turns.of(origin).take({ ...EAGER, rules: delivery, signal: this.cutting.signal });
    if (turn.kind !== 'go') return this.notBegun();
    metrics.activeDeliveries.inc();
    let lives: boolean | undefined;
    try {
      const attempt = await this.begin();
      if (!attempt) return this.notBegun();
      const tried = await this.try(attempt);
      lives = provesLife(tried, this.cutting.signal);
      return tried;
    } catch (error) {
      this.notBegun();
      throw error;
    } finally {
      metrics.activeDeliveries.dec();
      turn.end(lives);
    }
  }

  private notBegun(): undefined {
    this.tellBegun(undefined);
    this.body.framed.body?.destroy();
  }

  private async begin(): Promise<Attempt | undefined> {
    const { store, clock } = this.rooms;
    const attempt = { number: 1, inPart: true, origin: this.route.origin, startedAt: clock() } as const;
    const upload = await store.beginEarly(this.upload.id, attempt);
    return upload === 'stale' ? undefined : attempt;
  }

  private try(attempt: Attempt): Promise<Tried> {
    this.tellBegun(attempt);
    const { upload, route } = this;
    const onTape = (tape: AnswerTape | undefined): void => this.hear(tape);
    const content = () => this.body.framed;
    const { signal } = this.cutting;
    const keepChallengeIn = () => (this.onTape ? 'spool' : 'memory');
    const onInterim: InterimListener = (interim) => this.onInterim?.(interim);
    const call = {
      upload,
      route,
      content,
      attempt,
      signal,
      onTape,
      onInterim,
      keepChallengeIn,
    } as const;
    return tryOnce(call, this.rooms);
  }

  /** A short answer is recorded before it is shown, a long one is shown while it comes in. */
  private hear(tape: AnswerTape | undefined): void {
    this.tape = tape;
    clearTimeout(this.idle);
    if (this.onTape) return this.onTape(tape);
    tape?.whenLong(() => this.show({ kind: 'answered', upload: this.upload, answer: tape.relay() }));
  }

  private show(early: EarlyAnswer): void {
    this.early = early;
    this.enough.abort();
  }

  private async settle(tried: Tried): Promise<void> {
    const early = await settleEarly(this.upload.id, this.judged(tried), this.route, this.rooms);
    if (early && !this.enough.signal.aborted) this.show(early);
  }

  /** Only what was certainly not handed out completely is certainly not with the origin. */
  private judged(tried: Tried): Tried {
    const { attempt, answered } = tried;
    const isAnswer = answered && !answered.isChallenge;
    if (this.body.gaveAll || isAnswer || attempt.reached === 'never-sent') return tried;
    const { signal } = this.cutting;
    const problem = signal.aborted ? (signal.reason as Error).message : attempt.problem;
    return { ...tried, attempt: { ...attempt, reached: 'sent-in-part', problem } };
  }

  /** By an origin that had not heard all of it: the whole is sent with what newer credentials there are. */
  private isChallengedEarly({ answered }: Tried): boolean {
    return answered?.answer.body.in === 'record' && answered.isChallenge;
  }

  private stopListening(): void {
    clearTimeout(this.idle);
    this.rooms.draining.removeEventListener('abort', this.onDraining);
  }
}

function budgetOf({ budgetFrom, budgetSince }: Attempt): Pick<Attempt, 'budgetFrom' | 'budgetSince'> {
  return { budgetFrom, budgetSince };
}
