import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { chmodSync, existsSync, lstatSync, readFileSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import { KeyFile } from '../../src/secrets/key-file.js';
import { sealingKey } from '../../src/secrets/key-ring.js';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary.js';

let directory: TemporaryDirectory;
let path: string;

beforeEach(async () => {
  directory = await temporaryDirectory();
  path = join(directory.path, 'secrets.keys');
});

afterEach(async () => {
  useFileSystem();
  await directory.remove();
});

function lines(file = path): string[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '');
}

describe('a key file', () => {
  test('that exists is made durable at the start, because the process that made it may have been killed', async () => {
    await new KeyFile(path).create();
    const before = lines();
    const opened = new Map<number, string>();
    const synced: string[] = [];
    useFileSystem({
      ...nodeFileSystem,
      open: async (name, flags, mode) => {
        const fd = await nodeFileSystem.open(name, flags, mode);
        opened.set(fd, name);
        return fd;
      },
      fsync: (fd) => {
        synced.push(opened.get(fd)!);
        return nodeFileSystem.fsync(fd);
      },
    });
    await new KeyFile(path).create();
    expect(synced).toContain(directory.path);
    expect(lines()).toEqual(before);
  });

  test('loses no key of rotations at the same time', async () => {
    const file = new KeyFile(path);
    await file.create();
    const [first] = lines();
    await Promise.all([file.add(), file.add(), file.add()]);
    expect(new Set(lines()).size).toBe(4);
    expect(lines().at(-1)).toBe(first);
    // A key that comes meanwhile is not dropped with the older ones.
    const newest = sealingKey(lines()[0]!).id;
    await Promise.all([file.add(), file.dropOthers(newest)]);
    expect(lines()).toHaveLength(5);
  });

  test('keeps a key that another process adds while a change is written', async () => {
    const file = new KeyFile(path);
    await file.create();
    let others = 1;
    useFileSystem({
      ...nodeFileSystem,
      fdatasync: async (fd) => {
        if (others-- > 0) writeFileSync(path, `the-key-of-another-process\n${lines().join('\n')}\n`);
        return nodeFileSystem.fdatasync(fd);
      },
    });
    await file.add();
    expect(lines()).toEqual([expect.any(String), 'the-key-of-another-process', expect.any(String)]);
  });

  test('that is removed gets its keys back', async () => {
    const file = new KeyFile(path);
    await file.create();
    await file.add();
    const keys = file.read().map(({ id }) => id);
    expect(file.isGone()).toBe(false);
    await rm(path);
    expect(file.isGone()).toBe(true);
    await file.create();
    expect(file.read().map(({ id }) => id)).toEqual(keys);
    await rm(path);
    await file.add();
    expect(
      file
        .read()
        .map(({ id }) => id)
        .slice(1),
    ).toEqual(keys);
  });

  test('that is a link stays one: other processes use the same file', async () => {
    await mkdir(join(directory.path, 'shared'));
    const shared = join(directory.path, 'shared', 'keys');
    writeFileSync(shared, 'the-first-of-the-keys\n');
    symlinkSync(shared, path);
    await new KeyFile(path).add();
    expect(lstatSync(path).isSymbolicLink()).toBe(true);
    expect(lines(shared)).toEqual([expect.any(String), 'the-first-of-the-keys']);
    expect(await readdir(directory.path)).toEqual(['secrets.keys', 'shared']);
  });

  test('leaves no draft of a killed process, which has keys that were dropped', async () => {
    const draft = `${path}-01234567-89ab-cdef-0123-456789abcdef`;
    writeFileSync(draft, 'a-key-of-long-ago\n');
    chmodSync(draft, 0o600);
    const before = Date.now() / 1000 - 7200;
    utimesSync(draft, before, before);
    await new KeyFile(path).create();
    expect(existsSync(draft)).toBe(false);
    expect(await readdir(directory.path)).toEqual(['secrets.keys']);
  });
});
