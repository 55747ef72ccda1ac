import { dirname } from 'node:path';
import { crc32 } from 'node:zlib';
import type { Semaphore } from '../../concurrency/queues.js';
import type { DirectorySync } from '../../fs/directory-sync.js';
import {
  close,
  fdatasync,
  fstat,
  fsync,
  ftruncate,
  hasCode,
  isOutOfSpace,
  open,
  withReadRetries,
  readFully,
  rename,
  stat,
  storageFault,
  unlink,
  unlinkIfExists,
  writeAll,
  writeFully,
} from '../../fs/files.js';
import { Fault } from '../../model/fault.js';
import {
  ATTEMPT_START_BYTES,
  blanks,
  changeLine,
  readRecord,
  type ReadRecord,
  ANSWER_BYTES,
  snapshotLine,
} from './record-lines.js';
import {
  beginsAttempt,
  type Change,
  applyChange,
  applyToCopy,
  hasAttemptUnderWay,
  hasOpenAttempt,
  type UploadRecord,
} from './transitions.js';

/**
 * A file is rewritten when its changes are this many times larger than its snapshot; rewriting then costs at most a
 * quarter of appending.
 */
const MAX_CHANGES_PER_SNAPSHOT = 4;
const MIN_CHANGE_BYTES = 64 * 1024;

/** The room that must follow a line, and the room that the write reserves where there is less. */
interface Room {
  readonly requiredBytes: number;
  readonly reservedBytes: number;
}

const NO_ROOM: Room = { requiredBytes: 0, reservedBytes: 0 };
/** The lines that begin a delivery must still leave the room for its answer. */
const DELIVERY_ROOM: Room = { requiredBytes: ATTEMPT_START_BYTES, reservedBytes: ATTEMPT_START_BYTES + ANSWER_BYTES };
const ANSWER_ROOM: Room = { requiredBytes: ANSWER_BYTES, reservedBytes: ANSWER_BYTES };

/**
 * The file of one record: a snapshot, then one line per change. No descriptor stays open between changes, so the number
 * of uploads does not matter. The exception is a running attempt, whose result must be writable without opening a file.
 *
 * Room for the lines of a delivery is synced with the step before it, and the line of that step says so: a shorter file
 * has lost lines.
 *
 * The file is _certain_ if a power cut, or the next start, finds the record as it was given last and nothing else. A
 * failed write that leaves this open makes it uncertain. So is every file found at a start: its last line may never
 * have been synced, or the sync may have failed, and a later sync that succeeds proves nothing. While the file is
 * uncertain nothing may be acknowledged until it is rewritten.
 * Reasons: docs/decisions/0002, docs/decisions/0020.
 */
export class RecordFile {
  private snapshotBytes = 0;
  private validBytes = 0;
  /** The file size with the room that is reserved after the last line. */
  private fileBytes = 0;
  /**
   * `dirty`: certain except for the remains of a failed write, which are removed before the next one. `found`: not
   * certain, but whatever is known of the record is in the file.
   */
  private state: 'certain' | 'dirty' | 'found' | 'uncertain' = 'uncertain';
  private hasDraft = false;
  /** The count of failed directory syncs before the file's name was made, or found. */
  private failuresBeforeName: number;
  /** The descriptor that stays open from the line that begins an attempt to the end of the attempt. */
  private heldFd: number | undefined;
  /** The file was removed, but a power cut may restore it. */
  private mayReappear = false;

  constructor(
    readonly path: string,
    private readonly directorySync: DirectorySync,
  ) {
    this.failuresBeforeName = directorySync.failures;
  }

  /**
   * A file that was found at the start, or is read again. Without `isCertain` it is certain only where nothing has to
   * survive a power cut.
   */
  static existing(path: string, directorySync: DirectorySync, read: ReadRecord, isCertain = false): RecordFile {
    const file = new RecordFile(path, directorySync);
    file.snapshotBytes = read.snapshotBytes;
    file.validBytes = read.validBytes;
    file.fileBytes = read.fileBytes;
    const isCertainAsFound = isCertain || !directorySync.isDurable;
    if (read.state === 'intact') file.state = isCertainAsFound ? 'certain' : 'found';
    else if (read.state === 'torn' && isCertainAsFound) file.state = 'dirty';
    return file;
  }

  /** Whether the next start may find one of two states: nothing may be acknowledged. */
  isUncertain(): boolean {
    return this.state === 'uncertain' || this.state === 'found';
  }

  /** Whether the file contains all that is known of the record, so that the record can be read from it again. */
  canBeReadAgain(): boolean {
    const isAtRest = this.heldFd === undefined && !this.hasDraft && !this.mayReappear;
    return isAtRest && (this.state === 'certain' || this.state === 'found');
  }

  /** Whether a power cut, or the next start, finds the record as it was given last. */
  isCertain(): boolean {
    return this.state === 'certain';
  }

  /** The size of the record's lines. */
  get recordBytes(): number {
    return this.validBytes;
  }

  /** Makes a change durable and returns the new record. When it rejects, the old record still holds. */
  async save(record: UploadRecord, change: Change): Promise<UploadRecord> {
    if (this.heldFd !== undefined && !(await this.isHeldFileCurrent())) {
      await this.release();
      this.state = 'uncertain';
    }
    const after = await this.write(record, change);
    if (!hasAttemptUnderWay(after)) await this.release();
    return after;
  }

  private async write(record: UploadRecord, change: Change): Promise<UploadRecord> {
    const rewritten = (): Promise<UploadRecord> => this.rewrite(applyToCopy(record, change), beginsAttempt(change));
    if (this.isUncertain()) return rewritten();
    if (this.isOvergrown()) {
      try {
        return await rewritten();
      } catch (fault) {
        // There may be no room for a second copy, while another line still fits.
        if (this.isUncertain()) throw fault;
      }
    }
    try {
      await this.append(change);
    } catch (fault) {
      if (!this.isUncertain()) throw fault;
      return rewritten();
    }
    return applyChange(record, change);
  }

  /** Closes the descriptor that is open for an attempt. */
  async release(): Promise<void> {
    const fd = this.heldFd;
    this.heldFd = undefined;
    // Every byte that counts has been synced before.
    if (fd !== undefined) await close(fd).catch(() => undefined);
  }

  /**
   * Makes the file certain, or rejects. Where there is no room for a second file, the same bytes are written over the
   * old one.
   */
  async makeCertain(record: UploadRecord): Promise<void> {
    if (!this.isUncertain()) return;
    try {
      await this.rewrite(record);
    } catch (fault) {
      if ((fault as Fault).code !== 'STORAGE_FULL' || !(await this.overwriteInPlace(record))) throw fault;
    }
  }

  /**
   * Creates or replaces the file in one step. `staysOpen`: the descriptor stays open for an attempt; an open one
   * stays open anyway.
   */
  async rewrite(record: UploadRecord, staysOpen = false): Promise<UploadRecord> {
    const isHeld = staysOpen || this.heldFd !== undefined;
    const { reservedBytes } = roomAfterRecord(record);
    try {
      return await this.rewriteWith(record, reservedBytes, isHeld);
    } catch (fault) {
      if (reservedBytes === 0 || (fault as Fault).code !== 'STORAGE_FULL') throw fault;
      return this.rewriteWith(record, 0, isHeld);
    }
  }

  /** Removes the file; needs no room, so it works on a full disk. */
  async remove(): Promise<void> {
    this.state = 'uncertain';
    await this.release();
    try {
      if (this.hasDraft) await this.removeDraft();
      // A removal whose sync failed is repeated with a new file, because the next sync would succeed without it.
      if (this.mayReappear) await this.createPlaceholder();
      const failures = this.directorySync.failures;
      this.mayReappear = true;
      await unlinkIfExists(this.path);
      // Synced also when another program removed the file: only then does the removal survive a power cut.
      await this.directorySync.sync(dirname(this.path), failures);
      this.mayReappear = false;
    } catch (error) {
      throw storageFault(error, 'the record of an upload cannot be removed');
    }
  }

  /** An empty file needs room only for its name. */
  private async createPlaceholder(): Promise<void> {
    await writeFully(this.path, new Uint8Array(), false).catch((error: unknown) => {
      if (!isOutOfSpace(error)) throw error;
    });
  }

  private async rewriteWith(record: UploadRecord, reservedBytes: number, isHeld: boolean): Promise<UploadRecord> {
    const snapshot = snapshotLine(record);
    const lines = reservedBytes > 0 ? Buffer.concat([snapshot, changeLine({}, reservedBytes)]) : snapshot;
    const failures = this.directorySync.failures;
    let draftFd: number | undefined;
    try {
      this.hasDraft = true;
      draftFd = await this.writeDraft(Buffer.concat([lines, blanks(reservedBytes)]));
      // Until the new name is durable a power cut may leave either file.
      this.state = 'uncertain';
      await rename(this.draftPath(), this.path);
      this.hasDraft = false;
      this.failuresBeforeName = failures;
      this.mayReappear = false;
      await this.release();
      if (isHeld) {
        this.heldFd = draftFd;
        draftFd = undefined;
      }
      await this.directorySync.sync(dirname(this.path), failures);
    } catch (error) {
      // A draft that stays is removed with the file, or at the next start.
      await this.removeDraft().catch(() => undefined);
      throw storageFault(error, 'the record of an upload cannot be written');
    } finally {
      // Every byte that counts has been synced before.
      if (draftFd !== undefined) await close(draftFd).catch(() => undefined);
    }
    this.snapshotBytes = snapshot.length;
    this.validBytes = lines.length;
    this.fileBytes = lines.length + reservedBytes;
    this.state = 'certain';
    return record;
  }

  /** Writes the draft and returns its descriptor, which stays valid after the rename. */
  private async writeDraft(bytes: Buffer): Promise<number> {
    const fd = await open(this.draftPath(), 'w', 0o600);
    try {
      await writeAll(fd, bytes, 0);
      if (this.directorySync.isDurable) await fdatasync(fd);
      return fd;
    } catch (error) {
      await close(fd).catch(() => undefined);
      throw error;
    }
  }

  /**
   * Writes the same bytes over themselves, so that the system writes them to the disk again, and cuts off what
   * follows them. A power cut in the middle changes nothing, because only bytes that are there already are written.
   */
  private async overwriteInPlace(record: UploadRecord): Promise<boolean> {
    try {
      const lines = (await readFully(this.path)).subarray(0, this.validBytes);
      const bytes = Buffer.concat([lines, blanks(this.fileBytes - this.validBytes)]);
      const read = readRecord(bytes);
      if (read?.state !== 'intact' || !isSame(read.record, record)) return false;
      const fd = await open(this.path, 'r+');
      try {
        await ftruncate(fd, this.fileBytes);
        await writeAll(fd, bytes, 0);
        await fsync(fd);
      } finally {
        await close(fd);
      }
      await this.directorySync.sync(dirname(this.path), this.failuresBeforeName);
    } catch (error) {
      throw storageFault(error, 'the record of an upload cannot be written');
    }
    this.state = 'certain';
    return true;
  }

  private async append(change: Change): Promise<void> {
    try {
      const fd = this.heldFd ?? (await open(this.path, 'r+'));
      try {
        await this.appendWithRoom(fd, change);
        if (beginsAttempt(change)) this.heldFd = fd;
      } finally {
        // Every byte that counts has been synced before.
        if (fd !== this.heldFd) await close(fd).catch(() => undefined);
      }
    } catch (error) {
      if (hasCode(error, 'ENOENT')) this.state = 'uncertain';
      throw storageFault(error, 'a change of an upload cannot be written');
    }
  }

  /**
   * Appends a line with reserved room, or without it on a full disk: the delivery begins anyway, because its upload
   * is what fills the disk.
   */
  private async appendWithRoom(fd: number, change: Change): Promise<void> {
    const { requiredBytes, reservedBytes } = roomAfterChange(change);
    const line = changeLine(change, requiredBytes);
    if (this.fileBytes - this.validBytes >= line.length + requiredBytes) return this.appendTo(fd, line, requiredBytes);
    try {
      await this.appendTo(fd, changeLine(change, reservedBytes), reservedBytes);
    } catch (error) {
      if (reservedBytes === 0 || !isOutOfSpace(error) || this.isUncertain()) throw error;
      await this.appendTo(fd, changeLine(change), 0);
    }
  }

  private async appendTo(fd: number, line: Buffer, reservedBytes: number): Promise<void> {
    if (this.state === 'dirty') await this.removeRemains(fd);
    this.state = 'uncertain';
    try {
      await this.writeIntoRoom(fd, line, reservedBytes);
    } catch (error) {
      // The line is incomplete or removed again, so the old record holds.
      if (await this.tryRemoveRemains(fd)) this.state = 'dirty';
      throw error;
    }
    try {
      if (this.directorySync.isDurable) await fdatasync(fd);
    } catch (error) {
      // After a failed sync the next one may succeed without having written anything.
      await this.tryRemoveRemains(fd);
      throw error;
    }
    this.validBytes += line.length;
    this.fileBytes = Math.max(this.fileBytes, this.validBytes + reservedBytes);
    this.state = 'certain';
  }

  /** Writes the part that needs new room first: if there is none, the reserved room stays untouched. */
  private async writeIntoRoom(fd: number, line: Buffer, reservedBytes: number): Promise<void> {
    const room = this.fileBytes - this.validBytes;
    const bytes = Buffer.concat([line, blanks(reservedBytes)]);
    if (bytes.length > room) await writeAll(fd, bytes.subarray(room), this.fileBytes);
    if (room > 0) await writeAll(fd, line.subarray(0, room), this.validBytes);
  }

  /**
   * Whether the open file still has its name. A file that another program removed or replaced takes no more lines,
   * since the next start would not find them.
   */
  private async isHeldFileCurrent(): Promise<boolean> {
    try {
      const { ino, dev, nlink } = await fstat(this.heldFd!);
      const named = await stat(this.path).catch((error: unknown) => {
        if (hasCode(error, 'ENOENT')) throw error;
        return undefined;
      });
      return named ? named.ino === ino && named.dev === dev : nlink > 0;
    } catch {
      // The file is rewritten.
      return false;
    }
  }

  private async tryRemoveRemains(fd: number): Promise<boolean> {
    try {
      await this.removeRemains(fd);
      return true;
    } catch {
      // The caller reports the failure that came first.
      return false;
    }
  }

  private async removeRemains(fd: number): Promise<void> {
    await ftruncate(fd, this.fileBytes);
    if (this.fileBytes > this.validBytes) await writeAll(fd, blanks(this.fileBytes - this.validBytes), this.validBytes);
  }

  private isOvergrown(): boolean {
    const changes = this.validBytes - this.snapshotBytes;
    return changes > Math.max(this.snapshotBytes * MAX_CHANGES_PER_SNAPSHOT, MIN_CHANGE_BYTES);
  }

  private async removeDraft(): Promise<void> {
    await unlinkIfExists(this.draftPath());
    this.hasDraft = false;
  }

  private draftPath(): string {
    return `${this.path}.tmp`;
  }
}

function roomAfterChange(change: Change): Room {
  if (beginsAttempt(change)) return ANSWER_ROOM;
  const phase = change.set?.phase;
  return phase === 'complete' || phase === 'undelivered' ? DELIVERY_ROOM : NO_ROOM;
}

function roomAfterRecord(record: UploadRecord): Room {
  const { phase } = record.upload;
  if (phase === 'complete' || phase === 'delivering' || phase === 'undelivered') return DELIVERY_ROOM;
  return hasOpenAttempt(record) ? ANSWER_ROOM : NO_ROOM;
}

/** Compares all but the token: a token that no commit used is not in the file. */
function isSame(one: UploadRecord, other: UploadRecord): boolean {
  const kept = ({ upload, chunks, answerCrc, answerBody }: UploadRecord): string =>
    JSON.stringify([upload, chunks, answerCrc, answerBody]);
  return kept(one) === kept(other);
}

/** Writes the body of an answer next to its record, so that it needs no memory, and returns its checksum. */
export async function writeAnswer(path: string, body: Uint8Array, directorySync: DirectorySync): Promise<number> {
  const failures = directorySync.failures;
  try {
    await writeFully(path, body, directorySync.isDurable);
    await directorySync.sync(dirname(path), failures);
    return crc32(body);
  } catch (error) {
    await unlink(path).catch(() => undefined);
    throw storageFault(error, 'an answer cannot be kept');
  }
}

/**
 * The body of an answer. Rejects with BYTES_LOST when it is missing or differs from what was written: no answer is
 * better than a wrong one.
 */
export async function readAnswer(path: string, crc: number | undefined, semaphore: Semaphore): Promise<Uint8Array> {
  try {
    const body = await withReadRetries(() => semaphore.run(() => readFully(path)));
    if (crc32(body) !== crc) throw new Fault('BYTES_LOST', 'a kept answer is damaged', false);
    return body;
  } catch (error) {
    if (hasCode(error, 'ENOENT')) throw new Fault('BYTES_LOST', 'a kept answer is missing', false);
    throw storageFault(error, 'a kept answer cannot be read');
  }
}

/** Removes the body of an answer; a missing one is no error. */
export async function removeAnswer(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return;
    throw storageFault(error, 'a kept answer cannot be removed');
  }
}
