import { setTimeout as sleep } from 'node:timers/promises';
import { Fault } from '../model/fault.js';
import type { Route } from '../model/route.js';
import type { Attempt, Chunk, Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import { isAway } from '../store/until-available.js';
import type { Answered } from './attempt.js';
import type { Rooms } from './rooms.js';

/**
 * Makes an answer durable. A store that fails is asked again and again: nothing else can bring this answer back, and
 * without it the upload might be sent twice. One that is away only has to come back, so that it is asked often; nobody
 * hears the answer before, because another worker may take the delivery over meanwhile and get another one. `onTrouble`:
 * the store is there but cannot take it, and those who wait should not wait for that.
 */
export async function recordAnswer(
  id: string,
  { attempt, answered }: { readonly attempt: Attempt; readonly answered: Answered },
  route: Route,
  rooms: Rooms,
  onTrouble: () => void,
): Promise<Upload | 'stale'> {
  const { store, worker, clock, log, draining } = rooms;
  const { answer, body } = answered;
  let ended: Attempt | undefined = attempt;
  for (;;) {
    try {
      const expiresAt = clock() + route.delivery.keepAnswerMs;
      return await store.recordAnswer(id, worker, { answer, body, expiresAt }, ended);
    } catch (error) {
      log.error({ upload: uploadTag(id), err: error }, 'an answer could not be recorded');
      if (ended && isForgotten(error)) {
        ended = undefined;
        continue;
      }
      if (!isAway(error)) onTrouble();
      if (draining.aborted) throw error;
      await sleep(route.delivery.retry.longestDelayMs, undefined, { signal: draining }).catch(() => undefined);
    }
  }
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
