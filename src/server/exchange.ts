import { type IncomingMessage, type ServerResponse, validateHeaderName, validateHeaderValue } from 'node:http';
import {
  constants,
  Http2ServerRequest,
  type Http2ServerResponse,
  type Http2Session,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Socket } from 'node:net';
import { endToEnd, type Headers } from '../model/headers.js';

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
  readonly isDisconnected: boolean;
  /** Where the peer reached us, for requests that do not say whom they mean. */
  readonly localAuthority: string;
}

export function peerOf(req: HttpRequest): Peer {
  const socket = socketOf(req);
  if (!socket || socket.destroyed)
    return { address: '', encrypted: false, isDisconnected: true, localAuthority: 'localhost' };
  const { localAddress = '', localPort = 0 } = socket;
  return {
    address: socket.remoteAddress ?? '',
    encrypted: socket.encrypted === true,
    isDisconnected: false,
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
export function clientHasLeft(exchange: Exchange): boolean {
  return isHttp2(exchange) ? exchange.res.stream.destroyed : exchange.req.socket.destroyed;
}

/** Does something that is of use only as long as the client is there: its signal is aborted when it leaves, which gives undefined. */
export async function whileConnected<T>(
  exchange: Exchange,
  task: (left: AbortSignal) => Promise<T>,
): Promise<T | undefined> {
  const left = new AbortController();
  const leave = (): void => left.abort(new Error('the client has left'));
  exchange.res.once('close', leave);
  if (clientHasLeft(exchange)) leave();
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
export function closerAfterResponse(stream: ServerHttp2Stream): () => Promise<void> {
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

/** Fields of the connection, which HTTP/2 does not have (RFC 9113 §8.2.2), taken away; names in lower case, repeated lines as a list. */
export function toHttp2Fields(headers: Headers): OutgoingHttpHeaders {
  const fields = new Map<string, string[]>();
  for (const [name, value] of endToEnd(headers)) {
    // Unlike over HTTP/1.1, Node sends whatever it is given.
    validateHeaderName(name);
    validateHeaderValue(name, value);
    const lower = name.toLowerCase();
    fields.set(lower, [...(fields.get(lower) ?? []), value]);
  }
  return Object.fromEntries([...fields].map(([name, values]) => [name, values.length === 1 ? values[0] : values]));
}

/**
 * The status as it can be sent over HTTP/2. Node refuses those from 600 on, which mean no more than a 5xx to anybody (RFC
 * 9110 §15), and some origins use them: fields and content reach the client under a 502.
 */
export function http2Status(status: number): number {
  return status > 599 ? 502 : status;
}

/** Fields that this client cannot be sent: it would lose its connection, and with it every other answer. */
export class HeadTooLarge extends Error {
  constructor() {
    super('the header fields are larger than this client takes over HTTP/2');
    this.name = 'HeadTooLarge';
  }
}

/** What nghttp2 sends at most of one block; beyond it Node ends the session. */
const MAX_BLOCK_BYTES = 64 * 1024;
/** RFC 9113 §6.5.2: what each field counts besides name and value. */
const FIELD_OVERHEAD_BYTES = 32;
/** `:status` and, where Node adds it, the date. */
const ADDED_BYTES = 128;

/** Whether the client takes them: its SETTINGS_MAX_HEADER_LIST_SIZE says how much (RFC 9113 §10.5.1). */
export function fitsClientLimits({ session }: ServerHttp2Stream, fields: OutgoingHttpHeaders): boolean {
  const { maxHeaderListSize = Infinity } = session && !session.destroyed ? session.remoteSettings : {};
  let size = ADDED_BYTES;
  for (const [name, value] of Object.entries(fields))
    for (const line of Array.isArray(value) ? value : [value])
      size += name.length + String(line).length + FIELD_OVERHEAD_BYTES;
  return size <= Math.min(maxHeaderListSize, MAX_BLOCK_BYTES);
}

/** Gives the fields to `write`. Node refuses to repeat some: then one joined line says the same (RFC 9110 §5.3). */
export function writeHttp2Fields(headers: Headers, write: (fields: OutgoingHttpHeaders) => void): void {
  const fields = toHttp2Fields(headers);
  try {
    write(fields);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_HTTP2_HEADER_SINGLE_VALUE') throw error;
    write(Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, joined(name, value)])));
  }
}

function joined(name: string, value: OutgoingHttpHeaders[string]): OutgoingHttpHeaders[string] {
  return Array.isArray(value) && name !== 'set-cookie' ? value.join(', ') : value;
}

/**
 * Trailers that are too large are left out, because the whole stream would be reset for them; any recipient may drop
 * trailers (RFC 9110 §6.5.1).
 */
export function addHttp2Trailers(response: Http2ServerResponse, trailers: Headers): void {
  const fields = toHttp2Fields(trailers);
  if (fitsClientLimits(response.stream, fields)) response.addTrailers(fields);
}
