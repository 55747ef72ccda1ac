import { describe, expect, test } from '@jest/globals';
import type { Chunk } from '../../src/model/upload.js';
import { answerName, areContiguous, chunkName, parseChunkName } from '../../src/spool/chunk-name.js';

describe('the name of a chunk', () => {
  test.each([
    [chunkName(7, 0), { kind: 'chunk', number: 7, start: 0 }],
    [
      chunkName(1_764_000_000_000_123, 2 ** 53 - 1),
      { kind: 'chunk', number: 1_764_000_000_000_123, start: 2 ** 53 - 1 },
    ],
    [answerName(3), { kind: 'answer', number: 3, start: 0 }],
  ])('%s says whose bytes it has and where they begin', (name, origin) => {
    expect(parseChunkName(name)).toEqual(origin);
  });

  test.each([
    'chunk-7',
    'whole-7',
    'answer-3',
    'promised',
    'chunk-7-',
    'chunk--0',
    'chunk-7-0-0',
    'chunk-7-0x',
    ' chunk-7-0',
    '',
  ])('%j says nothing', (name) => {
    expect(parseChunkName(name)).toBeUndefined();
  });
});

describe('chunks are one run of bytes', () => {
  const of = (...parts: [name: string, start: number, size: number][]): Chunk[] =>
    parts.map(([name, start, size]) => ({ name, start, size }));

  test.each<[string, boolean, Chunk[]]>([
    ['none', true, []],
    ['one', true, of(['chunk-1-0', 0, 5])],
    ['one after another', true, of(['chunk-1-0', 0, 5], ['chunk-4-5', 5, 2], ['chunk-9-7', 7, 1])],
    ['a part of them', true, of(['chunk-4-5', 5, 2], ['chunk-9-7', 7, 1])],
    ['of an earlier version', true, of(['chunk-1', 0, 5], ['whole-2', 5, 2], ['chunk-9-7', 7, 1])],
    ['with a gap', false, of(['chunk-1-0', 0, 5], ['chunk-4-6', 6, 2])],
    ['that overlap', false, of(['chunk-1-0', 0, 5], ['chunk-4-4', 4, 2])],
    ['with a gap, of an earlier version', false, of(['chunk-1', 0, 5], ['chunk-4', 6, 2])],
    ['whose record says another beginning', false, of(['chunk-1-0', 0, 5], ['chunk-4-4', 5, 2])],
    ['whose only record says another beginning', false, of(['chunk-1-3', 0, 5])],
    ['of an older lease after a newer one', false, of(['chunk-4-0', 0, 5], ['chunk-1-5', 5, 2])],
    ['of one lease twice', false, of(['chunk-4-0', 0, 5], ['chunk-4-5', 5, 2])],
  ])('%s: %s', (_, joined, chunks) => {
    expect(areContiguous(chunks)).toBe(joined);
  });
});
