import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { retryIfMissing, readChunks } from '../../src/spool/chunk-files.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

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
