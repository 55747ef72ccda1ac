import { Fault } from '../model/fault.js';
import type { Headers } from '../model/headers.js';
import type { OriginInterim } from '../model/messages.js';
import type { Route } from '../model/route.js';
import type { Answer, Attempt, Upload } from '../model/upload.js';
import { answerName } from '../spool/chunk-name.js';
import type { Spool } from '../spool/spool.js';
import type { OriginBody } from './origin-body.js';
import { trailersForOrigin, originRequestHead } from './origin-request.js';
import { InvalidAnswer, type Origin, Unanswered } from './origin.js';
import { ResponseBuffer } from './response-buffer.js';
import { meaningOf, policyOf, retryAfterMs } from './retry-policy.js';

/** The dependencies of an attempt. */
export interface AttemptDeps {
  readonly origin: Origin;
  readonly spool: Spool;
  readonly clock: () => number;
  readonly monotonic: () => number;
  /** This proxy's name in `Via`, by which it detects loops. */
  readonly via?: string;
}

/** One attempt to make: its upload, its record, and the listeners. */
export interface AttemptCall {
  readonly upload: Upload;
  readonly route: Route;
  /** Opens the request body. Throws a `Fault` if its bytes are lost. */
  readonly openBody: () => OriginBody;
  /** As recorded before the first byte is sent. */
  readonly attempt: Attempt;
  /** Aborts the attempt. */
  readonly signal: AbortSignal;
  /** Where the body of a challenge is kept; by default in the spool, with the parked upload. */
  readonly keepChallengeIn?: () => 'memory' | 'spool';
  /** Called with the answer when it begins to arrive, and with undefined if it breaks off or cannot be kept. Not for a challenge. */
  readonly onAnswer: (buffered: ResponseBuffer | undefined) => void;
  /** Receives the origin's interim responses. */
  readonly onInterim?: (interim: OriginInterim) => void;
}

/** An answer of the origin that was received completely. */
export interface AttemptAnswer {
  /** The origin wants other credentials. */
  readonly isChallenge: boolean;
  readonly buffered: ResponseBuffer;
  readonly answer: Answer;
  /** The body if it belongs into the record; undefined if it is in the spool or was not kept. */
  readonly body: Uint8Array | undefined;
}

/** The end of an attempt. Nothing of it is recorded yet. */
export interface AttemptResult {
  readonly attempt: Attempt;
  readonly answered?: AttemptAnswer;
  /** The spool has lost bytes of the upload, so no attempt can succeed. */
  readonly bytesLost?: true;
}

/** Sends the upload to the origin once. Never rejects: every failure is a result of the attempt. */
export async function tryOnce(call: AttemptCall, deps: AttemptDeps): Promise<AttemptResult> {
  let buffered: ResponseBuffer | undefined;
  let status: number | undefined;
  const now = attemptClock(call.attempt, deps);
  try {
    const answer = await send(call, deps);
    status = answer.status;
    const afterMs = retryAfterMs(answer.headers, deps.clock());
    const meaning = meaningOf(status, afterMs !== undefined, policyOf(call.upload, call.route));
    if (meaning === 'refusal' || meaning === 'unknown') {
      answer.body.destroy();
      const endedAt = now();
      const notBefore = afterMs === undefined ? undefined : endedAt + afterMs;
      const problem = meaning === 'refusal' ? `the origin answered ${status}` : gatewayProblem(status);
      return { attempt: { ...call.attempt, endedAt, reached: 'answered', status, notBefore, problem } };
    }
    const isChallenge = meaning === 'challenge';
    buffered = new ResponseBuffer(answer, bufferDeps(call, deps, isChallenge));
    // A challenge is shown only after the upload is parked, so that a client cannot reply to it too early.
    if (!isChallenge) call.onAnswer(buffered);
    buffered.onStorageFailure(() => call.onAnswer(undefined));
    const received = await buffered.readToEnd(deps.clock());
    const problem =
      buffered.storageFault && `the body of the answer could not be kept: ${buffered.storageFault.message}`;
    const ended = { ...call.attempt, endedAt: now(), reached: 'answered', status } as const;
    const attempt: Attempt = problem === undefined ? ended : { ...ended, problem };
    return { attempt, answered: { buffered, isChallenge, ...received } };
  } catch (error) {
    const reason = error instanceof Error ? error : new Error(String(error));
    call.onAnswer(undefined);
    // The cleanup of uploads removes a leftover file.
    await buffered?.break(reason).catch(() => undefined);
    return failedAttempt({ ...call.attempt, endedAt: now() }, reason, status);
  }
}

function send({ upload, route, openBody, signal, onInterim }: AttemptCall, { origin, via }: AttemptDeps) {
  const { timeoutMs, answerTimeoutMs, maxAnswerSize } = route.delivery;
  const { repeatable } = policyOf(upload, route);
  const connection = repeatable ? 'kept' : 'fresh';
  const body = openBody();
  const trailers = (): Headers => trailersForOrigin(body.trailers?.() ?? upload.trailers ?? [], upload, route);
  const head = originRequestHead(upload, route, via);
  const request = {
    ...head,
    content: body,
    trailers,
    timeoutMs,
    answerTimeoutMs,
    maxAnswerSize,
    connection,
  } as const;
  return origin.send(request, signal, onInterim);
}

/** Whether the attempt showed the origin to be healthy; undefined if this proxy ended the attempt. */
export function originIsHealthy(
  { attempt, answered, bytesLost }: AttemptResult,
  signal: AbortSignal,
): boolean | undefined {
  if (signal.aborted || bytesLost) return undefined;
  if (attempt.reached !== 'answered') return false;
  // A status below 500 is about this request or the rate of requests, and comes from a working origin.
  return answered !== undefined || (attempt.status ?? 500) < 500;
}

/** A challenge goes into the spool unless `keepChallengeIn` says otherwise: the record has no place for its body. */
function bufferDeps(call: AttemptCall, { spool }: AttemptDeps, isChallenge: boolean) {
  const { upload, route, attempt, keepChallengeIn } = call;
  const { keepAnswerSize } = route.delivery;
  const maxMemoryBytes = isChallenge && keepChallengeIn?.() !== 'memory' ? 0 : keepAnswerSize;
  return { spool, id: upload.id, name: answerName(attempt.number), maxMemoryBytes };
}

function gatewayProblem(status: number): string {
  return `a gateway in front of the origin answered ${status}: the origin may have received the upload`;
}

/** The wall-clock start of the attempt plus the monotonic time since, so that setting the clock does not change durations. */
function attemptClock({ startedAt }: Attempt, { monotonic }: AttemptDeps): () => number {
  const beganAt = monotonic();
  return () => startedAt + Math.round(monotonic() - beganAt);
}

function failedAttempt(attempt: Attempt, error: Error, status: number | undefined): AttemptResult {
  const cause = error instanceof Unanswered ? error.cause : error;
  const bytesLost = cause instanceof Fault && cause.code === 'BYTES_LOST';
  const reached = reachOf(error, cause, status);
  const problem = status === undefined ? error.message : `the answer (${status}) broke off: ${error.message}`;
  const invalidAnswer = cause instanceof InvalidAnswer && { invalidAnswer: true as const };
  return { attempt: { ...attempt, reached, status, problem, ...invalidAnswer }, ...(bytesLost && { bytesLost }) };
}

/** If reading the request body failed here, the origin cannot have received all of it. */
function reachOf(error: Error, cause: unknown, status: number | undefined): Attempt['reached'] {
  const reached = error instanceof Unanswered ? error.reached : status === undefined ? 'never-sent' : 'sent';
  const isBodyCut = cause instanceof Fault && (status === undefined || cause.code === 'BYTES_LOST');
  return isBodyCut && reached === 'sent' ? 'sent-in-part' : reached;
}
