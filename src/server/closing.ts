import type { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { TLSSocket } from 'node:tls';
import type { Headers } from '../model/headers.js';
import { type Exchange, isHttp2 } from './exchange.js';

/**
 * Delays closing the connection until the request body has ended. Node closes it right after the response, and a client
 * that is still sending gets a reset that may discard the response (RFC 9112 §9.6). The caller has to limit the time.
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
 * Ends a connection visibly improperly: with a reset, or over TLS without the close alert. Unix sockets have no reset,
 * and asking for one throws, so they are only closed.
 */
export function resetConnection(socket: Socket): void {
  const canBeReset = !(socket instanceof TLSSocket) && socket.remoteAddress !== undefined;
  if (canBeReset) socket.resetAndDestroy();
  else socket.destroy();
}

/** Limits for reading an unwanted body, so that the client has time to read its response. */
export interface DiscardLimits {
  readonly bytes: number;
  readonly ms: number;
}

/** The client side of one proxied exchange, the same for HTTP/1.1 and HTTP/2. */
export interface ClientSide {
  readonly body: Readable;
  /** Takes the content of the response. */
  readonly out: NodeJS.WritableStream;
  /** The final response head was sent. */
  readonly headSent: boolean;
  /** The client reads more slowly than the response arrives. */
  readonly needsDrain: boolean;
  /** The client waits for 100 before it sends its body. */
  readonly awaitsContinue: boolean;
  /** The client has left before the exchange was complete. */
  readonly hasLeft: boolean;
  /** Calls `listener` at most once, when the client leaves in the middle of its body or its response. */
  onLeft(listener: () => void): void;
  /** Resolves when nothing more is sent or received in this exchange. */
  readonly closed: Promise<void>;
  /** Complete when `body` has ended. */
  trailers(): Headers;
  /** Whether trailers can follow a response with these fields. */
  takesTrailers(headers: Headers): boolean;
  /** Sends an interim response, or leaves it out where it would do harm. */
  sendInterim(status: number, reason: string, headers: Headers): void;
  /** Writes the final head. Throws when its fields cannot be sent. */
  sendHead(status: number, reason: string, headers: Headers): void;
  /** Sends a head that waits for the first content. */
  flush(): void;
  /** Ends the response after its content. `lastContent`: a short piece that is still to be sent. */
  end(trailers: Headers, lastContent?: Buffer): void;
  /** Ends a response that has begun so that the client sees that it is incomplete. */
  abort(): void;
  /** Reads and discards the rest of the body, within limits; then ends the connection or stream. */
  discardBody(): void;
}

/**
 * Reads and discards `body`. Calls `done` once: with true when the body has ended, with false when a limit was reached.
 */
export function discard(body: Readable, { bytes, ms }: DiscardLimits, done: (hasEnded: boolean) => void): void {
  let remainingBytes = bytes;
  const finish = (hasEnded: boolean): void => {
    clearTimeout(timer);
    body.off('data', count).off('end', onEnd).off('close', onEnd);
    done(hasEnded);
  };
  const count = (chunk: Buffer): void => {
    remainingBytes -= chunk.length;
    if (remainingBytes < 0) finish(false);
  };
  const onEnd = (): void => finish(true);
  const timer = setTimeout(() => finish(false), ms);
  // The timer must not keep the process alive: a request with a finished response gets no event when its connection ends.
  timer.unref();
  if (body.readableEnded || body.destroyed) return finish(true);
  body.on('data', count).once('end', onEnd).once('close', onEnd);
  body.resume();
}

/** The longest pause between writes to a client that has ended its side, before its connection is destroyed. */
export const HALF_CLOSED_MS = 2_000;

/**
 * Destroys a connection when nothing was written to it for this long. A client may end its side after its last request
 * and wait for the response (RFC 9112 §9.6; `nc -N` does): it looks like one that has left until something is written
 * to it.
 */
export function destroyWhenSilent(socket: Socket, maxSilenceMs: number): void {
  let lastBytesWritten = socket.bytesWritten;
  const timer = setInterval(() => {
    if (socket.bytesWritten === lastBytesWritten) socket.destroy();
    lastBytesWritten = socket.bytesWritten;
  }, maxSilenceMs);
  socket.once('close', () => clearInterval(timer));
}

/**
 * Calls `listener` once, when the client has ended its side of an HTTP/1.1 connection or has done so before. Returns a
 * function that removes the listener.
 */
export function onPeerEnded(exchange: Exchange, listener: (connection: Socket) => void): () => void {
  if (isHttp2(exchange)) return () => undefined;
  const { socket } = exchange.req;
  const onEnd = (): void => listener(socket);
  if (socket.readableEnded) onEnd();
  else socket.once('end', onEnd);
  return () => socket.off('end', onEnd);
}
