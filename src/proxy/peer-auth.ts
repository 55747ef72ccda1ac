import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { fieldValue, type HeaderLine, type Headers, withoutFields } from '../model/headers.js';
import type { ConnectionFacts, RequestHead } from '../model/request-head.js';
import type { UnknownOutcome } from '../model/upload.js';
import { headersForNode } from '../origin/headers.js';
import type { Reply } from '../protocol/protocol.js';
import type { HttpRequest } from '../server/exchange.js';
import { InvalidHead, readHead } from '../server/request-head.js';

/** The header that carries the signature of a node. From clients it is ignored. */
export const PEER_FIELD = 'RUFH-Peer';

/** Facts about the client's connection that the request itself does not contain. */
export interface ClientFacts {
  readonly httpVersion: '1.0' | '1.1' | '2.0';
  readonly scheme: 'http' | 'https';
  readonly authority: string;
  /** As in `RequestHead`. */
  readonly base?: string;
  readonly connection: ConnectionFacts;
  /** The client announced no length: a Content-Length of zero was added for the hop between the nodes. */
  readonly hasNoLength: boolean;
}

/** The signed claim of a request between nodes: the intended node, and whether it relays a client or transfers files. */
export type PeerClaim =
  | { readonly kind: 'request'; readonly to: string; readonly client: ClientFacts }
  | { readonly kind: 'files'; readonly to: string };

/**
 * The reason why a claim is rejected: missing, from a node of another version, signed without the secret or for another
 * request, too old, used before, meant for another node, or one too many to remember.
 */
export type ClaimFailure = 'unsigned' | 'version' | 'forged' | 'old' | 'replayed' | 'misdirected' | 'busy';

/**
 * The request that a signature covers: every header line except those of the connection. `Content-Length` binds the
 * length of the body.
 */
export interface SignedRequest {
  readonly method: string;
  readonly target: string;
  readonly headers: Headers;
}

/** Longer than the clocks of a cluster may differ, and too short to be of use to an eavesdropper. */
const VALID_MS = 30_000;

/** Enough for about ten thousand requests a second within the time that nonces are remembered. */
const MAX_NONCES = 1_000_000;

const VERSION = '2';

/** Headers that Node writes and reads itself, and the one that carries the signature. */
const UNSIGNED_FIELDS: ReadonlySet<string> = new Set(['connection', 'keep-alive', PEER_FIELD.toLowerCase()]);

/**
 * Signs and verifies requests between nodes with their shared secret (HMAC-SHA256, RFC 2104). Where the connections use
 * mutual TLS the secret may be empty.
 */
export class PeerSignature {
  private readonly nonces: UsedNonces;
  /** Older signatures are rejected, because they may have been used before this process started. */
  private readonly startedAtMs: number;

  constructor(
    private readonly secret: string,
    /** The name of this node. */
    private readonly self: string,
    private readonly clock: () => number,
    maxNonces = MAX_NONCES,
  ) {
    this.startedAtMs = clock();
    this.nonces = new UsedNonces(maxNonces);
  }

  /** Returns the header value `2.<time>.<nonce>.<claim>.<signature>`, valid for one request. */
  sign(claim: PeerClaim, request: SignedRequest): string {
    const nonce = randomBytes(12).toString('base64url');
    const signed = `${VERSION}.${this.clock()}.${nonce}.${Buffer.from(JSON.stringify(claim)).toString('base64url')}`;
    return `${signed}.${this.digest(signed, request).toString('base64url')}`;
  }

  /** Returns the claim of a valid signature, or the reason why it is rejected; a signature is accepted once. */
  verify(value: string | undefined, request: SignedRequest): PeerClaim | ClaimFailure {
    if (value === undefined) return 'unsigned';
    if (/^\d+\./.test(value) && !value.startsWith(`${VERSION}.`)) return 'version';
    const [, signed, time, nonce, encodedClaim, signature] = SIGNATURE_VALUE.exec(value) ?? [];
    if (signed === undefined) return 'forged';
    if (!timingSafeEqual(this.digest(signed, request), Buffer.from(signature!, 'base64url'))) return 'forged';
    const now = this.clock();
    const signedAtMs = Number(time);
    if (Math.abs(now - signedAtMs) > VALID_MS || signedAtMs < this.startedAtMs) return 'old';
    const claim = JSON.parse(Buffer.from(encodedClaim!, 'base64url').toString()) as PeerClaim;
    if (claim.to !== this.self) return 'misdirected';
    return this.nonces.use(nonce!, now) ?? claim;
  }

  /** Line breaks separate the parts unambiguously, because none of them can contain one. */
  private digest(signed: string, { method, target, headers }: SignedRequest): Buffer {
    const lines = headers
      .map(([name, value]) => [name.toLowerCase(), value.trim()] as const)
      .filter(([name]) => !UNSIGNED_FIELDS.has(name))
      .map(([name, value]) => `${name}: ${value}`);
    const text = ['rufh-peer', signed, method, target, ...lines].join('\n');
    return createHmac('sha256', this.secret).update(text).digest();
  }
}

const SIGNATURE_VALUE = /^(2\.(\d{1,16})\.([\w-]{16})\.([\w-]+))\.([\w-]{43})$/;

/**
 * Remembers used nonces as long as a signature with one of them could be accepted: twice the time that clocks may
 * differ.
 */
class UsedNonces {
  private newer = new Set<string>();
  private older = new Set<string>();
  private rotatedAtMs = 0;

  constructor(private readonly max: number) {}

  /** Marks the nonce as used; undefined on first use. */
  use(nonce: string, now: number): 'replayed' | 'busy' | undefined {
    if (now - this.rotatedAtMs > 2 * VALID_MS) {
      this.older = now - this.rotatedAtMs > 4 * VALID_MS ? new Set() : this.newer;
      this.newer = new Set();
      this.rotatedAtMs = now;
    }
    if (this.newer.has(nonce) || this.older.has(nonce)) return 'replayed';
    // Dropping a nonce would allow a replay.
    if (this.newer.size + this.older.size >= this.max) return 'busy';
    this.newer.add(nonce);
    return undefined;
  }
}

const PEER_FIELDS: ReadonlySet<string> = new Set([PEER_FIELD.toLowerCase()]);
const LENGTH_FIELD: ReadonlySet<string> = new Set(['content-length']);

/** In a response to another node: the upload and the attempt whose outcome is unknown. */
const UNKNOWN_OUTCOME_FIELD = 'RUFH-Unknown-End';
const UNKNOWN_OUTCOME_FIELDS: ReadonlySet<string> = new Set([UNKNOWN_OUTCOME_FIELD.toLowerCase()]);

/** Adds the unknown outcome for the relaying node, and removes the field if an origin has sent it. */
export function withUnknownOutcome(reply: Reply, outcome: UnknownOutcome | undefined): Reply {
  const headers = withoutFields(reply.headers, UNKNOWN_OUTCOME_FIELDS);
  return {
    ...reply,
    headers: outcome ? [...headers, [UNKNOWN_OUTCOME_FIELD, `${outcome.attempt} ${outcome.id}`]] : headers,
  };
}

/** Splits the response of another node into the part for this node and the headers for the client. */
export function takeUnknownOutcome(headers: Headers): {
  readonly headers: HeaderLine[];
  readonly outcome?: UnknownOutcome;
} {
  const [, attempt, id] = /^(\d{1,15}) (\S+)$/.exec(fieldValue(headers, UNKNOWN_OUTCOME_FIELD) ?? '') ?? [];
  const forClient = withoutFields(headers, UNKNOWN_OUTCOME_FIELDS);
  return id === undefined ? { headers: forClient } : { headers: forClient, outcome: { id, attempt: Number(attempt) } };
}

/** The facts about a client's connection that its request does not contain. */
export function clientFactsOf(head: RequestHead): ClientFacts {
  const { httpVersion, scheme, authority, base, connection, contentLength } = head;
  const hasNoLength = contentLength === undefined;
  return { httpVersion, scheme, authority, ...(base === undefined ? {} : { base }), connection, hasNoLength };
}

/** The client's headers with those that the hop between the nodes needs, without a signature invented by the client. */
export function headersForOwner(head: RequestHead): HeaderLine[] {
  return withoutFields(headersForNode(head, fieldValue(head.headers, 'host') ?? head.authority), PEER_FIELDS);
}

/** Reads a relayed request head as the first node has read it, with the client's facts instead of this connection's. */
export function readPeerHead(req: HttpRequest, facts: ClientFacts): RequestHead | InvalidHead {
  const head = readHead(req, { provenanceOf: () => facts });
  if (head instanceof InvalidHead) return head;
  const { httpVersion, hasNoLength } = facts;
  const hasArtificialLength = hasNoLength && head.contentLength === 0;
  return {
    ...head,
    httpVersion,
    headers: withoutFields(
      head.headers,
      hasArtificialLength ? new Set([...PEER_FIELDS, ...LENGTH_FIELD]) : PEER_FIELDS,
    ),
    contentLength: hasArtificialLength ? undefined : head.contentLength,
  };
}
