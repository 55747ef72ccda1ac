import fs from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Fault } from '../model/fault.js';

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

function promised<T>(call: (done: Callback<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    call((error, result) => {
      if (error) reject(error);
      else resolve(result);
    });
  });
}

/** Bare descriptors: a FileHandle costs a fifth more per call and its streams far more per chunk. */
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
  opendir: (path) => fs.promises.opendir(path),
  rename: (from, to) => fs.promises.rename(from, to),
  link: (existing, path) => fs.promises.link(existing, path),
  unlink: (path) => fs.promises.unlink(path),
  removeTree: (path) => fs.promises.rm(path, { recursive: true, force: true, maxRetries: 2 }),
};

let files = nodeFileSystem;

/** For tests: every operation goes to this one from now on; without it, to the machine's own disk again. */
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
export async function writeFully(path: string, bytes: Uint8Array, durable: boolean): Promise<void> {
  const fd = await open(path, 'w', 0o600);
  try {
    await writeAll(fd, bytes, 0);
    if (durable) await fdatasync(fd);
  } finally {
    await close(fd);
  }
}

/** All bytes of a file. */
export async function readFully(path: string): Promise<Buffer> {
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
  return (await readFully(path)).toString();
}

/** Makes a file that is for the owner alone; fails where there is one. */
export async function createFile(path: string, text: string): Promise<void> {
  const fd = await open(path, 'wx', 0o600);
  try {
    await writeAll(fd, Buffer.from(text), 0);
  } finally {
    await close(fd);
  }
}

/** A file that is gone already is as good. */
export async function unlinkIfExists(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
  }
}

/** What is left of the buffers when this many bytes are taken off their beginning. */
export function skipBytes(buffers: readonly Uint8Array[], count: number): Uint8Array[] {
  let skip = count;
  let first = 0;
  while (skip >= buffers[first]!.length) skip -= buffers[first++]!.length;
  return [buffers[first]!.subarray(skip), ...buffers.slice(first + 1)];
}

/** Between the tries of a read that the system refuses: one that fails once says nothing of the bytes. */
const READ_RETRY_DELAYS_MS = [20, 100, 400];

/** A disk that fails once, or a process that is out of descriptors for a moment, is asked again. */
export async function withReadRetries<T>(task: () => Promise<T>): Promise<T> {
  for (const pauseMs of READ_RETRY_DELAYS_MS) {
    try {
      return await task();
    } catch (error) {
      if (hasCode(error, 'ENOENT')) throw error;
      await sleep(pauseMs);
    }
  }
  return task();
}

/** Removes a directory in which nothing is (any more). */
export async function removeIfEmpty(directory: string): Promise<void> {
  try {
    await rmdir(directory);
  } catch (error) {
    if (!hasCode(error, 'ENOENT', 'ENOTEMPTY', 'EEXIST', 'ENOTDIR')) throw error;
  }
}

/** Nobody takes so long to give a draft its name. */
const STALE_DRAFT_MS = 3_600_000;

/** Makes a file by way of a draft, of which nothing is left. A disk that does not remove it leaves that to `removeDrafts`. */
export async function withDraft<T>(draft: string, make: () => Promise<T>): Promise<T> {
  try {
    return await make();
  } finally {
    await unlinkIfExists(draft).catch(() => undefined);
  }
}

/**
 * Removes the drafts of processes that were killed, or whose disk failed: those that are too old to be anybody's now, or
 * all of them where the directory is this process's alone.
 */
export async function removeDrafts(
  directory: string,
  isDraft: RegExp,
  { isShared: isShared = true }: { readonly isShared?: boolean } = {},
): Promise<void> {
  try {
    for (const name of await readdir(directory)) {
      if (!isDraft.test(name)) continue;
      const stats = await lstat(join(directory, name));
      const isAbandoned = !isShared || Date.now() - stats.mtimeMs > STALE_DRAFT_MS;
      if (stats.isFile() && isAbandoned) await unlink(join(directory, name));
    }
  } catch {
    // They are in nobody's way, and the next start tries again.
  }
}

const ID = /^[A-Za-z0-9_-]{20,64}$/;
/** 24 random bytes in base64url, as every version has made them. */
const GENERATED_ID = /^[A-Za-z0-9_-]{32}$/;
const CHUNK_NAME = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$/;

export function isUploadId(id: string): boolean {
  return ID.test(id);
}

/** Whether this program gives such ids; any other name in its directories is somebody's. */
export function isGeneratedId(id: string): boolean {
  return GENERATED_ID.test(id);
}

/** The last line of defence: whatever happened before, nothing else than an id ever becomes part of a path. */
export function assertUploadId(id: string): void {
  if (!ID.test(id)) throw new Fault('CONTRACT_BROKEN', 'this is no id of an upload', false);
}

export function isChunkName(name: string): boolean {
  return CHUNK_NAME.test(name);
}

/** As above, for the names of files within one upload: no separators, nothing that begins with a dot. */
export function assertChunkName(name: string): void {
  if (!CHUNK_NAME.test(name)) throw new Fault('CONTRACT_BROKEN', 'this is no name of a chunk', false);
}

/** A quota and a size limit of the file system end as a full disk does: with bytes that had no room. */
const OUT_OF_SPACE: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** Node has no name for some numbers of the system, EDQUOT and ESTALE among them: "Unknown system error -122". */
const ERROR_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno).map(([name, number]) => [-number, name]),
);

interface SystemError {
  readonly code: string;
  readonly errno?: number;
  readonly syscall?: string;
  readonly message: string;
}

/** What the operating system's refusal means to us. Errors that are not the system's come back as they are. */
export function storageFault(error: unknown, failure: string): Error {
  if (!isSystemError(error)) return error as Error;
  const code = errorCode(error);
  const why = `${code}${error.syscall ? ` in ${error.syscall}` : ''}`;
  // The system's text names the path, and with it an upload's secret name.
  const cause = new Error(error.message.replaceAll(/'[^']*'/g, '(path)'));
  return OUT_OF_SPACE.has(code)
    ? new Fault('STORAGE_FULL', `${failure}: no room left (${why})`, true, { cause })
    : new Fault('STORAGE_UNAVAILABLE', `${failure} (${why})`, true, { cause });
}

/** The system refused because there is no room left. */
export function isOutOfSpace(error: unknown): boolean {
  return hasCode(error, ...OUT_OF_SPACE);
}

/** What the system gives for a name; undefined where it says, with one of these codes, that nothing has it. */
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

/** The error is the system's, with this code. */
export function hasCode(error: unknown, ...codes: string[]): boolean {
  return isSystemError(error) && codes.includes(errorCode(error));
}

function errorCode({ code, errno }: SystemError): string {
  return code.startsWith('E') ? code : (ERROR_NAMES.get(errno ?? 0) ?? code);
}

/** By its shape: under a test runner, errors of Node itself are no `instanceof` the Error one sees. */
function isSystemError(error: unknown): error is SystemError {
  if (typeof error !== 'object' || error === null || error instanceof Fault) return false;
  return 'syscall' in error && 'code' in error && typeof error.code === 'string';
}
