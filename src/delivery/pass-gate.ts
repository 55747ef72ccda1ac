import { crc32 } from '../disk/crc32.js';
import { Fault } from '../model/fault.js';
import type { Gate, Route } from '../model/route.js';
import { handlesOf, type Answer, type Undelivered, type Upload } from '../model/upload.js';
import { uploadFields } from '../observe/log-lines.js';
import { askGate, GateFailed, type GateAnswer, type Verdict } from './gate.js';
import { removeChunks, untilRecorded } from './record.js';
import type { Rooms } from './rooms.js';

/** What comes of asking the gate. */
export type Passage =
  | { readonly kind: 'open' }
  /** Its refusal is recorded as the upload's answer. */
  | { readonly kind: 'answered'; readonly upload: Upload }
  | { readonly kind: 'shut'; readonly why: Undelivered }
  /** It could not be asked: nothing passes, and it is asked again. */
  | { readonly kind: 'failed'; readonly why: Undelivered; readonly until: number }
  /** Its bytes are damaged or missing. */
  | { readonly kind: 'lost'; readonly problem: string }
  | { readonly kind: 'stale' };

export interface GateTask {
  readonly upload: Upload;
  readonly gate: Gate;
  readonly route: Route;
  readonly signal: AbortSignal;
  /** The operator lets the upload pass, also when that was said while the gate was asked. */
  readonly isWaived: () => boolean;
}

/** Asks the route's gate about a whole upload, under its claim and before the origin hears of it. */
export async function passGate(task: GateTask, rooms: Rooms): Promise<Passage> {
  const { upload, gate, signal, isWaived } = task;
  const { delivery } = task.route;
  const { store, spool, monotonic, log } = rooms;
  const chunks = await store.chunks(upload.id);
  try {
    const verdict = await askGate({ gate, upload, via: rooms.via }, spool.read(upload.id, chunks), signal);
    log.info({ ...uploadFields(handlesOf(upload)), verdict: verdict.kind }, 'gate');
    return isWaived() ? { kind: 'open' } : await passageOf(verdict, upload, delivery.keepAnswerMs, rooms);
  } catch (error) {
    if (isLoss(error)) return { kind: 'lost', problem: error.message };
    if (!(error instanceof GateFailed)) throw error;
    if (isLoss(error.cause)) return { kind: 'lost', problem: error.cause.message };
    if (isWaived()) return { kind: 'open' };
    log.error({ ...uploadFields(handlesOf(upload)), err: error }, 'the gate gave no verdict: nothing passes it');
    const why: Undelivered = { reason: 'unreachable', problem: error.message };
    return { kind: 'failed', why, until: monotonic() + delivery.retry.longestDelayMs };
  }
}

function isLoss(error: unknown): error is Fault {
  return error instanceof Fault && error.code === 'BYTES_LOST';
}

async function passageOf(verdict: Verdict, upload: Upload, keepAnswerMs: number, rooms: Rooms): Promise<Passage> {
  switch (verdict.kind) {
    case 'allowed':
      return { kind: 'open' };
    case 'quarantined':
      return { kind: 'shut', why: { reason: 'quarantined', problem: verdict.problem } };
    case 'refused':
      return refuse(upload, verdict.answer, keepAnswerMs, rooms);
  }
}

async function refuse(upload: Upload, said: GateAnswer, keepAnswerMs: number, rooms: Rooms): Promise<Passage> {
  const { store, worker, clock } = rooms;
  const { status, headers, body } = said;
  const at = clock();
  const answer: Answer = {
    status,
    reason: '',
    headers,
    trailers: [],
    bodySize: body.length,
    body: { in: 'record', crc: crc32(body) },
    at,
  };
  const chunks = await store.chunks(upload.id);
  const kept = { answer, body, expiresAt: at + keepAnswerMs };
  const recorded = await untilRecorded(upload.id, () => store.recordAnswer(upload.id, worker, kept), rooms);
  if (recorded === 'stale') return { kind: 'stale' };
  await removeChunks(upload.id, chunks, rooms);
  return { kind: 'answered', upload: recorded };
}
