import { setTimeout as sleep } from 'node:timers/promises';
import type { Route } from '../model/route.js';
import type { Attempt, Chunk, Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import type { Answered } from './attempt.js';
import type { Rooms } from './rooms.js';

/**
 * Makes an answer durable. A store that fails is asked again and again: nothing else can bring this answer back, and
 * without it the upload might be sent twice. One that is away only has to come back, so that it is asked often.
 * `onTrouble`: it failed, and those who wait should not wait for it.
 */
export async function recordAnswer(
  id: string,
  tried: { readonly attempt: Attempt; readonly answered: Answered },
  route: Route,
  rooms: Rooms,
  onTrouble: () => void,
): Promise<Upload | 'stale'> {
  const { store, worker, clock, log, draining } = rooms;
  const { attempt, answered } = tried;
  const step = async (): Promise<Upload | 'stale'> => {
    const ended = await store.atOnce.endAttempt(id, worker, attempt);
    if (ended === 'stale') return ended;
    const expiresAt = clock() + route.delivery.keepAnswerMs;
    return store.atOnce.recordAnswer(id, worker, answered.answer, answered.body, expiresAt);
  };
  for (;;) {
    try {
      return await store.ask(step, { onAway: onTrouble });
    } catch (error) {
      log.error({ upload: uploadTag(id), err: error }, 'an answer could not be recorded');
      onTrouble();
      if (draining.aborted) throw error;
      await sleep(route.delivery.retry.longestDelayMs, undefined, { signal: draining }).catch(() => undefined);
    }
  }
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
