import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  constants,
  Http2ServerRequest,
  type Http2ServerResponse,
  type Http2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Socket } from 'node:net';

export type HttpRequest = IncomingMessage | Http2ServerRequest;
export type HttpResponse = ServerResponse | Http2ServerResponse;

/** One request and the response to it. */
export type Exchange = Http1Exchange | Http2Exchange;

export interface Http1Exchange {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
}

export interface Http2Exchange {
  readonly req: Http2ServerRequest;
  readonly res: Http2ServerResponse;
}

export function isHttp2(exchange: Exchange): exchange is Http2Exchange {
  return exchange.req instanceof Http2ServerRequest;
}

/** Who is at the other end. */
export interface Peer {
  /** Empty for a Unix socket. */
  readonly address: string;
  readonly encrypted: boolean;
  /** The connection ended already: nothing that is said of it can be relied on. */
  readonly isGone: boolean;
  /** Where the peer reached us, for requests that do not say whom they mean. */
  readonly localAuthority: string;
}

export function peerOf(req: HttpRequest): Peer {
  const socket = socketOf(req);
  if (!socket || socket.destroyed) return { address: '', encrypted: false, isGone: true, localAuthority: 'localhost' };
  const { localAddress = '', localPort = 0 } = socket;
  return {
    address: socket.remoteAddress ?? '',
    encrypted: socket.encrypted === true,
    isGone: false,
    localAuthority: localAddress === '' ? 'localhost' : `${bracketed(localAddress)}:${localPort}`,
  };
}

/** The socket of an HTTP/2 session that has ended throws whatever it is asked. */
function socketOf(req: HttpRequest): (Socket & { readonly encrypted?: boolean }) | undefined {
  if (!(req instanceof Http2ServerRequest)) return req.socket;
  const { session } = req.stream;
  return session && !session.destroyed ? session.socket : undefined;
}

/** The connection that the request came on; undefined when it has ended. */
export function connectionOf(req: HttpRequest): Socket | Http2Session | undefined {
  return req instanceof Http2ServerRequest ? req.stream.session : req.socket;
}

/** The client is gone: nothing that is said would reach it. */
export function hasLeft(exchange: Exchange): boolean {
  return isHttp2(exchange) ? exchange.res.stream.destroyed : exchange.req.socket.destroyed;
}

/** Does something that is of use only as long as the client is there: its signal is aborted when it leaves, which gives undefined. */
export async function whileHere<T>(
  exchange: Exchange,
  task: (left: AbortSignal) => Promise<T>,
): Promise<T | undefined> {
  const left = new AbortController();
  const leave = (): void => left.abort(new Error('the client has left'));
  exchange.res.once('close', leave);
  if (hasLeft(exchange)) leave();
  try {
    return await task(left.signal);
  } catch (error) {
    if (left.signal.aborted) return undefined;
    throw error;
  } finally {
    exchange.res.off('close', leave);
  }
}

/** Ends the exchange so that nobody can take what was sent for a whole answer: the connection goes, or the stream is reset. */
export function destroyExchange(exchange: Exchange): void {
  if (!isHttp2(exchange)) {
    exchange.req.socket.destroy();
    return;
  }
  const { stream } = exchange.res;
  stream.on('error', () => undefined);
  // Not close(), and not destroy() without an error: both end the content in good order first (seen on Node 20 to 26).
  if (!stream.destroyed) stream.destroy(new Error('exchange given up'));
}

/**
 * Closes a stream whose answer is whole, because the rest of its request is not wanted (RFC 9113 §8.1). To be called before
 * the answer ends; gives what closes it. Node writes the end of the stream, with the trailers, a step after the stream has
 * finished: closed in between, the answer never gets its end, and is a broken one to its client.
 */
export function closingBehindAnswer(stream: ServerHttp2Stream): () => Promise<void> {
  const ended = new Promise<void>((resolve) => {
    stream.once('wantTrailers', () => setImmediate(resolve)).once('close', resolve);
  });
  return async () => {
    if (!stream.destroyed && stream.state.localClose !== 1) await ended;
    if (!stream.destroyed) stream.close(constants.NGHTTP2_NO_ERROR);
  };
}

function bracketed(address: string): string {
  return address.includes(':') ? `[${address.split('%', 1)[0]}]` : address;
}
