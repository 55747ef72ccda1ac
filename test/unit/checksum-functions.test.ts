import { crc32 as crcOfZlib } from 'node:zlib';
import { expect, test } from '@jest/globals';
import { crc32 as crcOfPackage } from '@node-rs/crc32';
import { crc32 } from '../../src/fs/crc32.js';
import { randomBytes } from '../support/temporary.js';

const BYTES = randomBytes(70_000, 21);
const LENGTHS = [...Array.from({ length: 130 }, (_, length) => length), 255, 256, 1023, 4096, 65_535, 65_536];

// What one of them wrote the other one verifies, on another machine or after the package is gone.
test('both functions give the same sums, for each length, wherever the bytes begin, in one go or in two', () => {
  const different: string[] = [];
  for (const length of LENGTHS)
    for (let start = 0; start < 17; start++) {
      const bytes = BYTES.subarray(start, start + length);
      const wanted = crcOfZlib(bytes);
      const half = length >> 1;
      const inTwo = crc32(bytes.subarray(half), crc32(bytes.subarray(0, half)));
      const sums = [
        crcOfPackage(bytes),
        crc32(bytes),
        inTwo,
        crcOfPackage(bytes.subarray(half), crcOfZlib(bytes.subarray(0, half))),
      ];
      if (sums.some((sum) => sum !== wanted)) different.push(`${length} bytes from ${start}: ${sums.join()}`);
    }
  expect(different).toEqual([]);
  expect(crc32(Buffer.from('123456789'))).toBe(0xcbf43926);
});
