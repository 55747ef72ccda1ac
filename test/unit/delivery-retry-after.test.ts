import { expect, test } from '@jest/globals';
import { retryAfterAt } from '../../src/delivery/retry-after.js';

const NOW = Date.UTC(2026, 10, 22, 12);
const NOON_NEXT_DAY = Date.UTC(2026, 10, 23, 12);

test.each([
  ['0', NOW],
  ['120', NOW + 120_000],
  [' 7 ', NOW + 7000],
  ['Mon, 23 Nov 2026 12:00:00 GMT', NOON_NEXT_DAY],
  ['Monday, 23-Nov-26 12:00:00 GMT', NOON_NEXT_DAY],
  ['Mon Nov 23 12:00:00 2026', NOON_NEXT_DAY],
  ['Sun, 22 Nov 2026 11:00:00 GMT', NOW - 3_600_000],
  [undefined, undefined],
  ['', undefined],
  ['soon', undefined],
  ['-1', undefined],
  ['1.5', undefined],
  ['120, 60', undefined],
  ['99999999999', undefined],
  ['Mon, 99 Nov 2026 12:00:00 GMT', undefined],
])('Retry-After: %s', (value, expected) => {
  expect(retryAfterAt(value, NOW)).toBe(expected);
});
