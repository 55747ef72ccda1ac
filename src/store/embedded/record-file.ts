import { dirname } from 'node:path';
import type { DirectorySync } from '../../disk/directory-sync.js';
import {
  close,
  fdatasync,
  fsync,
  ftruncate,
  open,
  readWhole,
  rename,
  unlinkIfThere,
  writeAll,
  writeWhole,
} from '../../disk/files.js';
import { hasCode, isNoRoom, storageFault } from '../../disk/storage-fault.js';
import type { Fault } from '../../model/fault.js';
import { blanks, changeLine, readRecord, RESERVED_BYTES, snapshotLine, type ReadRecord } from './record-lines.js';
import { changed, changedCopy, hasOpenAttempt, type Change, type UploadRecord } from './upload-record.js';

/** Written anew when the changes outweigh the snapshot so often: then rewriting costs a quarter of appending at most. */
const CHANGES_PER_SNAPSHOT = 4;
const LEAST_CHANGES = 64 * 1024;

/**
 * The file of one record: a snapshot, then one line a change. No descriptor is kept open between changes, so the number
 * of uploads does not matter.
 *
 * It is _certain_ when a power cut, or the next start, finds the record as it was given last and nothing else. A write
 * whose failure leaves that open makes it uncertain, and so is every file that was found at a start: its last line may
 * never have been synced, or in vain, and a second sync that succeeds proves nothing. From then on nothing may be
 * acknowledged until the file is written anew.
 */
export class RecordFile {
  private snapshotBytes = 0;
  private goodBytes = 0;
  /** With the room that is kept behind the last line. */
  private fileBytes = 0;
  /** `dirty`: certain but for the remains of a write that failed, which go before the next one. */
  private state: 'certain' | 'dirty' | 'uncertain' = 'uncertain';
  private hasDraft = false;
  /** The failures of directory syncs from before its name was made, or found. */
  private namedSince: number;
  /** It was removed, and nobody knows whether a power cut brings it back. */
  private mayComeBack = false;

  constructor(
    readonly path: string,
    private readonly names: DirectorySync,
  ) {
    this.namedSince = names.failures;
  }

  /** The file as it was found. Where nothing has to survive a power cut, it is what it looks like. */
  static found(path: string, names: DirectorySync, read: ReadRecord): RecordFile {
    const file = new RecordFile(path, names);
    file.snapshotBytes = read.snapshotBytes;
    file.goodBytes = read.goodBytes;
    file.fileBytes = read.fileBytes;
    const isCertain = !names.isDurable && read.state !== 'damaged';
    if (isCertain) file.state = read.state === 'whole' ? 'certain' : 'dirty';
    return file;
  }

  /** Nobody knows which of two states the next start would find: nothing may be acknowledged. */
  isUncertain(): boolean {
    return this.state === 'uncertain';
  }

  /** Makes a change durable and gives the record after it. When it fails, the record before it still holds. */
  async save(record: UploadRecord, change: Change): Promise<UploadRecord> {
    if (this.isUncertain()) return this.rewrite(changedCopy(record, change));
    if (this.isOvergrown()) {
      try {
        return await this.rewrite(changedCopy(record, change));
      } catch (fault) {
        // No room for a second copy, perhaps; a line more may still fit.
        if (this.isUncertain()) throw fault;
      }
    }
    try {
      await this.append(change);
    } catch (fault) {
      if (!this.isUncertain()) throw fault;
      return this.rewrite(changedCopy(record, change));
    }
    return changed(record, change);
  }

  /** Makes the file certain, or fails. Where there is no room for a second one, it is written over with the same bytes. */
  async prove(record: UploadRecord): Promise<void> {
    if (!this.isUncertain()) return;
    try {
      await this.rewrite(record);
    } catch (fault) {
      if ((fault as Fault).code !== 'STORAGE_FULL' || !(await this.proveInPlace(record))) throw fault;
    }
  }

  /** Replaces the file, or makes it, in one step. */
  async rewrite(record: UploadRecord): Promise<UploadRecord> {
    if (!hasOpenAttempt(record)) return this.rewriteWith(record, 0);
    try {
      return await this.rewriteWith(record, RESERVED_BYTES);
    } catch (fault) {
      if ((fault as Fault).code !== 'STORAGE_FULL') throw fault;
      return this.rewriteWith(record, 0);
    }
  }

  /** Removing needs no room, so it works on a full disk too. */
  async remove(): Promise<void> {
    this.state = 'uncertain';
    try {
      if (this.hasDraft) await this.removeDraft();
      // A removal whose sync has failed is done anew, because the next sync would succeed without it.
      if (this.mayComeBack) await this.placeholder();
      const since = this.names.failures;
      this.mayComeBack = true;
      await unlinkIfThere(this.path);
      // Also when somebody else has removed it: only then is it gone after a power cut.
      await this.names.sync(dirname(this.path), since);
      this.mayComeBack = false;
    } catch (error) {
      throw storageFault(error, 'the record of an upload cannot be removed');
    }
  }

  /** A file of no bytes needs no room but for its name. */
  private async placeholder(): Promise<void> {
    await writeWhole(this.path, new Uint8Array(), false).catch((error: unknown) => {
      if (!isNoRoom(error)) throw error;
    });
  }

  private async rewriteWith(record: UploadRecord, reserved: number): Promise<UploadRecord> {
    const line = snapshotLine(record);
    const since = this.names.failures;
    try {
      this.hasDraft = true;
      await writeWhole(this.draft(), Buffer.concat([line, blanks(reserved)]), this.names.isDurable);
      // Until the new name is durable nobody knows which of both files a power cut leaves.
      this.state = 'uncertain';
      await rename(this.draft(), this.path);
      this.hasDraft = false;
      this.namedSince = since;
      this.mayComeBack = false;
      await this.names.sync(dirname(this.path), since);
    } catch (error) {
      // What stays is removed with the file, or at the next start.
      await this.removeDraft().catch(() => undefined);
      throw storageFault(error, 'the record of an upload cannot be written');
    }
    this.snapshotBytes = this.goodBytes = line.length;
    this.fileBytes = line.length + reserved;
    this.state = 'certain';
    return record;
  }

  /**
   * Writes the same bytes over themselves, which has the system put them on the disk again, and cuts off what follows
   * them. A power cut in the middle changes nothing, because nothing but what is there is written.
   */
  private async proveInPlace(record: UploadRecord): Promise<boolean> {
    try {
      const bytes = (await readWhole(this.path)).subarray(0, this.goodBytes);
      const read = readRecord(bytes);
      if (read?.state !== 'whole' || !isSame(read.record, record)) return false;
      const fd = await open(this.path, 'r+');
      try {
        await ftruncate(fd, this.fileBytes);
        await writeAll(fd, Buffer.concat([bytes, blanks(this.fileBytes - this.goodBytes)]), 0);
        await fsync(fd);
      } finally {
        await close(fd);
      }
      await this.names.sync(dirname(this.path), this.namedSince);
    } catch (error) {
      throw storageFault(error, 'the record of an upload cannot be written');
    }
    this.state = 'certain';
    return true;
  }

  private async append(change: Change): Promise<void> {
    const line = changeLine(change);
    try {
      const fd = await open(this.path, 'r+');
      try {
        if (change.attempt && change.attempt.reached === undefined) await this.appendWithRoom(fd, line);
        else await this.appendTo(fd, line, 0);
      } finally {
        // Every byte that counts has been synced before.
        await close(fd).catch(() => undefined);
      }
    } catch (error) {
      if (hasCode(error, 'ENOENT')) this.state = 'uncertain';
      throw storageFault(error, 'a change of an upload cannot be written');
    }
  }

  /** An attempt begins also where its answer may find no room: what it delivers is what holds the disk. */
  private async appendWithRoom(fd: number, line: Buffer): Promise<void> {
    try {
      await this.appendTo(fd, line, RESERVED_BYTES);
    } catch (error) {
      if (!isNoRoom(error) || this.isUncertain()) throw error;
      await this.appendTo(fd, line, 0);
    }
  }

  private async appendTo(fd: number, line: Buffer, reserved: number): Promise<void> {
    if (this.state === 'dirty') await this.clean(fd);
    this.state = 'uncertain';
    try {
      await this.put(fd, Buffer.concat([line, blanks(reserved)]));
    } catch (error) {
      // The line is not whole, or is gone again: what was there before holds.
      if (await this.isCleaned(fd)) this.state = 'dirty';
      throw error;
    }
    try {
      if (this.names.isDurable) await fdatasync(fd);
    } catch (error) {
      // After a failed sync the system may call the next one a success without having written anything.
      await this.isCleaned(fd);
      throw error;
    }
    this.goodBytes += line.length;
    this.fileBytes = Math.max(this.fileBytes, this.goodBytes + reserved);
    this.state = 'certain';
  }

  /** The part that needs new room comes first: if there is none, the room that is kept stays untouched. */
  private async put(fd: number, bytes: Buffer): Promise<void> {
    const room = this.fileBytes - this.goodBytes;
    if (bytes.length > room) await writeAll(fd, bytes.subarray(room), this.fileBytes);
    if (room > 0) await writeAll(fd, bytes.subarray(0, room), this.goodBytes);
  }

  private async isCleaned(fd: number): Promise<boolean> {
    try {
      await this.clean(fd);
      return true;
    } catch {
      // The failure that brought us here is the one to report.
      return false;
    }
  }

  private async clean(fd: number): Promise<void> {
    await ftruncate(fd, this.fileBytes);
    if (this.fileBytes > this.goodBytes) await writeAll(fd, blanks(this.fileBytes - this.goodBytes), this.goodBytes);
  }

  private isOvergrown(): boolean {
    const changes = this.goodBytes - this.snapshotBytes;
    return changes > Math.max(this.snapshotBytes * CHANGES_PER_SNAPSHOT, LEAST_CHANGES);
  }

  private async removeDraft(): Promise<void> {
    await unlinkIfThere(this.draft());
    this.hasDraft = false;
  }

  private draft(): string {
    return `${this.path}.tmp`;
  }
}

/** Leases that were only drawn are in no file. */
function isSame(one: UploadRecord, other: UploadRecord): boolean {
  const kept = ({ upload, chunks, answerCrc, answerBody }: UploadRecord): string =>
    JSON.stringify([upload, chunks, answerCrc, answerBody]);
  return kept(one) === kept(other);
}
