import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { fieldValue, type HeaderLine, type Headers, withoutFields } from '../model/headers.js';
import type { ConnectionFacts, RequestHead } from '../model/request-head.js';
import type { UnknownOutcome } from '../model/upload.js';
import { headersForNode } from '../origin/headers.js';
import type { Reply } from '../protocol/protocol.js';
import type { HttpRequest } from '../server/exchange.js';
import { InvalidHead, readHead } from '../server/request-head.js';

/** The field that one node's requests to another are signed with. From anybody else it means nothing. */
export const PEER_FIELD = 'RUFH-Peer';

/** What the node that a client speaks to knows of the connection, and the request itself does not say. */
export interface ClientFacts {
  readonly httpVersion: '1.0' | '1.1' | '2.0';
  readonly scheme: 'http' | 'https';
  readonly authority: string;
  /** As in `RequestHead`. */
  readonly base?: string;
  readonly connection: ConnectionFacts;
  /** The client announced no length: where there is one of zero, it is for our hop alone. */
  readonly hasNoLength: boolean;
}

/** What one node says to another: whom it means, and whether a client's request follows or files of an upload. */
export type PeerClaim =
  | { readonly kind: 'request'; readonly to: string; readonly client: ClientFacts }
  | { readonly kind: 'files'; readonly to: string };

/**
 * Why a claim is not believed: none at all, made by a node of another version, made by somebody without the secret or for
 * another request, too old, used before, meant for another node, or one too many to be remembered.
 */
export type ClaimFailure = 'unsigned' | 'version' | 'forged' | 'old' | 'replayed' | 'misdirected' | 'busy';

/** What a signature is for. Of the fields every line counts but those of the connection; `Content-Length` binds the body's length. */
export interface SignedRequest {
  readonly method: string;
  readonly target: string;
  readonly headers: Headers;
}

/** Longer than clocks of one cluster may differ, too short to be of use to whoever has seen it. */
const VALID_MS = 30_000;

/** As many as a node gets within that time at some ten thousand requests a second. */
const MAX_NONCES = 1_000_000;

const VERSION = '2';

/** Lines that Node writes and reads itself, and the one that the signature stands in. */
const UNSIGNED_FIELDS: ReadonlySet<string> = new Set(['connection', 'keep-alive', PEER_FIELD.toLowerCase()]);

/**
 * Signs what nodes say to each other with their shared secret (HMAC-SHA256, RFC 2104), and tells theirs from anybody
 * else's. Where the connections are mutual TLS the secret may be empty.
 */
export class PeerSignature {
  private readonly nonces: UsedNonces;
  /** Of what was signed before, nobody knows whether it was used before this process began. */
  private readonly startedAt: number;

  constructor(
    private readonly secret: string,
    /** The name of this node. */
    private readonly self: string,
    private readonly clock: () => number,
    mostNonces = MAX_NONCES,
  ) {
    this.startedAt = clock();
    this.nonces = new UsedNonces(mostNonces);
  }

  /** `2.<time>.<nonce>.<claim>.<signature>`: the value of the field, good for one request. */
  sign(claim: PeerClaim, request: SignedRequest): string {
    const nonce = randomBytes(12).toString('base64url');
    const signed = `${VERSION}.${this.clock()}.${nonce}.${Buffer.from(JSON.stringify(claim)).toString('base64url')}`;
    return `${signed}.${this.digest(signed, request).toString('base64url')}`;
  }

  /** Believes a signature once. */
  verify(value: string | undefined, request: SignedRequest): PeerClaim | ClaimFailure {
    if (value === undefined) return 'unsigned';
    if (/^\d+\./.test(value) && !value.startsWith(`${VERSION}.`)) return 'version';
    const [, signed, time, nonce, claim, signature] = SIGNATURE_VALUE.exec(value) ?? [];
    if (signed === undefined) return 'forged';
    if (!timingSafeEqual(this.digest(signed, request), Buffer.from(signature!, 'base64url'))) return 'forged';
    const [now, signedAt] = [this.clock(), Number(time)];
    if (Math.abs(now - signedAt) > VALID_MS || signedAt < this.startedAt) return 'old';
    const parsed = JSON.parse(Buffer.from(claim!, 'base64url').toString()) as PeerClaim;
    if (parsed.to !== this.self) return 'misdirected';
    return this.nonces.use(nonce!, now) ?? parsed;
  }

  /** Neither method and target nor a field can hold a line break. */
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

/** Nonces that were used, for as long as a signature with one of them would be believed: twice the time clocks may differ. */
class UsedNonces {
  private newer = new Set<string>();
  private older = new Set<string>();
  private rotatedAt = 0;

  constructor(private readonly max: number) {}

  /** Undefined when this is the first time. */
  use(nonce: string, now: number): 'replayed' | 'busy' | undefined {
    if (now - this.rotatedAt > 2 * VALID_MS) {
      this.older = now - this.rotatedAt > 4 * VALID_MS ? new Set() : this.newer;
      this.newer = new Set();
      this.rotatedAt = now;
    }
    if (this.newer.has(nonce) || this.older.has(nonce)) return 'replayed';
    // Forgetting one would let it be used again.
    if (this.newer.size + this.older.size >= this.max) return 'busy';
    this.newer.add(nonce);
    return undefined;
  }
}

const PEER_FIELDS: ReadonlySet<string> = new Set([PEER_FIELD.toLowerCase()]);
const LENGTH_FIELD: ReadonlySet<string> = new Set(['content-length']);

/** In an answer to another node: after which attempt of which upload the outcome is unknown. */
const UNKNOWN_OUTCOME_FIELD = 'RUFH-Unknown-End';
const UNKNOWN_OUTCOME_FIELDS: ReadonlySet<string> = new Set([UNKNOWN_OUTCOME_FIELD.toLowerCase()]);

/** A reply as the node gets it that passes it on: an origin has no say in what it notes. */
export function withUnknownOutcome(reply: Reply, end: UnknownOutcome | undefined): Reply {
  const headers = withoutFields(reply.headers, UNKNOWN_OUTCOME_FIELDS);
  return { ...reply, headers: end ? [...headers, [UNKNOWN_OUTCOME_FIELD, `${end.attempt} ${end.id}`]] : headers };
}

/** What an answer of another node says for this node alone, and what is left of it for the client. */
export function takeUnknownOutcome(headers: Headers): {
  readonly headers: HeaderLine[];
  readonly end?: UnknownOutcome;
} {
  const [, attempt, id] = /^(\d{1,15}) (\S+)$/.exec(fieldValue(headers, UNKNOWN_OUTCOME_FIELD) ?? '') ?? [];
  const forClient = withoutFields(headers, UNKNOWN_OUTCOME_FIELDS);
  return id === undefined ? { headers: forClient } : { headers: forClient, end: { id, attempt: Number(attempt) } };
}

export function clientFactsOf(head: RequestHead): ClientFacts {
  const { httpVersion, scheme, authority, base, connection, contentLength } = head;
  const hasNoLength = contentLength === undefined;
  return { httpVersion, scheme, authority, ...(base === undefined ? {} : { base }), connection, hasNoLength };
}

/** The client's lines, and those that our own hop needs. A signature that a client made up stays behind. */
export function headersForOwner(head: RequestHead): HeaderLine[] {
  return withoutFields(headersForNode(head, fieldValue(head.headers, 'host') ?? head.authority), PEER_FIELDS);
}

/** A head as the client's own node has read it, whatever the way between that node and this one looks like. */
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
