import { shortText, type StoryEvent, type StoryWriter } from '../model/story.js';
import { type Attempt, identifiersOf, type Upload } from '../model/upload.js';
import {
  type Log,
  logUndelivered,
  logUploadEnd,
  type UploadEndLine,
  uploadFields,
  withoutQueryValues,
} from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { Spool } from '../spool/spool.js';
import type { UploadStore } from '../store/upload-store.js';
import type { DeliveryContext } from './context.js';

type AttemptObserver = Pick<DeliveryContext, 'log' | 'metrics' | 'clock' | 'monotonic' | 'story'>;

/** Log, metrics and clock for reporting the end of an upload. */
export interface EndObserver {
  readonly log: Log;
  readonly metrics: Pick<Metrics, 'uploadEnded' | 'bytesLost'>;
  /** Wall clock in milliseconds. */
  readonly clock: () => number;
  /** Missing if no histories are kept. */
  readonly story?: StoryWriter;
}

/** Metrics and stories for reporting a new upload. */
export interface CreationObserver {
  readonly metrics: Metrics;
  /** Missing if no histories are kept. */
  readonly story?: StoryWriter;
}

/** Counts and notes a new upload. */
export function reportCreated(upload: Upload, { metrics, story }: CreationObserver): void {
  const { id, route, dialect, request, length } = upload;
  const { method, clientAddress: client } = request;
  metrics.uploadCreated(dialect);
  const target = shortText(withoutQueryValues(request.target));
  story?.note(id, { kind: 'created', route, dialect, method, target, client, ...(length !== undefined && { length }) });
}

/** Logs, counts and notes an attempt. */
export function reportAttempt(upload: Upload, attempt: Attempt, observer: AttemptObserver): void {
  const { log, metrics } = observer;
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
  noteAttempt(upload.id, attempt, observer);
}

/** Notes an attempt that has ended, at the time when it began. */
export function noteAttempt(id: string, attempt: Attempt, { story, clock }: Pick<AttemptObserver, 'story' | 'clock'>) {
  const { number, origin, startedAt, endedAt = startedAt, reached = 'sent', status, problem } = attempt;
  const what = { kind: 'attempt', number, origin, ms: endedAt - startedAt, reached } as const;
  const result = {
    ...(status !== undefined && { status }),
    ...(problem !== undefined && { problem: shortText(problem) }),
  };
  story?.note(id, { ...what, ...result }, clock() - startedAt);
}

/**
 * Counts the end of a delivery, and logs an upload that was answered or given up. An upload that was given up is not counted as
 * ended, because it may still be answered; it is counted when it is answered or expires.
 */
export function reportEnd(
  upload: Upload,
  outcome: 'answered' | 'undelivered' | 'postponed',
  /** Start of the delivery by the monotonic clock. */
  startedAt: number,
  observer: AttemptObserver,
): void {
  const { log, metrics, clock, monotonic, story } = observer;
  const { undelivered } = upload;
  metrics.deliveryEnded((monotonic() - startedAt) / 1000, outcome);
  if (outcome === 'undelivered') logUndelivered(log, endLine(upload, 'undelivered', clock));
  if (outcome === 'undelivered' && undelivered) {
    const { reason, status, problem } = undelivered;
    const why = { reason, ...(status !== undefined && { status }), problem: shortText(problem) };
    story?.note(upload.id, { kind: 'undelivered', ...why });
  }
  if (outcome === 'answered') reportUploadEnd(upload, 'answered', observer);
}

/**
 * Logs and counts an upload that ended without an answer: cancelled, invalid or expired. One that expires after delivery was
 * given up counts as `undelivered`; an answered upload was reported already and is skipped.
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
 * Removes an upload, its bytes before its record, and reports its end if that is not reported yet. Several processes
 * may remove it at the same time; only the one whose removal the store confirms reports it.
 */
export async function removeAndReport(
  upload: Upload | Pick<Upload, 'id'>,
  deps: EndObserver & { readonly spool: Pick<Spool, 'remove'>; readonly store: Pick<UploadStore, 'remove'> },
): Promise<void> {
  const isKnown = 'phase' in upload;
  await deps.spool.remove(upload.id);
  const phase = await deps.store.remove(upload.id, isKnown ? upload.clientKey : undefined);
  if (phase === 'answered' || phase === 'invalid') deps.story?.note(upload.id, { kind: 'removed' });
  // The end of an answered or invalid upload was reported when it happened.
  if (!isKnown || phase === undefined || phase === 'answered' || phase === 'invalid') return;
  reportClosed(upload, phase === 'cancelled' ? 'cancelled' : 'expired', deps);
}

/** Logs and counts an upload that its gate refused. The refusal is its answer; the origin was not asked. */
export function reportRefusal(upload: Upload, observer: EndObserver): void {
  reportUploadEnd(upload, 'answered', observer);
}

/** Reports an upload that ends because stored bytes or confirmed steps of it are lost. */
export function reportLoss(upload: Upload, problem: string | undefined, observer: EndObserver): void {
  observer.log.error({ ...uploadFields(identifiersOf(upload)), problem }, 'an upload whose bytes are lost is given up');
  observer.metrics.bytesLost('upload');
  reportClosed(upload, 'invalid', observer, problem);
}

/** Reports that the kept answer of a delivered upload is lost. */
export function reportLostAnswer(
  upload: Upload,
  problem: string,
  { log, metrics }: Pick<EndObserver, 'log' | 'metrics'>,
): void {
  log.error(
    { ...uploadFields(identifiersOf(upload)), problem },
    'a kept answer is lost: its client gets an error instead',
  );
  metrics.bytesLost('answer');
}

function reportUploadEnd(
  upload: Upload,
  phase: UploadEndLine['phase'],
  { log, metrics, clock, story }: EndObserver,
  problem = upload.undelivered?.problem,
): void {
  metrics.uploadEnded(phase);
  story?.note(upload.id, endEvent(upload, phase, problem));
  logUploadEnd(log, { ...endLine(upload, phase, clock), problem });
}

function endEvent(
  { answer, attemptCount }: Upload,
  phase: UploadEndLine['phase'],
  problem: string | undefined,
): StoryEvent {
  if (phase === 'answered' && answer) {
    const by = attemptCount === 0 ? 'gate' : 'origin';
    return { kind: 'answer', by, status: answer.status, bytes: answer.bodySize };
  }
  return { kind: 'end', phase, ...(problem !== undefined && { problem: shortText(problem) }) };
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
