import fs from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { close, fstat, open } from '../disk/files.js';
import { hasCode, storageFault } from '../disk/storage-fault.js';
import { Fault } from '../model/fault.js';
import type { Chunk } from '../model/upload.js';
import { areJoined } from './chunk-name.js';
import { lookTwice } from './look-twice.js';

/** Measured: below a MiB the calls cost more than the bytes, above it nothing is gained. */
const READ_SIZE = 1024 * 1024;

interface Range {
  readonly start?: number;
  readonly end?: number;
  /** Before a chunk is said to be lost: has the next look be a fresh one; fails when the spool is not there at all. */
  readonly refresh?: () => Promise<void>;
}

/** The part of one file that is wanted; `end` is exclusive. */
interface Section {
  readonly path: string;
  readonly committed: number;
  readonly start: number;
  readonly end: number;
}

/** The committed bytes of the chunks, or a range of them, in one stream that holds at most one file open. */
export function readChunks(directory: string, chunks: readonly Chunk[], range: Range = {}): Readable {
  const sections = sectionsOf(directory, chunks, range);
  return Readable.from(bytesOf(sections, range.refresh), { objectMode: false, highWaterMark: READ_SIZE });
}

function sectionsOf(directory: string, chunks: readonly Chunk[], range: Range): Section[] {
  const total = chunks.reduce((sum, chunk) => sum + chunk.size, 0);
  const { start = 0, end = total } = range;
  if (!(start >= 0 && start <= end && end <= total))
    throw new Fault('CONTRACT_BROKEN', `the range ${start}–${end} is not within ${total} bytes`, false);
  if (!areJoined(chunks)) throw lost('the chunks do not follow each other');
  const sections: Section[] = [];
  let before = 0;
  for (const { name, size } of chunks) {
    const section = { start: Math.max(start - before, 0), end: Math.min(end - before, size) };
    if (section.start < section.end) sections.push({ path: join(directory, name), committed: size, ...section });
    before += size;
  }
  return sections;
}

/** All files are looked at before the first byte is given: an origin should not get half a body for a lost chunk. */
async function* bytesOf(
  sections: readonly Section[],
  refresh: Range['refresh'] = () => Promise.resolve(),
): AsyncGenerator<Buffer> {
  try {
    for (const section of sections) await assertComplete(section, refresh);
    for (const section of sections) yield* sectionBytes(section);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw storageFault(error, 'bytes cannot be read');
    await refresh();
    throw lost('a chunk is missing');
  }
}

async function assertComplete({ path, committed }: Section, refresh: () => Promise<void>): Promise<void> {
  const size = await lookTwice(() => sizeOf(path), refresh);
  if (size === undefined) throw lost('a chunk is missing');
  if (size < committed) throw lost(`a chunk has ${size} bytes instead of ${committed}`);
}

/** Of the opened file: without opening it an NFS client may give a size from before another node wrote the rest. */
async function sizeOf(path: string): Promise<number> {
  const fd = await open(path, 'r');
  try {
    return (await fstat(fd)).size;
  } finally {
    await close(fd);
  }
}

async function* sectionBytes({ path, start, end }: Section): AsyncGenerator<Buffer> {
  const fd = await open(path, 'r');
  try {
    for (let at = start; at < end;) {
      const piece = await read(fd, at, Math.min(READ_SIZE, end - at));
      if (piece.length === 0) throw lost('a chunk became shorter while it was read');
      at += piece.length;
      yield piece;
    }
  } finally {
    await close(fd);
  }
}

function read(fd: number, position: number, size: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafeSlow(size);
  return new Promise((resolve, reject) => {
    fs.read(fd, buffer, 0, size, position, (error, got) => {
      if (error) reject(error);
      else resolve(got === size ? buffer : buffer.subarray(0, got));
    });
  });
}

function lost(what: string): Fault {
  return new Fault('BYTES_LOST', `committed bytes are lost: ${what}`, false);
}
