import fs from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Fault } from '../model/fault.js';

/** An entry of a directory. */
export interface DirectoryEntry {
  readonly name: string;
  isFile(): boolean;
  isDirectory(): boolean;
  isSymbolicLink(): boolean;
}

/**
 * Every operation on files of the data directory, one method per system call. Tests replace it with a disk that fails
 * on request and loses at a power cut what was never synced.
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
  /** All entries at once, for a directory that is small. */
  readdirEntries(path: string): Promise<readonly DirectoryEntry[]>;
  opendir(path: string): Promise<AsyncIterable<DirectoryEntry>>;
  rename(from: string, to: string): Promise<void>;
  link(existing: string, path: string): Promise<void>;
  unlink(path: string): Promise<void>;
  /** Removes a directory with its content; does nothing where there is none. */
  removeTree(path: string): Promise<void>;
  /** Opens a file for reading. This and the next three block the process: see `BlockingReader`. */
  openSync(path: string): number;
  readSync(fd: number, into: Uint8Array, position: number): number;
  closeSync(fd: number): void;
  readdirEntriesSync(path: string): readonly DirectoryEntry[];
}

type Callback<T> = (error: NodeJS.ErrnoException | null, result: T) => void;

function promised<T>(call: (done: Callback<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    call((error, result) => {
      if (error) reject(error);
      else resolve(result);
    });
  });
}

/**
 * Node's own operations. Plain descriptors, because a FileHandle costs a fifth more per call and its streams far more per
 * chunk. Reasons for the thread pool: docs/decisions/0039.
 */
export const nodeFileSystem: FileSystem = {
  open: (path, flags, mode) => promised((done) => fs.open(path, flags, mode, done)),
  close: (fd) => promised((done: Callback<void>) => fs.close(fd, done as fs.NoParamCallback)),
  read: (fd, into, position) => promised((done) => fs.read(fd, into, 0, into.length, position, done)),
  readv: (fd, buffers, position) => promised((done) => fs.readv(fd, buffers as Uint8Array[], position, done)),
  write: (fd, bytes, position) => promised((done) => fs.write(fd, bytes, 0, bytes.length, position, done)),
  writev: (fd, buffers, position) => promised((done) => fs.writev(fd, buffers, position, done)),
  fsync: (fd) => promised((done: Callback<void>) => fs.fsync(fd, done as fs.NoParamCallback)),
  fdatasync: (fd) => promised((done: Callback<void>) => fs.fdatasync(fd, done as fs.NoParamCallback)),
  ftruncate: (fd, size) => promised((done: Callback<void>) => fs.ftruncate(fd, size, done as fs.NoParamCallback)),
  fstat: (fd) => promised((done) => fs.fstat(fd, done)),
  stat: (path) => fs.promises.stat(path),
  lstat: (path) => fs.promises.lstat(path),
  access: (path, mode) => fs.promises.access(path, mode),
  utimes: (path, accessedAt, modifiedAt) => fs.promises.utimes(path, accessedAt, modifiedAt),
  mkdir: (path, mode) => fs.promises.mkdir(path, { mode }),
  rmdir: (path) => fs.promises.rmdir(path),
  readdir: (path) => fs.promises.readdir(path),
  readdirEntries: (path) => fs.promises.readdir(path, { withFileTypes: true }),
  opendir: (path) => fs.promises.opendir(path, { bufferSize: 256 }),
  rename: (from, to) => fs.promises.rename(from, to),
  link: (existing, path) => fs.promises.link(existing, path),
  unlink: (path) => fs.promises.unlink(path),
  removeTree: (path) => fs.promises.rm(path, { recursive: true, force: true, maxRetries: 2 }),
  openSync: (path) => fs.openSync(path, 'r'),
  readSync: (fd, into, position) => fs.readSync(fd, into, 0, into.length, position),
  closeSync: (fd) => fs.closeSync(fd),
  readdirEntriesSync: (path) => fs.readdirSync(path, { withFileTypes: true }),
};

let files = nodeFileSystem;

/** For tests: sends every operation to this file system from now on, or to the real one again. */
export function useFileSystem(fileSystem: FileSystem = nodeFileSystem): void {
  files = fileSystem;
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
export const readdirEntries: FileSystem['readdirEntries'] = (path) => files.readdirEntries(path);
export const readdirEntriesSync: FileSystem['readdirEntriesSync'] = (path) => files.readdirEntriesSync(path);
export const opendir: FileSystem['opendir'] = (path) => files.opendir(path);
export const rename: FileSystem['rename'] = (from, to) => files.rename(from, to);
export const link: FileSystem['link'] = (existing, path) => files.link(existing, path);
export const unlink: FileSystem['unlink'] = (path) => files.unlink(path);
export const removeTree: FileSystem['removeTree'] = (path) => files.removeTree(path);

/** Writes all bytes at the position, in as many calls as the system needs. */
export async function writeAll(fd: number, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await files.write(fd, bytes.subarray(at), position + at);
}

/** Makes or replaces a file that only the owner can read; `durable` syncs its bytes, but not its name. */
export async function writeFully(path: string, bytes: Uint8Array, durable: boolean): Promise<void> {
  const fd = await open(path, 'w', 0o600);
  try {
    await writeAll(fd, bytes, 0);
    if (durable) await fdatasync(fd);
  } finally {
    await close(fd);
  }
}

/** All bytes of a file. Rejects when the system gives fewer than the file has, which would look like lost lines. */
export async function readFully(path: string): Promise<Buffer> {
  const fd = await open(path, 'r');
  try {
    const { size } = await fstat(fd);
    const bytes = await readUpTo(fd, size);
    if (bytes.length < size) throw new Fault('STORAGE_UNAVAILABLE', 'a read gave only a part of a file', true);
    return bytes;
  } finally {
    await close(fd);
  }
}

/** The bytes of an opened file, which another process may be changing. */
export async function readAll(fd: number): Promise<Buffer> {
  return readUpTo(fd, (await fstat(fd)).size);
}

async function readUpTo(fd: number, size: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(size);
  let at = 0;
  for (let got = -1; at < size && got !== 0; at += got) got = await read(fd, bytes.subarray(at), at);
  return bytes.subarray(0, at);
}

/**
 * Reads many small files one after the other into one buffer. Each read blocks the process, which costs a tenth of a
 * read in the thread pool and keeps no garbage: only for a process that does not serve yet.
 */
export class BlockingReader {
  private buffer = Buffer.allocUnsafeSlow(64 * 1024);

  /** All bytes of a file, valid until the next call. Throws the system's error. */
  read(path: string): Buffer {
    const fd = files.openSync(path);
    try {
      for (let size = 0; ;) {
        if (size === this.buffer.length) this.buffer = Buffer.concat([this.buffer, Buffer.allocUnsafe(size)]);
        const got = files.readSync(fd, this.buffer.subarray(size), size);
        if (got === 0) return this.buffer.subarray(0, size);
        size += got;
      }
    } finally {
      files.closeSync(fd);
    }
  }
}

/** A small file as text. */
export async function readText(path: string): Promise<string> {
  return (await readFully(path)).toString();
}

/** Makes a file that only the owner can read; rejects with EEXIST where there is one. */
export async function createFile(path: string, text: string): Promise<void> {
  const fd = await open(path, 'wx', 0o600);
  try {
    await writeAll(fd, Buffer.from(text), 0);
  } finally {
    await close(fd);
  }
}

/** Removes a file; a missing one is no error. */
export async function unlinkIfExists(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
  }
}

/** The buffers without their first `count` bytes; at least one byte must remain. */
export function skipBytes(buffers: readonly Uint8Array[], count: number): Uint8Array[] {
  let skip = count;
  let first = 0;
  while (skip >= buffers[first]!.length) skip -= buffers[first++]!.length;
  return [buffers[first]!.subarray(skip), ...buffers.slice(first + 1)];
}

/** The pauses between the attempts of a read; a single failure does not mean that the bytes are damaged. */
const READ_RETRY_DELAYS_MS = [20, 100, 400];

/**
 * Runs a read up to `attempts` times, since a disk may fail once and a process may be out of descriptors for a moment.
 * A missing file rejects immediately.
 */
export async function withReadRetries<T>(
  task: () => Promise<T>,
  attempts = READ_RETRY_DELAYS_MS.length + 1,
): Promise<T> {
  for (const pauseMs of READ_RETRY_DELAYS_MS.slice(0, attempts - 1)) {
    try {
      return await task();
    } catch (error) {
      if (hasCode(error, 'ENOENT')) throw error;
      await sleep(pauseMs);
    }
  }
  return task();
}

/** Removes a directory if it is empty; any other directory, or a missing one, is no error. */
export async function removeIfEmpty(directory: string): Promise<void> {
  try {
    await rmdir(directory);
  } catch (error) {
    if (!hasCode(error, 'ENOENT', 'ENOTEMPTY', 'EEXIST', 'ENOTDIR')) throw error;
  }
}

/** A draft of this age belongs to no running process: giving a draft its final name takes moments. */
const STALE_DRAFT_MS = 3_600_000;

/**
 * Makes a file through a draft and removes the draft afterwards; a draft that the disk does not remove is left to
 * `removeDrafts`.
 */
export async function withDraft<T>(draft: string, make: () => Promise<T>): Promise<T> {
  try {
    return await make();
  } finally {
    await unlinkIfExists(draft).catch(() => undefined);
  }
}

/**
 * Removes the drafts of killed processes and failed writes: those that are too old to be in use, or all of them where
 * only this process uses the directory (`isShared: false`).
 */
export async function removeDrafts(
  directory: string,
  isDraft: RegExp,
  { isShared = true }: { readonly isShared?: boolean } = {},
): Promise<void> {
  try {
    for (const name of await readdir(directory)) {
      if (!isDraft.test(name)) continue;
      const stats = await lstat(join(directory, name));
      const isAbandoned = !isShared || Date.now() - stats.mtimeMs > STALE_DRAFT_MS;
      if (stats.isFile() && isAbandoned) await unlink(join(directory, name));
    }
  } catch {
    // Leftover drafts do no harm, and the next start tries again.
  }
}

const ID = /^[A-Za-z0-9_-]{20,64}$/;
const CHUNK_NAME = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$/;

/** Whether a text may be the id of an upload: 20 to 64 characters of base64url. */
export function isUploadId(id: string): boolean {
  return ID.test(id);
}

/** The last check before a path is built: throws unless the text is an id. */
export function assertUploadId(id: string): void {
  if (!ID.test(id)) throw new Fault('CONTRACT_BROKEN', 'not an upload id', false);
}

/** Whether a text may be the name of a chunk file. */
export function isChunkName(name: string): boolean {
  return CHUNK_NAME.test(name);
}

/** Throws unless the text is the name of a chunk file: no separators and no leading dot. */
export function assertChunkName(name: string): void {
  if (!CHUNK_NAME.test(name)) throw new Fault('CONTRACT_BROKEN', 'not a chunk name', false);
}

/** A quota and a file size limit mean the same as a full disk: there is no space for the bytes. */
const OUT_OF_SPACE: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** Node has no code for some error numbers of the system, such as EDQUOT and ESTALE: "Unknown system error -122". */
const ERROR_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno).map(([name, number]) => [-number, name]),
);

interface SystemError {
  readonly code: string;
  readonly errno?: number;
  readonly syscall?: string;
  readonly message: string;
}

/**
 * Turns an error of the operating system into a `Fault` with `failure` as its message; returns any other error
 * unchanged.
 */
export function storageFault(error: unknown, failure: string): Error {
  if (!isSystemError(error)) return error as Error;
  const code = errorCode(error);
  const detail = `${code}${error.syscall ? ` in ${error.syscall}` : ''}`;
  // The system's message contains the path, and with it the upload's secret id.
  const cause = new Error(error.message.replaceAll(/'[^']*'/g, '(path)'));
  return OUT_OF_SPACE.has(code)
    ? new Fault('STORAGE_FULL', `${failure}: no room left (${detail})`, true, { cause })
    : new Fault('STORAGE_UNAVAILABLE', `${failure} (${detail})`, true, { cause });
}

/** Whether the system refused for lack of space. */
export function isOutOfSpace(error: unknown): boolean {
  return hasCode(error, ...OUT_OF_SPACE);
}

/** The result of a call about a file, or undefined if it fails with one of these codes. */
export async function undefinedIfMissing<T>(
  reading: Promise<T>,
  codes: readonly string[] = ['ENOENT'],
): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (!hasCode(error, ...codes)) throw error;
    return undefined;
  }
}

/** Whether an error of the operating system has one of these codes. */
export function hasCode(error: unknown, ...codes: string[]): boolean {
  return isSystemError(error) && codes.includes(errorCode(error));
}

function errorCode({ code, errno }: SystemError): string {
  return code.startsWith('E') ? code : (ERROR_NAMES.get(errno ?? 0) ?? code);
}

/** Checked by shape: under a test runner, Node's own errors are not instances of the `Error` seen here. */
function isSystemError(error: unknown): error is SystemError {
  if (typeof error !== 'object' || error === null || error instanceof Fault) return false;
  return 'syscall' in error && 'code' in error && typeof error.code === 'string';
}
