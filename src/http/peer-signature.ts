import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Headers } from '../model/headers.js';
import type { ConnectionFacts } from '../model/request-head.js';

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
export type Disbelief = 'unsigned' | 'version' | 'forged' | 'old' | 'replayed' | 'misdirected' | 'busy';

/** What a signature is for. Of the fields every line counts but those of the connection; `Content-Length` binds the body's length. */
export interface SignedRequest {
  readonly method: string;
  readonly target: string;
  readonly headers: Headers;
}

/** Longer than clocks of one cluster may differ, too short to be of use to whoever has seen it. */
const VALID_MS = 30_000;

/** As many as a node gets within that time at some ten thousand requests a second. */
const MOST_NONCES = 1_000_000;

const VERSION = '2';

/** Lines that Node writes and reads itself, and the one that the signature stands in. */
const NOT_SIGNED: ReadonlySet<string> = new Set(['connection', 'keep-alive', PEER_FIELD.toLowerCase()]);

/**
 * Signs what nodes say to each other with their shared secret (HMAC-SHA256, RFC 2104), and tells theirs from anybody
 * else's. Where the connections are mutual TLS the secret may be empty.
 */
export class PeerSignature {
  private readonly nonces: UsedNonces;
  /** Of what was signed before, nobody knows whether it was used before this process began. */
  private readonly since: number;

  constructor(
    private readonly secret: string,
    /** The name of this node. */
    private readonly self: string,
    private readonly clock: () => number,
    mostNonces = MOST_NONCES,
  ) {
    this.since = clock();
    this.nonces = new UsedNonces(mostNonces);
  }

  /** `2.<time>.<nonce>.<claim>.<signature>`: the value of the field, good for one request. */
  sign(claim: PeerClaim, request: SignedRequest): string {
    const nonce = randomBytes(12).toString('base64url');
    const signed = `${VERSION}.${this.clock()}.${nonce}.${Buffer.from(JSON.stringify(claim)).toString('base64url')}`;
    return `${signed}.${this.digest(signed, request).toString('base64url')}`;
  }

  /** Believes a signature once. */
  verify(value: string | undefined, request: SignedRequest): PeerClaim | Disbelief {
    if (value === undefined) return 'unsigned';
    if (/^\d+\./.test(value) && !value.startsWith(`${VERSION}.`)) return 'version';
    const [, signed, time, nonce, claim, signature] = VALUE.exec(value) ?? [];
    if (signed === undefined) return 'forged';
    if (!timingSafeEqual(this.digest(signed, request), Buffer.from(signature!, 'base64url'))) return 'forged';
    const [now, signedAt] = [this.clock(), Number(time)];
    if (Math.abs(now - signedAt) > VALID_MS || signedAt < this.since) return 'old';
    const told = JSON.parse(Buffer.from(claim!, 'base64url').toString()) as PeerClaim;
    if (told.to !== this.self) return 'misdirected';
    return this.nonces.use(nonce!, now) ?? told;
  }

  /** Neither method and target nor a field can hold a line break. */
  private digest(signed: string, { method, target, headers }: SignedRequest): Buffer {
    const lines = headers
      .map(([name, value]) => [name.toLowerCase(), value.trim()] as const)
      .filter(([name]) => !NOT_SIGNED.has(name))
      .map(([name, value]) => `${name}: ${value}`);
    const text = ['rufh-peer', signed, method, target, ...lines].join('\n');
    return createHmac('sha256', this.secret).update(text).digest();
  }
}

const VALUE = /^(2\.(\d{1,16})\.([\w-]{16})\.([\w-]+))\.([\w-]{43})$/;

/** Nonces that were used, for as long as a signature with one of them would be believed: twice the time clocks may differ. */
class UsedNonces {
  private newer = new Set<string>();
  private older = new Set<string>();
  private begunAt = 0;

  constructor(private readonly most: number) {}

  /** Undefined when this is the first time. */
  use(nonce: string, now: number): 'replayed' | 'busy' | undefined {
    if (now - this.begunAt > 2 * VALID_MS) {
      this.older = now - this.begunAt > 4 * VALID_MS ? new Set() : this.newer;
      this.newer = new Set();
      this.begunAt = now;
    }
    if (this.newer.has(nonce) || this.older.has(nonce)) return 'replayed';
    // Forgetting one would let it be used again.
    if (this.newer.size + this.older.size >= this.most) return 'busy';
    this.newer.add(nonce);
    return undefined;
  }
}
