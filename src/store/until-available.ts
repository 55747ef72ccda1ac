import { setTimeout as sleep } from 'node:timers/promises';
import { Fault } from '../model/fault.js';

const FIRST_PAUSE_MS = 50;

/** A store that is back is used again within this time. */
const LONGEST_PAUSE_MS = 1000;

export interface Patience {
  /** Ends the waiting, after one last try. */
  readonly signal: AbortSignal;
  /** Between 0 and 1: many who wait for the same store must not all come back at the same moment. */
  readonly random?: () => number;
  /** Told after every try that was in vain. */
  readonly onAway?: (fault: Fault) => void;
}

/** Asks a store that does not answer again and again, until it does or the signal is aborted: then fails with its fault. */
export async function untilAvailable<T>(step: () => Promise<T> | T, patience: Patience): Promise<T> {
  const { signal, random = Math.random, onAway } = patience;
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
    try {
      return await step();
    } catch (error) {
      if (!isAway(error)) throw error;
      onAway?.(error);
      if (signal.aborted) throw error;
    }
    // Aborted: one last try, which may well find the store where it was.
    await sleep(pauseMs * (0.5 + random() / 2), undefined, { signal }).catch(() => undefined);
  }
}

/** The store did not answer: whether it did what it was asked is unknown, and asking again is safe. */
export function isAway(error: unknown): error is Fault {
  return error instanceof Fault && error.code === 'STORE_UNAVAILABLE';
}
