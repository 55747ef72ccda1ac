import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { crc32 } from 'node:zlib';
import { resultsInOrder } from '../concurrency/in-order.js';
import { DirectorySync, type SyncMode } from '../fs/directory-sync.js';
import {
  access,
  assertChunkName,
  assertUploadId,
  close,
  type DirectoryEntry,
  fdatasync,
  fstat,
  hasCode,
  isChunkName,
  isUploadId,
  lstat,
  mkdir,
  open,
  opendir,
  withReadRetries,
  readdir,
  readFully,
  removeIfEmpty,
  removeTree,
  storageFault,
  unlink,
  writeAll,
} from '../fs/files.js';
import { Fault } from '../model/fault.js';
import { isGeneratedId } from '../model/upload-id.js';
import type { Chunk } from '../model/upload.js';
import { contentBytesIn, RunningSums } from './block-sums.js';
import { FileChunkWriter, retryIfMissing, readChunks } from './chunk-files.js';
import { parseChunkName } from './chunk-name.js';
import { STORE_MARK } from './shared-directory.js';
import { type ChunkWriter, ACKNOWLEDGED, type Spool, type SpooledChunk } from './spool.js';

export interface LocalSpoolOptions {
  /** The data directory; the bytes are in `spool/` below it. */
  readonly directory: string;
  readonly sync: SyncMode;
  /** Other machines use the directory too. */
  readonly isShared?: boolean;
  /**
   * The spool contains the mark of its store, which distinguishes it from an empty mount point; by default only a
   * shared one does.
   */
  readonly isMarked?: boolean;
}

/** As many calls as run at the same time when the whole spool is read. */
const MAX_CALLS = 16;

/** Number of uploads whose durable number is remembered; for older ones the number is written once more. */
const MAX_REMEMBERED = 10_000;

/** Stores the bytes as files, `<data>/spool/<id>/<name>`, also in a directory that several machines mount. */
export class LocalSpool implements Spool {
  private readonly root: string;
  private readonly names: DirectorySync;
  private readonly isShared: boolean;
  private readonly isMarked: boolean;
  /** For each upload, the acknowledged number that this process has made durable. */
  private readonly durableNumbers = new Map<string, number>();

  constructor(options: LocalSpoolOptions) {
    this.root = join(options.directory, 'spool');
    this.names = new DirectorySync(options.sync);
    this.isShared = options.isShared ?? false;
    this.isMarked = options.isMarked ?? this.isShared;
  }

  /**
   * Creates the directory if it is missing. Empty directories that a crash has left are removed by the next listing.
   */
  async open(): Promise<void> {
    if (this.isShared) return this.assertMounted();
    await withFault('the spool cannot be opened', () => this.names.makeExclusiveDirectory(this.root));
  }

  async create(id: string, name: string): Promise<ChunkWriter> {
    const path = this.pathOf(id, name);
    const directory = join(this.root, id);
    const { names: directorySync } = this;
    const failuresBefore = directorySync.failures;
    const chunk = parseChunkName(name);
    const isFirst = chunk?.kind === 'chunk' && chunk.start === 0;
    const fd = await withFault('a chunk cannot be created', () => createFile(directory, path, isFirst));
    const sums = chunk && new RunningSums(`${id}/${name}`);
    return new FileChunkWriter(fd, { path, directories: [directory, this.root], directorySync, failuresBefore, sums });
  }

  read(id: string, chunks: readonly Chunk[], range?: { readonly start: number; readonly end?: number }): Readable {
    for (const { name } of chunks) this.pathOf(id, name);
    const refresh = (): Promise<void> => this.refresh(id);
    return readChunks(join(this.root, id), chunks, { ...range, refresh });
  }

  readWithSums(id: string, chunk: Chunk): Readable {
    const path = this.pathOf(id, chunk.name);
    return readChunks(dirname(path), [chunk], { refresh: () => this.refresh(id), withSums: true });
  }

  /** Syncs the chunk first, because the caller may count its bytes from then on. */
  async size(id: string, name: string): Promise<number | undefined> {
    const path = this.pathOf(id, name);
    return this.ifPresent(id, 'the size of a chunk cannot be read', async () => {
      const fd = await open(path, 'r+');
      try {
        if (this.names.isDurable) await fdatasync(fd);
        await Promise.all([this.names.sync(join(this.root, id)), this.names.sync(this.root)]);
        return contentBytes(name, (await fstat(fd)).size);
      } finally {
        await close(fd);
      }
    });
  }

  async removeChunk(id: string, name: string): Promise<void> {
    const path = this.pathOf(id, name);
    await withFault('a chunk cannot be removed', async () => {
      await unlink(path).catch(undefinedOn('ENOENT'));
      // An empty directory does no harm, and the next listing removes it.
      await removeIfEmpty(join(this.root, id)).catch(() => undefined);
    });
  }

  async noteAcknowledged(id: string, offset: number): Promise<void> {
    const path = this.pathOf(id, ACKNOWLEDGED);
    const raise = (): Promise<void> => this.raiseAcknowledged(id, path, offset);
    await withFault('an offset cannot be noted', async () => {
      try {
        await raise();
      } catch (error) {
        if (!hasCode(error, 'ENOENT')) throw error;
        await this.createAcknowledgedFile(id, path);
        await raise();
      }
    });
  }

  /** Syncs the name of the file too: it may come from a process that was killed before it did so. */
  private async raiseAcknowledged(id: string, path: string, offset: number): Promise<void> {
    const durableNumber = this.durableNumbers.get(id);
    const keptNumber = await raiseNumber(path, offset, {
      mustBeDurable: this.names.isDurable,
      durableNumber: durableNumber ?? -1,
    });
    if (durableNumber === undefined)
      await Promise.all([this.names.sync(join(this.root, id)), this.names.sync(this.root)]);
    this.rememberDurable(id, keptNumber);
  }

  private rememberDurable(id: string, number: number): void {
    this.durableNumbers.delete(id);
    this.durableNumbers.set(id, number);
    const oldest = this.durableNumbers.size > MAX_REMEMBERED ? this.durableNumbers.keys().next().value : undefined;
    if (oldest !== undefined) this.durableNumbers.delete(oldest);
  }

  async acknowledgedOffset(id: string): Promise<number> {
    const path = this.pathOf(id, ACKNOWLEDGED);
    return (await this.ifPresent(id, 'a noted offset cannot be read', () => readAcknowledged(path))) ?? 0;
  }

  async remove(id: string): Promise<void> {
    assertUploadId(id);
    this.durableNumbers.delete(id);
    await withFault('the bytes of an upload cannot be removed', () => removeTree(join(this.root, id)));
  }

  async *ids(): AsyncGenerator<string> {
    for await (const entry of this.entries()) if (entry.isDirectory() && isUploadId(entry.name)) yield entry.name;
  }

  async *list(onUnlisted?: (id: string, fault: Error) => void): AsyncGenerator<SpooledChunk> {
    const filesIn = async (id: string): Promise<SpooledChunk[]> => {
      try {
        return await this.filesOf(id);
      } catch (error) {
        if (!onUnlisted || !(error instanceof Fault)) throw error;
        onUnlisted(id, error);
        return [];
      }
    };
    for await (const files of resultsInOrder(this.ids(), MAX_CALLS, filesIn)) yield* files;
  }

  /** Leaves out files that are removed meanwhile. */
  filesOf(id: string): Promise<SpooledChunk[]> {
    assertUploadId(id);
    return withFault('the bytes of an upload cannot be listed', async () => {
      const ifMissing = undefinedOn('ENOENT');
      const names = (await readdir(join(this.root, id)).catch(ifMissing)) ?? [];
      const files: SpooledChunk[] = [];
      for (const name of names.filter(isChunkName)) {
        const stats = await lstat(join(this.root, id, name)).catch(ifMissing);
        if (stats?.isFile()) files.push({ id, name, size: contentBytes(name, stats.size), modifiedAt: stats.mtimeMs });
      }
      // A writer that is about to use the directory makes it again; one that stays does no harm.
      if (names.length === 0 && (this.isShared || isGeneratedId(id)))
        await removeIfEmpty(join(this.root, id)).catch(() => undefined);
      return files;
    });
  }

  private async *entries(): AsyncGenerator<DirectoryEntry> {
    try {
      yield* await withReadRetries(() => opendir(this.root));
    } catch (error) {
      throw storageFault(error, 'the spool cannot be listed');
    }
  }

  private ifPresent<T>(id: string, what: string, read: () => Promise<T>): Promise<T | undefined> {
    return withFault(what, () => retryIfMissing(read, () => this.refresh(id)));
  }

  /**
   * Refreshes the view of a network file system before bytes are declared lost: opening a directory makes an NFS client
   * ask the server (close-to-open consistency, which `nocto` turns off).
   */
  private async refresh(id: string): Promise<void> {
    await this.assertMounted();
    if (!this.isShared) return;
    for (const directory of [this.root, join(this.root, id)]) {
      const fd = await open(directory, 'r').catch(undefinedOn('ENOENT'));
      if (fd !== undefined) await close(fd);
    }
  }

  /** Rejects when the spool is not mounted: then no bytes are lost, although none can be found. */
  private async assertMounted(): Promise<void> {
    const path = this.isMarked ? join(this.root, STORE_MARK) : this.root;
    await withFault('the spool is not mounted', () => access(path));
  }

  private async createAcknowledgedFile(id: string, path: string): Promise<void> {
    const directory = join(this.root, id);
    const failuresBefore = this.names.failures;
    try {
      await close(await createFile(directory, path));
    } catch (error) {
      // Another process has created the file.
      if (!(error instanceof Fault) || error.code !== 'CHUNK_EXISTS') throw error;
    }
    try {
      await Promise.all([this.names.sync(directory, failuresBefore), this.names.sync(this.root, failuresBefore)]);
      this.rememberDurable(id, -1);
    } catch (error) {
      // The next process must not consider a name durable whose sync has failed.
      await unlink(path).catch(() => undefined);
      throw error;
    }
  }

  private pathOf(id: string, name: string): string {
    assertUploadId(id);
    assertChunkName(name);
    return join(this.root, id, name);
  }
}

/** The name of a file says whether it contains checksums; its content belongs to a client and says nothing. */
function contentBytes(name: string, fileSize: number): number {
  return parseChunkName(name) ? contentBytesIn(fileSize) : fileSize;
}

/**
 * Creates the file and, if needed, the upload's directory, which a cleaner may remove while it is empty. Directories
 * above it are not created: when they are missing, the disk is, and new ones would hide that. `isFirst`: the directory
 * is probably missing.
 */
async function createFile(directory: string, path: string, isFirst = false): Promise<number> {
  const makeDirectory = (): Promise<void> => mkdir(directory, 0o700).catch(undefinedOn('EEXIST'));
  if (isFirst) await makeDirectory();
  for (let tries = 0; ; tries++) {
    try {
      return await open(path, 'wx', 0o600);
    } catch (error) {
      if (hasCode(error, 'EEXIST')) throw new Fault('CHUNK_EXISTS', 'a chunk of this name exists already', false);
      if (!hasCode(error, 'ENOENT') || tries === 3) throw error;
    }
    await makeDirectory();
  }
}

async function withFault<T>(what: string, task: () => Promise<T>): Promise<T> {
  try {
    return await task();
  } catch (error) {
    throw storageFault(error, what);
  }
}

/** Turns a rejection with one of these codes into undefined. */
function undefinedOn(...codes: string[]): (error: unknown) => undefined {
  return (error) => {
    if (!hasCode(error, ...codes)) throw error;
    return undefined;
  };
}

/** The file has two slots of this many bytes, written in turn: a torn write leaves the other slot intact. */
const SLOT_BYTES = 32;
const SLOTS = [0, 1] as const;

const SLOT_LINE = /^(\d{16}) ([0-9a-f]{8})\n$/;

/** The largest number in the file; 0 when no slot holds a valid one. */
async function readAcknowledged(path: string): Promise<number> {
  return Math.max(...numbersIn(await readFully(path)), 0);
}

interface Durability {
  /** The number has to survive a power cut. */
  readonly mustBeDurable: boolean;
  /**
   * The number that this process has made durable. A larger one in the file comes from another process, which may not have
   * synced it, so it is written and synced once more.
   */
  readonly durableNumber: number;
}

/** Raises the number in an existing file, and returns the number that the file durably contains from now on. */
async function raiseNumber(
  path: string,
  number: number,
  { mustBeDurable, durableNumber }: Durability,
): Promise<number> {
  const before = await readFully(path);
  const numbers = numbersIn(before);
  const largest = Math.max(...numbers);
  const isDurableNumber = !mustBeDurable || largest <= durableNumber;
  if (largest >= number && isDurableNumber) return largest;
  const fd = await open(path, 'r+');
  try {
    if (!isDurableNumber) await writeSlot(fd, numbers.indexOf(largest), largest, { before, mustBeDurable });
    if (largest < number) await writeSlot(fd, numbers[0]! <= numbers[1]! ? 0 : 1, number, { before, mustBeDurable });
  } finally {
    await close(fd);
  }
  return Math.max(largest, number);
}

interface SlotWrite {
  /** All bytes of the file before the write. */
  readonly before: Buffer;
  readonly mustBeDurable: boolean;
}

async function writeSlot(
  fd: number,
  slot: number,
  number: number,
  { before, mustBeDurable }: SlotWrite,
): Promise<void> {
  const start = slot * SLOT_BYTES;
  try {
    await writeAll(fd, Buffer.from(lineOf(number), 'latin1'), start);
    if (mustBeDurable) await fdatasync(fd);
  } catch (error) {
    // A number whose sync failed must not stay: a later sync may succeed without having written it.
    await writeAll(fd, slotOf(before, start), start).catch(() => undefined);
    throw error;
  }
}

/** The bytes of a slot, padded with blanks. */
function slotOf(bytes: Buffer, start: number): Buffer {
  const slot = Buffer.alloc(SLOT_BYTES, ' ');
  slot.set(bytes.subarray(start, start + SLOT_BYTES));
  return slot;
}

function lineOf(number: number): string {
  const digits = String(number).padStart(16, '0');
  return `${digits} ${checksum(digits)}\n`;
}

/** The number in each slot; -1 for a slot without a valid one. */
function numbersIn(bytes: Buffer): number[] {
  return SLOTS.map((slot) => {
    const start = slot * SLOT_BYTES;
    const [, digits, sum] = SLOT_LINE.exec(bytes.toString('latin1', start, start + 26)) ?? [];
    return digits !== undefined && sum === checksum(digits) ? Number(digits) : -1;
  });
}

function checksum(digits: string): string {
  return crc32(digits).toString(16).padStart(8, '0');
}
