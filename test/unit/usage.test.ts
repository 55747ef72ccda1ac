import { describe, expect, test } from '@jest/globals';
import { PHASES, type Phase } from '../../src/model/upload.js';
import { UsageCounter } from '../../src/store/embedded/usage-counter.js';
import { type Capacity, type Excess, roomOf } from '../../src/store/usage.js';

const KIB = 1024;
const MIB = 1024 * KIB;

describe('the room of an upload', () => {
  test.each<[Phase, number, number | undefined, number]>([
    ['receiving', 0, 1000, 1000],
    ['receiving', 400, 1000, 1000],
    ['receiving', 0, 0, 0],
    ['receiving', 0, undefined, 64 * KIB],
    ['receiving', 64 * KIB - 1, undefined, 64 * KIB],
    ['receiving', 64 * KIB, undefined, 128 * KIB],
    ['receiving', 128 * KIB, undefined, 256 * KIB],
    ['receiving', 4 * MIB - 1, undefined, 4 * MIB],
    ['receiving', 4 * MIB, undefined, 8 * MIB],
    ['receiving', 9 * MIB, undefined, 12 * MIB],
    ['complete', 1000, 1000, 1000],
    ['delivering', 1000, 1000, 1000],
    ['undelivered', 1000, 1000, 1000],
    ['answered', 1000, 1000, 0],
    ['cancelled', 400, 1000, 0],
    ['invalid', 400, undefined, 0],
  ])('%s at %d of %s is %d', (phase, offset, length, room) => {
    expect(roomOf({ phase, offset, length })).toBe(room);
  });

  test('is more than what is there as long as more may come', () => {
    for (let offset = 0; offset < 20 * MIB; offset += 12_345)
      expect(roomOf({ phase: 'receiving', offset })).toBeGreaterThan(offset);
    expect(PHASES).toHaveLength(7);
  });
});

describe('room is taken within every limit', () => {
  const upload = { route: 'photos', client: 'alice', phase: 'receiving', offset: 0, length: 100 } as const;
  const other = { ...upload, route: 'films', client: 'bob' };

  function withOneUpload(): UsageCounter {
    const usage = new UsageCounter();
    usage.add({ ...upload, offset: 40 });
    return usage;
  }

  test.each<[Capacity, Excess | 'room', Excess | 'room']>([
    [{}, 'room', 'room'],
    [{ client: { uploads: 1 } }, 'client-uploads', 'room'],
    [{ client: { uploads: 2 } }, 'room', 'room'],
    [{ client: { bytes: 199 } }, 'client-bytes', 'room'],
    [{ client: { bytes: 200 } }, 'room', 'room'],
    [{ route: { uploads: 1 } }, 'route-uploads', 'room'],
    [{ route: { bytes: 199 } }, 'route-bytes', 'room'],
    [{ all: { uploads: 1 } }, 'all-uploads', 'all-uploads'],
    [{ all: { bytes: 199 } }, 'all-bytes', 'all-bytes'],
    [{ all: { bytes: 200 } }, 'room', 'room'],
    [{ unwrittenBytes: 159 }, 'unwritten-bytes', 'unwritten-bytes'],
    [{ unwrittenBytes: 160 }, 'room', 'room'],
  ])('%j', (capacity, ofSame, ofOther) => {
    for (const [next, expected] of [
      [upload, ofSame],
      [other, ofOther],
    ] as const) {
      const result = withOneUpload().reserve(next, capacity);
      expect(typeof result === 'function' ? 'room' : result.exceeds).toBe(expected);
    }
  });

  test('nobody else gets it meanwhile, and it is there again when it was given back', () => {
    const usage = new UsageCounter();
    const capacity = { all: { bytes: 150 } };
    const release = usage.reserve(upload, capacity) as () => void;
    expect(usage.reserve(other, capacity)).toEqual({ exceeds: 'all-bytes' });
    release();
    expect(usage.reserve(other, capacity)).toBeInstanceOf(Function);
  });

  test('a step that takes no more is never refused, also where less is allowed than is taken', () => {
    const usage = withOneUpload();
    const capacity = { all: { uploads: 0, bytes: 10 }, unwrittenBytes: 0 };
    const before = { ...upload, offset: 40 };
    expect(usage.reserve({ ...upload, offset: 100, phase: 'complete' }, capacity, before)).toBeInstanceOf(Function);
    expect(usage.reserve({ ...upload, offset: 70 }, capacity, before)).toBeInstanceOf(Function);
  });

  test('an upload without a length takes its next step, or none', () => {
    const usage = new UsageCounter();
    const unknown = { ...upload, length: undefined };
    usage.add(unknown);
    const grown = { ...unknown, offset: 70 * KIB };
    expect(usage.reserve(grown, { all: { bytes: 127 * KIB } }, unknown)).toEqual({ exceeds: 'all-bytes' });
    expect(usage.reserve(grown, { all: { bytes: 128 * KIB } }, unknown)).toBeInstanceOf(Function);
  });
});
