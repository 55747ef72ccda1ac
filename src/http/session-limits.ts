import { constants, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2';

const LOOK_MS = 500;

/**
 * Ends a session whose next header section takes longer than this, whatever else is under way on it: in HTTP/2 nothing
 * else can come meanwhile (RFC 9113 §4.3). Node tells of a header section when it is whole. That one has begun is seen by
 * the number of its stream, and that it goes on by a PING, which its client cannot answer before.
 */
export function endSlowHeads(session: ServerHttp2Session, headersTimeoutMs: number): void {
  const everyMs = Math.max(5, Math.min(LOOK_MS, headersTimeoutMs / 4));
  /** Streams up to this one have their header section, or were refused. */
  let settled = 0;
  let pending = 0;
  let pendingMs = 0;
  const look = (): void => {
    const begun = session.destroyed ? 0 : (session.state.lastProcStreamID ?? 0);
    if (begun <= settled) return;
    if (begun !== pending) {
      pending = begun;
      pendingMs = 0;
      session.ping(() => (settled = Math.max(settled, begun)));
    } else pendingMs += everyMs;
    if (pendingMs >= headersTimeoutMs) session.destroy();
  };
  const timer = setInterval(look, everyMs);
  session.on('stream', ({ id = 0 }) => (settled = Math.max(settled, id)));
  session.once('close', () => clearInterval(timer));
}

/** So many requests may be given up at once: pages that are left do so with all that they still load. */
const RESETS_AT_ONCE = 256;
const RESETS_PER_SECOND = 32;
const MANY_RESETS = 'the client gives up its requests again and again';

/**
 * Ends a session that gives up its requests again and again, with ENHANCE_YOUR_CALM (RFC 9113 §10.5): each costs its client
 * nothing, and us a request. A stream that we reset because its client broke a rule on it counts too.
 */
export function endManyResets(session: ServerHttp2Session): void {
  let left = RESETS_AT_ONCE;
  let countedAt = performance.now();
  const count = (): void => {
    const now = performance.now();
    left = Math.min(RESETS_AT_ONCE, left + ((now - countedAt) / 1000) * RESETS_PER_SECOND) - 1;
    countedAt = now;
    // Without an error Node sends NO_ERROR in place of the code.
    if (left < 0 && !session.destroyed) session.destroy(new Error(MANY_RESETS), constants.NGHTTP2_ENHANCE_YOUR_CALM);
  };
  session.on('stream', (stream) => stream.once('close', () => wasGivenUp(stream) && count()));
}

/** By its client, before it had its answer, and not by us. */
function wasGivenUp({ aborted, errored }: ServerHttp2Stream): boolean {
  const error: NodeJS.ErrnoException | null = errored;
  return aborted && (error === null || error.code === 'ERR_HTTP2_STREAM_ERROR');
}
