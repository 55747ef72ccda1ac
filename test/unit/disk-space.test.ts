import { describe, expect, test } from '@jest/globals';
import { DiskSpace, freeSpaceOf, type KeepFree } from '../../src/spool/disk-space.js';

const MIB = 2 ** 20;
const GIB = 2 ** 30;

describe('what may be made beyond the space that is kept free', () => {
  test.each<[string, number, number, KeepFree | undefined, number]>([
    ['5 % of a small disk', 10 * GIB, 3 * GIB, undefined, 2.5 * GIB],
    ['1 GiB of a large one', 1000 * GIB, 3 * GIB, undefined, 2 * GIB],
    ['nothing of a full one', 1000 * GIB, 10 * MIB, undefined, 0],
    ['a size', 1000 * GIB, 3 * GIB, { bytes: GIB / 2 }, 2.5 * GIB],
    ['a size of 0', 1000 * GIB, 3 * GIB, { bytes: 0 }, 3 * GIB],
    ['a share', 10 * GIB, 3 * GIB, { share: 0.1 }, 2 * GIB],
  ])('%s', (_, total, available, keepFree, left) => {
    const state = { bsize: 4096, blocks: total / 4096, bavail: available / 4096, files: 1000, ffree: 500 };
    expect(freeSpaceOf(state, keepFree).bytes).toBeCloseTo(left, -4);
  });

  test('files are kept by the same share, and have no limit where the file system has none', () => {
    const state = { bsize: 1, blocks: 1, bavail: 1, files: 1000, ffree: 500 };
    expect(freeSpaceOf(state).files).toBe(450);
    expect(freeSpaceOf(state, { bytes: 7 }).files).toBe(450);
    expect(freeSpaceOf(state, { share: 0.1 }).files).toBe(400);
    expect(freeSpaceOf({ ...state, files: 0, ffree: 0 }).files).toBe(Infinity);
  });
});

test('a file system that states no size has no limit', () => {
  const state = { bsize: 4096, blocks: 0, bavail: 0, files: 0, ffree: 0 };
  expect(freeSpaceOf(state)).toEqual({ bytes: Infinity, files: Infinity });
  expect(freeSpaceOf(state, { bytes: 7 }).bytes).toBe(Infinity);
});

test('the file system is asked once in a second, and one that cannot be asked has no limit', async () => {
  let now = 0;
  let asked = 0;
  let fails = false;
  const space = new DiskSpace({
    directory: '/data',
    monotonic: () => now,
    statfs: (path) => {
      asked++;
      expect(path).toBe('/data');
      if (fails) return Promise.reject(new Error('it has gone'));
      return Promise.resolve({ bsize: 1, blocks: 1000, bavail: 500, files: 0, ffree: 0 });
    },
  });
  await Promise.all([space.refresh(), space.refresh()]);
  await space.refresh();
  expect([asked, space.free]).toEqual([1, { bytes: 450, files: Infinity }]);
  now = 1000;
  fails = true;
  await space.refresh();
  expect([asked, space.free]).toEqual([2, undefined]);
});

test('a file system that hangs holds up nobody', async () => {
  const space = new DiskSpace({
    directory: '/data',
    monotonic: () => 0,
    statfs: () => new Promise(() => undefined),
  });
  await space.refresh();
  expect(space.free).toBeUndefined();
});
