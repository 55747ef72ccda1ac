import { fieldValue, type Headers } from './headers.js';
import { isIdempotentMethod, isSafe } from './methods.js';

/** A request without its body; the same for HTTP/1.1 and HTTP/2, with pseudo-header fields split off. */
export interface RequestHead {
  readonly method: string;
  /** The request target as received (origin-form), or in canonical form if its route is protected. */
  readonly target: string;
  /** The path of the target in the form of `normalizePath`, without dot segments; routes are matched against it. */
  readonly path: string;
  /** The reason why servers could read the path in several ways; missing if they cannot. */
  readonly pathAmbiguity?: string;
  readonly httpVersion: '1.0' | '1.1' | '2.0';
  /** The scheme that the client uses: from a trusted proxy's forwarded fields, else from the connection. */
  readonly scheme: 'http' | 'https';
  readonly authority: string;
  /** The base URL that clients use, if a trusted proxy reports a port or a path prefix. */
  readonly base?: string;
  /** Every field as received, without pseudo-header fields. */
  readonly headers: Headers;
  /** From Content-Length; undefined if the body is chunked, framed by HTTP/2 alone, or absent. */
  readonly contentLength?: number;
  /** False if the request certainly has no content (no length and no framing, or an ended HTTP/2 stream). */
  readonly hasBody: boolean;
  readonly expectsContinue: boolean;
  readonly connection: ConnectionFacts;
}

/** Facts about the connection of a request. */
export interface ConnectionFacts {
  /** The address of the socket's peer; empty for a Unix socket. */
  readonly peerAddress: string;
  readonly encrypted: boolean;
  /** The address of the original client: the peer's, or the one that trusted proxies report. */
  readonly clientAddress: string;
  /** The peer is one of `trusted_proxies`: its forwarded fields are trusted and extended. */
  readonly peerIsTrusted: boolean;
  /** 1xx responses are known to reach the client: the connection is direct, or the trusted proxy relays them. */
  readonly relaysInterim: boolean;
  /**
   * All requests on this connection are from one client: it is direct, or a trusted proxy says it keeps clients apart.
   */
  readonly isClientsOwn: boolean;
}

/** The base URL of this server for the client: scheme, authority, and a path prefix that a trusted proxy removed. */
export function clientBaseUrl({ scheme, authority, base }: Pick<RequestHead, 'scheme' | 'authority' | 'base'>): string {
  return base ?? `${scheme}://${authority}`;
}

/** Fields that make a request depend on the state of its target (RFC 9110 §13.1, RFC 4918 §10.4). */
const CONDITIONS = ['if-match', 'if-none-match', 'if-unmodified-since', 'if'];

/**
 * Whether repeating the request has no further effect (RFC 9110 §9.2.2). False for conditional requests: a repetition
 * would fail with 412 after a success, and the client would consider the upload refused.
 */
export function isIdempotent({ method, headers }: Pick<RequestHead, 'method' | 'headers'>): boolean {
  if (!isIdempotentMethod(method)) return false;
  return isSafe(method) || CONDITIONS.every((name) => fieldValue(headers, name) === undefined);
}
