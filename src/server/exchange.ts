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

/** One request and its response. */
export type Exchange = Http1Exchange | Http2Exchange;

export interface Http1Exchange {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
}

export interface Http2Exchange {
  readonly req: Http2ServerRequest;
  readonly res: Http2ServerResponse;
}

/** Whether the exchange uses HTTP/2; narrows its type. */
export function isHttp2(exchange: Exchange): exchange is Http2Exchange {
  return exchange.req instanceof Http2ServerRequest;
}

/** The other end of the connection. */
export interface Peer {
  /** Empty for a Unix socket. */
  readonly address: string;
  readonly encrypted: boolean;
  /** The connection has ended already, so the other members are placeholders. */
  readonly isDisconnected: boolean;
  /** The local address and port, for requests that name no host. */
  readonly localAuthority: string;
}

/** The peer of the request's connection, and whether that still exists. */
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

/** The socket of a closed HTTP/2 session throws on every access. */
function socketOf(req: HttpRequest): (Socket & { readonly encrypted?: boolean }) | undefined {
  if (!(req instanceof Http2ServerRequest)) return req.socket;
  const { session } = req.stream;
  return session && !session.destroyed ? session.socket : undefined;
}

/** The connection of the request; undefined if an HTTP/2 session has ended. */
export function connectionOf(req: HttpRequest): Socket | Http2Session | undefined {
  return req instanceof Http2ServerRequest ? req.stream.session : req.socket;
}

/** The client has left: nothing sent would reach it. */
export function clientHasLeft(exchange: Exchange): boolean {
  return isHttp2(exchange) ? exchange.res.stream.destroyed : exchange.req.socket.destroyed;
}

/** Runs a task that is useless once the client has left: the signal is aborted then, and the result is undefined. */
export async function whileConnected<T>(
  exchange: Exchange,
  task: (signal: AbortSignal) => Promise<T>,
): Promise<T | undefined> {
  const controller = new AbortController();
  const onClose = (): void => controller.abort(new Error('the client has left'));
  exchange.res.once('close', onClose);
  if (clientHasLeft(exchange)) onClose();
  try {
    return await task(controller.signal);
  } catch (error) {
    if (controller.signal.aborted) return undefined;
    throw error;
  } finally {
    exchange.res.off('close', onClose);
  }
}

/**
 * Ends the exchange so that the client cannot take the response for complete: destroys the connection, or resets the
 * stream.
 */
export function destroyExchange(exchange: Exchange): void {
  if (!isHttp2(exchange)) {
    exchange.req.socket.destroy();
    return;
  }
  const { stream } = exchange.res;
  stream.on('error', () => undefined);
  // close(), and destroy() without an error, both end the content normally first (seen on Node 20 to 26).
  if (!stream.destroyed) stream.destroy(new Error('exchange aborted'));
}

/**
 * Prepares to close a stream after its complete response, because the rest of its request is not wanted (RFC 9113
 * §8.1). Call it before the response ends, and the returned function afterwards: Node writes the end of the stream,
 * with the trailers, a step after 'finish', and a stream closed in between never gets its end.
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

/**
 * The headers for HTTP/2: without connection fields (RFC 9113 §8.2.2), names in lower case, repeated fields as a list.
 */
export function toHttp2Fields(headers: Headers): OutgoingHttpHeaders {
  const fields = new Map<string, string[]>();
  for (const [name, value] of endToEnd(headers)) {
    // Node validates names and values over HTTP/1.1 only.
    validateHeaderName(name);
    validateHeaderValue(name, value);
    const key = name.toLowerCase();
    fields.set(key, [...(fields.get(key) ?? []), value]);
  }
  return Object.fromEntries([...fields].map(([name, values]) => [name, values.length === 1 ? values[0] : values]));
}

/**
 * The status as it can be sent over HTTP/2. Node refuses 600 and above, which some origins use and which clients treat
 * as a 5xx (RFC 9110 §15): fields and content reach the client under a 502.
 */
export function http2Status(status: number): number {
  return status > 599 ? 502 : status;
}

/** Header fields too large for this client: sending them would end its connection and every other response on it. */
export class HeadTooLarge extends Error {
  constructor() {
    super('the header fields are larger than this client accepts over HTTP/2');
    this.name = 'HeadTooLarge';
  }
}

/** The largest header block that nghttp2 sends; beyond it Node ends the session. */
const MAX_BLOCK_BYTES = 64 * 1024;
/** RFC 9113 §6.5.2: added to the size of each field besides name and value. */
const FIELD_OVERHEAD_BYTES = 32;
/** The size of `:status` and of the date that Node may add. */
const ADDED_BYTES = 128;

/** Whether the fields fit into the client's SETTINGS_MAX_HEADER_LIST_SIZE (RFC 9113 §10.5.1). */
export function fitsClientLimits({ session }: ServerHttp2Stream, fields: OutgoingHttpHeaders): boolean {
  const { maxHeaderListSize = Infinity } = session && !session.destroyed ? session.remoteSettings : {};
  let size = ADDED_BYTES;
  for (const [name, value] of Object.entries(fields))
    for (const line of Array.isArray(value) ? value : [value])
      size += name.length + String(line).length + FIELD_OVERHEAD_BYTES;
  return size <= Math.min(maxHeaderListSize, MAX_BLOCK_BYTES);
}

/**
 * Passes the fields to `write`. Node refuses to repeat some fields, which are then joined into one line (RFC 9110
 * §5.3).
 */
export function writeHttp2Fields(headers: Headers, write: (fields: OutgoingHttpHeaders) => void): void {
  const fields = toHttp2Fields(headers);
  try {
    write(fields);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_HTTP2_HEADER_SINGLE_VALUE') throw error;
    write(Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, joinRepeated(name, value)])));
  }
}

function joinRepeated(name: string, value: OutgoingHttpHeaders[string]): OutgoingHttpHeaders[string] {
  return Array.isArray(value) && name !== 'set-cookie' ? value.join(', ') : value;
}

/**
 * Adds trailers, unless they are too large: then the stream would be reset, and any recipient may drop trailers (RFC
 * 9110 §6.5.1).
 */
export function addHttp2Trailers(response: Http2ServerResponse, trailers: Headers): void {
  const fields = toHttp2Fields(trailers);
  if (fitsClientLimits(response.stream, fields)) response.addTrailers(fields);
}
