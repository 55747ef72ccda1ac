import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { hasCode } from './storage-fault.js';

/** One name in a directory. */
export interface DirectoryEntry {
  readonly name: string;
  isFile(): boolean;
  isDirectory(): boolean;
  isSymbolicLink(): boolean;
}

/**
 * Every operation on files of the data directory, one method a system call. Tests put a disk in its place that fails when
 * they say so, and that forgets at a power cut what was never synced.
 */
export interface FileSystem {
  open(path: string, flags: string, mode?: number): Promise<number>;
  close(fd: number): Promise<void>;
  read(fd: number, into: Uint8Array, position: number): Promise<number>;
  readv(fd: number, buffers: readonly Uint8Array[], position: number): Promise<number>;
  write(fd: number, bytes: Uint8Array, position: number): Promise<number>;
  writev(fd: number, buffers: readonly Uint8Array[], position: number): Promise<number>;
  fsync(fd: number): Promise<void>;
  fdatasync(fd: number): Promise<void>;
  ftruncate(fd: number, size: number): Promise<void>;
  fstat(fd: number): Promise<fs.Stats>;
  stat(path: string): Promise<fs.Stats>;
  lstat(path: string): Promise<fs.Stats>;
  access(path: string, mode?: number): Promise<void>;
  utimes(path: string, accessedAt: Date, modifiedAt: Date): Promise<void>;
  mkdir(path: string, mode: number): Promise<void>;
  rmdir(path: string): Promise<void>;
  readdir(path: string): Promise<string[]>;
  opendir(path: string): Promise<AsyncIterable<DirectoryEntry>>;
  rename(from: string, to: string): Promise<void>;
  link(existing: string, path: string): Promise<void>;
  unlink(path: string): Promise<void>;
  /** A whole directory, or nothing where there is none. */
  removeTree(path: string): Promise<void>;
}

type Callback<T> = (error: NodeJS.ErrnoException | null, result: T) => void;

function called<T>(call: (done: Callback<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    call((error, result) => {
      if (error) reject(error);
      else resolve(result);
    });
  });
}

/** Bare descriptors: a FileHandle costs a fifth more per call and its streams far more per chunk. */
export const machineFiles: FileSystem = {
  open: (path, flags, mode) => called((done) => fs.open(path, flags, mode, done)),
  close: (fd) => called((done: Callback<void>) => fs.close(fd, done as fs.NoParamCallback)),
  read: (fd, into, position) => called((done) => fs.read(fd, into, 0, into.length, position, done)),
  readv: (fd, buffers, position) => called((done) => fs.readv(fd, buffers as Uint8Array[], position, done)),
  write: (fd, bytes, position) => called((done) => fs.write(fd, bytes, 0, bytes.length, position, done)),
  writev: (fd, buffers, position) => called((done) => fs.writev(fd, buffers, position, done)),
  fsync: (fd) => called((done: Callback<void>) => fs.fsync(fd, done as fs.NoParamCallback)),
  fdatasync: (fd) => called((done: Callback<void>) => fs.fdatasync(fd, done as fs.NoParamCallback)),
  ftruncate: (fd, size) => called((done: Callback<void>) => fs.ftruncate(fd, size, done as fs.NoParamCallback)),
  fstat: (fd) => called((done) => fs.fstat(fd, done)),
  stat: (path) => fs.promises.stat(path),
  lstat: (path) => fs.promises.lstat(path),
  access: (path, mode) => fs.promises.access(path, mode),
  utimes: (path, accessedAt, modifiedAt) => fs.promises.utimes(path, accessedAt, modifiedAt),
  mkdir: (path, mode) => fs.promises.mkdir(path, { mode }),
  rmdir: (path) => fs.promises.rmdir(path),
  readdir: (path) => fs.promises.readdir(path),
  opendir: (path) => fs.promises.opendir(path),
  rename: (from, to) => fs.promises.rename(from, to),
  link: (existing, path) => fs.promises.link(existing, path),
  unlink: (path) => fs.promises.unlink(path),
  removeTree: (path) => fs.promises.rm(path, { recursive: true, force: true, maxRetries: 2 }),
};

let files = machineFiles;

/** For tests: every operation goes to this one from now on; without it, to the machine's own disk again. */
export function useFileSystem(other: FileSystem = machineFiles): void {
  files = other;
}

export const open: FileSystem['open'] = (path, flags, mode) => files.open(path, flags, mode);
export const close: FileSystem['close'] = (fd) => files.close(fd);
export const read: FileSystem['read'] = (fd, into, position) => files.read(fd, into, position);
export const readv: FileSystem['readv'] = (fd, buffers, position) => files.readv(fd, buffers, position);
export const writev: FileSystem['writev'] = (fd, buffers, position) => files.writev(fd, buffers, position);
export const fsync: FileSystem['fsync'] = (fd) => files.fsync(fd);
export const fdatasync: FileSystem['fdatasync'] = (fd) => files.fdatasync(fd);
export const ftruncate: FileSystem['ftruncate'] = (fd, size) => files.ftruncate(fd, size);
export const fstat: FileSystem['fstat'] = (fd) => files.fstat(fd);
export const stat: FileSystem['stat'] = (path) => files.stat(path);
export const lstat: FileSystem['lstat'] = (path) => files.lstat(path);
export const access: FileSystem['access'] = (path, mode) => files.access(path, mode);
export const utimes: FileSystem['utimes'] = (path, accessedAt, modifiedAt) =>
  files.utimes(path, accessedAt, modifiedAt);
export const mkdir: FileSystem['mkdir'] = (path, mode) => files.mkdir(path, mode);
export const rmdir: FileSystem['rmdir'] = (path) => files.rmdir(path);
export const readdir: FileSystem['readdir'] = (path) => files.readdir(path);
export const opendir: FileSystem['opendir'] = (path) => files.opendir(path);
export const rename: FileSystem['rename'] = (from, to) => files.rename(from, to);
export const link: FileSystem['link'] = (existing, path) => files.link(existing, path);
export const unlink: FileSystem['unlink'] = (path) => files.unlink(path);
export const removeTree: FileSystem['removeTree'] = (path) => files.removeTree(path);

/** Writes all of it at the position, however many calls the system makes of it. */
export async function writeAll(fd: number, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await files.write(fd, bytes.subarray(at), position + at);
}

/** Makes or replaces a file that is for the owner alone, and syncs its bytes where they must survive a power cut. */
export async function writeWhole(path: string, bytes: Uint8Array, durable: boolean): Promise<void> {
  const fd = await open(path, 'w', 0o600);
  try {
    await writeAll(fd, bytes, 0);
    if (durable) await fdatasync(fd);
  } finally {
    await close(fd);
  }
}

/** All bytes of a file. */
export async function readWhole(path: string): Promise<Buffer> {
  const fd = await open(path, 'r');
  try {
    return await readAll(fd);
  } finally {
    await close(fd);
  }
}

/** All bytes of an opened file. */
export async function readAll(fd: number): Promise<Buffer> {
  const { size } = await fstat(fd);
  const bytes = Buffer.allocUnsafe(size);
  let at = 0;
  for (let got = -1; at < size && got !== 0; at += got) got = await read(fd, bytes.subarray(at), at);
  return bytes.subarray(0, at);
}

/** A small file as text. */
export async function readText(path: string): Promise<string> {
  return (await readWhole(path)).toString();
}

/** Makes a file that is for the owner alone; fails where there is one. */
export async function writeNew(path: string, text: string): Promise<void> {
  const fd = await open(path, 'wx', 0o600);
  try {
    await writeAll(fd, Buffer.from(text), 0);
  } finally {
    await close(fd);
  }
}

/** A file that is gone already is as good. */
export async function unlinkIfThere(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
  }
}

/** What is left of the buffers when this many bytes are taken off their beginning. */
export function after(buffers: readonly Uint8Array[], taken: number): Uint8Array[] {
  let skip = taken;
  let first = 0;
  while (skip >= buffers[first]!.length) skip -= buffers[first++]!.length;
  return [buffers[first]!.subarray(skip), ...buffers.slice(first + 1)];
}

/** Between the tries of a read that the system refuses: one that fails once says nothing of the bytes. */
const READ_AGAIN_MS = [20, 100, 400];

/** A disk that fails once, or a process that is out of descriptors for a moment, is asked again. */
export async function patiently<T>(task: () => Promise<T>): Promise<T> {
  for (const pauseMs of READ_AGAIN_MS) {
    try {
      return await task();
    } catch (error) {
      if (hasCode(error, 'ENOENT')) throw error;
      await sleep(pauseMs);
    }
  }
  return task();
}
