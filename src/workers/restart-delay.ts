const FIRST_MS = 250;
const LONGEST_MS = 30_000;

/** One that ran this long was sound: what ended it is no reason to wait. */
const SOUND_MS = 60_000;

/** How often in a row a worker has ended, and when the next takes its place. */
export function nextRestart(failuresBefore: number, ranMs: number): { failures: number; afterMs: number } {
  const failures = ranMs >= SOUND_MS ? 1 : failuresBefore + 1;
  return { failures, afterMs: Math.min(LONGEST_MS, FIRST_MS * 2 ** (failures - 1)) };
}
