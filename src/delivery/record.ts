import { setTimeout as sleep } from 'node:timers/promises';
import { Fault } from '../model/fault.js';
import type { Route } from '../model/route.js';
import type { Attempt, Chunk, Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import { isAway } from '../store/until-available.js';
import type { Answered } from './attempt.js';
import type { Rooms } from './rooms.js';

/** A disk that was full or failed once often takes the next write. */
const FIRST_AGAIN_MS = 100;
const LONGEST_AGAIN_MS = 3000;
/** So often it is tried again when the proxy is being stopped. */
const LAST_TRIES = 4;

/**
 * Makes an answer durable. A store that fails is asked again and again: nothing else can bring this answer back, and
 * without it the upload might be sent twice. One that is away only has to come back; nobody hears the answer before,
 * because another worker may take the delivery over meanwhile. `onTrouble`: the store is there but cannot take it, and
 * those who wait should not wait for that.
 */
export async function recordAnswer(
  id: string,
  { attempt, answered }: { readonly attempt: Attempt; readonly answered: Answered },
  route: Route,
  rooms: Rooms,
  onTrouble: () => void,
): Promise<Upload | 'stale'> {
  const { store, worker, clock } = rooms;
  const { answer, body } = answered;
  let ended: Attempt | undefined = attempt;
  const record = async (): Promise<Upload | 'stale'> => {
    try {
      const expiresAt = clock() + route.delivery.keepAnswerMs;
      return await store.recordAnswer(id, worker, { answer, body, expiresAt }, ended);
    } catch (error) {
      if (!ended || !isForgotten(error)) throw error;
      ended = undefined;
      return record();
    }
  };
  return untilRecorded(id, record, rooms, onTrouble);
}

/**
 * Repeats a step that writes down what came of a delivery until it is done: it was learned at the origin, and can be learned
 * nowhere else. Gives up with its failure only when the proxy stops.
 */
export async function untilRecorded<T>(
  id: string,
  step: () => Promise<T>,
  { log, random, draining }: Pick<Rooms, 'log' | 'random' | 'draining'>,
  onTrouble: (error: unknown) => void = () => undefined,
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
      if (failures === 0 && !isAway(error)) continue;
      if (!isAway(error)) onTrouble(error);
      if (draining.aborted && ++lastTries > LAST_TRIES) throw error;
      await pauseBefore(lastTries > 0 ? lastTries : Math.max(failures, 1), random, draining);
    }
  }
}

/** The stop ends a pause, so that what is full by now is tried again at once. */
async function pauseBefore(attempt: number, random: () => number, draining: AbortSignal): Promise<void> {
  const longestMs = Math.min(FIRST_AGAIN_MS * 2 ** (attempt - 1), LONGEST_AGAIN_MS);
  const signal = draining.aborted ? undefined : draining;
  // An early end of the pause is no failure.
  await sleep(longestMs / 2 + (longestMs / 2) * random(), undefined, { signal }).catch(() => undefined);
}

/** The store has lost its newest steps, and with them that this attempt began: then the answer counts without it. */
function isForgotten(error: unknown): boolean {
  return error instanceof Fault && error.code === 'CONTRACT_BROKEN';
}

/** The answer stands for the upload from now on; its bytes are not needed any more. */
export async function removeChunks(id: string, chunks: readonly Chunk[], { spool, log }: Rooms): Promise<void> {
  for (const { name } of chunks) {
    try {
      await spool.removeChunk(id, name);
    } catch (error) {
      // It goes with the upload when that expires.
      log.warn({ upload: uploadTag(id), err: error }, 'a delivered chunk could not be removed');
    }
  }
}
