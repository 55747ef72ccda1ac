import type { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { TLSSocket } from 'node:tls';
import type { Headers } from '../model/headers.js';
import { type Exchange, isHttp2 } from './exchange.js';

/**
 * Where the connection ends with the response, Node closes it at once, and a client that is still sending gets a reset
 * that may take the response away (RFC 9112 §9.6). Here the end is sent, and the closing waits for the body's end: whoever
 * calls this limits how long that may take.
 */
export function lingerBeforeClosing(req: IncomingMessage): void {
  const { socket } = req;
  const close = (): void => Socket.prototype.destroySoon.call(socket);
  socket.destroySoon = () => {
    if (req.complete || req.destroyed) return close();
    socket.end();
    req.once('close', close);
  };
}

/**
 * Ends a connection so that nobody takes it for a proper end: with a reset, or over TLS without the closing alert. A Unix
 * socket knows no reset, and asking for one throws: it is only closed.
 */
export function resetConnection(socket: Socket): void {
  const canBeReset = !(socket instanceof TLSSocket) && socket.remoteAddress !== undefined;
  if (canBeReset) socket.resetAndDestroy();
  else socket.destroy();
}

/** How much of a body is still read when nobody wants it any more, so that the client finds time to read its answer. */
export interface DiscardLimits {
  readonly bytes: number;
  readonly ms: number;
}

/** The client in one exchange that is passed through: the same for HTTP/1.1 and HTTP/2. */
export interface ClientSide {
  readonly body: Readable;
  /** Where the answer's content goes. */
  readonly out: NodeJS.WritableStream;
  /** A final head was sent. */
  readonly headSent: boolean;
  /** The client does not take what we have for it as fast as it comes. */
  readonly needsDrain: boolean;
  /** The client waits to be told that its body is wanted. */
  readonly awaitsContinue: boolean;
  /** Gone before the exchange was over, as far as this side knows. */
  readonly hasLeft: boolean;
  /** Called at most once, when the client leaves in the middle of its body or its answer. */
  onLeft(listener: () => void): void;
  /** Fulfilled when nothing more comes from this client or goes to it in this exchange. */
  readonly closed: Promise<void>;
  /** Known when `body` has ended. */
  trailers(): Headers;
  /** Whether trailers can follow an answer with these fields. */
  takesTrailers(headers: Headers): boolean;
  sendInterim(status: number, reason: string, headers: Headers): void;
  sendHead(status: number, reason: string, headers: Headers): void;
  /** Sends a head that was held back for the first content, when there is none for now. */
  flush(): void;
  end(trailers: Headers): void;
  /** Ends an answer that has begun, so that nobody can take it for a whole one. */
  abort(): void;
  /** Reads the rest of the body and forgets it, within limits; then gives up the connection or stream. */
  discardBody(): void;
}

/** Reads and forgets. `done` is called once: with true when the body has ended, with false when a limit was met. */
export function discard(body: Readable, { bytes, ms }: DiscardLimits, done: (ended: boolean) => void): void {
  let remainingBytes = bytes;
  const finish = (ended: boolean): void => {
    clearTimeout(timer);
    body.off('data', count).off('end', atEnd).off('close', atEnd);
    done(ended);
  };
  const count = (chunk: Buffer): void => {
    remainingBytes -= chunk.length;
    if (remainingBytes < 0) finish(false);
  };
  const atEnd = (): void => finish(true);
  const timer = setTimeout(() => finish(false), ms);
  // A request whose response is over does not hear of its connection's end: only an open one is waited for.
  timer.unref();
  if (body.readableEnded || body.destroyed) return finish(true);
  body.on('data', count).once('end', atEnd).once('close', atEnd);
  body.resume();
}

/** A client that has ended its side is answered as long as nothing takes longer than this. */
export const HALF_CLOSED_MS = 2_000;

/**
 * Ends a connection that nothing was written to for this long. RFC 9112 §9.6: a client may end its side behind its last
 * request and wait for the answer; so do `nc -N` and many small programs. It looks like one that has left, until something
 * is written to it.
 */
export function destroyWhenSilent(socket: Socket, maxSilenceMs: number): void {
  let lastBytesWritten = socket.bytesWritten;
  const timer = setInterval(() => {
    if (socket.bytesWritten === lastBytesWritten) socket.destroy();
    lastBytesWritten = socket.bytesWritten;
  }, maxSilenceMs);
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
