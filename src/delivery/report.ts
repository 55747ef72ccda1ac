import type { Attempt, Upload } from '../model/upload.js';
import { logUploadEnd, type UploadEndLine } from '../observe/log-lines.js';
import { uploadTag } from '../observe/log.js';
import type { Rooms } from './rooms.js';

type Ears = Pick<Rooms, 'log' | 'metrics' | 'clock' | 'monotonic'>;

/** One line and one figure an attempt. */
export function reportAttempt(id: string, attempt: Attempt, { log, metrics }: Ears): void {
  const { number, origin, startedAt, endedAt = startedAt, reached = 'sent', status, problem } = attempt;
  const fields = { upload: uploadTag(id), attempt: number, origin, reached, status, ms: endedAt - startedAt };
  if (problem === undefined) log.info(fields, 'delivery attempt');
  else log.warn({ ...fields, problem }, 'delivery attempt');
  metrics.deliveryAttempt(reached, status);
}

/** One line an upload that was answered or given up, and one figure a delivery. */
export function reportEnd(
  upload: Upload,
  outcome: 'answered' | 'undelivered' | 'postponed',
  /** By the monotonic clock. */
  startedAt: number,
  { log, metrics, clock, monotonic }: Ears,
): void {
  metrics.deliveryEnded((monotonic() - startedAt) / 1000, outcome);
  if (outcome === 'postponed') return;
  noteEnd(upload, outcome, { log, metrics, clock });
}

/** One line and one figure for an upload that ended without its origin: it was cancelled, broke a rule, or its time ran out. */
export function reportClosed(
  upload: Upload,
  phase: 'cancelled' | 'invalid' | 'expired',
  ears: Pick<Ears, 'log' | 'metrics' | 'clock'>,
): void {
  noteEnd(upload, phase, ears);
}

function noteEnd(
  upload: Upload,
  phase: UploadEndLine['phase'],
  { log, metrics, clock }: Pick<Ears, 'log' | 'metrics' | 'clock'>,
): void {
  metrics.uploadEnded(phase);
  logUploadEnd(log, {
    id: upload.id,
    phase,
    route: upload.route,
    dialect: upload.dialect,
    size: upload.offset,
    attempts: upload.attemptCount,
    status: upload.answer?.status,
    seconds: Math.max(clock() - upload.createdAt, 0) / 1000,
    problem: upload.undelivered?.problem,
  });
}

/** The promise that no acknowledged byte is lost was broken by the machine: the operator has to know. */
export function reportLoss(upload: Upload, problem: string | undefined, { log, metrics }: Ears): void {
  log.error({ upload: uploadTag(upload.id), problem }, 'an upload whose bytes are lost is given up');
  metrics.bytesLost('upload');
  metrics.uploadEnded('invalid');
}
