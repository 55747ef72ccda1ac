import type { ServerHttp2Session } from 'node:http2';

/** A peer that has said nothing for this long is asked whether it is there, and has as long again to answer. */
export const SILENCE_MS = 20_000;

/**
 * Ends a session whose peer is gone without a word (RFC 9113 §6.7). TCP takes many minutes to notice that. And until Node 22
 * is our oldest: a session that Node has ended for breaking the protocol hears nothing more, not even the end of its
 * connection, and would stay for ever with every stream that was open.
 */
export function endWhenDeaf(session: ServerHttp2Session, silenceMs: number): void {
  let heard = 0;
  let isAsked = false;
  const listen = (): void => {
    if (session.destroyed) return clearInterval(timer);
    const { bytesRead } = session.socket;
    if (bytesRead === heard && isAsked) return session.destroy();
    isAsked = bytesRead === heard;
    heard = bytesRead;
    if (isAsked) session.ping(() => undefined);
  };
  const timer = setInterval(listen, silenceMs);
  session.once('close', () => clearInterval(timer));
}
