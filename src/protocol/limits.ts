import type { Limits } from '../model/route.js';

/**
 * The value of `Upload-Limit` (RUFH §4.1.4): Integers only, without parameters, always in the same order. `min-size` is
 * always among them, so that the field is never empty; 0 is how "no limits" is said.
 */
export function uploadLimit(limits: Limits, lifetimeName: 'expires' | 'max-age', secondsLeft: number): string {
  const members: [string, number | undefined][] = [
    ['max-size', limits.maxSize],
    ['min-size', limits.minSize],
    ['max-append-size', limits.maxAppendSize],
    ['min-append-size', limits.minAppendSize],
    [lifetimeName, Math.max(0, Math.floor(secondsLeft))],
  ];
  return members
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key}=${value}`)
    .join(', ');
}
