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

/**
 * An origin's answer before the upload is complete. `parked`: the origin wants other credentials, with which the upload
 * can continue.
 */
export interface EarlyAnswer {
  readonly kind: 'answered' | 'parked';
  readonly upload: Upload;
  readonly answer: RelayedAnswer;
}

/** An eager attempt as the receiver of the upload sees it. */
export interface EagerFeed {
  /** Aborted when there is an early answer, so the rest of the upload is not needed. */
  readonly answeredEarly: AbortSignal;
  /** More bytes of the upload are committed. */
  onCommitted(upload: Upload): void;
  /** Sets the receiver of the origin's interim responses, replacing that of an earlier request. */
  setInterimListener(listener: InterimListener | undefined): void;
  /** Returns an early answer, each only once. Undefined: there is none, and the upload continues. */
  takeEarlyAnswer(): EarlyAnswer | undefined;
}

const EAGER_SLOT = { isUrgent: () => true, isEager: true } as const;

/** Whether the route delivers uploads of this length, which may be unknown, eagerly. */
export function isEagerRoute({ delivery, authorize }: Route, length: number | undefined): boolean {
  const { mode, eager, gate } = delivery;
  if (mode !== 'eager' || gate || authorize.recheck || maxEagerDeliveries(delivery) === 0) return false;
  return length === undefined ? eager.unknownLength === 'chunked' : length > 0;
}

/**
 * Whether the origin's request can begin before the upload is complete. Only the first attempt can; later ones read the
 * spool.
 */
export function mayStartEagerly({ phase, attemptCount, length }: Upload, route: Route): boolean {
  return phase === 'receiving' && attemptCount === 0 && isEagerRoute(route, length);
}

/**
 * An attempt that begins while its upload is still received. It cannot send the end of the body before the complete
 * upload is claimed, so if it ends early, a new attempt can be made from the spool.
 * Reasons: docs/decisions/0010.
 */
export class EagerAttempt implements EagerFeed {
  /** The recorded attempt, once it has begun; undefined if it did not begin. Never rejects. */
  readonly begun: Promise<Attempt | undefined>;
  private readonly body: EagerBody;
  private readonly abortController = new AbortController();
  private readonly answeredEarlyController = new AbortController();
  private readonly idleTimer: NodeJS.Timeout;
  private readonly result: Promise<AttemptResult | undefined>;
  private resolveBegun!: (attempt: Attempt | undefined) => void;
  private earlyAnswer: EarlyAnswer | undefined;
  private buffered: ResponseBuffer | undefined;
  /** The answer listener of the run that completes this attempt; undefined until `finish`. */
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
    const { earlyAnswer } = this;
    this.earlyAnswer = undefined;
    return earlyAnswer;
  }

  /** Aborts the attempt, unless a run has taken it over with `finish`. */
  abort(reason: string): undefined {
    if (!this.onFinalAnswer) this.abortController.abort(new Error(reason));
  }

  /** Resolves when the attempt has ended and, unless a run has taken it over, is recorded. Never rejects. */
  async settled(): Promise<void> {
    try {
      const result = await this.result;
      if (result && !this.onFinalAnswer) await this.settle(result);
    } catch (error) {
      // The record still marks the attempt as partial, so the complete upload can be sent again.
      this.deps.log.error({ upload: uploadTag(this.upload.id), err: error }, 'an eager delivery failed');
    }
    this.stopListening();
  }

  /**
   * Completes the attempt with the complete `upload`. `claimed` is the attempt as recorded with the claim, and `signal`
   * aborts when the claim is lost.
   */
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
    const result = await this.result;
    signal.removeEventListener('abort', stop);
    if (!result) throw new Error('a claimed attempt has not begun');
    const ended = { ...this.markSentInPart(result).attempt, ...budgetFields(claimed) };
    Reflect.deleteProperty(ended, 'inPart');
    reportAttempt(this.upload, ended, this.deps);
    return this.isChallengedEarly(result) ? { attempt: ended } : { ...result, attempt: ended };
  }

  private readonly onDraining = (): void => this.abort('the proxy is being stopped');

  private async run(): Promise<AttemptResult | undefined> {
    const { originQueues, metrics } = this.deps;
    const { origin, delivery } = this.route;
    const slot = await originQueues
      .of(origin)
      .acquire({ ...EAGER_SLOT, limits: delivery, signal: this.abortController.signal });
    if (slot.kind !== 'granted') return this.markNotBegun();
    metrics.activeDeliveries.inc();
    let isHealthy: boolean | undefined;
    try {
      const attempt = await this.begin();
      if (!attempt) return this.markNotBegun();
      const result = await this.send(attempt);
      isHealthy = originIsHealthy(result, this.abortController.signal);
      return result;
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
    const upload = await store.beginEagerAttempt(this.upload.id, attempt);
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

  /** Shows a long answer while it arrives; a short one is shown after it is recorded. */
  private onAnswer(buffered: ResponseBuffer | undefined): void {
    this.buffered = buffered;
    clearTimeout(this.idleTimer);
    if (this.onFinalAnswer) return this.onFinalAnswer(buffered);
    buffered?.onLongResponse(() =>
      this.showEarlyAnswer({ kind: 'answered', upload: this.upload, answer: buffered.relay() }),
    );
  }

  private showEarlyAnswer(answer: EarlyAnswer): void {
    this.earlyAnswer = answer;
    this.answeredEarlyController.abort();
  }

  private async settle(result: AttemptResult): Promise<void> {
    const answer = await settleEagerAttempt(this.upload.id, this.markSentInPart(result), this.route, this.deps);
    if (answer && !this.answeredEarlyController.signal.aborted) this.showEarlyAnswer(answer);
  }

  /**
   * Marks the attempt as `sent-in-part` if the end of its body was not passed to the request: the origin cannot have the
   * complete upload.
   */
  private markSentInPart(result: AttemptResult): AttemptResult {
    const { attempt, answered } = result;
    const isAnswer = answered && !answered.isChallenge;
    if (this.body.endWasSent || isAnswer || attempt.reached === 'never-sent') return result;
    const { signal } = this.abortController;
    const problem = signal.aborted ? (signal.reason as Error).message : attempt.problem;
    return { ...result, attempt: { ...attempt, reached: 'sent-in-part', problem } };
  }

  /**
   * Whether the origin asked for other credentials before it had the complete upload, which is then sent again with the
   * newest ones.
   */
  private isChallengedEarly({ answered }: AttemptResult): boolean {
    return answered?.answer.body.in === 'record' && answered.isChallenge;
  }

  private stopListening(): void {
    clearTimeout(this.idleTimer);
    this.deps.draining.removeEventListener('abort', this.onDraining);
  }
}

/** The budget that the claim has given to the attempt. */
function budgetFields({ budgetFrom, budgetSince }: Attempt): Pick<Attempt, 'budgetFrom' | 'budgetSince'> {
  return { budgetFrom, budgetSince };
}

/** The store and spool from which an `EagerBody` reads committed bytes. */
export interface EagerBodyDeps {
  readonly store: Pick<UploadStore, 'chunks'>;
  readonly spool: Pick<Spool, 'read'>;
}

/** Bytes read from the spool ahead of a slow origin: as many as one read gives. */
const READ_AHEAD_BYTES = 1024 * 1024;

/**
 * The body of an origin's request while its upload grows. It sends only committed bytes, because a newer request may
 * replace uncommitted ones, and holds back its end until `releaseEnd`, so that the origin cannot have the complete body
 * earlier.
 */
export class EagerBody {
  readonly framed: OriginBody;
  /** Whether the end was passed to the request, so that the origin may have the complete body. */
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
    routeFraming: Framing,
    private readonly deps: EagerBodyDeps,
  ) {
    const { length, offset } = upload;
    this.committed = offset;
    const framing = framingFor(upload, routeFraming);
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

  /** More bytes are committed, up to `offset`. */
  setCommitted(offset: number): void {
    this.committed = Math.max(this.committed, offset);
    this.changed.notifyAll();
  }

  /** The upload is complete at `offset`, and the end of the body may be sent. */
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

  /** Waits for the next bytes; undefined at the end. */
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

  /** If the length is known, the last byte is held back; otherwise only the end of the chunked body is. */
  private get limit(): number {
    const { length = Infinity } = this.upload;
    return this.mayEnd ? this.committed : Math.min(this.committed, length - 1);
  }

  private async openSource(end: number): Promise<void> {
    const { store, spool } = this.deps;
    const { id } = this.upload;
    this.source = spool.read(id, await store.chunks(id), { start: this.position, end });
    this.pieces = (this.source as AsyncIterable<Uint8Array>)[Symbol.asyncIterator]();
  }
}

/**
 * Records the end of an eager attempt whose upload is still received, and returns the early answer for its client. Returns
 * undefined if the upload is complete by now, because the holder of its claim then decides.
 */
async function settleEagerAttempt(
  id: string,
  { attempt, answered }: AttemptResult,
  route: Route,
  deps: DeliveryContext,
): Promise<EarlyAnswer | undefined> {
  if (!answered || answered.isChallenge) return endEagerAttempt(id, attempt, answered, deps);
  return recordEarlyAnswer(id, { attempt, answered }, route, deps);
}

/** Records the origin's early answer as the answer to the upload, and removes the upload's bytes. */
async function recordEarlyAnswer(
  id: string,
  { attempt, answered }: { readonly attempt: Attempt; readonly answered: AttemptAnswer },
  route: Route,
  deps: DeliveryContext,
): Promise<EarlyAnswer | undefined> {
  const { store, clock, monotonic } = deps;
  const { body, buffered } = answered;
  const answer = deps.secrets.withholdAnswer(id, answered.answer);
  const record = (): Promise<Upload | 'stale'> => {
    const expiresAt = clock() + route.delivery.keepAnswerMs;
    return store.recordEarlyAnswer(id, attempt, { answer, body, expiresAt });
  };
  const upload = await retryUntilRecorded(id, record, deps);
  if (upload === 'stale') return endStaleAnswer(id, buffered, deps);
  reportAttempt(upload, attempt, deps);
  const durationMs = (attempt.endedAt ?? attempt.startedAt) - attempt.startedAt;
  reportEnd(upload, 'answered', monotonic() - durationMs, deps);
  buffered.release();
  await removeChunks(id, await store.chunks(id), deps);
  return { kind: 'answered', upload, answer: buffered.relay() };
}

/**
 * Ends an early answer that could not be recorded but that its client may already be reading. The answer of a cancelled
 * upload is completed, that of a complete one is left to the run that may take this attempt over, and any other is cut.
 */
async function endStaleAnswer(
  id: string,
  buffered: AttemptAnswer['buffered'],
  { store }: DeliveryContext,
): Promise<undefined> {
  const upload = await store.get(id);
  if (!upload || upload.phase === 'cancelled') buffered.release();
  else if (upload.phase !== 'complete' && upload.phase !== 'delivering')
    // The cleanup of uploads removes a leftover file.
    await buffered.break(new Error('the upload has continued without this answer')).catch(() => undefined);
}

/**
 * Records the end of an attempt without a final answer. The upload continues, and after a challenge waits for other
 * credentials.
 */
async function endEagerAttempt(
  id: string,
  attempt: Attempt,
  answered: AttemptAnswer | undefined,
  deps: DeliveryContext,
): Promise<EarlyAnswer | undefined> {
  const problem = attempt.problem ?? `the origin answered ${attempt.status}`;
  const upload = await deps.store.endEagerAttempt(id, { ...attempt, problem });
  if (upload === 'stale') return undefined;
  reportAttempt(upload, { ...attempt, problem }, deps);
  if (!answered) return undefined;
  answered.buffered.release();
  return { kind: 'parked', upload, answer: answered.buffered.relay() };
}
