import { expect, test } from '@jest/globals';
import { retryAfterMs } from '../../src/delivery/retry-policy.js';

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
  expect(retryAfterMs(value === undefined ? [] : [['Retry-After', value]], NOW)).toBe(expected);
});

const LATER = 'Sun, 22 Nov 2026 15:00:00 GMT';

// Two clocks: a date of the origin's is measured by the origin's.
test.each([
  ['Sun, 22 Nov 2026 14:59:50 GMT', 10_000],
  ['Sun, 22 Nov 2026 15:00:00 GMT', 0],
  ['Sun, 22 Nov 2026 15:00:09 GMT', 0],
  ['Sunday, 22-Nov-26 14:59:50 GMT', 10_000],
  ['Sun Nov 22 14:59:50 2026', 10_000],
  ['Sat, 21 Nov 2026 15:00:00 GMT', DAY],
  ['Mon, 99 Nov 2026 12:00:00 GMT', 3 * 3_600_000],
  ['now', 3 * 3_600_000],
])('a Retry-After with a date counts from the Date %s', (date, expected) => {
  const headers = [['date', date] as const, ['Retry-After', LATER] as const];
  expect(retryAfterMs(headers, NOW)).toBe(expected);
  expect(
    retryAfterMs(
      [
        ['Date', date],
        ['Retry-After', '7'],
      ],
      NOW,
    ),
  ).toBe(7000);
});
