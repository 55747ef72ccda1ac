import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { assertShareable, writeSpoolMark, readSpoolMark } from '../../src/spool/shared-directory.js';
import { newId } from '../contract/sample-upload.js';
import { smallDisk } from '../support/small-disk.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

let directory: TemporaryDirectory;

beforeEach(async () => {
  directory = await temporaryDirectory();
});
afterEach(() => directory.remove());

describe('a directory for many machines', () => {
  test('is tried out by several at once, and nothing is left of it', async () => {
    await Promise.all(['a', 'b', 'c'].map((unique) => assertShareable(directory.path, unique)));
    expect(await readdir(directory.path)).toEqual([]);
  });

  test('that is no directory is refused by its name', async () => {
    const path = join(directory.path, 'file');
    await writeFile(path, '');
    const refused = assertShareable(path, 'a');
    await expect(refused).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE', retryable: false });
    await expect(refused).rejects.toThrow(`${path}: EEXIST`);
    await expect(refused).rejects.toThrow('spool.shared needs a directory where directories can be created');
  });

  test('that cannot be written is refused', async () => {
    const disk = await smallDisk(1024);
    await disk.setReadOnly(true);
    await expect(assertShareable(disk.path, 'a')).rejects.toThrow('EROFS');
    await disk.setReadOnly(false);
    await disk.remove();
  });

  test('that keeps no bytes is refused', async () => {
    const disk = await smallDisk(64);
    await expect(assertShareable(disk.path, 'a')).rejects.toThrow(
      'needs a directory where written bytes are visible to the next process that opens the file',
    );
    expect(await readdir(disk.path)).toEqual([]);
    await disk.remove();
  });

  test('belongs to no store at first, then to the one that was noted', async () => {
    expect(await readSpoolMark(directory.path)).toBeUndefined();
    await Promise.all(['a', 'b'].map((unique) => writeSpoolMark(directory.path, 'store-1', unique)));
    expect(await readSpoolMark(directory.path)).toBe('store-1');
    await writeSpoolMark(directory.path, 'store-2', 'a');
    expect(await readSpoolMark(directory.path)).toBe('store-2');
    expect(await readdir(join(directory.path, 'spool'))).toEqual(['.store']);
  });

  test('whose note cannot be read is nobody’s to judge', async () => {
    await mkdir(join(directory.path, 'spool', '.store'), { recursive: true });
    await expect(readSpoolMark(directory.path)).rejects.toThrow(`${directory.path}: EISDIR`);
  });
});

describe('a shared spool', () => {
  const id = newId();
  const chunk = { name: 'chunk-1', start: 0, size: 5 };
  let spool: LocalSpool;

  beforeEach(async () => {
    await writeSpoolMark(directory.path, 'store-1', 'a');
    spool = new LocalSpool({ directory: directory.path, sync: 'none', isShared: true });
    await spool.open();
    const writer = await spool.create(id, 'chunk-1');
    await writer.write([Buffer.from('hello')]);
    await writer.close();
  });

  test('is read and listed by every node', async () => {
    const other = new LocalSpool({ directory: directory.path, sync: 'none', isShared: true });
    await other.open();
    expect(String(Buffer.concat(await other.read(id, [chunk]).toArray()))).toBe('hello');
    expect(await filesOf(other)).toEqual([`${id}/chunk-1`]);
  });

  test('that is not mounted has lost nothing, and is not opened', async () => {
    const away = { code: 'STORAGE_UNAVAILABLE' };
    await rm(join(directory.path, 'spool'), { recursive: true });
    await mkdir(join(directory.path, 'spool'));
    await expect(spool.read(id, [chunk]).toArray()).rejects.toMatchObject(away);
    await expect(spool.size(id, 'chunk-1')).rejects.toMatchObject(away);
    await expect(spool.acknowledgedOffset(id)).rejects.toMatchObject(away);
    await expect(spool.open()).rejects.toMatchObject(away);
  });

  test('that is mounted says what is lost', async () => {
    await spool.remove(id);
    await expect(spool.read(id, [chunk]).toArray()).rejects.toMatchObject({ code: 'BYTES_LOST' });
    expect(await spool.size(id, 'chunk-1')).toBeUndefined();
    expect(await spool.acknowledgedOffset(id)).toBe(0);
  });

  test('keeps its empty directories when it is opened, since somebody may be about to use them, until it is listed', async () => {
    const empty = newId();
    await mkdir(join(directory.path, 'spool', empty));
    await spool.open();
    expect(await readdir(join(directory.path, 'spool'))).toContain(empty);
    expect(await filesOf(spool)).toEqual([`${id}/chunk-1`]);
    expect((await readdir(join(directory.path, 'spool'))).sort()).toEqual(['.store', id].sort());
  });
});

async function filesOf(spool: LocalSpool): Promise<string[]> {
  const found: string[] = [];
  for await (const file of spool.list()) found.push(`${file.id}/${file.name}`);
  return found;
}

test('the directory of a spool of one machine that vanishes as a whole has lost nothing', async () => {
  const spool = new LocalSpool({ directory: directory.path, sync: 'none' });
  await spool.open();
  await rm(join(directory.path, 'spool'), { recursive: true });
  const chunk = { name: 'chunk-1', start: 0, size: 5 };
  const id = newId();
  await expect(spool.read(id, [chunk]).toArray()).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  await expect(spool.size(id, 'chunk-1')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
});
