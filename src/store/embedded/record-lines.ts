import { crc32 } from 'node:zlib';
import {
  type Change,
  applyChange,
  hasOpenAttempt,
  hasContiguousChunks,
  MAY_BE_SENT,
  type UploadRecord,
} from './transitions.js';

/** Raised when older versions could no longer read new files. */
const FORMAT = 1;

/**
 * Reserved after the line that begins an attempt, so that its answer can be recorded on a full disk: a status, some
 * dozens of header lines and a short body.
 */
export const ANSWER_BYTES = 4096;

/** Reserved before that room for the lines that begin a delivery: its claim and its attempt. */
export const ATTEMPT_START_BYTES = 512;

const NEWLINE = 0x0a;
const BLANK = 0x20;
const CRC_BYTES = 8;
/** After the checksum and a space. */
const JSON_START = CRC_BYTES + 1;

/** The content of a record's file. The first `validBytes` stay; the bytes after them were never acknowledged. */
export interface ReadRecord {
  readonly record: UploadRecord;
  readonly snapshotBytes: number;
  readonly validBytes: number;
  /** The file size with the blanks after the last line, which are room for the next one. */
  readonly fileBytes: number;
  /**
   * `torn`: the last line is incomplete, as a crash leaves it. `illegible`: the last line was written completely but
   * is damaged. `cut`: the file ends in or after its last line but before the room that a line reserved, so any
   * number of lines may be missing. `damaged`: something before the last line cannot be read.
   */
  readonly state: 'intact' | 'torn' | 'illegible' | 'cut' | 'damaged';
}

/** `room`: the number of bytes after the line that were synced with it. Older versions ignore the field. */
type ChangeLine = Change & { readonly room?: number };

/** The first line of a record's file: the complete record. */
export function snapshotLine(record: UploadRecord): Buffer {
  return encodeLine({ format: FORMAT, ...record });
}

/** Every other line: one change, and how much room is written with it. */
export function changeLine(change: Change, room = 0): Buffer {
  const value: ChangeLine = room > 0 ? { ...change, room } : change;
  return encodeLine(value);
}

/** Room for a line that is written over these bytes later; without a newline they never look like a line. */
export function blanks(bytes: number): Buffer {
  return Buffer.alloc(bytes, BLANK);
}

/**
 * Reads a record's file; undefined if its first line cannot be read. `readAt` becomes the start of an attempt that has
 * to be assumed.
 */
export function readRecord(file: Buffer, readAt = Date.now()): ReadRecord | undefined {
  const snapshot = decodeLine(file, 0);
  if (!isSnapshot(snapshot?.value)) return undefined;
  let record: UploadRecord = snapshot.value;
  let position = snapshot.end;
  const snapshotBytes = position;
  let roomEnd = 0;
  while (position < file.length) {
    const next = decodeLine(file, position);
    if (!next) break;
    const change = next.value as ChangeLine;
    record = applyChange(record, change);
    position = next.end;
    roomEnd = Math.max(roomEnd, position + (change.room ?? 0));
  }
  const state = hasContiguousChunks(record) ? stateOf(file, position, roomEnd) : 'damaged';
  // A line torn within room that was reserved earlier was never synced, so nothing followed it.
  const mayHideAttempt = state === 'illegible' || (state === 'torn' && roomEnd <= position);
  if (mayHideAttempt && file.length - position >= ANSWER_BYTES) record = withLostAttempt(record, readAt);
  return { record, snapshotBytes, validBytes: position, fileBytes: file.length, state };
}

/**
 * So many bytes were dropped that an attempt's line with its room may be among them: a crash leaves that, and so does
 * a disk that lost the lines of an attempt and of its answer. The attempt is assumed, because the origin may have got
 * the request.
 */
function withLostAttempt(record: UploadRecord, startedAt: number): UploadRecord {
  const { phase, attemptCount } = record.upload;
  if (!MAY_BE_SENT.has(phase) || hasOpenAttempt(record)) return record;
  const number = attemptCount + 1;
  const attempt = { number, budgetFrom: number, budgetSince: startedAt, origin: 'unknown', startedAt };
  // For an upload still being received, the newest attempt decides once it is complete again.
  if (phase === 'receiving') return applyChange(record, { attempt });
  return applyChange(record, { attempt, set: { phase: 'delivering' }, unset: ['dueAt', 'undelivered'] });
}

function stateOf(file: Buffer, validBytes: number, roomEnd: number): ReadRecord['state'] {
  const isShort = file.length < roomEnd;
  // A blank after the last line proves that no line followed, wherever the file ends: a crash left less room than was
  // to be reserved.
  if (file.subarray(validBytes).every((byte) => byte === BLANK))
    return isShort && file.length === validBytes ? 'cut' : 'intact';
  // In reserved room the end of a line is written first: where the room is still blank, the line's beginning was
  // never written.
  if (file.subarray(validBytes, validBytes + CRC_BYTES).every((byte) => byte === BLANK)) return 'torn';
  const newline = file.indexOf(NEWLINE, validBytes);
  // A power cut can leave zeros where room after the line was to be reserved.
  const isLast = newline === -1 || file.subarray(newline + 1).every((byte) => byte === BLANK || byte === 0);
  if (!isLast) return 'damaged';
  if (isShort) return 'cut';
  return newline !== -1 || wasCompleteLine(file, validBytes, roomEnd) ? 'illegible' : 'torn';
}

/** Whether a line without a newline was once complete. */
function wasCompleteLine(file: Buffer, validBytes: number, roomEnd: number): boolean {
  // Room reserved by the same write as the line before it was written after the end of that line.
  if (roomEnd <= validBytes) return endsWithRoom(file, validBytes);
  // In room that was reserved earlier a crash leaves the beginning of a line and blanks, but never zeros, and never
  // all but the newline.
  const lineStart = withoutBlanks(file.subarray(validBytes, roomEnd));
  return lineStart.includes(0) || hasValidChecksum(lineStart) || hasValidChecksum(lineStart.subarray(0, -1));
}

function withoutBlanks(bytes: Buffer): Buffer {
  return bytes.subarray(0, bytes.findLastIndex((byte) => byte !== BLANK) + 1);
}

/** No line ends with this many blanks. */
const MIN_ROOM_BYTES = 64;

function endsWithRoom(file: Buffer, validBytes: number): boolean {
  const end = file.subarray(-MIN_ROOM_BYTES);
  return file.length - validBytes > MIN_ROOM_BYTES && end.every((byte) => byte === BLANK);
}

/** A line: CRC-32 in hex, a space, JSON, newline. JSON contains no newline of its own. */
function encodeLine(value: object): Buffer {
  const json = Buffer.from(JSON.stringify(value));
  return Buffer.concat([Buffer.from(`${hex(crc32(json))} `), json, Buffer.of(NEWLINE)]);
}

function decodeLine(file: Buffer, start: number): { readonly value: unknown; readonly end: number } | undefined {
  const newline = file.indexOf(NEWLINE, start);
  if (newline < start + JSON_START) return undefined;
  const text = file.subarray(start, newline);
  if (!hasValidChecksum(text)) return undefined;
  return { value: JSON.parse(text.toString('utf8', JSON_START)) as unknown, end: newline + 1 };
}

function hasValidChecksum(text: Buffer): boolean {
  return text.toString('latin1', 0, JSON_START) === `${hex(crc32(text.subarray(JSON_START)))} `;
}

function isSnapshot(value: unknown): value is UploadRecord {
  return typeof value === 'object' && value !== null && 'format' in value && value.format === FORMAT;
}

function hex(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}
