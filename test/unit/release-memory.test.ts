import { expect, test } from '@jest/globals';
import { releaseMemory, releaseWhenWritten } from '../../src/streams/release-memory.js';
import { until } from '../support/temporary.js';

const MIB = 2 ** 20;

function filled(size = 64 * 1024): Buffer {
  return Buffer.allocUnsafeSlow(size).fill('x');
}

test('a released buffer is empty, and a second release does nothing', () => {
  const buffers = [filled(), filled()];
  releaseMemory(buffers);
  releaseMemory(buffers);
  expect(buffers.map(({ length, buffer }) => [length, buffer.byteLength])).toEqual([
    [0, 0],
    [0, 0],
  ]);
});

test('the memory of a released buffer is free although the buffer still exists', async () => {
  const inUse = (): number => process.memoryUsage().arrayBuffers;
  const kept: Buffer[] = [];
  await until(() => {
    const before = inUse();
    const large = filled(64 * MIB);
    kept.push(large);
    releaseMemory([large]);
    return inUse() - before < 32 * MIB;
  }, 'memory that is free when `releaseMemory` returns');
  expect(kept.map(({ length }) => length)).toEqual(kept.map(() => 0));
});

const whole = filled();
const shared = Buffer.from(new SharedArrayBuffer(64 * 1024));

test.each([
  ['the beginning of a larger buffer', whole.subarray(0, -1)],
  ['the end of a larger buffer', whole.subarray(1)],
  ['an empty part of a larger buffer', whole.subarray(0, 0)],
  ['a small buffer', filled(16 * 1024 - 1)],
  ['a part of the pool', Buffer.from('x'.repeat(1024))],
  ['memory of several threads', shared],
])('%s keeps its memory', (_name, bytes) => {
  const before = [bytes.length, bytes.buffer.byteLength];
  releaseMemory([bytes]);
  expect([bytes.length, bytes.buffer.byteLength]).toEqual(before);
});

test('a buffer is released when it is written, and kept when writing it has failed', () => {
  const [written, failed] = [filled(), filled()];
  releaseWhenWritten(written)();
  releaseWhenWritten(failed)(new Error('EPIPE'));
  expect([written.length, failed.length]).toEqual([0, failed.length]);
  expect(failed.every((byte) => byte === 'x'.charCodeAt(0))).toBe(true);
});
