import { describe, expect, test } from '@jest/globals';
import { forEachOf, resultsInOrder } from '../../src/concurrency/in-order.js';

/** Tasks that end when the test says so. */
function manualTasks() {
  const ends = new Map<number, () => void>();
  const run = async (item: number): Promise<number> => {
    await new Promise<void>((resolve) => ends.set(item, resolve));
    return item * 10;
  };
  return { ends, run };
}

async function turns(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

describe('tasks over a long list', () => {
  test('run side by side up to the width, and give their results in the order of the items', async () => {
    const { ends, run } = manualTasks();
    const results: number[] = [];
    const reading = (async () => {
      for await (const result of resultsInOrder([1, 2, 3, 4], 2, run)) results.push(result);
    })();
    await turns();
    expect([...ends.keys()]).toEqual([1, 2]);
    ends.get(2)!();
    await turns();
    expect(results).toEqual([]);
    ends.get(1)!();
    await turns();
    expect([results, [...ends.keys()]]).toEqual([
      [10, 20],
      [1, 2, 3, 4],
    ]);
    ends.get(4)!();
    ends.get(3)!();
    await reading;
    expect(results).toEqual([10, 20, 30, 40]);
  });

  test('take no item from the source before one of them has ended', async () => {
    const { ends, run } = manualTasks();
    let taken = 0;
    function* source(): Generator<number> {
      for (taken = 1; taken <= 1000; taken++) yield taken;
    }
    const running = forEachOf(source(), 16, run);
    await turns();
    expect(taken).toBe(16);
    for (let item = 1; item <= 1000; item++) {
      await turns();
      ends.get(item)!();
    }
    await running;
    expect(ends.size).toBe(1000);
  });

  test('fail with the first failure in the order of the items', async () => {
    const fail = (item: number): Promise<never> => Promise.reject(new Error(`item ${item}`));
    await expect(forEachOf([1, 2, 3], 2, fail)).rejects.toThrow('item 1');
  });
});
