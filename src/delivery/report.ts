import { type Attempt, identifiersOf, type Upload } from '../model/upload.js';
import { type Log, logUndelivered, logUploadEnd, type UploadEndLine, uploadFields } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { Spool } from '../spool/spool.js';
import type { UploadStore } from '../store/upload-store.js';
import type { DeliveryContext } from './context.js';

type AttemptObserver = Pick<DeliveryContext, 'log' | 'metrics' | 'clock' | 'monotonic'>;

/** What it takes to tell of an end. */
export interface EndObserver {
  readonly log: Log;
  readonly metrics: Pick<Metrics, 'uploadEnded' | 'bytesLost'>;
  /** The time of the wall. */
  readonly clock: () => number;
}

/** One line and one figure an attempt. */
export function reportAttempt(upload: Upload, attempt: Attempt, { log, metrics }: AttemptObserver): void {
  const { number, origin, startedAt, endedAt = startedAt, reached = 'sent', status, problem } = attempt;
  const fields = {
    ...uploadFields(identifiersOf(upload)),
    attempt: number,
    origin,
    reached,
    status,
    ms: endedAt - startedAt,
  };
  if (problem === undefined) log.info(fields, 'delivery attempt');
  else log.warn({ ...fields, problem }, 'delivery attempt');
  metrics.deliveryAttempt(reached, status);
}

/**
 * One line an upload that was answered or given up, and one figure a delivery. An upload that is given up has not come to its
 * end: it may still be answered, and is counted when it is, or when it goes.
 */
export function reportEnd(
  upload: Upload,
  outcome: 'answered' | 'undelivered' | 'postponed',
  /** By the monotonic clock. */
  startedAt: number,
  { log, metrics, clock, monotonic }: AttemptObserver,
): void {
  metrics.deliveryEnded((monotonic() - startedAt) / 1000, outcome);
  if (outcome === 'undelivered') logUndelivered(log, endLine(upload, 'undelivered', clock));
  if (outcome === 'answered') reportUploadEnd(upload, 'answered', { log, metrics, clock });
}

/**
 * One line and one figure for an upload that ended without its origin: it was cancelled, broke a rule, or its time ran out;
 * `undelivered` when that was out after trying had ended. Nothing for one that was answered: its end was told then.
 */
export function reportClosed(
  upload: Upload,
  phase: 'cancelled' | 'invalid' | 'expired',
  observer: EndObserver,
  problem?: string,
): void {
  if (upload.answer !== undefined) return;
  reportUploadEnd(upload, upload.undelivered && phase === 'expired' ? 'undelivered' : phase, observer, problem);
}

/**
 * Removes an upload, its bytes before its record, and tells of its end where nobody has yet. Several processes, and several
 * tries, may come to this: the store names one of them as the one that has removed it, and that one tells.
 */
export async function removeAndReport(
  upload: Upload | Pick<Upload, 'id'>,
  deps: EndObserver & { readonly spool: Pick<Spool, 'remove'>; readonly store: Pick<UploadStore, 'remove'> },
): Promise<void> {
  const isKnown = 'phase' in upload;
  await deps.spool.remove(upload.id);
  const phase = await deps.store.remove(upload.id, isKnown ? upload.clientKey : undefined);
  // What was answered, or broke a rule, was told of then.
  if (!isKnown || phase === undefined || phase === 'answered' || phase === 'invalid') return;
  reportClosed(upload, phase === 'cancelled' ? 'cancelled' : 'expired', deps);
}

/** One line and one figure for an upload whose gate refused it: the refusal is its answer, and its origin never heard of it. */
export function reportRefusal(upload: Upload, observer: EndObserver): void {
  reportUploadEnd(upload, 'answered', observer);
}

/** Everybody who finds that stored bytes, or confirmed steps, of an upload are lost tells it with this, and ends the upload. */
export function reportLoss(upload: Upload, problem: string | undefined, observer: EndObserver): void {
  observer.log.error({ ...uploadFields(identifiersOf(upload)), problem }, 'an upload whose bytes are lost is given up');
  observer.metrics.bytesLost('upload');
  reportClosed(upload, 'invalid', observer, problem);
}

/** The upload was delivered, and nobody gets its answer again. */
export function reportLostAnswer(
  upload: Upload,
  problem: string,
  { log, metrics }: Pick<EndObserver, 'log' | 'metrics'>,
): void {
  log.error({ ...uploadFields(identifiersOf(upload)), problem }, 'a kept answer is lost: its client is told so');
  metrics.bytesLost('answer');
}

function reportUploadEnd(
  upload: Upload,
  phase: UploadEndLine['phase'],
  { log, metrics, clock }: EndObserver,
  problem = upload.undelivered?.problem,
): void {
  metrics.uploadEnded(phase);
  logUploadEnd(log, { ...endLine(upload, phase, clock), problem });
}

function endLine(upload: Upload, phase: UploadEndLine['phase'], clock: () => number): UploadEndLine {
  return {
    upload: identifiersOf(upload),
    phase,
    route: upload.route,
    dialect: upload.dialect,
    size: upload.offset,
    attempts: upload.attemptCount,
    status: upload.answer?.status,
    seconds: Math.max(clock() - upload.createdAt, 0) / 1000,
    problem: upload.undelivered?.problem,
  };
}
