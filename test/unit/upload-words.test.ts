import { expect, test } from '@jest/globals';
import { alignColumns, formatBytes, formatDuration } from '../../src/cli/format-uploads.js';

test.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1024, '1.0 KiB'],
  [1536, '1.5 KiB'],
  [200 * 1024, '200 KiB'],
  [5 * 2 ** 30, '5.0 GiB'],
  [3 * 2 ** 50, '3072 TiB'],
])('%i bytes are %s', (count, words) => {
  expect(formatBytes(count)).toBe(words);
});

test.each([
  [-5, '0s'],
  [400, '0s'],
  [59_000, '59s'],
  [60_000, '1m'],
  [312_000, '5m 12s'],
  [3_600_000, '1h'],
  [3 * 86_400_000 + 4 * 3_600_000 + 59_000, '3d 4h'],
  [86_400_000 + 5000, '1d'],
])('%i milliseconds are %s', (ms, words) => {
  expect(formatDuration(ms)).toBe(words);
});

test('columns are as wide as their widest entry, and lines have no spaces at their end', () => {
  expect(
    alignColumns([
      ['A', 'B'],
      ['longer', ''],
    ]),
  ).toBe('A       B\nlonger\n');
});
