import { basename, join } from 'node:path';
import { Readable } from 'node:stream';
import { crc32 } from '../fs/crc32.js';
import type { DirectorySync } from '../fs/directory-sync.js';
import {
  access,
  skipBytes,
  close,
  fdatasync,
  fstat,
  hasCode,
  open,
  withReadRetries,
  readv,
  removeIfEmpty,
  stat,
  storageFault,
  unlink,
  writev,
} from '../fs/files.js';
import { Fault } from '../model/fault.js';
import type { Chunk } from '../model/upload.js';
import { BLOCK_BYTES, fileSizeOf, type RunningSums, seedOf, SUM_BYTES, sumBytes } from './block-sums.js';
import { areContiguous, parseChunkName } from './chunk-name.js';
import type { ChunkWriter, Extent } from './spool.js';

/** Measured: smaller reads cost more in calls than in bytes, larger ones gain nothing. */
const READ_SIZE = 2 * BLOCK_BYTES;

interface ReadOptions {
  readonly start?: number;
  readonly end?: number;
  /**
   * Called before a chunk is declared lost, so that the next check sees the current files. Rejects when the spool is
   * not mounted.
   */
  readonly refresh?: () => Promise<void>;
  /** Each block, also the last one, is followed by its checksum. Only for complete files. */
  readonly withSums?: boolean;
}

/** Some blocks of a file, with the checksums that they were verified with. */
interface Blocks {
  readonly bytes: Buffer;
  /** Missing for a file of an earlier version, without checksums. */
  readonly sums?: Buffer;
}

/** The requested part of one file; `end` is exclusive. */
interface Section {
  readonly path: string;
  /** The name in the seed of its checksums. */
  readonly file: string;
  /** False for a file of an earlier version, without checksums. */
  readonly hasSums: boolean;
  readonly committed: number;
  readonly crc?: number;
  readonly start: number;
  readonly end: number;
}

/**
 * The committed bytes of the chunks, or a range of them, as one stream that has at most one file open. Every byte is
 * verified with the checksum of its block first.
 */
export function readChunks(directory: string, chunks: readonly Chunk[], range: ReadOptions = {}): Readable {
  const sections = sectionsOf(directory, chunks, range);
  return Readable.from(streamSections(sections, range), { objectMode: false, highWaterMark: READ_SIZE });
}

function sectionsOf(directory: string, chunks: readonly Chunk[], range: ReadOptions): Section[] {
  const total = chunks.reduce((sum, chunk) => sum + chunk.size, 0);
  const { start = 0, end = total } = range;
  if (!(start >= 0 && start <= end && end <= total))
    throw new Fault('CONTRACT_BROKEN', `the range ${start}–${end} is not within ${total} bytes`, false);
  if (!areContiguous(chunks)) throw bytesLost('the chunks do not follow each other');
  const sections: Section[] = [];
  let before = 0;
  for (const { name, size, crc } of chunks) {
    const part = { start: Math.max(start - before, 0), end: Math.min(end - before, size) };
    const file = {
      path: join(directory, name),
      file: `${basename(directory)}/${name}`,
      hasSums: !!parseChunkName(name),
    };
    if (part.start < part.end) sections.push({ ...file, committed: size, crc, ...part });
    before += size;
  }
  return sections;
}

/** Checks the sizes of all files before the first byte: an origin should not get half a body because a chunk is lost. */
async function* streamSections(
  sections: readonly Section[],
  { refresh = () => Promise.resolve(), withSums = false }: ReadOptions,
): AsyncGenerator<Buffer> {
  try {
    const [only] = sections;
    // Most uploads are one file, which is not opened twice.
    if (only && sections.length === 1) {
      yield* sectionBytes(only, await openComplete(only, refresh), withSums);
      return;
    }
    for (const section of sections) await close(await openComplete(section, refresh));
    for (const section of sections) {
      const fd = await withReadRetries(() => open(section.path, 'r'));
      yield* sectionBytes(section, fd, withSums);
    }
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw storageFault(error, 'bytes cannot be read');
    await refresh();
    throw bytesLost('a chunk is missing');
  }
}

/** The descriptor of a file that has all committed bytes. */
async function openComplete({ path, hasSums, committed }: Section, refresh: () => Promise<void>): Promise<number> {
  const opened = await retryIfMissing(() => withReadRetries(() => openWithSize(path)), refresh);
  if (opened === undefined) throw bytesLost('a chunk is missing');
  const expected = hasSums ? fileSizeOf(committed) : committed;
  if (opened.size >= expected) return opened.fd;
  await close(opened.fd);
  throw bytesLost(`the file of a chunk has ${opened.size} bytes instead of ${expected}`);
}

/** Opens the file for its size: otherwise an NFS client may give a size from before another node wrote the rest. */
async function openWithSize(path: string): Promise<{ readonly fd: number; readonly size: number }> {
  const fd = await open(path, 'r');
  try {
    return { fd, size: (await fstat(fd)).size };
  } catch (error) {
    await close(fd);
    throw error;
  }
}

/** Closes the descriptor at the end. */
async function* sectionBytes(section: Section, fd: number, withSums: boolean): AsyncGenerator<Buffer> {
  const { committed, start, end } = section;
  // Only complete blocks can be verified, except for the last committed one.
  const first = start - (start % BLOCK_BYTES);
  const last = Math.min(Math.ceil(end / BLOCK_BYTES) * BLOCK_BYTES, committed);
  try {
    for (let at = first; at < last; at += READ_SIZE) {
      const size = Math.min(READ_SIZE, last - at);
      const blocks = (await readVerified(fd, section, at, size)) ?? (await rereadVerified(section, at, size));
      if (withSums) yield* bytesAndSums(blocks, section, at);
      else yield blocks.bytes.subarray(Math.max(start - at, 0), Math.min(end - at, size));
    }
  } finally {
    await close(fd);
  }
}

/** Returns the stored checksums rather than new ones, so that a byte that changes from here on is noticed. */
function* bytesAndSums({ bytes, sums }: Blocks, { file }: Section, at: number): Generator<Buffer> {
  for (let block = 0; block * BLOCK_BYTES < bytes.length; block++) {
    const piece = blockOf(bytes, block);
    yield piece;
    yield sums ? sumOf(sums, block) : sumBytes(crc32(piece, seedOf(file, at / BLOCK_BYTES + block)));
  }
}

/** Reads through a newly opened file, because a network file system may have given old bytes from its cache. */
async function rereadVerified(section: Section, at: number, size: number): Promise<Blocks> {
  const fd = await withReadRetries(() => open(section.path, 'r'));
  try {
    const blocks = await readVerified(fd, section, at, size);
    if (!blocks) throw bytesLost('a chunk is not what was written');
    return blocks;
  } finally {
    await close(fd);
  }
}

/** Reads and verifies bytes from the start of a block on; undefined if a checksum differs. */
async function readVerified(fd: number, section: Section, at: number, size: number): Promise<Blocks | undefined> {
  const { file, hasSums, crc } = section;
  const bytes = Buffer.allocUnsafeSlow(size);
  if (!hasSums) {
    await readAll(fd, [bytes], at);
    return { bytes };
  }
  const fullBlocks = Math.floor(size / BLOCK_BYTES);
  const sums = Buffer.alloc(Math.ceil(size / BLOCK_BYTES) * SUM_BYTES);
  const pieces: Buffer[] = [];
  for (let block = 0; block < fullBlocks; block++) pieces.push(blockOf(bytes, block), sumOf(sums, block));
  if (size % BLOCK_BYTES > 0) pieces.push(blockOf(bytes, fullBlocks));
  await readAll(fd, pieces, fileSizeOf(at));
  for (let block = 0; block * BLOCK_BYTES < size; block++) {
    const expected = block < fullBlocks ? sums.readUInt32LE(block * SUM_BYTES) : crc;
    const actual = crc32(blockOf(bytes, block), seedOf(file, at / BLOCK_BYTES + block));
    if (actual !== expected) return undefined;
    sums.writeUInt32LE(expected, block * SUM_BYTES);
  }
  return { bytes, sums };
}

function blockOf(bytes: Buffer, block: number): Buffer {
  return bytes.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
}

function sumOf(sums: Buffer, block: number): Buffer {
  return sums.subarray(block * SUM_BYTES, (block + 1) * SUM_BYTES);
}

async function readAll(fd: number, buffers: readonly Buffer[], position: number): Promise<void> {
  let remaining = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
  let rest: readonly Uint8Array[] = buffers;
  for (let at = position; remaining > 0;) {
    const readBytes = await withReadRetries(() => readv(fd, rest, at));
    if (readBytes === 0) throw bytesLost('a chunk became shorter while being read');
    at += readBytes;
    remaining -= readBytes;
    if (remaining > 0) rest = skipBytes(rest, readBytes);
  }
}

function bytesLost(what: string): Fault {
  return new Fault('BYTES_LOST', `committed bytes are lost: ${what}`, false);
}

export interface NewChunk {
  readonly path: string;
  /** The directories whose entries lead to the file and may be new; the first is that of the upload. */
  readonly directories: readonly string[];
  readonly directorySync: DirectorySync;
  /** The value of `names.failures` from before the file was created. */
  readonly failuresBefore: number;
  /** Missing for a file whose name is that of an earlier version, without checksums. */
  readonly sums?: RunningSums;
}

/**
 * Writes one new file. After a failed write or sync it writes no more and calls nothing durable: the system may forget the
 * unwritten bytes, and report success for the next sync.
 */
export class FileChunkWriter implements ChunkWriter {
  private written: Extent;
  private position = 0;
  private syncedBytes = 0;
  private nameIsDurable = false;
  private failure: Error | undefined;
  private closing: Promise<void> | undefined;

  constructor(
    private readonly fd: number,
    private readonly chunk: NewChunk,
  ) {
    this.written = { size: 0, crc: chunk.sums?.unfinished };
  }

  get size(): number {
    return this.written.size;
  }

  get extent(): Extent {
    return this.written;
  }

  get extentWithoutLastByte(): Extent {
    return { size: this.written.size - 1, crc: this.chunk.sums?.withoutLastByte };
  }

  async write(buffers: readonly Uint8Array[]): Promise<void> {
    if (this.failure) throw this.failure;
    const { sums } = this.chunk;
    const size = this.written.size + sizeOf(buffers);
    let rest = sums?.take(buffers) ?? buffers;
    try {
      for (let remaining = sizeOf(rest); remaining > 0;) {
        const writtenBytes = await writev(this.fd, rest, this.position);
        if (writtenBytes === 0) throw new Fault('STORAGE_UNAVAILABLE', 'the disk accepts no bytes', true);
        this.position += writtenBytes;
        remaining -= writtenBytes;
        if (remaining > 0) rest = skipBytes(rest, writtenBytes);
      }
      this.written = { size, crc: sums?.unfinished };
    } catch (error) {
      this.failure = storageFault(error, 'bytes cannot be written');
      throw this.failure;
    }
  }

  async sync(): Promise<void> {
    if (this.failure) throw this.failure;
    const { size } = this.written;
    if (size === this.syncedBytes && this.nameIsDurable) return;
    try {
      await this.makeDurable();
      await this.assertStillThere();
    } catch (error) {
      this.failure = storageFault(error, 'bytes cannot be made durable');
      throw this.failure;
    }
    this.syncedBytes = Math.max(this.syncedBytes, size);
    this.nameIsDurable = true;
  }

  close(): Promise<void> {
    this.closing ??= close(this.fd).catch((error: unknown) => {
      throw storageFault(error, 'a chunk cannot be closed');
    });
    return this.closing;
  }

  async discard(): Promise<void> {
    const { path, directories } = this.chunk;
    try {
      // No other file can have the same inode number while ours is open.
      if (await this.isOurFile(path)) await unlink(path);
      await removeIfEmpty(directories[0]!);
    } catch (error) {
      throw storageFault(error, 'a chunk cannot be removed');
    } finally {
      await this.close();
    }
  }

  private async isOurFile(path: string): Promise<boolean> {
    const own = await fstat(this.fd);
    try {
      const stats = await stat(path);
      return stats.ino === own.ino && stats.dev === own.dev;
    } catch (error) {
      if (!hasCode(error, 'ENOENT')) throw error;
      return false;
    }
  }

  private async makeDurable(): Promise<void> {
    const { directorySync, directories, failuresBefore } = this.chunk;
    if (!directorySync.isDurable) return;
    await fdatasync(this.fd);
    if (!this.nameIsDurable)
      await Promise.all(directories.map((directory) => directorySync.sync(directory, failuresBefore)));
  }

  /** Rejects when the file was removed: it still accepts bytes, but they vanish when it is closed. */
  private async assertStillThere(): Promise<void> {
    if ((await fstat(this.fd)).nlink > 0) return;
    try {
      // Some network file systems do not count links.
      await access(this.chunk.path);
    } catch (error) {
      if (!hasCode(error, 'ENOENT')) throw error;
      throw new Fault('STORAGE_UNAVAILABLE', 'a chunk was removed from the spool while it was written', true);
    }
  }
}

function sizeOf(buffers: readonly Uint8Array[]): number {
  return buffers.reduce((sum, buffer) => sum + buffer.length, 0);
}

/**
 * Looks again after `refresh` when a file is missing, because an NFS client may remember for a while that it did not
 * exist; undefined if it is missing then too.
 */
export async function retryIfMissing<T>(read: () => Promise<T>, refresh: () => Promise<void>): Promise<T | undefined> {
  const first = await unlessMissing(read);
  if (first) return first.found;
  await refresh();
  return (await unlessMissing(read))?.found;
}

async function unlessMissing<T>(read: () => Promise<T>): Promise<{ readonly found: T } | undefined> {
  try {
    return { found: await read() };
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    return undefined;
  }
}
