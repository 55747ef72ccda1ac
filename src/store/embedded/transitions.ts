import { Fault } from '../../model/fault.js';
import type { Answer, Attempt, Chunk, Phase, Undelivered, Upload } from '../../model/upload.js';
import type { Commit, KeptAnswer, NewUpload, ExpectedState } from '../upload-store.js';

/** The complete state of one upload. The list of chunks is extended in place, because it alone can become long. */
export interface UploadRecord {
  readonly upload: Upload;
  readonly chunks: Chunk[];
  /** The largest lease token so far; commits with a smaller one are refused. */
  readonly token: number;
  /** CRC-32 of an answer body in a file of its own. */
  readonly answerCrc?: number;
  /** The answer body itself in base64, if it is short. */
  readonly answerBody?: string;
}

/**
 * The change that one step makes, and the line that is appended to the record's file. Replaying all changes restores
 * the record.
 */
export interface Change {
  readonly token?: number;
  /** A new last chunk, or the last chunk with its new size. */
  readonly chunk?: Chunk;
  /** A new attempt, or a known one that ended. */
  readonly attempt?: Attempt;
  readonly answerCrc?: number;
  readonly answerBody?: string;
  readonly set?: Partial<Upload>;
  readonly unset?: readonly ('undelivered' | 'dueAt')[];
}

const MAX_KEPT_ATTEMPTS = 20;

/** The phases in which a request to the origin may be sent. */
export const MAY_BE_SENT: ReadonlySet<Phase> = new Set(['receiving', 'complete', 'delivering', 'undelivered']);

/** The record of an upload that was just created. */
export function newRecord(upload: NewUpload): UploadRecord {
  const empty = { phase: 'receiving', offset: 0, attempts: [], attemptCount: 0 } as const;
  return { upload: { ...upload, ...empty }, chunks: [], token: 0 };
}

/** Both changes as one: the later one decides about a field that both set. */
export function joinedChange(earlier: Change | undefined, later: Change): Change {
  if (!earlier) return later;
  const set = { ...earlier.set, ...later.set };
  const unset = [...new Set([...(earlier.unset ?? []), ...(later.unset ?? [])])];
  const isSetLater = (field: keyof Upload): boolean => later.set !== undefined && field in later.set;
  return { ...earlier, ...later, set, unset: unset.filter((field) => !isSetLater(field)) };
}

/** Whether the change gives the upload up or cancels it. */
export function endsUpload({ set }: Change): boolean {
  return set?.phase === 'cancelled' || set?.phase === 'invalid';
}

/** Applies a change; the new record shares and extends the chunks of the old one. */
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

/** As `applyChange`, but leaves the old record as it is. */
export function applyToCopy(record: UploadRecord, change: Change): UploadRecord {
  return applyChange({ ...record, chunks: [...record.chunks] }, change);
}

/** Whether the chunks follow each other without gaps up to the offset; a valid record always satisfies this. */
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
  const hasAttempt = upload.attempts.some(({ number }) => number === attempt.number);
  if (hasAttempt) {
    return { ...upload, attempts: upload.attempts.map((each) => (each.number === attempt.number ? attempt : each)) };
  }
  const attempts = [...upload.attempts, attempt].slice(-MAX_KEPT_ATTEMPTS);
  return { ...upload, attempts, attemptCount: upload.attemptCount + 1 };
}

/** Whether the change begins an attempt, or allows an eager attempt to send the complete upload. */
export function beginsAttempt({ attempt }: Change): boolean {
  return attempt !== undefined && attempt.reached === undefined;
}

/** Whether an attempt has no recorded end, also when its process ended first: the attempt's answer will need room. */
export function hasOpenAttempt({ upload }: UploadRecord): boolean {
  const newest = upload.attempts.at(-1);
  return newest !== undefined && newest.reached === undefined;
}

/** Whether the newest attempt is still to get an end: it has none, and the upload was not given up. */
export function hasAttemptUnderWay(record: UploadRecord): boolean {
  const { phase } = record.upload;
  return phase !== 'undelivered' && MAY_BE_SENT.has(phase) && hasOpenAttempt(record);
}

/**
 * The worker that delivers an upload, and until when no other may. Claims exist in memory only, because they end with
 * the process of their worker.
 */
export interface Claim {
  readonly worker: string;
  /** By the monotonic clock. */
  readonly untilMs: number;
}

/** A moment on the wall clock and on the monotonic clock by which claims are measured. */
export interface Moment {
  readonly wallMs: number;
  readonly monotonicMs: number;
}

/** A record with its claim. */
export interface ClaimedRecord {
  readonly record: UploadRecord;
  readonly claim?: Claim;
}

/** While an upload is `receiving` only one attempt may begin, and it must be `inPart`. */
export function decideBeginEager({ upload }: UploadRecord, attempt: Attempt): Change | 'stale' {
  if (!attempt.inPart) throw new Fault('CONTRACT_BROKEN', 'an eager attempt is in part', false);
  if (upload.phase !== 'receiving') return 'stale';
  if (isKnown(upload, attempt)) return {};
  return upload.attemptCount === 0 ? { attempt } : 'stale';
}

/** Ends the eager attempt, while the upload is `receiving`. */
export function decideEndEager({ upload }: UploadRecord, attempt: Attempt): Change | 'stale' {
  if (upload.phase !== 'receiving') return 'stale';
  if (isKnown(upload, attempt)) return {};
  return isOpenInPart(upload, attempt) ? { attempt } : 'stale';
}

/** Whether the same call has recorded this answer already: its caller did not get the result. */
export function isAlreadyAnswered({ upload }: UploadRecord, answer: Answer, attempt?: Attempt): boolean {
  const isSame = upload.phase === 'answered' && upload.answer?.at === answer.at;
  return isSame && (attempt === undefined || isKnown(upload, attempt));
}

/** Whether the same call has postponed the delivery already. */
export function isAlreadyPostponed({ upload }: UploadRecord, dueAt: number): boolean {
  return upload.phase === 'complete' && upload.dueAt === dueAt;
}

/** Whether the same call has given the delivery up already. */
export function isAlreadyGivenUp({ upload }: UploadRecord, failure: Undelivered): boolean {
  return upload.phase === 'undelivered' && isSame(upload.undelivered, failure);
}

/** Allows a claim on `complete` and `undelivered` uploads, and on `delivering` ones whose claim has expired. */
export function decideClaim(
  { record, claim }: ClaimedRecord,
  { monotonicMs }: Moment,
  eagerAttempt?: Attempt,
): Change | undefined {
  const { phase } = record.upload;
  if (eagerAttempt && !isOpenInPart(record.upload, eagerAttempt)) return undefined;
  const attempt = eagerAttempt && { attempt: withoutInPart(eagerAttempt) };
  if (phase === 'delivering') return claim && claim.untilMs > monotonicMs ? undefined : { ...attempt };
  if (phase !== 'complete' && phase !== 'undelivered') return undefined;
  return { ...attempt, set: { phase: 'delivering' }, unset: ['dueAt', 'undelivered'] };
}

/**
 * Whether the worker holds the claim. A claim that has expired counts until another worker takes it, so that the
 * worker's result is not lost.
 */
export function holdsClaim({ record, claim }: ClaimedRecord, worker: string): boolean {
  return record.upload.phase === 'delivering' && claim?.worker === worker;
}

/**
 * Whether this is the newest attempt and the upload waits for an answer. Its worker may record its end until a newer
 * attempt begins, because nothing else can tell what the origin did with it.
 */
export function isNewestAttempt({ upload }: UploadRecord, number: number | undefined): boolean {
  const { phase, attempts } = upload;
  if (phase !== 'complete' && phase !== 'delivering' && phase !== 'undelivered') return false;
  const newest = attempts.at(-1);
  return newest !== undefined && newest.number === number && (!newest.inPart || newest.reached !== undefined);
}

/** The change with which the worker of the newest attempt gets its claim back. */
export function decideReclaim({ upload }: UploadRecord): Change {
  return upload.phase === 'delivering' ? {} : { set: { phase: 'delivering' }, unset: ['dueAt', 'undelivered'] };
}

/** The start or end of an attempt. Throws when it begins twice, or ends without a start. */
export function decideAttempt(record: UploadRecord, attempt: Attempt, boundary: 'begins' | 'ends'): Change {
  if (isKnown(record.upload, attempt)) return {};
  const hasAttempt = record.upload.attempts.some(({ number }) => number === attempt.number);
  if (hasAttempt !== (boundary === 'ends'))
    throw new Fault('CONTRACT_BROKEN', `attempt ${attempt.number} ${boundary}, which it cannot`, false);
  return { attempt };
}

const LINE_LOST = 'the record of its delivery is damaged: a request may have been sent';

/**
 * The record after its last line was lost. The line of a complete upload may have begun an attempt, so an attempt
 * with an unknown outcome is assumed: a request that may not be repeated is not sent again.
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

/** → answered. `answerCrc`: the checksum of a body in a file of its own. */
export function decideAnswer(answer: Answer, expiresAt: number, answerCrc: number | undefined): Change {
  const set = { phase: 'answered', answer, expiresAt } as const;
  return { set, unset: ['dueAt', 'undelivered'], ...(answerCrc !== undefined && { answerCrc }) };
}

/** As `decideAnswer`, with the body in the same line. */
export function decideAnswerInLine({ answer, body = new Uint8Array(), expiresAt }: KeptAnswer): Change {
  return { ...decideAnswer(answer, expiresAt, undefined), answerBody: Buffer.from(body).toString('base64') };
}

/** Whether the answer was recorded without its body, for which there was no room. */
export function lacksBody({ upload }: UploadRecord): boolean {
  return upload.answer?.body.in === 'nowhere';
}

/** delivering → complete. */
export function decidePostpone(dueAt: number): Change {
  return { set: { phase: 'complete', dueAt } };
}

/** delivering → undelivered. */
export function decideGiveUp(failure: Undelivered): Change {
  return { set: { phase: 'undelivered', undelivered: failure } };
}

/**
 * Updates the reason only while the newest attempt is the one the client was told about, since a newer attempt has
 * another outcome.
 */
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

/** Compared as they are stored in the record's file. */
function isSame(one: object | undefined, other: object): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

function isOpenInPart({ attempts }: Upload, { number }: Attempt): boolean {
  return attempts.some((known) => known.number === number && known.inPart && known.reached === undefined);
}

function withoutInPart(eagerAttempt: Attempt): Attempt {
  const attempt = { ...eagerAttempt };
  Reflect.deleteProperty(attempt, 'inPart');
  return attempt;
}

/**
 * Whether the upload should be delivered now. A due time later than `implausibleAfter` counts as due: the clock was set
 * back since.
 */
export function isDue(
  { phase, dueAt = 0 }: Pick<Upload, 'phase' | 'dueAt'>,
  claim: Claim | undefined,
  { wallMs, monotonicMs }: Moment,
  implausibleAfter: number,
): boolean {
  if (phase === 'complete') return dueAt <= wallMs || dueAt > implausibleAfter;
  return phase === 'delivering' && (claim === undefined || claim.untilMs <= monotonicMs);
}

/** Whether the upload may be removed; never while its delivery is claimed. */
export function isExpired(
  { phase, expiresAt }: Pick<Upload, 'phase' | 'expiresAt'>,
  { claim, isLost = false }: { readonly claim?: Claim | undefined; readonly isLost?: boolean },
  { wallMs, monotonicMs }: Moment,
): boolean {
  if (phase === 'cancelled' || (phase === 'invalid' && !isLost)) return true;
  const isClaimed = phase === 'delivering' && claim !== undefined && claim.untilMs > monotonicMs;
  return expiresAt <= wallMs && !isClaimed;
}

/**
 * Checks the token and returns the change of a commit. Throws when the holder of the lease breaks the contract of
 * `commit`.
 * Reasons: docs/decisions/0003.
 */
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

/** receiving → invalid, unless a newer lease was taken. */
export function decideInvalidate(record: UploadRecord, token: number, reason?: 'lost'): Change | 'stale' | 'gone' {
  if (record.upload.phase === 'invalid' && token === record.token) return {};
  return leaseRefusal(record, token) ?? { token, set: { phase: 'invalid', ...(reason && { lost: true }) } };
}

/** complete | delivering | undelivered → invalid, because stored bytes are lost. */
export function decideMarkLost({ upload }: UploadRecord): Change | 'gone' {
  if (upload.phase === 'invalid') return {};
  const needsBytes = upload.phase === 'complete' || upload.phase === 'delivering' || upload.phase === 'undelivered';
  return needsBytes ? { set: { phase: 'invalid', lost: true } } : 'gone';
}

/** Sets the node that has the bytes, if the upload is still as in `expected`. */
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

/** Any phase → cancelled. */
export function decideCancel({ upload }: UploadRecord): Change {
  return upload.phase === 'cancelled' ? {} : { set: { phase: 'cancelled' } };
}

/** Whether this same commit has completed the upload before: its caller did not get the result. */
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

/** A new chunk must begin at the offset, and the last one may only grow. An empty chunk is not recorded. */
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

/** The requests that wait until the delivery of an upload has ended or been given up. */
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

  /** Wakes the waiting requests if the phase is settled; called after each step. */
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

/** Whether no delivery is waiting or running; also for an unknown upload. */
export function isSettled(upload: Upload | undefined): boolean {
  return upload?.phase !== 'complete' && upload?.phase !== 'delivering';
}
