import fs from 'node:fs';
import { mkdir, readdir, readFile, readlink, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { DirectorySync } from '../../src/fs/directory-sync.js';
import { FileChunkWriter } from '../../src/spool/chunk-files.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { newId } from '../contract/sample-upload.js';
import { smallDisk, type SmallDisk } from '../support/small-disk.js';
import { randomBytes, temporaryDirectory, type TemporaryDirectory, until, within } from '../support/temporary.js';

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
  function interfere(how: (real: (bytes: Buffer, done: Written) => void, bytes: Buffer, done: Written) => void): void {
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
