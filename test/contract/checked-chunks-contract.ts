import type { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Chunk } from '../../src/model/upload.js';
import { ArrivingBlocks, BLOCK_BYTES, sizeWithSums } from '../../src/spool/block-sums.js';
import { answerName, chunkName } from '../../src/spool/chunk-name.js';
import type { Spool } from '../../src/spool/spool.js';
import { randomBytes } from '../support/temporary.js';
import { newId } from './sample-upload.js';

export interface DamageableSpool {
  readonly spool: Spool;
  /** Changes one byte of what is stored of a chunk, wherever that is. */
  readonly flip: (id: string, name: string, at: number) => Promise<void>;
  readonly storedSize: (id: string, name: string) => Promise<number>;
  readonly dispose: () => Promise<void>;
}

const B = BLOCK_BYTES;
const SIZES = [1, 2, B - 1, B, B + 1, 2 * B - 1, 2 * B, 2 * B + 1, 16 * B - 1, 16 * B, 16 * B + 1, 17 * B + 5];

/** What every spool keeps to with files whose names say where they begin. */
export function describeCheckedChunks(name: string, makeSpool: () => Promise<DamageableSpool>): void {
  describe(`${name}: bytes with checksums`, () => {
    let tested: DamageableSpool;
    let spool: Spool;
    const id = newId();

    beforeEach(async () => {
      tested = await makeSpool();
      ({ spool } = tested);
    });
    afterEach(() => tested.dispose());

    /** Written in pieces that fit no block, as they come from a socket; gives what each commit would say. */
    async function stored(file: string, start: number, content: Buffer, piece = 50_001): Promise<Chunk[]> {
      const writer = await spool.create(id, file);
      const commits: Chunk[] = [];
      for (let at = 0; at < content.length; at += 3 * piece) {
        const batch = [0, 1, 2].map((index) => content.subarray(at + index * piece, at + (index + 1) * piece));
        await writer.write(batch);
        commits.push({ name: file, start, ...writer.extentWithoutLastByte }, { name: file, start, ...writer.extent });
      }
      await writer.sync();
      await writer.close();
      return commits;
    }

    test.each(SIZES)('%i of them come back as of every commit, and one less', async (size) => {
      const content = randomBytes(size, 7);
      for (const chunk of await stored(chunkName(1, 0), 0, content))
        expect((await bytesOf(spool.read(id, [chunk]))).equals(content.subarray(0, chunk.size))).toBe(true);
      expect(await spool.size(id, chunkName(1, 0))).toBe(size);
      for await (const listed of spool.list()) expect(listed.size).toBe(size);
    });

    test('every range around the borders of blocks and chunks gives exactly its bytes', async () => {
      const content = randomBytes(3 * B + 100, 3);
      const cut = B + 17;
      const first = (await stored(chunkName(1, 0), 0, content.subarray(0, cut))).at(-1)!;
      const second = (await stored(chunkName(2, cut), cut, content.subarray(cut), 999)).at(-1)!;
      const borders = [0, B, cut, cut + B, cut + 2 * B, content.length];
      const places = [...new Set(borders.flatMap((at) => [at - 1, at, at + 1]))].filter(
        (at) => at >= 0 && at <= content.length,
      );
      for (const start of places)
        for (const end of places.filter((at) => at >= start)) {
          const given = await bytesOf(spool.read(id, [first, second], { start, end }));
          if (!given.equals(content.subarray(start, end))) throw new Error(`wrong bytes from ${start} to ${end}`);
        }
    });

    test.each(
      [
        ['in a full block', 5],
        ['at the end of a full block', B - 1],
        ['in the checksum of a block', B + 1],
        ['in a block in the middle', 17 * (B + 4) + 9],
        ['in the last block, which is not full', 20 * (B + 4) + 3],
      ].flatMap(([where, at]) => [
        [where as string, at as number, chunkName(1, 0)] as const,
        [where as string, at as number, answerName(1)] as const,
      ]),
    )(
      'a byte that changed %s (%i of %s) ends the stream before its block, and nothing wrong is given',
      async (_, at, file) => {
        const content = randomBytes(20 * B + 40, 4);
        const chunk = (await stored(file, 0, content)).at(-1)!;
        await tested.flip(id, file, at);
        const block = Math.floor(at / (B + 4));
        const given: Buffer[] = [];
        const reading = (async () => {
          for await (const piece of spool.read(id, [chunk])) given.push(piece as Buffer);
        })();
        await expect(reading).rejects.toMatchObject({ name: 'Fault', code: 'BYTES_LOST', retryable: false });
        const bytes = Buffer.concat(given);
        expect(bytes.length).toBeLessThanOrEqual(block * B);
        expect(bytes.equals(content.subarray(0, bytes.length))).toBe(true);
        // A range that needs nothing of that block is given.
        const elsewhere = block === 0 ? { start: B, end: B + 10 } : { start: 0, end: 10 };
        const part = await bytesOf(spool.read(id, [chunk], elsewhere));
        expect(part.equals(content.subarray(elsewhere.start, elsewhere.end))).toBe(true);
      },
    );

    test('any one byte of what is stored that changes is noticed', async () => {
      const content = randomBytes(B + 3, 5);
      const chunk = (await stored(chunkName(1, 0), 0, content)).at(-1)!;
      const size = await tested.storedSize(id, chunk.name);
      expect(size).toBe(B + 3 + 4);
      for (let at = 0; at < size; at += at < B - 2 ? 4099 : 1) {
        await tested.flip(id, chunk.name, at);
        await expect(bytesOf(spool.read(id, [chunk]))).rejects.toMatchObject({ code: 'BYTES_LOST' });
        await tested.flip(id, chunk.name, at);
      }
      expect((await bytesOf(spool.read(id, [chunk]))).equals(content)).toBe(true);
    });

    /** As it comes to another node, in pieces that fit nothing, one bit of it changed; gives what is taken of it. */
    function arriving(file: string, sent: Buffer, flipped?: number, cut = 0): Buffer | 'damaged' | 'not whole' {
      const taking = new ArrivingBlocks(`${id}/${file}`, sent.length);
      const came = Buffer.from(sent.subarray(0, Math.max(0, sent.length - cut)));
      if (flipped !== undefined) came[flipped]! ^= 4;
      const taken: Uint8Array[] = [];
      for (let at = 0; at < came.length; at += 65_537) {
        const bytes = taking.take([came.subarray(at, at + 3), came.subarray(at + 3, at + 65_537)]);
        if (bytes === 'damaged') return bytes;
        taken.push(...bytes);
      }
      return taking.isComplete ? Buffer.concat(taken) : 'not whole';
    }

    const ARRIVALS = [0, 1, 2, B - 1, B, B + 1, 2 * B, 2 * B + 5];
    test.each(ARRIVALS.flatMap((size) => [chunkName(1, 0), 'chunk-1'].map((file) => [size, file] as const)))(
      '%i bytes (%s) go to another node as of each commit, and any bit that changes on the way is found',
      async (size, file) => {
        const content = randomBytes(size, 7);
        for (const chunk of await stored(file, 0, content, 4 * B)) {
          const sent = await bytesOf(spool.readWithSums(id, chunk));
          expect(sent.length).toBe(sizeWithSums(chunk.size));
          const taken = arriving(file, sent);
          expect(content.subarray(0, chunk.size).equals(taken as Buffer)).toBe(true);
          const places = [0, 1, B - 1, B, B + 3, B + 4, sent.length - 5, sent.length - 4, sent.length - 1];
          const unseen = places.filter((at) => at >= 0 && at < sent.length && arriving(file, sent, at) !== 'damaged');
          expect(unseen).toEqual([]);
          if (sent.length === 0) continue;
          for (const cut of [1, 4, 5]) expect(arriving(file, sent, undefined, cut)).toBe('not whole');
          expect(arriving('chunk-2-0', sent)).toBe('damaged');
        }
      },
    );

    test('a checksum of another place, another file or of none at all is not taken', async () => {
      const content = Buffer.alloc(10, 'x');
      const chunk = (await stored(chunkName(1, 0), 0, content)).at(-1)!;
      const other = (await stored(answerName(1), 0, content)).at(-1)!;
      expect(other.crc).not.toBe(chunk.crc);
      for (const crc of [other.crc, 0, undefined])
        await expect(bytesOf(spool.read(id, [{ ...chunk, crc }]))).rejects.toMatchObject({ code: 'BYTES_LOST' });
    });
  });
}

async function bytesOf(stream: Readable): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of stream) pieces.push(piece as Buffer);
  return Buffer.concat(pieces);
}
