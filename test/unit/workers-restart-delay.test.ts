import { expect, test } from '@jest/globals';
import { nextRestart } from '../../src/workers/pool.js';

test('a worker that ends again and again is replaced less and less often, at least every half minute', () => {
  const delays: number[] = [];
  let failures = 0;
  for (let count = 0; count < 10; count++) {
    const next = nextRestart(failures, 1000);
    failures = next.failures;
    delays.push(next.afterMs);
  }
  expect(delays).toEqual([250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
});

test('one that ran for a minute was sound', () => {
  expect(nextRestart(7, 60_000)).toEqual({ failures: 1, afterMs: 250 });
  expect(nextRestart(7, 59_999)).toEqual({ failures: 8, afterMs: 30_000 });
});
