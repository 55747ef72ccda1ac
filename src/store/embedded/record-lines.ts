import { crc32 } from 'node:zlib';
import type { Phase } from '../../model/upload.js';
import { changed, hasOpenAttempt, isSound, type Change, type UploadRecord } from './upload-record.js';

/** Raised when older programs could no longer read what we write. */
const FORMAT = 1;

/**
 * Kept free behind the line of an attempt that begins, so that its answer can be noted on a full disk: a status, some
 * dozens of header lines and a short body.
 */
export const RESERVED_BYTES = 4096;

const MAY_BE_SENT: ReadonlySet<Phase> = new Set(['receiving', 'complete', 'delivering', 'undelivered']);

const NEWLINE = 0x0a;
const BLANK = 0x20;
const CRC_BYTES = 8;

/** The file of one record as it was found. `goodBytes` of it can stay; what follows them was never acknowledged. */
export interface ReadRecord {
  readonly record: UploadRecord;
  readonly snapshotBytes: number;
  readonly goodBytes: number;
  /** With the blanks behind the last line: room that is kept for the next one. */
  readonly fileBytes: number;
  /**
   * `torn`: the last line is not there in whole, as a crash leaves it. `illegible`: it was written in whole but is not what
   * was written. `damaged`: something before the last line cannot be read.
   */
  readonly state: 'whole' | 'torn' | 'illegible' | 'damaged';
}

/** The first line of a record's file: the whole record. */
export function snapshotLine(record: UploadRecord): Buffer {
  return line({ format: FORMAT, ...record });
}

/** Each further line: one change. */
export function changeLine(change: Change): Buffer {
  return line(change);
}

/** Room for a line that is written later, over these bytes: no newline is among them, so they never look like a line. */
export function blanks(bytes: number): Buffer {
  return Buffer.alloc(bytes, BLANK);
}

/** Reads a record's file, at this time; undefined when not even its first line can be read. */
export function readRecord(file: Buffer, readAt = Date.now()): ReadRecord | undefined {
  const snapshot = lineAt(file, 0);
  if (!isSnapshot(snapshot?.value)) return undefined;
  let record: UploadRecord = snapshot.value;
  let at = snapshot.end;
  const snapshotBytes = at;
  while (at < file.length) {
    const next = lineAt(file, at);
    if (!next) break;
    record = changed(record, next.value as Change);
    at = next.end;
  }
  const state = stateOf(record, file, at);
  const mayLackAttempt = (state === 'torn' || state === 'illegible') && file.length - at >= RESERVED_BYTES;
  if (mayLackAttempt) record = withLostAttempt(record, readAt);
  return { record, snapshotBytes, goodBytes: at, fileBytes: file.length, state };
}

/**
 * So much was dropped that the line of an attempt, with its room, may be in it: a crash leaves that, and so does a disk that
 * has lost the lines of an attempt and of its answer. The origin may have been asked, so it is not asked again unsaid.
 */
function withLostAttempt(record: UploadRecord, startedAt: number): UploadRecord {
  const { phase, attemptCount } = record.upload;
  if (!MAY_BE_SENT.has(phase) || hasOpenAttempt(record)) return record;
  const number = attemptCount + 1;
  const attempt = { number, budgetFrom: number, budgetSince: startedAt, origin: 'unknown', startedAt };
  // Of one that is received once more, the newest attempt decides when it is whole again.
  if (phase === 'receiving') return changed(record, { attempt });
  return changed(record, { attempt, set: { phase: 'delivering' }, unset: ['dueAt', 'undelivered'] });
}

function stateOf(record: UploadRecord, file: Buffer, goodBytes: number): ReadRecord['state'] {
  if (!isSound(record)) return 'damaged';
  if (file.subarray(goodBytes).every((byte) => byte === BLANK)) return 'whole';
  // Over room that was kept the end of a line is written first: where the room is still there, its beginning never came.
  if (file.subarray(goodBytes, goodBytes + CRC_BYTES).every((byte) => byte === BLANK)) return 'torn';
  const newline = file.indexOf(NEWLINE, goodBytes);
  // Room is kept by the same write as the line before it: a line in front of it has lost its end.
  if (newline === -1) return endsWithRoom(file, goodBytes) ? 'illegible' : 'torn';
  // A power cut can leave zeros of the room that was to be kept behind it.
  const isLast = file.subarray(newline + 1).every((byte) => byte === BLANK || byte === 0);
  return isLast ? 'illegible' : 'damaged';
}

/** No line has so many blanks at its end. */
const LEAST_ROOM = 64;

function endsWithRoom(file: Buffer, goodBytes: number): boolean {
  const end = file.subarray(-LEAST_ROOM);
  return file.length - goodBytes > LEAST_ROOM && end.every((byte) => byte === BLANK);
}

/** CRC-32 in hex, a space, JSON, newline. JSON has no newline of its own. */
function line(value: object): Buffer {
  const json = Buffer.from(JSON.stringify(value));
  return Buffer.concat([Buffer.from(`${hex(crc32(json))} `), json, Buffer.of(NEWLINE)]);
}

function lineAt(file: Buffer, start: number): { readonly value: unknown; readonly end: number } | undefined {
  const newline = file.indexOf(NEWLINE, start);
  if (newline < start + 9) return undefined;
  const json = file.subarray(start + 9, newline);
  if (file.toString('latin1', start, start + 9) !== `${hex(crc32(json))} `) return undefined;
  return { value: JSON.parse(json.toString()) as unknown, end: newline + 1 };
}

function isSnapshot(value: unknown): value is UploadRecord {
  return typeof value === 'object' && value !== null && 'format' in value && value.format === FORMAT;
}

function hex(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}
