import { Readable } from 'node:stream';
import { Notifier } from '../concurrency/waiting.js';
import type { Headers } from '../model/headers.js';
import type { RelayedAnswer } from '../model/messages.js';
import { maxEagerDeliveries, type Framing, type Route } from '../model/route.js';
import type { Attempt, Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import type { Spool } from '../spool/spool.js';
import type { UploadStore } from '../store/upload-store.js';
import { type AttemptAnswer, type AttemptCall, originIsHealthy, type AttemptResult, tryOnce } from './attempt.js';
import type { DeliveryContext } from './context.js';
import { removeChunks, retryUntilRecorded } from './finish.js';
import { envelopeOf, type OriginBody, framingFor } from './origin-body.js';
import { reportAttempt, reportEnd } from './report.js';
import type { ResponseBuffer } from './response-buffer.js';
import type { InterimListener } from './waiters.js';

/** What an origin said before it had all. `parked`: it wants other credentials, and the upload can go on with them. */
export interface EarlyAnswer {
  readonly kind: 'answered' | 'parked';
  readonly upload: Upload;
  readonly answer: RelayedAnswer;
}

/** The receiving side of an early attempt. */
export interface EagerFeed {
  /** Aborted when there is an early answer: what else the client has to say interests nobody. */
  readonly answeredEarly: AbortSignal;
  /** More is committed. */
  onCommitted(upload: Upload): void;
  /** Who brings bytes now hears the origin's interim responses, in place of who brought some before. */
  setInterimListener(listener: InterimListener | undefined): void;
  /** Once for each answer: who asks after that goes on with the upload. */
  takeEarlyAnswer(): EarlyAnswer | undefined;
}

const EAGER = { isUrgent: () => true, isEagerRoute: true } as const;

/** Whether the route feeds its origin with uploads of this length, which may not be known. */
export function isEager({ delivery, authorize }: Route, length: number | undefined): boolean {
  const { mode, eager, gate } = delivery;
  if (mode !== 'eager' || gate || authorize.recheck || maxEagerDeliveries(delivery) === 0) return false;
  return length === undefined ? eager.unknownLength === 'chunked' : length > 0;
}

/** Whether the origin's request can begin before the upload is whole. Once an upload: after that the spool delivers it. */
export function mayStartEarly({ phase, attemptCount, length }: Upload, route: Route): boolean {
  return phase === 'receiving' && attemptCount === 0 && isEager(route, length);
}

/**
 * The one attempt that begins with its upload. Until somebody has claimed the whole it cannot be whole itself, so that
 * whatever ends it, a fresh one from the spool may follow.
 */
export class EagerAttempt implements EagerFeed {
  /** The attempt as it is in the record; undefined when there is none. Never rejects. */
  readonly begun: Promise<Attempt | undefined>;
  private readonly body: EagerBody;
  private readonly abortController = new AbortController();
  private readonly answeredEarlyController = new AbortController();
  private readonly idleTimer: NodeJS.Timeout;
  private readonly result: Promise<AttemptResult | undefined>;
  private resolveBegun!: (attempt: Attempt | undefined) => void;
  private earlyAnswer: EarlyAnswer | undefined;
  private buffered: ResponseBuffer | undefined;
  /** Of the delivery that has taken this attempt over. */
  private onFinalAnswer: AttemptCall['onAnswer'] | undefined;
  private onInterim: InterimListener | undefined;

  constructor(
    private readonly upload: Upload,
    private readonly route: Route,
    private readonly deps: DeliveryContext,
  ) {
    const { framing, eager } = route.delivery;
    this.body = new EagerBody(upload, framing, deps);
    this.begun = new Promise((resolve) => (this.resolveBegun = resolve));
    this.idleTimer = setTimeout(() => this.abort('the client paused'), eager.idleMs);
    this.idleTimer.unref();
    deps.draining.addEventListener('abort', this.onDraining, { once: true });
    this.result = this.run();
  }

  get answeredEarly(): AbortSignal {
    return this.answeredEarlyController.signal;
  }

  onCommitted({ offset }: Upload): void {
    this.idleTimer.refresh();
    this.body.setCommitted(offset);
  }

  setInterimListener(listener: InterimListener | undefined): void {
    if (!this.onFinalAnswer) this.onInterim = listener;
  }

  takeEarlyAnswer(): EarlyAnswer | undefined {
    const { earlyAnswer: early } = this;
    this.earlyAnswer = undefined;
    return early;
  }

  /** Ends it, unless the whole was given to it already. */
  abort(why: string): undefined {
    if (!this.onFinalAnswer) this.abortController.abort(new Error(why));
  }

  /** Fulfilled when nothing more comes of it, except for the delivery that has taken it over. Never rejects. */
  async settled(): Promise<void> {
    try {
      const tried = await this.result;
      if (tried && !this.onFinalAnswer) await this.settle(tried);
    } catch (error) {
      // The record says that it was in part, which is what matters to whoever delivers the whole.
      this.deps.log.error({ upload: uploadTag(this.upload.id), err: error }, 'an early attempt failed');
    }
    this.stopListening();
  }

  /** Its upload is whole, the attempt is `whole` now, and the claim on it is held as long as `signal` says. */
  async finish(
    upload: Upload,
    claimed: Attempt,
    { signal, onAnswer, onInterim }: Pick<AttemptCall, 'signal' | 'onAnswer' | 'onInterim'>,
  ): Promise<AttemptResult> {
    const stop = (): void => this.abortController.abort(signal.reason);
    this.onFinalAnswer = onAnswer;
    this.onInterim = onInterim;
    this.stopListening();
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    if (this.buffered) onAnswer(this.buffered);
    this.body.releaseEnd(upload);
    const tried = await this.result;
    signal.removeEventListener('abort', stop);
    if (!tried) throw new Error('an attempt that was claimed has not begun');
    const ended = { ...this.withReach(tried).attempt, ...budgetFields(claimed) };
    Reflect.deleteProperty(ended, 'inPart');
    reportAttempt(this.upload, ended, this.deps);
    return this.isChallengedEarly(tried) ? { attempt: ended } : { ...tried, attempt: ended };
  }

  private readonly onDraining = (): void => this.abort('the proxy is being stopped');

  private async run(): Promise<AttemptResult | undefined> {
    const { originQueues, metrics } = this.deps;
    const { origin, delivery } = this.route;
    const slot = await originQueues
      .of(origin)
      .acquire({ ...EAGER, limits: delivery, signal: this.abortController.signal });
    if (slot.kind !== 'granted') return this.markNotBegun();
    metrics.activeDeliveries.inc();
    let isHealthy: boolean | undefined;
    try {
      const attempt = await this.begin();
      if (!attempt) return this.markNotBegun();
      const tried = await this.send(attempt);
      isHealthy = originIsHealthy(tried, this.abortController.signal);
      return tried;
    } catch (error) {
      this.markNotBegun();
      throw error;
    } finally {
      metrics.activeDeliveries.dec();
      slot.end(isHealthy);
    }
  }

  private markNotBegun(): undefined {
    this.resolveBegun(undefined);
    this.body.framed.body?.destroy();
  }

  private async begin(): Promise<Attempt | undefined> {
    const { store, clock } = this.deps;
    const attempt = { number: 1, inPart: true, origin: this.route.origin, startedAt: clock() } as const;
    const upload = await store.beginEarlyAttempt(this.upload.id, attempt);
    return upload === 'stale' ? undefined : attempt;
  }

  private send(attempt: Attempt): Promise<AttemptResult> {
    this.resolveBegun(attempt);
    const { upload, route } = this;
    const onAnswer = (buffered: ResponseBuffer | undefined): void => this.onAnswer(buffered);
    const openBody = () => this.body.framed;
    const { signal } = this.abortController;
    const keepChallengeIn = () => (this.onFinalAnswer ? 'spool' : 'memory');
    const onInterim: InterimListener = (interim) => this.onInterim?.(interim);
    const call = {
      upload,
      route,
      openBody,
      attempt,
      signal,
      onAnswer,
      onInterim,
      keepChallengeIn,
    } as const;
    return tryOnce(call, this.deps);
  }

  /** A short answer is recorded before it is shown, a long one is shown while it comes in. */
  private onAnswer(buffered: ResponseBuffer | undefined): void {
    this.buffered = buffered;
    clearTimeout(this.idleTimer);
    if (this.onFinalAnswer) return this.onFinalAnswer(buffered);
    buffered?.onLongResponse(() =>
      this.showEarlyAnswer({ kind: 'answered', upload: this.upload, answer: buffered.relay() }),
    );
  }

  private showEarlyAnswer(early: EarlyAnswer): void {
    this.earlyAnswer = early;
    this.answeredEarlyController.abort();
  }

  private async settle(tried: AttemptResult): Promise<void> {
    const early = await settleEarly(this.upload.id, this.withReach(tried), this.route, this.deps);
    if (early && !this.answeredEarlyController.signal.aborted) this.showEarlyAnswer(early);
  }

  /** Only what was certainly not handed out completely is certainly not with the origin. */
  private withReach(tried: AttemptResult): AttemptResult {
    const { attempt, answered } = tried;
    const isAnswer = answered && !answered.isChallenge;
    if (this.body.endWasSent || isAnswer || attempt.reached === 'never-sent') return tried;
    const { signal } = this.abortController;
    const problem = signal.aborted ? (signal.reason as Error).message : attempt.problem;
    return { ...tried, attempt: { ...attempt, reached: 'sent-in-part', problem } };
  }

  /** By an origin that had not heard all of it: the whole is sent with what newer credentials there are. */
  private isChallengedEarly({ answered }: AttemptResult): boolean {
    return answered?.answer.body.in === 'record' && answered.isChallenge;
  }

  private stopListening(): void {
    clearTimeout(this.idleTimer);
    this.deps.draining.removeEventListener('abort', this.onDraining);
  }
}

function budgetFields({ budgetFrom, budgetSince }: Attempt): Pick<Attempt, 'budgetFrom' | 'budgetSince'> {
  return { budgetFrom, budgetSince };
}

export interface EagerBodyDeps {
  readonly store: Pick<UploadStore, 'chunks'>;
  readonly spool: Pick<Spool, 'read'>;
}

/** As much as is read ahead of an origin that is slower than its client: one read of the spool. */
const READ_AHEAD_BYTES = 1024 * 1024;

/**
 * The body of an origin's request while its upload grows. It gives committed bytes only, because what is not committed can
 * still be taken back by a newer request, and it keeps its end back until it is let go: so nobody can have all of it by then.
 */
export class EagerBody {
  readonly framed: OriginBody;
  /** The end was handed out: the origin may have the whole. */
  endWasSent = false;
  private readonly changed = new Notifier();
  private readonly envelope;
  private readonly stream: Readable;
  private pieces: AsyncIterator<Uint8Array> | undefined;
  private source: Readable | undefined;
  private position = 0;
  private committed: number;
  private mayEnd = false;
  private trailers: Headers = [];

  constructor(
    private readonly upload: Upload,
    wanted: Framing,
    private readonly deps: EagerBodyDeps,
  ) {
    const { length, offset } = upload;
    this.committed = offset;
    const framing = framingFor(upload, wanted);
    this.envelope = framing.kind === 'multipart' ? envelopeOf(upload, framing) : undefined;
    const { before, after } = this.envelope ?? { before: '', after: '' };
    this.stream = new Readable({
      highWaterMark: READ_AHEAD_BYTES,
      read: () => void this.pushNext(),
      destroy: (error, done) => {
        this.source?.destroy();
        this.changed.notifyAll();
        done(error);
      },
    });
    if (this.envelope) this.stream.push(before);
    const size = length === undefined ? undefined : before.length + length + after.length;
    this.framed = { size, body: this.stream, trailers: () => this.trailers };
  }

  /** More is committed. */
  setCommitted(offset: number): void {
    this.committed = Math.max(this.committed, offset);
    this.changed.notifyAll();
  }

  /** The upload is whole with this offset, and its end may be given. */
  releaseEnd({ offset, trailers = [] }: Pick<Upload, 'offset' | 'trailers'>): void {
    this.mayEnd = true;
    this.trailers = trailers;
    this.setCommitted(offset);
  }

  private async pushNext(): Promise<void> {
    const { stream } = this;
    try {
      const piece = await this.nextPiece();
      if (stream.destroyed) return;
      this.position += piece?.length ?? 0;
      const isEnd = this.mayEnd && this.position === this.committed;
      this.endWasSent ||= isEnd;
      if (piece) stream.push(piece);
      if (isEnd && this.envelope) stream.push(this.envelope.after);
      if (isEnd) stream.push(null);
    } catch (error) {
      stream.destroy(error as Error);
    }
  }

  /** The bytes that follow, as soon as there are any; undefined when there are none. */
  private async nextPiece(): Promise<Uint8Array | undefined> {
    for (;;) {
      const read = await this.pieces?.next();
      if (read?.done === false) return read.value;
      this.pieces = undefined;
      while (this.limit <= this.position && !this.stream.destroyed && !this.mayEnd) await this.changed.next();
      if (this.limit <= this.position || this.stream.destroyed) return undefined;
      await this.openSource(this.limit);
    }
  }

  /** With a length the last byte is what makes a body whole, without one it is the end of it. */
  private get limit(): number {
    const { length = Infinity } = this.upload;
    return this.mayEnd ? this.committed : Math.min(this.committed, length - 1);
  }

  private async openSource(endEarlyAttempt: number): Promise<void> {
    const { store, spool } = this.deps;
    const { id } = this.upload;
    this.source = spool.read(id, await store.chunks(id), { start: this.position, end: endEarlyAttempt });
    this.pieces = (this.source as AsyncIterable<Uint8Array>)[Symbol.asyncIterator]();
  }
}

/**
 * Writes down what became of an early attempt while its upload is received; gives what its client has to hear. Nothing when
 * the upload is whole by now: then it is for the holder of its claim to say.
 */
async function settleEarly(
  id: string,
  { attempt, answered }: AttemptResult,
  route: Route,
  deps: DeliveryContext,
): Promise<EarlyAnswer | undefined> {
  const isLast = answered && !answered.isChallenge;
  return isLast ? recordEarlyAnswer(id, attempt, answered, route, deps) : end(id, attempt, answered, deps);
}

/** The origin has heard enough: its answer stands for the upload, whose bytes nobody needs any more. */
async function recordEarlyAnswer(
  id: string,
  attempt: Attempt,
  { answer, body, buffered }: AttemptAnswer,
  route: Route,
  deps: DeliveryContext,
): Promise<EarlyAnswer | undefined> {
  const { store, clock } = deps;
  const record = (): Promise<Upload | 'stale'> => {
    const expiresAt = clock() + route.delivery.keepAnswerMs;
    return store.recordEarlyAnswer(id, attempt, { answer, body, expiresAt });
  };
  const upload = await retryUntilRecorded(id, record, deps);
  if (upload === 'stale') return handleStaleAnswer(id, buffered, deps);
  reportAttempt(upload, attempt, deps);
  reportEnd(upload, 'answered', deps.monotonic() - ((attempt.endedAt ?? attempt.startedAt) - attempt.startedAt), deps);
  buffered.release();
  await removeChunks(id, await store.chunks(id), deps);
  return { kind: 'answered', upload, answer: buffered.relay() };
}

/**
 * A client may have been shown the beginning already, and waits for the end. That of a cancelled upload is nobody else's;
 * one that cannot be kept is cut. While it is whole, whoever claims it may be about to take this attempt over.
 */
async function handleStaleAnswer(
  id: string,
  buffered: AttemptAnswer['buffered'],
  { store }: DeliveryContext,
): Promise<undefined> {
  const known = await store.get(id);
  if (!known || known.phase === 'cancelled') buffered.release();
  else if (known.phase !== 'complete' && known.phase !== 'delivering')
    // What cannot be removed is the sweep's business.
    await buffered.break(new Error('the upload has gone on without this answer')).catch(() => undefined);
}

/** The upload goes on: to be delivered from the spool, or with the credentials that the origin wants. */
async function end(
  id: string,
  attempt: Attempt,
  answered: AttemptAnswer | undefined,
  deps: DeliveryContext,
): Promise<EarlyAnswer | undefined> {
  const problem = attempt.problem ?? `the origin answered ${attempt.status}`;
  const upload = await deps.store.endEarlyAttempt(id, { ...attempt, problem });
  if (upload === 'stale') return undefined;
  reportAttempt(upload, { ...attempt, problem }, deps);
  if (!answered) return undefined;
  answered.buffered.release();
  return { kind: 'parked', upload, answer: answered.buffered.relay() };
}
