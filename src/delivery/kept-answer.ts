import { Fault } from '../model/fault.js';
import type { RelayedAnswer } from '../model/outcome.js';
import type { Answer, Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import type { UploadStore } from '../store/upload-store.js';

export interface KeptRooms {
  readonly store: Pick<UploadStore, 'answerBody'>;
  readonly spool: Pick<Spool, 'read'>;
}

/** The recorded answer of an upload, or the challenge it was parked with, as often as it is asked for. */
export function keptAnswer(upload: Upload, rooms: KeptRooms): RelayedAnswer {
  const answer = upload.answer ?? upload.undelivered?.answer;
  if (!answer) throw new Fault('RECORD_DAMAGED', 'an answered upload has no answer', false);
  if (answer.body.in === 'nowhere') return withoutBody(answer);
  const { status, reason, headers, trailers, bodySize } = answer;
  return { status, reason, headers, bodySize, body: bodyOf(upload.id, answer, rooms), trailers: () => trailers };
}

/** The origin's head, and a word on what came of the rest. */
function withoutBody({ status, reason, headers }: Answer): RelayedAnswer {
  const body = Buffer.from(`${JSON.stringify({ type: 'about:blank', status, detail: NO_BODY })}\n`);
  const kept = headers.filter(([name]) => !DESCRIBES_BODY.test(name));
  return {
    status,
    reason,
    headers: [...kept, ['Content-Type', 'application/problem+json']],
    bodySize: body.length,
    body: (async function* () {
      yield await Promise.resolve(body);
    })(),
    trailers: () => [],
  };
}

const NO_BODY =
  'The server behind this proxy has answered with this status. The body of its answer could not be kept, because the disk of ' +
  'the proxy was full.';

const DESCRIBES_BODY = /^(content-.*|etag|last-modified|accept-ranges|repr-digest|digest|transfer-encoding|trailer)$/i;

async function* bodyOf(
  id: string,
  { body, bodySize }: Answer,
  { store, spool }: KeptRooms,
): AsyncGenerator<Uint8Array> {
  if (bodySize === 0) return;
  if (body.in === 'spool') {
    const chunk = { name: body.name, start: 0, size: bodySize };
    yield* spool.read(id, [chunk]) as AsyncIterable<Uint8Array>;
    return;
  }
  const bytes = await store.answerBody(id);
  if (bytes?.length !== bodySize) throw new Fault('RECORD_DAMAGED', 'the body of a kept answer is missing', false);
  yield bytes;
}
