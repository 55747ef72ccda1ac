import { Readable } from 'node:stream';
import { expect, test } from '@jest/globals';
import { combineSmallPieces } from '../../src/streams/small-pieces.js';

function source(): Readable {
  return combineSmallPieces(new Readable({ read: () => undefined }));
}

/** A byte that tells its place. */
function byte(at: number): Buffer {
  return Buffer.from([at % 251]);
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

test('the small pieces of one turn come as one', async () => {
  const stream = source();
  const pieces: Buffer[] = [];
  stream.on('data', (piece: Buffer) => pieces.push(piece));
  await turn();
  for (let at = 0; at < 1000; at++) stream.push(byte(at));
  await turn();
  await turn();
  expect(pieces.map(({ length }) => length)).toEqual([1000]);
  expect(pieces[0]).toEqual(Buffer.from(Array.from({ length: 1000 }, (_, at) => at % 251)));
});

test('what nobody reads is kept in few pieces, however many turns it takes, and in order beside large pieces', async () => {
  const kept: Buffer[] = [];
  const plain = new Readable({ read: () => undefined });
  const keep = plain.push.bind(plain);
  plain.push = (piece: unknown, encoding?: BufferEncoding) => {
    if (Buffer.isBuffer(piece)) kept.push(piece);
    return keep(piece, encoding);
  };
  const stream = combineSmallPieces(plain);
  const expected: Buffer[] = [];
  const push = (piece: Buffer): void => {
    expected.push(piece);
    stream.push(piece);
  };
  for (let at = 0; at < 3000; at++) {
    push(byte(at));
    if (at % 100 === 0) await turn();
  }
  push(Buffer.alloc(20_000, 7));
  for (let at = 0; at < 10; at++) push(byte(at));
  stream.push(null);
  expect(Buffer.concat((await stream.toArray()) as Buffer[])).toEqual(Buffer.concat(expected));
  // Each costs some hundred bytes, and what it was cut from: eight times the content are the most there may be.
  const held = new Set(kept.map(({ buffer }) => buffer));
  const bytes = [...held].reduce((sum, { byteLength }) => sum + byteLength, 0) + 500 * kept.length;
  // Small ones are cut from one pool, which is larger in newer Nodes.
  expect(bytes).toBeLessThan(8 * 3000 + 20_000 + Buffer.poolSize);
  expect(kept.length).toBeLessThanOrEqual(5);
});

test('bytes before a cut come before it', async () => {
  const stream = source();
  const pieces: Buffer[] = [];
  stream.on('data', (piece: Buffer) => pieces.push(piece));
  stream.on('error', () => undefined);
  await turn();
  stream.push(byte(1));
  stream.push(byte(2));
  stream.destroy(new Error('cut'));
  expect(Buffer.concat(pieces)).toEqual(Buffer.from([1, 2]));
});

test('a full stream says so, also while its bytes wait to be gathered', () => {
  const stream = combineSmallPieces(new Readable({ read: () => undefined, highWaterMark: 4 }));
  expect([1, 2, 3, 4].map((at) => stream.push(byte(at)))).toEqual([true, true, true, false]);
});

test.each([
  ['that goes on', false],
  ['that is whole', true],
])('what a stream %s has got before is made one piece, and told of', async (_, isComplete) => {
  const stream = new Readable({ read: () => undefined });
  for (let at = 0; at < 1000; at++) stream.push(byte(at));
  if (isComplete) stream.push(null);
  let told = 0;
  combineSmallPieces(stream, () => told++);
  expect([told, stream.readableLength]).toEqual([1000, 1000]);
  if (!isComplete) for (let at = 1000; at < 1500; at++) stream.push(byte(at));
  if (!isComplete) stream.push(null);
  const pieces = (await stream.toArray()) as Buffer[];
  expect(pieces.length).toBeLessThanOrEqual(2);
  expect(Buffer.concat(pieces)).toEqual(
    Buffer.from(Array.from({ length: isComplete ? 1000 : 1500 }, (__, at) => at % 251)),
  );
});

test('large pieces that came before are left as they are', async () => {
  const stream = new Readable({ read: () => undefined });
  for (let at = 0; at < 3; at++) stream.push(Buffer.alloc(10_000, at));
  stream.push(null);
  let told = 0;
  combineSmallPieces(stream, () => told++);
  const sizes: number[] = [];
  stream.on('data', ({ length }: Buffer) => sizes.push(length));
  await new Promise((resolve) => stream.once('end', resolve));
  expect([sizes, told]).toEqual([[10_000, 10_000, 10_000], 0]);
});
