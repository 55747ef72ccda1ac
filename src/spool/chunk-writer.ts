import type { DirectorySync } from '../disk/directory-sync.js';
import { access, after, close, fdatasync, fstat, stat, unlink, writev } from '../disk/files.js';
import { removeIfEmpty } from '../disk/remove-if-empty.js';
import { hasCode, storageFault } from '../disk/storage-fault.js';
import { Fault } from '../model/fault.js';
import type { RunningSums } from './blocks.js';
import type { ChunkWriter, Extent } from './spool.js';

export interface NewChunk {
  readonly path: string;
  /** Those whose entries lead to the file and may be new; the first is that of its upload. */
  readonly directories: readonly string[];
  readonly names: DirectorySync;
  /** Its `failures` from before the file was made. */
  readonly since: number;
  /** Missing for a file whose name is from before there were checksums. */
  readonly sums?: RunningSums;
}

/**
 * Writes one new file. After a write or a sync that failed nothing more is written to it and nothing more of it is called
 * durable: the system may forget which bytes it still owes us, and call the next sync a success.
 */
export class FileChunkWriter implements ChunkWriter {
  private written: Extent;
  private position = 0;
  private synced = 0;
  private nameIsDurable = false;
  private broken: Error | undefined;
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
    if (this.broken) throw this.broken;
    const { sums } = this.chunk;
    const size = this.written.size + sizeOf(buffers);
    let rest = sums?.take(buffers) ?? buffers;
    try {
      for (let left = sizeOf(rest); left > 0;) {
        const taken = await writev(this.fd, rest, this.position);
        if (taken === 0) throw new Fault('STORAGE_UNAVAILABLE', 'the disk takes no bytes', true);
        this.position += taken;
        left -= taken;
        if (left > 0) rest = after(rest, taken);
      }
      this.written = { size, crc: sums?.unfinished };
    } catch (error) {
      this.broken = storageFault(error, 'bytes cannot be written');
      throw this.broken;
    }
  }

  async sync(): Promise<void> {
    if (this.broken) throw this.broken;
    const { size } = this.written;
    if (size === this.synced && this.nameIsDurable) return;
    try {
      await this.makeDurable();
      await this.assertStillThere();
    } catch (error) {
      this.broken = storageFault(error, 'bytes cannot be made durable');
      throw this.broken;
    }
    this.synced = Math.max(this.synced, size);
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
      // As long as ours is open no other can have its number.
      if (await this.isAt(path)) await unlink(path);
      await removeIfEmpty(directories[0]!);
    } catch (error) {
      throw storageFault(error, 'a chunk cannot be removed');
    } finally {
      await this.close();
    }
  }

  private async isAt(path: string): Promise<boolean> {
    const own = await fstat(this.fd);
    try {
      const found = await stat(path);
      return found.ino === own.ino && found.dev === own.dev;
    } catch (error) {
      if (!hasCode(error, 'ENOENT')) throw error;
      return false;
    }
  }

  private async makeDurable(): Promise<void> {
    const { names, directories, since } = this.chunk;
    if (!names.isDurable) return;
    await fdatasync(this.fd);
    if (!this.nameIsDurable) await Promise.all(directories.map((directory) => names.sync(directory, since)));
  }

  /** A file that somebody removed still takes bytes, but they end with us: never acknowledge them. */
  private async assertStillThere(): Promise<void> {
    if ((await fstat(this.fd)).nlink > 0) return;
    try {
      // Some network file systems count no links at all.
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
