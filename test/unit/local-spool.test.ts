import fs from 'node:fs';
import { mkdir, readdir, readFile, readlink, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 as crcOfZlib } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { crc32 as crcOfPackage } from '@node-rs/crc32';
import fc from 'fast-check';
import { crc32 } from '../../src/fs/crc32.js';
import { DirectorySync } from '../../src/fs/directory-sync.js';
import { useFileSystem } from '../../src/fs/files.js';
import { Fault } from '../../src/model/fault.js';
import type { Chunk } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { FileChunkWriter, readChunks, retryIfMissing } from '../../src/spool/chunk-files.js';
import { answerName, areContiguous, chunkName, parseChunkName } from '../../src/spool/chunk-name.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { EmbeddedLeases } from '../../src/store/embedded/embedded-leases.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { GrowingChunk } from '../../src/uploads/chunk.js';
import { newId } from '../contract/sample-upload.js';
import { newUpload } from '../support/delivery-harness.js';
import { smallDisk, type SmallDisk } from '../support/disk.js';
import { MemoryDisk, memoryDisks } from '../support/memory-disk.js';
import { randomBytes, temporaryDirectory, type TemporaryDirectory, until, within } from '../support/temporary.js';
import { cases } from '../support/thoroughness.js';

describe('local spool', () => {
  const MiB = 1024 * 1024;
  const id = newId();

  describe('files of a local spool', () => {
    let directory: TemporaryDirectory;
    let spool: LocalSpool;
    const pathOf = (...parts: string[]): string => join(directory.path, 'spool', ...parts);

    beforeEach(async () => {
      directory = await temporaryDirectory();
      spool = new LocalSpool({ directory: directory.path, sync: 'group' });
      await spool.open();
    });
    afterEach(() => directory.remove());

    async function stored(content: string): Promise<void> {
      const writer = await spool.create(id, 'chunk-1');
      await writer.write([Buffer.from(content)]);
      await writer.close();
    }

    test('are below spool/, one a chunk, for their owner alone', async () => {
      await stored('hello');
      expect(await readFile(pathOf(id, 'chunk-1'), 'utf8')).toBe('hello');
      for (const path of [pathOf(), pathOf(id)]) expect((await stat(path)).mode & 0o777).toBe(0o700);
      expect((await stat(pathOf(id, 'chunk-1'))).mode & 0o777).toBe(0o600);
    });

    test('leave no empty directory behind, neither when the last is removed nor after a crash', async () => {
      await stored('hello');
      await spool.removeChunk(id, 'chunk-1');
      expect(await readdir(pathOf())).toEqual([]);
      await mkdir(pathOf(newId()));
      await stored('kept');
      await spool.open();
      for await (const { name } of spool.list()) expect(name).toBe('chunk-1');
      expect(await readdir(pathOf())).toEqual([id]);
      expect(await readFile(pathOf(id, 'chunk-1'), 'utf8')).toBe('kept');
    });

    test('that are discarded by their writer take no other of their name with them', async () => {
      const given = await spool.create(id, 'chunk-1');
      await given.write([Buffer.from('given up')]);
      await spool.remove(id);
      await stored('again');
      await given.discard();
      expect(await readFile(pathOf(id, 'chunk-1'), 'utf8')).toBe('again');
      const own = await spool.create(id, 'chunk-2');
      await own.discard();
      expect(await readdir(pathOf(id))).toEqual(['chunk-1']);
      const gone = await spool.create(id, 'chunk-2');
      await spool.remove(id);
      await gone.discard();
      expect(await readdir(pathOf())).toEqual([]);
    });

    test('that are not ours are not listed', async () => {
      await stored('hello');
      await writeFile(pathOf('lost+found'), '');
      await mkdir(pathOf('.snapshot-of-something-else'));
      await writeFile(pathOf(id, '.nfs0001'), '');
      await mkdir(pathOf(id, 'folder'));
      const found: string[] = [];
      for await (const chunk of spool.list()) found.push(`${chunk.id}/${chunk.name}`);
      expect(found).toEqual([`${id}/chunk-1`]);
    });

    test('are closed when their reader ends, fails or is given up in the middle of a read', async () => {
      await stored('x'.repeat(3 * MiB));
      const chunk = { name: 'chunk-1', start: 0, size: 3 * MiB };
      const left = spool.read(id, [chunk]).iterator();
      await left.next();
      await left.return!();
      const givenUp = spool.read(id, [chunk]);
      givenUp.read(0);
      await until(openedFiles, 'the file to be opened');
      givenUp.destroy();
      const failing = spool.read(id, [chunk]);
      failing.once('data', () => failing.destroy(new Error('on purpose')));
      await expect(failing.toArray()).rejects.toThrow('on purpose');
      await until(async () => !(await openedFiles()), 'all files to be closed');

      async function openedFiles(): Promise<boolean> {
        const fds = await readdir('/proc/self/fd');
        const targets = await Promise.all(fds.map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')));
        return targets.some((target) => target.startsWith(directory.path));
      }
    });

    test('that become shorter while they are read end the stream with a fault, not with fewer bytes', async () => {
      await stored('x'.repeat(4 * MiB));
      const stream = spool.read(id, [{ name: 'chunk-1', start: 0, size: 4 * MiB }]);
      const pieces = stream.iterator();
      await pieces.next();
      await truncate(pathOf(id, 'chunk-1'), MiB);
      const rest = async (): Promise<void> => {
        while (!(await pieces.next()).done);
      };
      await expect(rest()).rejects.toMatchObject({ code: 'BYTES_LOST' });
    });

    test('that somebody removed are not acknowledged any more', async () => {
      const writer = await spool.create(id, 'chunk-1');
      await writer.write([Buffer.from('a')]);
      await writer.sync();
      await rm(pathOf(id), { recursive: true });
      await writer.write([Buffer.from('b')]);
      await expect(writer.sync()).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      await expect(writer.sync()).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      await expect(writer.write([Buffer.from('c')])).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      await writer.close();
    });

    test('cannot be made where the spool itself vanished, and it is not made anew', async () => {
      await rename(pathOf(), pathOf('..', 'elsewhere'));
      await expect(spool.create(id, 'chunk-1')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE', retryable: true });
      await expect(spool.list().next()).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      expect(await readdir(directory.path)).toEqual(['elsewhere']);
    });

    test('a hundred uploads that begin at once are all durable when their first sync ends', async () => {
      const ids = Array.from({ length: 100 }, newId);
      const all = ids.map(async (each) => {
        const writer = await spool.create(each, 'chunk-1');
        await writer.write([Buffer.from(each)]);
        await writer.sync();
        await writer.close();
        return spool.size(each, 'chunk-1');
      });
      expect(await within(Promise.all(all), 'all of them')).toEqual(ids.map((each) => each.length));
    });
  });

  describe('a local spool on a full disk', () => {
    let disk: SmallDisk;
    let spool: LocalSpool;

    beforeEach(async () => {
      disk = await smallDisk();
      spool = new LocalSpool({ directory: disk.path, sync: 'group' });
      await spool.open();
    });
    afterEach(() => disk.remove());

    test('takes nothing more after a write that failed, and calls none of it durable', async () => {
      const writer = await spool.create(id, 'chunk-1');
      const first = Buffer.alloc(100_000, 'a');
      await writer.write([first]);
      await disk.fill();
      const much = Buffer.alloc(200_000, 'b');
      await expect(writer.write([much, much])).rejects.toMatchObject({ code: 'STORAGE_FULL', retryable: true });
      expect(writer.size).toBe(first.length);
      await disk.makeRoom();
      await expect(writer.sync()).rejects.toMatchObject({ code: 'STORAGE_FULL' });
      await expect(writer.write([Buffer.from('end')])).rejects.toMatchObject({ code: 'STORAGE_FULL' });
      expect(writer.size).toBe(first.length);
      await writer.close();
      const stream = spool.read(id, [{ name: 'chunk-1', start: 0, size: first.length }]);
      expect(Buffer.concat((await stream.toArray()) as Buffer[]).equals(first)).toBe(true);
    });

    test('on a read-only disk nothing is made, and the text says so', async () => {
      await disk.setReadOnly(true);
      const refusal = { code: 'STORAGE_UNAVAILABLE', message: expect.stringMatching(/EROFS|EACCES/) };
      await expect(spool.create(id, 'chunk-1')).rejects.toMatchObject(refusal);
      await disk.setReadOnly(false);
      const writer = await spool.create(id, 'chunk-1');
      await writer.close();
    });
  });

  describe('a writer', () => {
    let directory: TemporaryDirectory;
    const { writev } = fs;

    beforeEach(async () => {
      directory = await temporaryDirectory();
    });
    afterEach(async () => {
      Object.assign(fs, { writev });
      await directory.remove();
    });

    /** The system takes what it likes of each call. */
    type Written = (error: Error | null, written: number) => void;
    function interfere(
      how: (real: (bytes: Buffer, done: Written) => void, bytes: Buffer, done: Written) => void,
    ): void {
      const standIn = (fd: number, buffers: Buffer[], position: number, done: Written): void => {
        const real = (bytes: Buffer, then: Written): void => fs.write(fd, bytes, 0, bytes.length, position, then);
        how(real, Buffer.concat(buffers), done);
      };
      Object.assign(fs, { writev: standIn });
    }

    test('goes on where the system took only a part', async () => {
      const buffers = Array.from({ length: 50 }, (_, at) => randomBytes(at * 3, at + 1));
      interfere((real, bytes, done) => real(bytes.subarray(0, 1 + (bytes.length % 97)), done));
      const spool = new LocalSpool({ directory: directory.path, sync: 'none' });
      await spool.open();
      const writer = await spool.create(id, 'chunk-1');
      await writer.write(buffers);
      expect(writer.size).toBe(Buffer.concat(buffers).length);
      await writer.close();
      const bytes = await readFile(join(directory.path, 'spool', id, 'chunk-1'));
      expect(bytes.equals(Buffer.concat(buffers))).toBe(true);
    });

    test('does not count what it was told had failed', async () => {
      const spool = new LocalSpool({ directory: directory.path, sync: 'none' });
      await spool.open();
      const writer = await spool.create(id, 'chunk-1');
      await writer.write([Buffer.from('good')]);
      const error = Object.assign(new Error('EIO: i/o error, write'), { code: 'EIO', syscall: 'write' });
      interfere((real, bytes, done) => real(bytes, () => done(error, 0)));
      await expect(writer.write([Buffer.from('bad')])).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      expect(writer.size).toBe(4);
      await writer.close();
      interfere((_real, _bytes, done) => done(null, 0));
      const other = await spool.create(id, 'chunk-2');
      await expect(other.write([Buffer.from('none')])).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      await other.close();
    });
  });

  test('a device that takes no byte at all is a full disk', async () => {
    const writer = new FileChunkWriter(fs.openSync('/dev/full', 'w'), {
      path: '/dev/full',
      directories: [],
      directorySync: new DirectorySync('none'),
      failuresBefore: 0,
    });
    await expect(writer.write([Buffer.from('a'), Buffer.from('b')])).rejects.toMatchObject({ code: 'STORAGE_FULL' });
    expect(writer.size).toBe(0);
    await writer.close();
  });
});

describe('files that appear late', () => {
  // What an NFS client remembers wrongly cannot be had here: a file that appears with the refreshing stands for it.
  let directory: TemporaryDirectory;
  let hidden: string;
  let shown: string;
  const chunk = { name: 'chunk-1', start: 0, size: 5 };
  const refresh = (): Promise<void> => rename(hidden, shown);

  beforeEach(async () => {
    directory = await temporaryDirectory();
    [hidden, shown] = [join(directory.path, 'hidden'), join(directory.path, 'upload')];
    await mkdir(hidden);
    await writeFile(join(hidden, chunk.name), 'hello');
  });
  afterEach(() => directory.remove());

  test('a chunk that is there on a second, fresh look is read', async () => {
    expect(String(Buffer.concat(await readChunks(shown, [chunk], { refresh }).toArray()))).toBe('hello');
  });

  test('one that is not there then either is lost, and so is one that is too short', async () => {
    const lost = { code: 'BYTES_LOST' };
    await expect(readChunks(shown, [{ ...chunk, name: 'chunk-2' }], { refresh }).toArray()).rejects.toMatchObject(lost);
    await expect(readChunks(shown, [{ ...chunk, size: 6 }], { refresh }).toArray()).rejects.toMatchObject(lost);
  });

  test('what is there at once is not looked for again, whatever it is', async () => {
    const never = (): Promise<void> => Promise.reject(new Error('asked to refresh'));
    expect(await retryIfMissing(() => Promise.resolve(undefined), never)).toBeUndefined();
    expect(await retryIfMissing(() => Promise.resolve(0), never)).toBe(0);
  });

  test('what cannot be looked at is told as it is', async () => {
    const denied = Object.assign(new Error('EACCES'), { code: 'EACCES', syscall: 'open' });
    await expect(retryIfMissing(() => Promise.reject(denied), refresh)).rejects.toBe(denied);
  });
});

describe('acknowledged offsets', () => {
  describe('the file of a promise', () => {
    const id = newId();
    let directory: TemporaryDirectory;
    let spool: LocalSpool;
    let path: string;

    beforeEach(async () => {
      directory = await temporaryDirectory();
      spool = new LocalSpool({ directory: directory.path, sync: 'group' });
      await spool.open();
      path = join(directory.path, 'spool', id, 'promised');
    });
    afterEach(() => directory.remove());

    test('never grows, however much is promised', async () => {
      for (let offset = 1; offset < 20; offset++) await spool.noteAcknowledged(id, offset * 1e12);
      expect((await readFile(path)).length).toBeLessThanOrEqual(64);
    });

    test('is not written when it says as much already', async () => {
      await spool.noteAcknowledged(id, 100);
      const before = await readFile(path);
      await spool.noteAcknowledged(id, 100);
      await spool.noteAcknowledged(id, 99);
      expect(await readFile(path)).toEqual(before);
    });

    test('survives a write that was torn anywhere: the one before it counts', async () => {
      await spool.noteAcknowledged(id, 100);
      const before = await readFile(path);
      await spool.noteAcknowledged(id, 200_000_000);
      const after = await readFile(path);
      await fc.assert(
        fc.asyncProperty(fc.nat({ max: after.length }), async (torn) => {
          const mixed = Buffer.concat([after.subarray(0, torn), before.subarray(torn)]);
          await writeFile(path, mixed);
          expect([100, 200_000_000]).toContain(await spool.acknowledgedOffset(id));
          await spool.noteAcknowledged(id, 300_000_000);
          expect(await spool.acknowledgedOffset(id)).toBe(300_000_000);
        }),
        cases(70),
      );
    });

    test('that was never written whole promises nothing', async () => {
      await spool.noteAcknowledged(id, 100);
      for (const content of ['', '0000', 'x'.repeat(64), '0000000000000100 00000000\n']) {
        await writeFile(path, content);
        expect(await spool.acknowledgedOffset(id)).toBe(0);
      }
    });

    test('is for its owner alone, and nothing is beside it', async () => {
      await spool.noteAcknowledged(id, 1);
      expect(await readdir(join(directory.path, 'spool', id))).toEqual(['promised']);
    });
  });
});

describe('chunk names', () => {
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
});

describe('checksum functions', () => {
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
});

describe('growing chunks', () => {
  const ID = 'a'.repeat(32);
  const BYTES = Buffer.alloc(1000, 'x');

  beforeAll(() => useFileSystem(memoryDisks));
  afterAll(() => useFileSystem());

  async function open(disk: MemoryDisk): Promise<{ store: EmbeddedStore; spool: LocalSpool }> {
    const directory = `${disk.path}/data`;
    const store = await EmbeddedStore.open({ directory, sync: 'group', log: silentLog() });
    const spool = new LocalSpool({ directory, sync: 'group' });
    await spool.open();
    return { store, spool };
  }

  interface Troubled {
    /** Of the operations of the commit. */
    readonly first: number;
    /** From this one on every operation fails. */
    readonly rest: number;
    readonly end: 'kill' | 'power-cut';
    /** A request whose bytes count only as a whole is not rescued. */
    readonly rescued: boolean;
  }

  /** One commit in trouble, and a start after it; gives how many operations there were, and the chunks whose bytes are missing. */
  async function missingAfter({ first, rest, end, rescued }: Troubled): Promise<{ count: number; missing: string[] }> {
    const disk = new MemoryDisk();
    disk.makeDirectory('data');
    const { store, spool } = await open(disk);
    const upload = await store.create(newUpload(ID));
    const lease = await new EmbeddedLeases(store).take(ID);
    const name = chunkName(lease.token, 0);
    const task = { upload, lease, name, minCommitBytes: 0, onCommitted: () => undefined, onFailure: () => undefined };
    const pace = { bytes: 1_000_000, everyMs: 60_000 };
    const deps = { store, spool, metrics: new Metrics(), clock: Date.now, pace };
    const chunk = new GrowingChunk(await spool.create(ID, name), task, deps);
    await chunk.write([BYTES]);
    let count = 0;
    disk.fail(1, true, () => (++count === first || count >= rest ? 'EIO' : undefined));
    await chunk.commit().catch(async (fault: unknown) => {
      if (!(fault instanceof Fault)) throw fault;
      if (rescued) await chunk.commitAfterFault();
    });
    const operations = count;
    disk.heal();
    // The process lives on just long enough to remove files.
    await chunk.close();
    disk.crash(end);
    const again = await open(disk);
    const chunks = await again.store.chunks(ID);
    const missing: string[] = [];
    for (const { name: counted, size } of chunks)
      if (((await again.spool.size(ID, counted)) ?? 0) < size) missing.push(`${first}, ${rest}: ${counted}`);
    await again.store.close();
    disk.forget();
    return { count: operations, missing };
  }

  test.each((['kill', 'power-cut'] as const).flatMap((end) => [true, false].map((rescued) => [end, rescued] as const)))(
    'whatever fails in a commit, no bytes that a record may count are removed (%s, rescued: %s)',
    async (end, rescued) => {
      const missing: string[] = [];
      let most = 0;
      for (let first = 1; first <= Math.max(most, 10); first++)
        for (let rest = first; rest <= Math.max(most, 10) + 1; rest++) {
          const found = await missingAfter({ first, rest, end, rescued });
          missing.push(...found.missing);
          most = Math.max(most, found.count);
        }
      expect(most).toBeGreaterThan(10);
      expect(missing).toEqual([]);
    },
  );
});
