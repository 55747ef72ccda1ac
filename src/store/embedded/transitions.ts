import { Fault } from '../../model/fault.js';
import type { Answer, Attempt, Chunk, Phase, Undelivered, Upload } from '../../model/upload.js';
import type { Commit, NewUpload, ExpectedState } from '../upload-store.js';

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

const MAX_KEPT_ATTEMPTS = 20;

/** The phases in which the origin may be asked. */
export const MAY_BE_SENT: ReadonlySet<Phase> = new Set(['receiving', 'complete', 'delivering', 'undelivered']);

export function newRecord(upload: NewUpload): UploadRecord {
  const empty = { phase: 'receiving', offset: 0, attempts: [], attemptCount: 0 } as const;
  return { upload: { ...upload, ...empty }, chunks: [], token: 0 };
}

/** The record after the change; takes over and extends the chunks of the record before it. */
export function applyChange(record: UploadRecord, change: Change): UploadRecord {
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
export function applyToCopy(record: UploadRecord, change: Change): UploadRecord {
  return applyChange({ ...record, chunks: [...record.chunks] }, change);
}

/** The chunks follow each other without gaps up to the offset, as every change promised. */
export function hasContiguousChunks({ upload, chunks }: UploadRecord): boolean {
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
  const attempts = [...upload.attempts, attempt].slice(-MAX_KEPT_ATTEMPTS);
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

/**
 * Who delivers, and until when nobody else may. Kept in memory only: with the process every claim ends, because the
 * worker that held it is gone too.
 */
export interface Claim {
  readonly worker: string;
  /** By a clock that nobody sets. */
  readonly untilMs: number;
}

/** One moment: by the clock of the wall, and by the one that claims are measured with. */
export interface Moment {
  readonly wallMs: number;
  readonly monotonicMs: number;
}

export interface ClaimedRecord {
  readonly record: UploadRecord;
  readonly claim?: Claim;
  /** Given up for its record or its bytes; they stay as they are until it expires. */
  readonly isLost?: boolean;
}

/** An attempt in `receiving` is the only one: what it sends is bound to the record by the one who began it. */
export function decideBeginEarly({ upload }: UploadRecord, attempt: Attempt): Change | 'stale' {
  if (!attempt.inPart) throw new Fault('CONTRACT_BROKEN', 'an early attempt is in part', false);
  if (upload.phase !== 'receiving') return 'stale';
  if (isKnown(upload, attempt)) return {};
  return upload.attemptCount === 0 ? { attempt } : 'stale';
}

export function decideEndEarly({ upload }: UploadRecord, attempt: Attempt): Change | 'stale' {
  if (upload.phase !== 'receiving') return 'stale';
  if (isKnown(upload, attempt)) return {};
  return isOpenInPart(upload, attempt) ? { attempt } : 'stale';
}

/** Its answer came already, by the same call: nobody heard what came of it. */
export function isAlreadyAnswered({ upload }: UploadRecord, answer: Answer, attempt?: Attempt): boolean {
  const isSame = upload.phase === 'answered' && upload.answer?.at === answer.at;
  return isSame && (attempt === undefined || isKnown(upload, attempt));
}

export function isAlreadyPostponed({ upload }: UploadRecord, dueAt: number): boolean {
  return upload.phase === 'complete' && upload.dueAt === dueAt;
}

export function isAlreadyGivenUp({ upload }: UploadRecord, why: Undelivered): boolean {
  return upload.phase === 'undelivered' && isSame(upload.undelivered, why);
}

/** `complete` or `undelivered`, or `delivering` under a claim that has run out. */
export function decideClaim(
  { record, claim }: ClaimedRecord,
  { monotonicMs }: Moment,
  earlyAttempt?: Attempt,
): Change | undefined {
  const { phase } = record.upload;
  if (earlyAttempt && !isOpenInPart(record.upload, earlyAttempt)) return undefined;
  const attempt = earlyAttempt && { attempt: withoutInPart(earlyAttempt) };
  if (phase === 'delivering') return claim && claim.untilMs > monotonicMs ? undefined : { ...attempt };
  if (phase !== 'complete' && phase !== 'undelivered') return undefined;
  return { ...attempt, set: { phase: 'delivering' }, unset: ['dueAt', 'undelivered'] };
}

/** A claim that has run out is still held as long as nobody else took it: what its worker learned must not be lost. */
export function holdsClaim({ record, claim }: ClaimedRecord, worker: string): boolean {
  return record.upload.phase === 'delivering' && claim?.worker === worker;
}

/**
 * The worker of the newest attempt may go on with it until a newer one begins: what it learns at the origin can be learned
 * nowhere else, however long it stood still.
 */
export function isNewestAttempt({ upload }: UploadRecord, number: number | undefined): boolean {
  const { phase, attempts } = upload;
  if (phase !== 'complete' && phase !== 'delivering' && phase !== 'undelivered') return false;
  const newest = attempts.at(-1);
  return newest !== undefined && newest.number === number && (!newest.inPart || newest.reached !== undefined);
}

/** The claim of the newest attempt's worker is given back. */
export function decideReclaim({ upload }: UploadRecord): Change {
  return upload.phase === 'delivering' ? {} : { set: { phase: 'delivering' }, unset: ['dueAt', 'undelivered'] };
}

export function decideAttempt(record: UploadRecord, attempt: Attempt, boundary: 'begins' | 'ends'): Change {
  if (isKnown(record.upload, attempt)) return {};
  const known = record.upload.attempts.some(({ number }) => number === attempt.number);
  if (known !== (boundary === 'ends'))
    throw new Fault('CONTRACT_BROKEN', `attempt ${attempt.number} ${boundary}, which it cannot`, false);
  return { attempt };
}

const LINE_LOST = 'the record of its delivery is damaged: a request may have been sent';

/**
 * A record whose last line is lost. That of an upload that is whole may have said that an attempt begins, so it is taken for
 * one that nobody heard the end of: what may not be repeated is not sent again.
 */
export function withLostLine(record: UploadRecord, startedAt: number): UploadRecord {
  const { upload } = record;
  const { phase, attempts, undelivered } = upload;
  if (phase !== 'complete' && phase !== 'delivering' && phase !== 'undelivered') return record;
  const newest = attempts.at(-1);
  const isOpen = newest !== undefined && newest.reached === undefined;
  const attempt = isOpen
    ? withoutInPart(newest)
    : { number: (newest?.number ?? 0) + 1, origin: newest?.origin ?? '', startedAt, problem: LINE_LOST };
  const outcomeUnknown = undelivered && ({ reason: 'outcome-unknown', problem: LINE_LOST } as const);
  return applyToCopy(record, { attempt, ...(outcomeUnknown && { set: { undelivered: outcomeUnknown } }) });
}

export function decideAnswer(answer: Answer, expiresAt: number, answerCrc: number | undefined): Change {
  const set = { phase: 'answered', answer, expiresAt } as const;
  return { set, unset: ['dueAt', 'undelivered'], ...(answerCrc !== undefined && { answerCrc }) };
}

export function decidePostpone(dueAt: number): Change {
  return { set: { phase: 'complete', dueAt } };
}

export function decideGiveUp(why: Undelivered): Change {
  return { set: { phase: 'undelivered', undelivered: why } };
}

/** Only of the end that the client was told of: a newer attempt has another outcome. */
export function decideClientInformed(
  record: UploadRecord,
  attempt: number,
  expected: Undelivered,
  updated: Undelivered,
): Change | 'stale' {
  const { phase, undelivered } = record.upload;
  if (phase !== 'undelivered' || !isNewestAttempt(record, attempt)) return 'stale';
  if (isSame(undelivered, updated)) return {};
  return isSame(undelivered, expected) ? { set: { undelivered: updated } } : 'stale';
}

function isKnown({ attempts }: Upload, attempt: Attempt): boolean {
  return attempts.some((known) => isSame(known, attempt));
}

/** As the record's file keeps them. */
function isSame(one: object | undefined, other: object): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

function isOpenInPart({ attempts }: Upload, { number }: Attempt): boolean {
  return attempts.some((known) => known.number === number && known.inPart && known.reached === undefined);
}

function withoutInPart(early: Attempt): Attempt {
  const attempt = { ...early };
  Reflect.deleteProperty(attempt, 'inPart');
  return attempt;
}

/** Whether somebody should deliver this upload now. `beyond`: who is due later than this has its time from another clock. */
export function isDue(
  { record, claim }: ClaimedRecord,
  { wallMs, monotonicMs }: Moment,
  implausibleAfter: number,
): boolean {
  const { phase, dueAt = 0 } = record.upload;
  if (phase === 'complete') return dueAt <= wallMs || dueAt > implausibleAfter;
  return phase === 'delivering' && (claim === undefined || claim.untilMs <= monotonicMs);
}

/** Whether nobody needs this upload any more. A delivery under way is never pulled from under its worker's feet. */
export function isExpired({ record, claim, isLost = false }: ClaimedRecord, { wallMs, monotonicMs }: Moment): boolean {
  const { phase, expiresAt } = record.upload;
  if (phase === 'cancelled' || (phase === 'invalid' && !isLost)) return true;
  const isClaimed = phase === 'delivering' && claim !== undefined && claim.untilMs > monotonicMs;
  return expiresAt <= wallMs && !isClaimed;
}

/** The fence, and what a commit does when it passes. Throws when the holder of the lease breaks the rules. */
export function decideCommit(record: UploadRecord, commit: Commit): Change | 'stale' | 'gone' {
  if (isAlreadyCompleted(record, commit)) return {};
  const refusal = leaseRefusal(record, commit.token);
  if (refusal) return refusal;
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
  return leaseRefusal(record, token) ?? { token, set: { phase: 'invalid', ...(why && { lost: true }) } };
}

export function decideMarkLost({ upload }: UploadRecord): Change | 'gone' {
  if (upload.phase === 'invalid') return {};
  const needsBytes = upload.phase === 'complete' || upload.phase === 'delivering' || upload.phase === 'undelivered';
  return needsBytes ? { set: { phase: 'invalid', lost: true } } : 'gone';
}

export function decideMove(
  { upload, token: newestToken }: UploadRecord,
  token: number,
  node: string,
  expected: ExpectedState = upload,
): Change | 'stale' | 'gone' {
  if (token < newestToken) return 'stale';
  const isAsExpected = upload.phase === expected.phase && upload.attemptCount === expected.attemptCount;
  return upload.phase === 'delivering' || !isAsExpected ? 'gone' : { token, set: { node } };
}

export function decideCancel({ upload }: UploadRecord): Change {
  return upload.phase === 'cancelled' ? {} : { set: { phase: 'cancelled' } };
}

/** The same commit as the one that completed it, asked for again because nobody heard what came of it. */
function isAlreadyCompleted({ upload, chunks, token }: UploadRecord, commit: Commit): boolean {
  const { chunk, length = upload.length } = commit;
  if (upload.phase !== 'complete' || upload.dueAt !== undefined) return false;
  if (!commit.complete || commit.token !== token || length !== upload.length) return false;
  const last = chunks.at(-1);
  if (!chunk) return true;
  if (last?.name === chunk.name) return last.start === chunk.start && last.size === chunk.size;
  return chunk.size === 0 && chunk.start === upload.offset;
}

function leaseRefusal(record: UploadRecord, token: number): 'stale' | 'gone' | undefined {
  if (token < record.token) return 'stale';
  return record.upload.phase === 'receiving' ? undefined : 'gone';
}

/** A new chunk begins at the offset; the last one may grow. An empty one is nothing to remember. */
function acceptedChunk({ upload, chunks }: UploadRecord, chunk: Chunk | undefined): Chunk | undefined {
  if (!chunk) return undefined;
  const last = chunks.at(-1);
  const isLast = last?.name === chunk.name;
  if (!Number.isSafeInteger(chunk.size) || chunk.size < 0)
    throw contractBroken('the size of a chunk is no number of bytes');
  if (chunk.start !== (isLast ? last.start : upload.offset))
    throw contractBroken('a chunk does not begin at the offset');
  if (isLast && chunk.size < last.size) throw contractBroken('a committed chunk cannot shrink');
  const { name, start, size, crc } = chunk;
  return size > 0 ? { name, start, size, ...(crc !== undefined && { crc }) } : undefined;
}

function acceptedLength(upload: Upload, commit: Commit, offset: number): number | undefined {
  const length = commit.length ?? upload.length ?? (commit.complete && offset);
  if (length === undefined) return undefined;
  if (upload.length !== undefined && length !== upload.length)
    throw contractBroken('the length is known and cannot change');
  if (offset > length) throw contractBroken('the offset would exceed the length');
  if (commit.complete && offset < length) throw contractBroken('bytes are missing for completion');
  return length;
}

function contractBroken(rule: string): Fault {
  return new Fault('CONTRACT_BROKEN', `commit refused: ${rule}`, false);
}

type Waiter = (upload: Upload | undefined, failure?: Error) => void;

const NO_WAITERS: readonly Waiter[] = [];

/** Requests that wait until the delivery of an upload has come to something. */
export class SettlementWaiters {
  private readonly waiters = new Map<string, Set<Waiter>>();

  wait(id: string, signal: AbortSignal): Promise<Upload | undefined> {
    return new Promise((resolve, reject) => {
      const waiter: Waiter = (upload, failure) => {
        signal.removeEventListener('abort', aborted);
        this.removeWaiter(id, waiter);
        if (failure === undefined) resolve(upload);
        else reject(failure);
      };
      const aborted = (): void => waiter(undefined, signal.reason as Error);
      if (signal.aborted) return aborted();
      signal.addEventListener('abort', aborted, { once: true });
      this.waiters.set(id, (this.waiters.get(id) ?? new Set()).add(waiter));
    });
  }

  /** Called after each step: wakes those who wait when the phase is a settled one. */
  notify(id: string, upload: Upload | undefined): void {
    if (!isSettled(upload)) return;
    for (const waiter of [...(this.waiters.get(id) ?? NO_WAITERS)]) waiter(upload);
  }

  failAll(failure: Error): void {
    for (const waiters of [...this.waiters.values()]) for (const waiter of [...waiters]) waiter(undefined, failure);
  }

  private removeWaiter(id: string, waiter: Waiter): void {
    const waiters = this.waiters.get(id);
    waiters?.delete(waiter);
    if (waiters?.size === 0) this.waiters.delete(id);
  }
}

export function isSettled(upload: Upload | undefined): boolean {
  return upload?.phase !== 'complete' && upload?.phase !== 'delivering';
}
