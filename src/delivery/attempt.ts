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

export interface AttemptDeps {
  readonly origin: Origin;
  readonly spool: Spool;
  readonly clock: () => number;
  readonly monotonic: () => number;
  /** The name by which this proxy knows itself again, in `Via`. */
  readonly via?: string;
}

export interface AttemptCall {
  readonly upload: Upload;
  readonly route: Route;
  /** The body; fails when its bytes are lost. */
  readonly openBody: () => OriginBody;
  /** As it was noted before the first byte. */
  readonly attempt: Attempt;
  /** Breaks the attempt off. */
  readonly signal: AbortSignal;
  /** Where the body of a challenge goes; into the spool when not said, to be kept with the upload that is parked. */
  readonly keepChallengeIn?: () => 'memory' | 'spool';
  /** An answer has begun that will be the one, if it does not break off; undefined when it has. */
  readonly onAnswer: (buffered: ResponseBuffer | undefined) => void;
  /** What the origin says before its answer, for whoever waits for that. */
  readonly onInterim?: (interim: OriginInterim) => void;
}

export interface AttemptAnswer {
  /** The origin wants other credentials. */
  readonly isChallenge: boolean;
  readonly buffered: ResponseBuffer;
  readonly answer: Answer;
  /** When it has a place in the record. */
  readonly body: Uint8Array | undefined;
}

/** How an attempt ended; its answer is whole, but not recorded yet. */
export interface AttemptResult {
  readonly attempt: Attempt;
  readonly answered?: AttemptAnswer;
  /** The spool does not have the upload any more: no attempt can ever succeed. */
  readonly bytesLost?: true;
}

/** Gives the whole to the origin once. Never fails: whatever happens is how the attempt ended. */
export async function tryOnce(call: AttemptCall, deps: AttemptDeps): Promise<AttemptResult> {
  let buffered: ResponseBuffer | undefined;
  let status: number | undefined;
  const endedAt = stopwatch(call.attempt, deps);
  try {
    const answer = await send(call, deps);
    status = answer.status;
    const afterMs = retryAfterMs(answer.headers, deps.clock());
    const meaning = meaningOf(status, afterMs !== undefined, policyOf(call.upload, call.route));
    if (meaning === 'refusal' || meaning === 'unknown') {
      answer.body.destroy();
      const at = endedAt();
      const notBefore = afterMs === undefined ? undefined : at + afterMs;
      const problem = meaning === 'refusal' ? `the origin answered ${status}` : gatewayProblem(status);
      return { attempt: { ...call.attempt, endedAt: at, reached: 'answered', status, notBefore, problem } };
    }
    const isChallenge = meaning === 'challenge';
    buffered = new ResponseBuffer(answer, bufferDeps(call, deps, isChallenge));
    // A challenge is shown once the upload is parked: who answers it must not come too early.
    if (!isChallenge) call.onAnswer(buffered);
    buffered.onStorageFailure(() => call.onAnswer(undefined));
    const taken = await buffered.readToEnd(deps.clock());
    const problem =
      buffered.storageFault && `the body of its answer could not be kept: ${buffered.storageFault.message}`;
    const ended = { ...call.attempt, endedAt: endedAt(), reached: 'answered', status } as const;
    const attempt: Attempt = problem === undefined ? ended : { ...ended, problem };
    return { attempt, answered: { buffered, isChallenge, ...taken } };
  } catch (error) {
    const reason = error instanceof Error ? error : new Error(String(error));
    call.onAnswer(undefined);
    // What cannot be removed is the sweep's business.
    await buffered?.break(reason).catch(() => undefined);
    return failedAttempt({ ...call.attempt, endedAt: endedAt() }, reason, status);
  }
}

function send({ upload, route, openBody, signal, onInterim }: AttemptCall, { origin, via }: AttemptDeps) {
  const { timeoutMs, answerTimeoutMs, maxAnswerSize } = route.delivery;
  const { repeatable } = policyOf(upload, route);
  const connection = repeatable ? 'kept' : 'fresh';
  const body = openBody();
  const trailers = (): Headers => trailersForOrigin(body.trailers?.() ?? upload.trailers ?? [], upload, route);
  const replay = originRequestHead(upload, route, via);
  const request = {
    ...replay,
    content: body,
    trailers,
    timeoutMs,
    answerTimeoutMs,
    maxAnswerSize,
    connection,
  } as const;
  return origin.send(request, signal, onInterim);
}

/** Whether the origin is to be taken for alive; undefined when it was we who ended the attempt. */
export function originIsHealthy(
  { attempt, answered, bytesLost }: AttemptResult,
  signal: AbortSignal,
): boolean | undefined {
  if (signal.aborted || bytesLost) return undefined;
  if (attempt.reached !== 'answered') return false;
  // A refusal below 500 is about this request, or about too many of them: it takes somebody alive to say so.
  return answered !== undefined || (attempt.status ?? 500) < 500;
}

/** Only an answer that ends the delivery has a place in the record. */
function bufferDeps(call: AttemptCall, { spool }: AttemptDeps, isChallenge: boolean) {
  const { upload, route, attempt, keepChallengeIn } = call;
  const { keepAnswerSize } = route.delivery;
  const maxMemoryBytes = isChallenge && keepChallengeIn?.() !== 'memory' ? 0 : keepAnswerSize;
  return { spool, id: upload.id, name: answerName(attempt.number), maxMemoryBytes };
}

function gatewayProblem(status: number): string {
  return `a gateway before the origin answered ${status}: the origin may have taken the upload`;
}

/** When it ended, on the time line of its beginning: what happened in between is as long as it was, also when a clock is set. */
function stopwatch({ startedAt }: Attempt, { monotonic }: AttemptDeps): () => number {
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

/** A body that failed here was cut: whatever became of it, the origin did not get the whole. */
function reachOf(error: Error, cause: unknown, status: number | undefined): Attempt['reached'] {
  const reached = error instanceof Unanswered ? error.reached : status === undefined ? 'never-sent' : 'sent';
  const isCut = cause instanceof Fault && (status === undefined || cause.code === 'BYTES_LOST');
  return isCut && reached === 'sent' ? 'sent-in-part' : reached;
}
