import { execFile } from 'node:child_process';
import fs from 'node:fs';
import { chmod, lstat, open, readdir, readFile, readlink, rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { sha256, temporaryDirectory, type TemporaryDirectory, until } from './temporary.js';
import { storedIdOf } from './stored-id.js';

const run = promisify(execFile);

/** A directory whose disk can be made full, or read-only, at will. */
export interface SmallDisk {
  readonly path: string;
  /** Leaves about so many bytes of room. */
  fill(leaveBytes?: number): Promise<void>;
  makeRoom(): Promise<void>;
  setReadOnly(readOnly: boolean): Promise<void>;
  remove(): Promise<void>;
}

/** A real file system of its own where mounting is allowed; elsewhere the system calls are made to fail as it would. */
export async function smallDisk(sizeKiB = 1024): Promise<SmallDisk> {
  const directory = await temporaryDirectory('rufh-disk-');
  try {
    await run('mount', ['-t', 'tmpfs', '-o', `size=${sizeKiB}k,mode=0700`, 'tmpfs', directory.path]);
  } catch {
    // Not Linux, or not root.
    return imitatedDisk(directory);
  }
  return mountedDisk(directory);
}

function mountedDisk(directory: TemporaryDirectory): SmallDisk {
  const { path } = directory;
  const filler = join(path, 'filler');
  return {
    path,
    fill: async (leaveBytes = 0) => {
      await fillUp(filler);
      await truncate(filler, (await stat(filler)).size - leaveBytes);
    },
    makeRoom: () => rm(filler),
    setReadOnly: async (readOnly) => {
      const remount = (): Promise<unknown> => run('mount', ['-o', `remount,${readOnly ? 'ro' : 'rw'}`, path]);
      // A file that is being written just now keeps the disk busy.
      await until(
        () =>
          remount().then(
            () => true,
            () => false,
          ),
        'the disk to be mounted anew',
      );
    },
    remove: async () => {
      await run('umount', ['--lazy', path]);
      await directory.remove();
    },
  };
}

async function fillUp(path: string): Promise<void> {
  const file = await open(path, 'w');
  try {
    for (const size of [65_536, 1024, 1]) await writeUntilFull(file, Buffer.alloc(size));
  } finally {
    await file.close();
  }
}

async function writeUntilFull(file: fs.promises.FileHandle, piece: Buffer): Promise<void> {
  for (;;) {
    try {
      await file.write(piece);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOSPC') return;
      throw error;
    }
  }
}

const { write, writev } = fs;

function imitatedDisk(directory: TemporaryDirectory): SmallDisk {
  const { path } = directory;
  const makeRoom = (): Promise<void> => {
    Object.assign(fs, { write, writev });
    return Promise.resolve();
  };
  return {
    path,
    fill: (leaveBytes = 0) => {
      Object.assign(fs, writesWithin(leaveBytes));
      return Promise.resolve();
    },
    makeRoom,
    setReadOnly: async (readOnly) => {
      for (const name of ['', ...(await readdir(path, { recursive: true })).sort()]) {
        const isDirectory = (await stat(join(path, name))).isDirectory();
        await chmod(join(path, name), (isDirectory ? 0o500 : 0o400) | (readOnly ? 0 : 0o200));
      }
    },
    remove: async () => {
      await makeRoom();
      await directory.remove();
    },
  };
}

type Written = (error: Error | null, written: number) => void;

/** Stand in for fs.write and fs.writev: they take so many bytes in all, and then none. */
function writesWithin(leaveBytes: number): object {
  let left = leaveBytes;
  const take = (fd: number, bytes: Buffer, position: number, done: Written): void => {
    const part = bytes.subarray(0, left);
    left -= part.length;
    const error = Object.assign(new Error('ENOSPC: no space left on device, write'), {
      code: 'ENOSPC',
      syscall: 'write',
    });
    if (part.length === 0) queueMicrotask(() => done(error, 0));
    else write(fd, part, 0, part.length, position, done);
  };
  return {
    writev: (fd: number, buffers: Buffer[], position: number, done: Written) =>
      take(fd, Buffer.concat(buffers), position, done),
    write: (fd: number, bytes: Buffer, offset: number, length: number, position: number, done: Written) =>
      take(fd, bytes.subarray(offset, offset + length), position, done),
  };
}

/** How many bytes of an upload have reached the proxy's disk, committed or not. */
export async function spooledBytes(data: string, id: string): Promise<number> {
  const directory = join(data, 'spool', id);
  const names = (await readdir(directory).catch(() => [])).filter((name) => /^(chunk|whole)-/.test(name));
  // Files that go while we look are gone.
  const sizes = await Promise.all(names.map((name) => stat(join(directory, name)).catch(() => ({ size: 0 }))));
  return sizes.reduce((sum, { size }) => sum + size, 0);
}

/** Waits until that many have. */
export async function untilSpooled(data: string, location: string, bytes: number): Promise<void> {
  const id = storedIdOf(new URL(location).pathname);
  let last = 0;
  await until(
    async () => (last = await spooledBytes(data, id)) >= bytes,
    () => `${bytes} bytes in the spool (${last})`,
  );
}

/** Those that running processes touch by themselves. */
const SIGNS_OF_LIFE = new Set(['lock', 'spool/.in-use']);

/** Every name below a directory with its kind, rights, owner, times and content: equal pictures, unchanged directory. */
export async function pictureOf(path: string): Promise<Record<string, string>> {
  const lines: Record<string, string> = {};
  await note(path, '.', lines);
  return lines;
}

async function note(path: string, name: string, lines: Record<string, string>): Promise<void> {
  const found = await lstat(path);
  const changedAt = SIGNS_OF_LIFE.has(name) ? 0 : found.mtimeMs;
  const about = [found.mode.toString(8), found.uid, found.ino, changedAt].join(' ');
  if (found.isSymbolicLink()) lines[name] = `${about} -> ${await readlink(path)}`;
  else if (found.isFile()) lines[name] = `${about} ${sha256(await readFile(path))}`;
  else lines[name] = about;
  if (!found.isDirectory()) return;
  for (const entry of await readdir(path)) await note(join(path, entry), join(name, entry), lines);
}
