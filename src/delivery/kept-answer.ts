import { Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { crc32 } from '../fs/crc32.js';
import { Fault } from '../model/fault.js';
import type { RelayedAnswer } from '../model/messages.js';
import type { Answer, Chunk, Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { UploadSecrets } from '../secrets/upload-secrets.js';
import type { Spool } from '../spool/spool.js';
import type { UploadStore } from '../store/upload-store.js';
import { reportLostAnswer } from './report.js';

/** The dependencies for reading kept answers and reporting lost ones. */
export interface KeptAnswerDeps {
  readonly store: Pick<UploadStore, 'answerBody' | 'get'>;
  readonly spool: Pick<Spool, 'read'>;
  readonly secrets: Pick<UploadSecrets, 'revealAnswer'>;
  readonly log: Log;
  readonly metrics: Pick<Metrics, 'bytesLost' | 'uploadEnded'>;
  /** Uploads whose lost answer this process has reported already. */
  readonly reportedLosses: Set<string>;
}

/**
 * Returns the kept answer of an upload, or the challenge that it was parked with. The complete body is read first; if
 * it is lost, the result is undefined, so that the client can get an error status, and the loss is logged and counted.
 * Rejects with the signal's reason.
 */
export async function keptAnswer(
  upload: Upload,
  deps: KeptAnswerDeps,
  signal: AbortSignal,
): Promise<RelayedAnswer | undefined> {
  const stored = upload.answer ?? upload.undelivered?.answer;
  if (!stored) throw new Fault('RECORD_DAMAGED', 'an answered upload has no answer', false);
  const answer = deps.secrets.revealAnswer(upload.id, stored);
  if (answer.body.in === 'nowhere') return withoutBody(answer);
  const { status, reason, headers, trailers, bodySize } = answer;
  try {
    const body = await bodyOf(upload.id, answer, deps, signal);
    return { status, reason, headers, bodySize, body, trailers: () => trailers };
  } catch (fault) {
    if (!(fault instanceof Fault) || fault.code !== 'BYTES_LOST') throw fault;
    await assertNotMoved(upload, deps);
    // Every client gets an error, but the loss is reported once.
    if (!deps.reportedLosses.has(upload.id)) reportLostAnswer(upload, fault.message, deps);
    remember(upload.id, deps.reportedLosses);
    return undefined;
  }
}

/** The number of reported losses that are remembered; older ones are reported again when a client asks. */
const MAX_REMEMBERED = 10_000;

function remember(id: string, reportedLosses: Set<string>): void {
  reportedLosses.delete(id);
  reportedLosses.add(id);
  const [oldest] = reportedLosses;
  if (reportedLosses.size > MAX_REMEMBERED) reportedLosses.delete(oldest!);
}

/** The origin's status and headers with a problem document in place of a body that could not be kept. */
export function withoutBody({ status, reason, headers }: Pick<Answer, 'status' | 'reason' | 'headers'>): RelayedAnswer {
  const body = Buffer.from(`${JSON.stringify({ type: 'about:blank', status, detail: NO_BODY })}\n`);
  const kept = headers.filter(([name]) => !DESCRIBES_BODY.test(name));
  return {
    status,
    reason,
    headers: [...kept, ['Content-Type', 'application/problem+json']],
    bodySize: body.length,
    body: Readable.from([body]),
    trailers: () => [],
  };
}

const NO_BODY =
  'The server behind this proxy has answered with this status. The body of its answer could not be kept, because the disk of ' +
  'the proxy was full or failed.';

const DESCRIBES_BODY = /^(content-.*|etag|last-modified|accept-ranges|repr-digest|digest|transfer-encoding|trailer)$/i;

async function bodyOf(
  id: string,
  answer: Answer,
  { store, spool }: KeptAnswerDeps,
  signal: AbortSignal,
): Promise<AsyncIterable<Uint8Array>> {
  const { body, bodySize } = answer;
  if (bodySize === 0) return Readable.from([]);
  if (body.in === 'spool') {
    const chunk: Chunk = { name: body.name, start: 0, size: bodySize, crc: body.crc };
    await verifyReadable(spool.read(id, [chunk]), signal);
    return spool.read(id, [chunk]) as AsyncIterable<Uint8Array>;
  }
  const bytes = await store.answerBody(id);
  const crc = body.in === 'record' ? body.crc : undefined;
  const isIntact = bytes?.length === bodySize && (crc === undefined || crc32(bytes) === crc);
  if (!isIntact) throw new Fault('BYTES_LOST', 'the body of a kept answer is missing or damaged', false);
  return Readable.from([bytes]);
}

/** Reads a body to its end, which checks it. Rejects with the signal's reason. */
async function verifyReadable(body: Readable, signal: AbortSignal): Promise<void> {
  try {
    await finished(body.resume(), { signal });
  } catch (error) {
    // A hanging disk is not waited for: no further block is read after the current one.
    body.on('error', () => undefined).destroy();
    signal.throwIfAborted();
    throw error;
  }
}

/** Throws `STORE_UNAVAILABLE` if the upload has expired or moved to another node meanwhile: then nothing is lost. */
async function assertNotMoved({ id, node }: Upload, { store }: KeptAnswerDeps): Promise<void> {
  const current = await store.get(id);
  if (!current || current.node !== node)
    throw new Fault('STORE_UNAVAILABLE', 'a kept answer was moved or removed while it was read', true);
}
