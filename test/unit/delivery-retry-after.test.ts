import { expect, test } from '@jest/globals';
import { retryAfterMs } from '../../src/delivery/retry-after.js';

const NOW = Date.UTC(2026, 10, 22, 12);
const DAY = 86_400_000;

test.each([
  ['0', 0],
  ['120', 120_000],
  [' 7 ', 7000],
  ['Mon, 23 Nov 2026 12:00:00 GMT', DAY],
  ['Monday, 23-Nov-26 12:00:00 GMT', DAY],
  ['Mon Nov 23 12:00:00 2026', DAY],
  ['Sun, 22 Nov 2026 11:00:00 GMT', 0],
  [undefined, undefined],
  ['', undefined],
  ['soon', undefined],
  ['-1', undefined],
  ['1.5', undefined],
  ['120, 60', undefined],
  ['99999999999', undefined],
  ['Mon, 99 Nov 2026 12:00:00 GMT', undefined],
])('Retry-After: %s', (value, expected) => {
  expect(retryAfterMs(value, NOW)).toBe(expected);
});
