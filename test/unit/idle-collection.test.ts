import { getHeapStatistics } from 'node:v8';
import { describe, expect, test } from '@jest/globals';
import { garbageCollector, type HeapFigures, IdleCollection } from '../../src/streams/idle-collection.js';

const MIB = 2 ** 20;

describe('garbage is collected', () => {
  /** The heap that every check finds, in MiB; `busy` for a check while the process works. */
  function collectionsDuring(checks: readonly (number | 'busy')[], used = 50): number[] {
    const collectedAt: number[] = [];
    let at = 0;
    const collection = new IdleCollection(30 * MIB, () => collectedAt.push(at));
    for (const held of checks) {
      const figures: HeapFigures =
        held === 'busy'
          ? { busyShare: 0.4, heldBytes: 200 * MIB, usedBytes: used * MIB }
          : { busyShare: 0.01, heldBytes: held * MIB, usedBytes: used * MIB };
      collection.check(figures);
      at += 1;
    }
    return collectedAt;
  }

  test('in the first idle intervals after a burst, until the heap is small again', () => {
    expect(collectionsDuring(['busy', 'busy', 200, 120, 40, 200])).toEqual([2, 3]);
  });

  test('again after the next burst', () => {
    expect(collectionsDuring(['busy', 200, 30, 'busy', 200, 30])).toEqual([1, 4]);
  });

  test('not while the process is busy, and not when it has always been idle', () => {
    expect(collectionsDuring(['busy', 'busy', 'busy'])).toEqual([]);
    expect(collectionsDuring([200, 200])).toEqual([]);
  });

  test('not when little has been added', () => {
    expect(collectionsDuring(['busy', 90, 90])).toEqual([]);
  });

  test('no more than three times when the heap stays large, which is then in use', () => {
    expect(collectionsDuring(['busy', 200, 200, 200, 200, 200, 'busy', 200, 200])).toEqual([1, 2, 3]);
  });

  test('not in a heap whose collection would take long', () => {
    expect(collectionsDuring(['busy', 900, 900], 600)).toEqual([]);
  });

  test('by a function that V8 has no public name for', () => {
    const collect = garbageCollector();
    collect();
    const before = getHeapStatistics().used_heap_size;
    let garbage: object[] | undefined = Array.from({ length: 500_000 }, (_, at) => ({ at, and: { more: at } }));
    expect(garbage.length).toBe(500_000);
    const full = getHeapStatistics().used_heap_size;
    garbage = undefined;
    collect();
    expect(full - before).toBeGreaterThan(20 * MIB);
    expect(getHeapStatistics().used_heap_size - before).toBeLessThan((full - before) / 2);
  });
});
