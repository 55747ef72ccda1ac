import type { RecordFile } from './record-file.js';
import type { Change, Claim, UploadRecord } from './transitions.js';

/** An upload in memory, with its file. */
export interface RecordEntry {
  record: UploadRecord;
  readonly file: RecordFile;
  /** Valid while the phase is `delivering`. */
  claim?: Claim;
  /** A change that `record` has and the file does not, since it waits for the next one; see `Records.saveLater`. */
  unsaved?: { readonly change: Change; readonly recordOnDisk: UploadRecord };
  /**
   * The upload was given up because its record or bytes are damaged or missing. The files stay until the upload
   * expires, since a backup may still be restored.
   */
  isLost?: boolean;
  /**
   * The record's last line was damaged when it was read; files that the record does not list may belong to that line.
   */
  readonly hasLostLine?: boolean;
}

/** The record, marked as invalid because part of its upload is lost. */
export function asLost(record: UploadRecord): UploadRecord {
  return { ...record, upload: { ...record.upload, phase: 'invalid', lost: true } };
}

/**
 * Whether the record can be read from its file again, and is the same then. Otherwise memory knows more than the file:
 * a change that is not written, a descriptor of an attempt, or damage that was reported when the file was read. The
 * record of a claimed delivery stays too, since its worker must not depend on a disk that fails to read.
 */
export function canBeReadAgain({ file, record, claim, unsaved, hasLostLine = false }: RecordEntry): boolean {
  const isBeingDelivered = claim !== undefined && record.upload.phase === 'delivering';
  return !unsaved && !hasLostLine && !isBeingDelivered && file.canBeReadAgain();
}
