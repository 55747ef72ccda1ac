import type { Attempt, Chunk, Phase, Upload } from '../../model/upload.js';
import type { NewUpload } from '../upload-store.js';

/** All that is kept of one upload. Its chunks grow in place: they alone can become many. */
export interface UploadRecord {
  readonly upload: Upload;
  readonly chunks: Chunk[];
  /** The largest lease token that was seen: the fence. */
  readonly token: number;
  /** CRC-32 of an answer body that is kept beside the record. */
  readonly answerCrc?: number;
  /** The body itself, in base64, where the disk had room for nothing but a line. */
  readonly answerBody?: string;
}

/** What one verb changes; what is appended to the record's file. Replaying all changes gives the record again. */
export interface Change {
  readonly token?: number;
  /** A new last chunk, or the last chunk grown. */
  readonly chunk?: Chunk;
  /** A new attempt, or a known one that ended. */
  readonly attempt?: Attempt;
  readonly answerCrc?: number;
  readonly answerBody?: string;
  readonly set?: Partial<Upload>;
  readonly unset?: readonly ('undelivered' | 'dueAt')[];
}

const KEPT_ATTEMPTS = 20;

/** The phases in which the origin may be asked. */
export const MAY_BE_SENT: ReadonlySet<Phase> = new Set(['receiving', 'complete', 'delivering', 'undelivered']);

export function newRecord(upload: NewUpload): UploadRecord {
  const empty = { phase: 'receiving', offset: 0, attempts: [], attemptCount: 0 } as const;
  return { upload: { ...upload, ...empty }, chunks: [], token: 0 };
}

/** The record after the change; takes over and extends the chunks of the record before it. */
export function changed(record: UploadRecord, change: Change): UploadRecord {
  if (change.chunk) putChunk(record.chunks, change.chunk);
  const upload = { ...record.upload, ...change.set };
  for (const field of change.unset ?? []) Reflect.deleteProperty(upload, field);
  return {
    upload: change.attempt ? withAttempt(upload, change.attempt) : upload,
    chunks: record.chunks,
    token: Math.max(record.token, change.token ?? 0),
    answerCrc: change.answerCrc ?? record.answerCrc,
    answerBody: change.answerBody ?? record.answerBody,
  };
}

/** As `changed`, leaving the record before it as it is. */
export function changedCopy(record: UploadRecord, change: Change): UploadRecord {
  return changed({ ...record, chunks: [...record.chunks] }, change);
}

/** The chunks follow each other without gaps up to the offset, as every change promised. */
export function isSound({ upload, chunks }: UploadRecord): boolean {
  let end = 0;
  for (const chunk of chunks) {
    if (chunk.start !== end) return false;
    end += chunk.size;
  }
  return end === upload.offset;
}

function putChunk(chunks: Chunk[], chunk: Chunk): void {
  if (chunks.at(-1)?.name === chunk.name) chunks[chunks.length - 1] = chunk;
  else chunks.push(chunk);
}

function withAttempt(upload: Upload, attempt: Attempt): Upload {
  const known = upload.attempts.some(({ number }) => number === attempt.number);
  if (known) {
    return { ...upload, attempts: upload.attempts.map((each) => (each.number === attempt.number ? attempt : each)) };
  }
  const attempts = [...upload.attempts, attempt].slice(-KEPT_ATTEMPTS);
  return { ...upload, attempts, attemptCount: upload.attemptCount + 1 };
}

/** An attempt begins, or goes on as one that may send the whole. */
export function beginsAttempt({ attempt }: Change): boolean {
  return attempt !== undefined && attempt.reached === undefined;
}

/** An attempt is under way, or was when its process ended: its answer will need room. */
export function hasOpenAttempt({ upload }: UploadRecord): boolean {
  const newest = upload.attempts.at(-1);
  return newest !== undefined && newest.reached === undefined;
}

/** What comes of its newest attempt will be written: nobody has ended it or given it up. */
export function hasAttemptUnderWay(record: UploadRecord): boolean {
  const { phase } = record.upload;
  return phase !== 'undelivered' && MAY_BE_SENT.has(phase) && hasOpenAttempt(record);
}
