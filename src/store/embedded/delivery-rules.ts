import { Fault } from '../../model/fault.js';
import type { Attempt, Answer, Undelivered } from '../../model/upload.js';
import type { Change, UploadRecord } from './upload-record.js';

/**
 * Who delivers, and until when nobody else may. Kept in memory only: with the process every claim ends, because the
 * worker that held it is gone too.
 */
export interface Claim {
  readonly worker: string;
  readonly until: number;
}

export interface Delivered {
  readonly record: UploadRecord;
  readonly claim?: Claim;
}

/** `complete` or `undelivered`, or `delivering` under a claim that has run out. */
export function decideClaim({ record, claim }: Delivered, now: number): Change | undefined {
  const { phase } = record.upload;
  if (phase === 'delivering') return claim && claim.until > now ? undefined : {};
  if (phase !== 'complete' && phase !== 'undelivered') return undefined;
  return { set: { phase: 'delivering' }, unset: ['dueAt', 'undelivered'] };
}

/** A claim that has run out is still held as long as nobody else took it: what its worker learned must not be lost. */
export function holdsClaim({ record, claim }: Delivered, worker: string): boolean {
  return record.upload.phase === 'delivering' && claim?.worker === worker;
}

export function decideAttempt(record: UploadRecord, attempt: Attempt, edge: 'begins' | 'ends'): Change {
  const known = record.upload.attempts.some(({ number }) => number === attempt.number);
  if (known !== (edge === 'ends'))
    throw new Fault('CONTRACT_BROKEN', `attempt ${attempt.number} ${edge}, which it cannot`, false);
  return { attempt };
}

export function decideAnswer(answer: Answer, expiresAt: number, answerCrc: number | undefined): Change {
  return { set: { phase: 'answered', answer, expiresAt }, ...(answerCrc !== undefined && { answerCrc }) };
}

export function decidePostpone(dueAt: number): Change {
  return { set: { phase: 'complete', dueAt } };
}

export function decideGiveUp(why: Undelivered): Change {
  return { set: { phase: 'undelivered', undelivered: why } };
}

/** Whether somebody should deliver this upload now. */
export function isDue({ record, claim }: Delivered, now: number): boolean {
  const { phase, dueAt = 0 } = record.upload;
  if (phase === 'complete') return dueAt <= now;
  return phase === 'delivering' && (claim === undefined || claim.until <= now);
}

/** Whether nobody needs this upload any more. A delivery under way is never pulled from under its worker's feet. */
export function isExpired({ record, claim }: Delivered, now: number): boolean {
  const { phase, expiresAt } = record.upload;
  if (phase === 'cancelled' || phase === 'invalid') return true;
  const isClaimed = phase === 'delivering' && claim !== undefined && claim.until > now;
  return expiresAt <= now && !isClaimed;
}
