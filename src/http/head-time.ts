import type { ServerHttp2Session } from 'node:http2';

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
