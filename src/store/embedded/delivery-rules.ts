import { Fault } from '../../model/fault.js';
import type { Attempt, Answer, Undelivered, Upload } from '../../model/upload.js';
import { changedCopy, type Change, type UploadRecord } from './upload-record.js';

/**
 * Who delivers, and until when nobody else may. Kept in memory only: with the process every claim ends, because the
 * worker that held it is gone too.
 */
export interface Claim {
  readonly worker: string;
  /** By a clock that nobody sets. */
  readonly until: number;
}

/** One moment: by the clock of the wall, and by the one that claims are measured with. */
export interface Moment {
  readonly wall: number;
  readonly monotonic: number;
}

export interface Delivered {
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
export function answeredAlready({ upload }: UploadRecord, answer: Answer, attempt?: Attempt): boolean {
  const isSame = upload.phase === 'answered' && upload.answer?.at === answer.at;
  return isSame && (attempt === undefined || isKnown(upload, attempt));
}

export function postponedAlready({ upload }: UploadRecord, dueAt: number): boolean {
  return upload.phase === 'complete' && upload.dueAt === dueAt;
}

export function givenUpAlready({ upload }: UploadRecord, why: Undelivered): boolean {
  return upload.phase === 'undelivered' && isSame(upload.undelivered, why);
}

/** `complete` or `undelivered`, or `delivering` under a claim that has run out. */
export function decideClaim({ record, claim }: Delivered, { monotonic }: Moment, goesOn?: Attempt): Change | undefined {
  const { phase } = record.upload;
  if (goesOn && !isOpenInPart(record.upload, goesOn)) return undefined;
  const attempt = goesOn && { attempt: mayBeWhole(goesOn) };
  if (phase === 'delivering') return claim && claim.until > monotonic ? undefined : { ...attempt };
  if (phase !== 'complete' && phase !== 'undelivered') return undefined;
  return { ...attempt, set: { phase: 'delivering' }, unset: ['dueAt', 'undelivered'] };
}

/** A claim that has run out is still held as long as nobody else took it: what its worker learned must not be lost. */
export function holdsClaim({ record, claim }: Delivered, worker: string): boolean {
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
export function decideReturn({ upload }: UploadRecord): Change {
  return upload.phase === 'delivering' ? {} : { set: { phase: 'delivering' }, unset: ['dueAt', 'undelivered'] };
}

export function decideAttempt(record: UploadRecord, attempt: Attempt, edge: 'begins' | 'ends'): Change {
  if (isKnown(record.upload, attempt)) return {};
  const known = record.upload.attempts.some(({ number }) => number === attempt.number);
  if (known !== (edge === 'ends'))
    throw new Fault('CONTRACT_BROKEN', `attempt ${attempt.number} ${edge}, which it cannot`, false);
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
    ? mayBeWhole(newest)
    : { number: (newest?.number ?? 0) + 1, origin: newest?.origin ?? '', startedAt, problem: LINE_LOST };
  const why = undelivered && ({ reason: 'outcome-unknown', problem: LINE_LOST } as const);
  return changedCopy(record, { attempt, ...(why && { set: { undelivered: why } }) });
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
export function decideClient(
  record: UploadRecord,
  attempt: number,
  why: Undelivered,
  noted: Undelivered,
): Change | 'stale' {
  const { phase, undelivered } = record.upload;
  if (phase !== 'undelivered' || !isNewestAttempt(record, attempt)) return 'stale';
  if (isSame(undelivered, noted)) return {};
  return isSame(undelivered, why) ? { set: { undelivered: noted } } : 'stale';
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

function mayBeWhole(early: Attempt): Attempt {
  const attempt = { ...early };
  Reflect.deleteProperty(attempt, 'inPart');
  return attempt;
}

/** Whether somebody should deliver this upload now. `beyond`: who is due later than this has its time from another clock. */
export function isDue({ record, claim }: Delivered, { wall, monotonic }: Moment, beyond: number): boolean {
  const { phase, dueAt = 0 } = record.upload;
  if (phase === 'complete') return dueAt <= wall || dueAt > beyond;
  return phase === 'delivering' && (claim === undefined || claim.until <= monotonic);
}

/** Whether nobody needs this upload any more. A delivery under way is never pulled from under its worker's feet. */
export function isExpired({ record, claim, isLost = false }: Delivered, { wall, monotonic }: Moment): boolean {
  const { phase, expiresAt } = record.upload;
  if (phase === 'cancelled' || (phase === 'invalid' && !isLost)) return true;
  const isClaimed = phase === 'delivering' && claim !== undefined && claim.until > monotonic;
  return expiresAt <= wall && !isClaimed;
}
