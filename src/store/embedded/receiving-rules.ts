import { Fault } from '../../model/fault.js';
import type { Chunk, Upload } from '../../model/upload.js';
import type { Commit, SeenState } from '../upload-store.js';
import type { Change, UploadRecord } from './upload-record.js';

/** The fence, and what a commit does when it passes. Throws when the holder of the lease breaks the rules. */
export function decideCommit(record: UploadRecord, commit: Commit): Change | 'stale' | 'gone' {
  if (completedAlready(record, commit)) return {};
  const refused = refusedBy(record, commit.token);
  if (refused) return refused;
  const { upload } = record;
  const chunk = acceptedChunk(record, commit.chunk);
  const offset = chunk ? chunk.start + chunk.size : upload.offset;
  const length = acceptedLength(upload, commit, offset);
  const takesDigests = commit.reprDigests !== undefined && upload.reprDigests.length === 0;
  const set: Partial<Upload> = {
    offset,
    expiresAt: commit.expiresAt,
    ...(length !== undefined && { length }),
    ...(takesDigests && { reprDigests: commit.reprDigests }),
    ...(commit.complete && { phase: 'complete' as const }),
    ...(commit.complete?.heldBack && { heldBack: commit.complete.heldBack }),
    ...(commit.complete?.trailers && { trailers: commit.complete.trailers }),
  };
  return { token: commit.token, ...(chunk && { chunk }), set };
}

export function decideInvalidate(record: UploadRecord, token: number, why?: 'lost'): Change | 'stale' | 'gone' {
  if (record.upload.phase === 'invalid' && token === record.token) return {};
  return refusedBy(record, token) ?? { token, set: { phase: 'invalid', ...(why && { lost: true }) } };
}

export function decideLose({ upload }: UploadRecord): Change | 'gone' {
  if (upload.phase === 'invalid') return {};
  const needsBytes = upload.phase === 'complete' || upload.phase === 'delivering' || upload.phase === 'undelivered';
  return needsBytes ? { set: { phase: 'invalid', lost: true } } : 'gone';
}

export function decideMove(
  { upload, token: newest }: UploadRecord,
  token: number,
  node: string,
  seen: SeenState = upload,
): Change | 'stale' | 'gone' {
  if (token < newest) return 'stale';
  const isAsSeen = upload.phase === seen.phase && upload.attemptCount === seen.attemptCount;
  return upload.phase === 'delivering' || !isAsSeen ? 'gone' : { token, set: { node } };
}

export function decideCancel({ upload }: UploadRecord): Change {
  return upload.phase === 'cancelled' ? {} : { set: { phase: 'cancelled' } };
}

/** The same commit as the one that completed it, asked for again because nobody heard what came of it. */
function completedAlready({ upload, chunks, token }: UploadRecord, commit: Commit): boolean {
  const { chunk, length = upload.length } = commit;
  if (upload.phase !== 'complete' || upload.dueAt !== undefined) return false;
  if (!commit.complete || commit.token !== token || length !== upload.length) return false;
  const last = chunks.at(-1);
  if (!chunk) return true;
  if (last?.name === chunk.name) return last.start === chunk.start && last.size === chunk.size;
  return chunk.size === 0 && chunk.start === upload.offset;
}

function refusedBy(record: UploadRecord, token: number): 'stale' | 'gone' | undefined {
  if (token < record.token) return 'stale';
  return record.upload.phase === 'receiving' ? undefined : 'gone';
}

/** A new chunk begins at the offset; the last one may grow. An empty one is nothing to remember. */
function acceptedChunk({ upload, chunks }: UploadRecord, chunk: Chunk | undefined): Chunk | undefined {
  if (!chunk) return undefined;
  const last = chunks.at(-1);
  const isLast = last?.name === chunk.name;
  if (!Number.isSafeInteger(chunk.size) || chunk.size < 0) throw broken('the size of a chunk is no number of bytes');
  if (chunk.start !== (isLast ? last.start : upload.offset)) throw broken('a chunk does not begin at the offset');
  if (isLast && chunk.size < last.size) throw broken('a committed chunk cannot shrink');
  const { name, start, size, crc } = chunk;
  return size > 0 ? { name, start, size, ...(crc !== undefined && { crc }) } : undefined;
}

function acceptedLength(upload: Upload, commit: Commit, offset: number): number | undefined {
  const length = commit.length ?? upload.length ?? (commit.complete && offset);
  if (length === undefined) return undefined;
  if (upload.length !== undefined && length !== upload.length) throw broken('the length is known and cannot change');
  if (offset > length) throw broken('the offset would exceed the length');
  if (commit.complete && offset < length) throw broken('bytes are missing for completion');
  return length;
}

function broken(rule: string): Fault {
  return new Fault('CONTRACT_BROKEN', `commit refused: ${rule}`, false);
}
