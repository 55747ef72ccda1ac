import { rename, rm, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { DirectorySync } from '../../disk/directory-sync.js';
import { close, fdatasync, ftruncate, open, writeAll, writeWhole } from '../../disk/files.js';
import { hasCode, storageFault } from '../../disk/storage-fault.js';
import { changeLine, snapshotLine, type ReadRecord } from './record-lines.js';
import { changed, changedCopy, type Change, type UploadRecord } from './upload-record.js';

/** Written anew when the changes outweigh the snapshot so often: then rewriting costs a quarter of appending at most. */
const CHANGES_PER_SNAPSHOT = 4;
const LEAST_CHANGES = 64 * 1024;

/**
 * The file of one record: a snapshot, then one line a change. No descriptor is kept open between changes, so the number
 * of uploads does not matter. A write that fails leaves the file as it was, or is repaired before the next.
 */
export class RecordFile {
  private snapshotBytes = 0;
  private goodBytes = 0;
  /** What must happen before a line may be appended. */
  private repair: 'cut' | 'rewrite' | undefined;

  constructor(
    readonly path: string,
    private readonly names: DirectorySync,
  ) {}

  /** The file as it was found: a torn end is cut off before the next change, a damaged file is written anew. */
  static found(path: string, names: DirectorySync, read: ReadRecord): RecordFile {
    const file = new RecordFile(path, names);
    file.snapshotBytes = read.snapshotBytes;
    file.goodBytes = read.goodBytes;
    if (read.state !== 'whole') file.repair = read.state === 'torn' ? 'cut' : 'rewrite';
    return file;
  }

  /** Makes a change durable and gives the record after it. When it fails, the record before it still holds. */
  async save(record: UploadRecord, change: Change): Promise<UploadRecord> {
    if (this.repair === 'rewrite') return this.rewrite(changedCopy(record, change));
    if (this.isOvergrown()) {
      try {
        return await this.rewrite(changedCopy(record, change));
      } catch (fault) {
        // No room for a second copy, perhaps; a line more may still fit.
        if (this.mustRewrite()) throw fault;
      }
    }
    try {
      await this.append(change);
    } catch (fault) {
      if (!this.mustRewrite()) throw fault;
      return this.rewrite(changedCopy(record, change));
    }
    return changed(record, change);
  }

  /** Replaces the file, or makes it, in one step. */
  async rewrite(record: UploadRecord): Promise<UploadRecord> {
    const line = snapshotLine(record);
    try {
      await writeWhole(this.temporary(), line, this.names.isDurable);
      await rename(this.temporary(), this.path);
      // Until the new name is durable nobody knows which of both files a power cut leaves.
      this.repair = 'rewrite';
      await this.names.sync(dirname(this.path));
    } catch (error) {
      await rm(this.temporary(), { force: true }).catch(() => undefined);
      throw storageFault(error, 'the record of an upload cannot be written');
    }
    this.snapshotBytes = this.goodBytes = line.length;
    this.repair = undefined;
    return record;
  }

  /** Removing needs no room, so it works on a full disk too. */
  async remove(): Promise<void> {
    try {
      await unlink(this.path);
      await this.names.sync(dirname(this.path));
    } catch (error) {
      if (!hasCode(error, 'ENOENT')) throw storageFault(error, 'the record of an upload cannot be removed');
    }
    this.repair = 'rewrite';
  }

  private async append(change: Change): Promise<void> {
    const line = changeLine(change);
    try {
      const fd = await open(this.path, 'r+');
      try {
        await this.appendTo(fd, line);
      } finally {
        await close(fd);
      }
    } catch (error) {
      this.repair ??= hasCode(error, 'ENOENT') ? 'rewrite' : 'cut';
      throw storageFault(error, 'a change of an upload cannot be written');
    }
    this.goodBytes += line.length;
  }

  private async appendTo(fd: number, line: Buffer): Promise<void> {
    if (this.repair === 'cut') await this.cut(fd);
    try {
      await writeAll(fd, line, this.goodBytes);
    } catch (error) {
      // Tried again before the next line if it fails: a torn end that stays until then is dropped after a crash.
      await this.cut(fd).catch(() => undefined);
      throw error;
    }
    try {
      if (this.names.isDurable) await fdatasync(fd);
    } catch (error) {
      // After a failed sync the system may call the next one a success without having written anything.
      this.repair = 'rewrite';
      throw error;
    }
  }

  private async cut(fd: number): Promise<void> {
    await ftruncate(fd, this.goodBytes);
    this.repair = undefined;
  }

  private isOvergrown(): boolean {
    const changes = this.goodBytes - this.snapshotBytes;
    return changes > Math.max(this.snapshotBytes * CHANGES_PER_SNAPSHOT, LEAST_CHANGES);
  }

  private mustRewrite(): boolean {
    return this.repair === 'rewrite';
  }

  private temporary(): string {
    return `${this.path}.tmp`;
  }
}
