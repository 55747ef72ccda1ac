import { Fault } from '../model/fault.js';
import type { Headers } from '../model/headers.js';
import type { Route } from '../model/route.js';
import type { Answer, Attempt, Chunk, Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import { AnswerTape } from './answer-tape.js';
import { framedRaw } from './framing.js';
import { Unanswered, type Origin } from './origin.js';
import { replayOf } from './replay.js';
import { isRefusal } from './retry.js';

export interface AttemptRooms {
  readonly origin: Origin;
  readonly spool: Spool;
  readonly clock: () => number;
}

export interface AttemptCall {
  readonly upload: Upload;
  readonly route: Route;
  readonly chunks: readonly Chunk[];
  readonly credentials: Headers;
  /** As it was noted before the first byte. */
  readonly attempt: Attempt;
  /** Breaks the attempt off. */
  readonly signal: AbortSignal;
  /** An answer has begun that will be the one, if it does not break off; undefined when it has. */
  readonly onTape: (tape: AnswerTape | undefined) => void;
}

/** How an attempt ended; its answer is whole, but not recorded yet. */
export interface Tried {
  readonly attempt: Attempt;
  readonly answered?: { readonly tape: AnswerTape; readonly answer: Answer; readonly body: Uint8Array | undefined };
  /** The spool does not have the upload any more: no attempt can ever succeed. */
  readonly bytesLost?: true;
}

/** Gives the whole to the origin once. Never fails: whatever happens is how the attempt ended. */
export async function tryOnce(call: AttemptCall, rooms: AttemptRooms): Promise<Tried> {
  let tape: AnswerTape | undefined;
  let status: number | undefined;
  try {
    const answer = await send(call, rooms);
    status = answer.status;
    if (isRefusal(status, call.route.delivery.retry)) {
      answer.body.destroy();
      return ended(call, rooms, { reached: 'answered', status, problem: `the origin answered ${status}` });
    }
    tape = new AnswerTape(answer, tapeRooms(call, rooms));
    call.onTape(tape);
    const taken = await tape.take(rooms.clock());
    return { ...ended(call, rooms, { reached: 'answered', status }), answered: { tape, ...taken } };
  } catch (error) {
    const reason = error instanceof Error ? error : new Error(String(error));
    call.onTape(undefined);
    // What cannot be removed is the sweep's business.
    await tape?.break(reason).catch(() => undefined);
    return failed(call, rooms, reason, status);
  }
}

function send({ upload, route, chunks, credentials, signal }: AttemptCall, { origin, spool }: AttemptRooms) {
  const content = framedRaw(upload, chunks, spool);
  const request = { ...replayOf(upload, route, credentials), content, timeoutMs: route.delivery.timeoutMs };
  return origin.send(request, signal);
}

function tapeRooms({ upload, route, attempt }: AttemptCall, { spool }: AttemptRooms) {
  return { spool, id: upload.id, name: `answer-${attempt.number}`, keepInMemory: route.delivery.keepAnswerSize };
}

function failed(call: AttemptCall, rooms: AttemptRooms, error: Error, status: number | undefined): Tried {
  const cause = error instanceof Unanswered ? error.cause : error;
  const bytesLost = cause instanceof Fault && cause.code === 'BYTES_LOST' && status === undefined;
  const reached = error instanceof Unanswered ? error.reached : status === undefined ? 'never-sent' : 'sent';
  const problem = status === undefined ? error.message : `the answer (${status}) broke off: ${error.message}`;
  return { ...ended(call, rooms, { reached, status, problem }), ...(bytesLost && { bytesLost }) };
}

function ended(
  { attempt }: AttemptCall,
  { clock }: AttemptRooms,
  how: Pick<Attempt, 'reached' | 'status' | 'problem'>,
): { readonly attempt: Attempt } {
  return { attempt: { ...attempt, endedAt: clock(), ...how } };
}
