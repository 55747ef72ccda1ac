import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { Chunk } from '../../src/model/upload.js';
import { ACKNOWLEDGED, type Spool, type SpooledChunk } from '../../src/spool/spool.js';
import { randomBytes, until, within } from '../support/temporary.js';
import { newId } from './sample-upload.js';
import { cases } from '../support/thoroughness.js';

export interface SpoolUnderTest {
  readonly spool: Spool;
  readonly dispose: () => Promise<void>;
}

/** What every spool keeps to; run on each implementation with this same text. */
export function describeSpool(name: string, makeSpool: () => Promise<SpoolUnderTest>): void {
  describe(`${name}: a spool`, () => {
    let tested: SpoolUnderTest;
    let spool: Spool;

    beforeEach(async () => {
      tested = await makeSpool();
      ({ spool } = tested);
    });
    afterEach(() => tested.dispose());

    /** Writes one chunk a buffer, each to be read after the one before it. */
    async function stored(id: string, ...contents: Buffer[]): Promise<Chunk[]> {
      const chunks: Chunk[] = [];
      let start = 0;
      for (const [index, content] of contents.entries()) {
        const writer = await spool.create(id, `chunk-${index}`);
        await writer.write([content]);
        await writer.sync();
        await writer.close();
        chunks.push({ name: `chunk-${index}`, start, size: content.length });
        start += content.length;
      }
      return chunks;
    }

    async function listed(): Promise<SpooledChunk[]> {
      const found: SpooledChunk[] = [];
      for await (const chunk of spool.list()) found.push(chunk);
      return found;
    }

    test('what was written comes back, over all chunks in order', async () => {
      const id = newId();
      const contents = [randomBytes(3_000_000, 1), randomBytes(1, 2), randomBytes(700_000, 3)];
      const chunks = await stored(id, ...contents);
      expect((await bytesOf(spool.read(id, chunks))).equals(Buffer.concat(contents))).toBe(true);
    });

    test('many buffers go in at once, however many and however small, and are counted', async () => {
      const id = newId();
      const writer = await spool.create(id, 'chunk-1');
      const buffers = Array.from({ length: 3000 }, (_, at) => Buffer.from(at % 7 === 0 ? '' : `${at},`));
      await writer.write(buffers);
      await writer.write([]);
      await writer.write([Buffer.alloc(0)]);
      await writer.write([Buffer.from('end')]);
      const expected = Buffer.concat([...buffers, Buffer.from('end')]);
      expect(writer.size).toBe(expected.length);
      await writer.sync();
      await writer.close();
      await writer.close();
      const chunk = { name: 'chunk-1', start: 0, size: expected.length };
      expect((await bytesOf(spool.read(id, [chunk]))).equals(expected)).toBe(true);
    });

    test('two writers can never share a chunk', async () => {
      const id = newId();
      const both = await Promise.allSettled([spool.create(id, 'chunk-1'), spool.create(id, 'chunk-1')]);
      const [writer] = both.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
      const [reason] = both.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
      expect(reason).toMatchObject({ name: 'Fault', code: 'CHUNK_EXISTS' });
      await writer!.write([Buffer.from('mine')]);
      await writer!.close();
      await expect(spool.create(id, 'chunk-1')).rejects.toMatchObject({ code: 'CHUNK_EXISTS' });
      expect(await spool.size(id, 'chunk-1')).toBe(4);
    });

    test('bytes beyond what is committed are never read', async () => {
      const id = newId();
      await stored(id, Buffer.from('committed+more'), Buffer.from('next'));
      const chunks = [
        { name: 'chunk-0', start: 0, size: 9 },
        { name: 'chunk-1', start: 9, size: 2 },
      ];
      expect(String(await bytesOf(spool.read(id, chunks)))).toBe('committedne');
    });

    test('what is committed can be read while more is written', async () => {
      const id = newId();
      const writer = await spool.create(id, 'chunk-1');
      await writer.write([Buffer.from('hello')]);
      const chunk = { name: 'chunk-1', start: 0, size: 5 };
      expect(String(await bytesOf(spool.read(id, [chunk])))).toBe('hello');
      const writing = writer.write([Buffer.from(' world')]);
      await Promise.all([writing, writer.sync()]);
      await writer.sync();
      await writer.close();
      expect(String(await bytesOf(spool.read(id, [{ ...chunk, size: 11 }])))).toBe('hello world');
    });

    test('any range of any split gives exactly its bytes', async () => {
      const whole = randomBytes(2_500_000, 9);
      const cut = fc.nat({ max: whole.length });
      await fc.assert(
        fc.asyncProperty(fc.array(cut, { maxLength: 5 }), cut, cut, async (cuts, one, other) => {
          const id = newId();
          const ends = [...cuts, whole.length].sort((a, b) => a - b);
          const chunks = await stored(id, ...ends.map((end, at) => whole.subarray(ends[at - 1] ?? 0, end)));
          const [start, end] = [Math.min(one, other), Math.max(one, other)];
          const part = await bytesOf(spool.read(id, chunks, { start, end }));
          expect(part.equals(whole.subarray(start, end))).toBe(true);
          const rest = await bytesOf(spool.read(id, chunks, { start }));
          expect(rest.equals(whole.subarray(start))).toBe(true);
          await spool.remove(id);
        }),
        cases(30),
      );
    });

    test('a range counts from the first chunk given, wherever that begins', async () => {
      const id = newId();
      const [, ...chunks] = await stored(id, Buffer.from('skipped'), Buffer.from('abc'), Buffer.from('def'));
      expect(String(await bytesOf(spool.read(id, chunks, { start: 2, end: 4 })))).toBe('cd');
    });

    test('nothing at all is an empty stream', async () => {
      const id = newId();
      expect(await bytesOf(spool.read(id, []))).toHaveLength(0);
      const chunks = await stored(id, Buffer.from('abc'));
      expect(await bytesOf(spool.read(id, chunks, { start: 3 }))).toHaveLength(0);
      expect(await bytesOf(spool.read(id, chunks, { start: 1, end: 1 }))).toHaveLength(0);
    });

    test('ranges and chunks that make no sense are refused', async () => {
      const id = newId();
      const chunks = await stored(id, Buffer.from('abc'), Buffer.from('def'));
      for (const range of [{ start: -1 }, { start: 7 }, { start: 4, end: 3 }, { start: 0, end: 7 }, { start: NaN }])
        expect(() => spool.read(id, chunks, range)).toThrow(expect.objectContaining({ code: 'CONTRACT_BROKEN' }));
      const gap = [chunks[0]!, { ...chunks[1]!, start: 4 }];
      expect(() => spool.read(id, gap)).toThrow(expect.objectContaining({ code: 'BYTES_LOST' }));
    });

    test('chunks that say themselves that they begin elsewhere are lost', async () => {
      const id = newId();
      const writer = await spool.create(id, 'chunk-1-3');
      await writer.write([Buffer.from('abc')]);
      await writer.close();
      const chunk = { name: 'chunk-1-3', start: 0, size: 3 };
      expect(() => spool.read(id, [chunk])).toThrow(expect.objectContaining({ code: 'BYTES_LOST' }));
    });

    test.each([
      ['missing', (id: string) => spool.removeChunk(id, 'chunk-2')],
      ['shorter than what was committed', () => Promise.resolve()],
    ])('a chunk that is %s is noticed before the first byte is given', async (_, damage) => {
      const id = newId();
      const chunks = await stored(id, Buffer.from('first'), Buffer.from('second'), Buffer.from('third'));
      await damage(id);
      const claimed = chunks.with(2, { ...chunks[2]!, size: 6 });
      const stream = spool.read(id, claimed);
      let given = 0;
      stream.on('data', (piece: Buffer) => (given += piece.length));
      const [fault] = (await once(stream, 'error')) as [unknown];
      expect(fault).toMatchObject({ name: 'Fault', code: 'BYTES_LOST', retryable: false });
      expect(given).toBe(0);
      // A lost chunk outside the range is not our business now.
      expect(String(await bytesOf(spool.read(id, claimed, { start: 3, end: 8 })))).toBe('stsec');
    });

    test('a reader that nobody reads holds little, and one that is given up lets go', async () => {
      const id = newId();
      const chunks = await stored(id, randomBytes(16 * 1024 * 1024, 4));
      const stream = spool.read(id, chunks);
      await once(stream, 'readable');
      await until(() => stream.readableLength > 0, 'the first bytes');
      for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
      expect(stream.readableLength).toBeLessThanOrEqual(2 * 1024 * 1024);
      const closed = once(stream, 'close');
      stream.destroy();
      await within(closed, 'the end of the reader');
      expect(await bytesOf(spool.read(id, chunks, { start: 0, end: 10 }))).toHaveLength(10);
    });

    test('a chunk has a size, and none when it is not there', async () => {
      const id = newId();
      expect(await spool.size(id, 'chunk-0')).toBeUndefined();
      await stored(id, Buffer.from('12345'));
      expect(await spool.size(id, 'chunk-0')).toBe(5);
      expect(await spool.size(id, 'chunk-1')).toBeUndefined();
    });

    test('removing takes one chunk or everything, and may be repeated', async () => {
      const id = newId();
      const other = newId();
      await stored(id, Buffer.from('a'), Buffer.from('b'), Buffer.from('c'));
      await stored(other, Buffer.from('d'));
      await spool.removeChunk(id, 'chunk-1');
      await spool.removeChunk(id, 'chunk-1');
      expect(
        (await listed())
          .filter((found) => found.id === id)
          .map((found) => found.name)
          .sort(),
      ).toEqual(['chunk-0', 'chunk-2']);
      await spool.remove(id);
      await spool.remove(id);
      await spool.removeChunk(id, 'chunk-0');
      expect(await listed()).toEqual([expect.objectContaining({ id: other })]);
    });

    test('an upload can begin again where everything was removed', async () => {
      const id = newId();
      await stored(id, Buffer.from('a'));
      await spool.removeChunk(id, 'chunk-0');
      const chunks = await stored(id, Buffer.from('b'));
      expect(String(await bytesOf(spool.read(id, chunks)))).toBe('b');
    });

    test('listing finds every chunk once, with its size and age, counted or not', async () => {
      const before = Date.now() - 5000;
      const ids = Array.from({ length: 10 }, newId);
      for (const id of ids) await stored(id, Buffer.from('xx'), Buffer.from('yyy'));
      const open = await spool.create(ids[0]!, 'chunk-open');
      await open.write([Buffer.from('zzzz')]);
      const found = await listed();
      await open.close();
      expect(found).toHaveLength(21);
      expect(new Set(found.map(({ id, name }) => `${id}/${name}`)).size).toBe(21);
      expect(found.filter(({ name }) => name === 'chunk-1').every(({ size }) => size === 3)).toBe(true);
      expect(found.find(({ name }) => name === 'chunk-open')).toMatchObject({ id: ids[0], size: 4 });
      for (const { modifiedAt } of found) expect(modifiedAt).toBeGreaterThan(before);
    });

    test('what was promised is known from then on, also to another who looks, and only grows', async () => {
      const id = newId();
      await stored(id, Buffer.from('abc'));
      expect(await spool.acknowledgedOffset(id)).toBe(0);
      for (const offset of [3, 10, 5, 2 ** 53 - 1, 7]) await spool.noteAcknowledged(id, offset);
      expect(await spool.acknowledgedOffset(id)).toBe(2 ** 53 - 1);
      expect(await spool.acknowledgedOffset(newId())).toBe(0);
    });

    test('many promises at once leave one of them, and an upload without bytes can have one', async () => {
      const id = newId();
      await Promise.all([1, 2, 3, 4, 5].map((offset) => spool.noteAcknowledged(id, offset)));
      const kept = await spool.acknowledgedOffset(id);
      expect(kept).toBeGreaterThan(0);
      await spool.noteAcknowledged(id, 6);
      expect(await spool.acknowledgedOffset(id)).toBe(6);
    });

    test('a promise is listed beside the chunks, outlives them, and goes with the upload', async () => {
      const id = newId();
      await stored(id, Buffer.from('abc'));
      await spool.noteAcknowledged(id, 3);
      await spool.removeChunk(id, 'chunk-0');
      expect(await spool.acknowledgedOffset(id)).toBe(3);
      expect((await listed()).map(({ id: found, name }) => [found, name])).toEqual([[id, ACKNOWLEDGED]]);
      await spool.remove(id);
      expect(await spool.acknowledgedOffset(id)).toBe(0);
      expect(await listed()).toEqual([]);
    });

    test('nothing that could lead elsewhere is ever part of a path', async () => {
      const id = newId();
      const badIds = [
        '',
        '.',
        '..',
        '../../../../../../tmp/x',
        `${id}/..`,
        `${id}\0`,
        'short',
        'a'.repeat(65),
        `.${id}`,
      ];
      const badNames = ['', '.', '..', '../x', 'a/b', 'a\\b', '.hidden', 'a\0', 'ä', 'a'.repeat(129)];
      const bad: [string, string][] = [
        ...badIds.map((each): [string, string] => [each, 'chunk-1']),
        ...badNames.map((each): [string, string] => [id, each]),
      ];
      const refused = expect.objectContaining({ name: 'Fault', code: 'CONTRACT_BROKEN' });
      for (const [badId, badName] of bad) {
        await expect(spool.create(badId, badName)).rejects.toEqual(refused);
        await expect(spool.size(badId, badName)).rejects.toEqual(refused);
        await expect(spool.removeChunk(badId, badName)).rejects.toEqual(refused);
        expect(() => spool.read(badId, [{ name: badName, start: 0, size: 1 }])).toThrow(refused);
      }
      for (const badId of badIds) {
        await expect(spool.remove(badId)).rejects.toEqual(refused);
        await expect(spool.noteAcknowledged(badId, 1)).rejects.toEqual(refused);
        await expect(spool.acknowledgedOffset(badId)).rejects.toEqual(refused);
      }
      expect(await listed()).toEqual([]);
    });
  });
}

async function bytesOf(stream: Readable): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of stream) pieces.push(piece as Buffer);
  return Buffer.concat(pieces);
}
