import { fieldValue, type Headers } from './headers.js';

/** What is known of a request before its body: the same for HTTP/1.1 and HTTP/2, pseudo-header fields taken apart. */
export interface RequestHead {
  readonly method: string;
  /** The request target as it came (path and query, origin-form), or its canonical form once it is found to be protected. */
  readonly target: string;
  /** The target's path with dot segments resolved, in its normal form: what routes are matched against. */
  readonly path: string;
  /** Why servers could read the path in several ways; missing when they cannot. */
  readonly pathAmbiguity?: string;
  readonly httpVersion: '1.0' | '1.1' | '2.0';
  /** What the client speaks to: from a trusted proxy's forwarded fields, else from the connection. */
  readonly scheme: 'http' | 'https';
  readonly authority: string;
  /** What a trusted proxy says that clients call this server, where it tells of a port or of a prefix of the path. */
  readonly base?: string;
  /** Every field as received, without pseudo-header fields. */
  readonly headers: Headers;
  /** From Content-Length; undefined when the body is chunked, framed by HTTP/2 alone, or absent. */
  readonly contentLength?: number;
  /** False when the request certainly has no content (no length and no framing, or an ended HTTP/2 stream). */
  readonly hasBody: boolean;
  readonly expectsContinue: boolean;
  readonly connection: ConnectionFacts;
}

export interface ConnectionFacts {
  /** The peer's address as the socket shows it; empty for a Unix socket. */
  readonly peerAddress: string;
  readonly encrypted: boolean;
  /** The original client: the peer, or what trusted proxies say of it. */
  readonly clientAddress: string;
  /** The peer is one of `trusted_proxies`: its forwarded fields are believed and extended. */
  readonly peerIsTrusted: boolean;
  /** A 1xx response is known to get through: a direct connection, or a trusted proxy that relays interim responses. */
  readonly relaysInterim: boolean;
  /** No other client's requests come over this connection: it is direct, or a trusted proxy says that it keeps them apart. */
  readonly isClientsOwn: boolean;
}

/** What the client calls this server: scheme, authority, and the part of the path that a trusted proxy took off. */
export function clientBaseUrl({ scheme, authority, base }: Pick<RequestHead, 'scheme' | 'authority' | 'base'>): string {
  return base ?? `${scheme}://${authority}`;
}

const SAFE_METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE']);
const IDEMPOTENT_METHODS: ReadonlySet<string> = new Set([...SAFE_METHODS, 'PUT', 'DELETE']);

/** Fields that make a request depend on the state of its target (RFC 9110 §13.1, RFC 4918 §10.4). */
const CONDITIONS = ['if-match', 'if-none-match', 'if-unmodified-since', 'if'];

/**
 * Whether a second request like this does nothing that the first one did not (RFC 9110 §9.2.2). Under a condition it may:
 * after a first one that was carried out the second one fails with 412, and its client takes the upload for refused.
 */
export function isIdempotent({ method, headers }: Pick<RequestHead, 'method' | 'headers'>): boolean {
  if (!IDEMPOTENT_METHODS.has(method)) return false;
  return SAFE_METHODS.has(method) || CONDITIONS.every((name) => fieldValue(headers, name) === undefined);
}
