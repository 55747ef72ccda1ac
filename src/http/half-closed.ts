import type { Socket } from 'node:net';
import { isHttp2, type Exchange } from './exchange.js';

/** A client that has ended its side is answered as long as nothing takes longer than this. */
export const HALF_CLOSED_MS = 2_000;

/**
 * Ends a connection that nothing was written to for this long. RFC 9112 §9.6: a client may end its side behind its last
 * request and wait for the answer; so do `nc -N` and many small programs. It looks like one that has left, until something
 * is written to it.
 */
export function endWhenSilent(socket: Socket, longestMs: number): void {
  let written = socket.bytesWritten;
  const timer = setInterval(() => {
    if (socket.bytesWritten === written) socket.destroy();
    written = socket.bytesWritten;
  }, longestMs);
  socket.once('close', () => clearInterval(timer));
}

/** Calls `ended` once, when the client of this exchange has ended its side or did before. Returns what ends the listening. */
export function onPeerEnded(exchange: Exchange, ended: (connection: Socket) => void): () => void {
  if (isHttp2(exchange)) return () => undefined;
  const { socket } = exchange.req;
  const atEnd = (): void => ended(socket);
  if (socket.readableEnded) atEnd();
  else socket.once('end', atEnd);
  return () => socket.off('end', atEnd);
}
