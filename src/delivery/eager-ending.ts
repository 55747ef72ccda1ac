import type { Route } from '../model/route.js';
import type { Attempt, Upload } from '../model/upload.js';
import type { Answered, Tried } from './attempt.js';
import type { EarlyAnswer } from './eager.js';
import { removeChunks, untilRecorded } from './record.js';
import { reportAttempt, reportEnd } from './report.js';
import type { Rooms } from './rooms.js';

/**
 * Writes down what became of an early attempt while its upload is received; gives what its client has to hear. Nothing when
 * the upload is whole by now: then it is for the holder of its claim to say.
 */
export async function settleEarly(
  id: string,
  { attempt, answered }: Tried,
  route: Route,
  rooms: Rooms,
): Promise<EarlyAnswer | undefined> {
  const isLast = answered && !answered.isChallenge;
  return isLast ? record(id, attempt, answered, route, rooms) : end(id, attempt, answered, rooms);
}

/** The origin has heard enough: its answer stands for the upload, whose bytes nobody needs any more. */
async function record(
  id: string,
  attempt: Attempt,
  { answer, body, tape }: Answered,
  route: Route,
  rooms: Rooms,
): Promise<EarlyAnswer | undefined> {
  const { store, clock } = rooms;
  const record = (): Promise<Upload | 'stale'> => {
    const expiresAt = clock() + route.delivery.keepAnswerMs;
    return store.answerEarly(id, attempt, { answer, body, expiresAt });
  };
  const upload = await untilRecorded(id, record, rooms);
  if (upload === 'stale') return overtaken(id, tape, rooms);
  reportAttempt(upload, attempt, rooms);
  reportEnd(
    upload,
    'answered',
    rooms.monotonic() - ((attempt.endedAt ?? attempt.startedAt) - attempt.startedAt),
    rooms,
  );
  tape.release();
  await removeChunks(id, await store.chunks(id), rooms);
  return { kind: 'answered', upload, answer: tape.relay() };
}

/**
 * A client may have been shown the beginning already, and waits for the end. That of a cancelled upload is nobody else's;
 * one that cannot be kept is cut. While it is whole, whoever claims it may be about to take this attempt over.
 */
async function overtaken(id: string, tape: Answered['tape'], { store }: Rooms): Promise<undefined> {
  const known = await store.get(id);
  if (!known || known.phase === 'cancelled') tape.release();
  else if (known.phase !== 'complete' && known.phase !== 'delivering')
    // What cannot be removed is the sweep's business.
    await tape.break(new Error('the upload has gone on without this answer')).catch(() => undefined);
}

/** The upload goes on: to be delivered from the spool, or with the credentials that the origin wants. */
async function end(
  id: string,
  attempt: Attempt,
  answered: Answered | undefined,
  rooms: Rooms,
): Promise<EarlyAnswer | undefined> {
  const problem = attempt.problem ?? `the origin answered ${attempt.status}`;
  const upload = await rooms.store.endEarly(id, { ...attempt, problem });
  if (upload === 'stale') return undefined;
  reportAttempt(upload, { ...attempt, problem }, rooms);
  if (!answered) return undefined;
  answered.tape.release();
  return { kind: 'parked', upload, answer: answered.tape.relay() };
}
