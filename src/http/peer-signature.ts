import { createHmac, timingSafeEqual } from 'node:crypto';
import type { ConnectionFacts } from '../model/request-head.js';

/** The field that one node's requests to another are signed with. From anybody else it means nothing. */
export const PEER_FIELD = 'RUFH-Peer';

/** What the node that a client speaks to knows of the connection, and the request itself does not say. */
export interface ClientFacts {
  readonly httpVersion: '1.0' | '1.1' | '2.0';
  readonly scheme: 'http' | 'https';
  readonly authority: string;
  readonly connection: ConnectionFacts;
  /** The client announced no length: where there is one of zero, it is for our hop alone. */
  readonly hasNoLength: boolean;
}

/** What one node says to another: whom it means, and whether a client's request follows or files of an upload. */
export type PeerClaim =
  | { readonly kind: 'request'; readonly to: string; readonly client: ClientFacts }
  | { readonly kind: 'files'; readonly to: string };

/** Why a claim is not believed: none at all, made by somebody without the secret, too old, or meant for another node. */
export type Disbelief = 'unsigned' | 'forged' | 'old' | 'misdirected';

export interface SignedLine {
  readonly method: string;
  readonly target: string;
}

/** Longer than clocks of one cluster may differ, too short to be of use to whoever has seen it. */
const VALID_MS = 30_000;

/**
 * Signs what nodes say to each other with their shared secret (HMAC-SHA256, RFC 2104), and tells theirs from anybody
 * else's. Where the connections are mutual TLS the secret may be empty.
 */
export class PeerSignature {
  constructor(
    private readonly secret: string,
    /** The name of this node. */
    private readonly self: string,
    private readonly clock: () => number,
  ) {}

  /** `1.<time>.<claim>.<signature>`: the value of the field. */
  sign(claim: PeerClaim, line: SignedLine): string {
    const signed = `1.${this.clock()}.${Buffer.from(JSON.stringify(claim)).toString('base64url')}`;
    return `${signed}.${this.digest(signed, line).toString('base64url')}`;
  }

  verify(value: string | undefined, line: SignedLine): PeerClaim | Disbelief {
    if (value === undefined) return 'unsigned';
    const [, signed, time, claim, signature] = /^(1\.(\d{1,16})\.([\w-]+))\.([\w-]{43})$/.exec(value) ?? [];
    if (signed === undefined) return 'forged';
    if (!timingSafeEqual(this.digest(signed, line), Buffer.from(signature!, 'base64url'))) return 'forged';
    if (Math.abs(this.clock() - Number(time)) > VALID_MS) return 'old';
    const told = JSON.parse(Buffer.from(claim!, 'base64url').toString()) as PeerClaim;
    return told.to === this.self ? told : 'misdirected';
  }

  /** Method and target cannot hold a line break. */
  private digest(signed: string, { method, target }: SignedLine): Buffer {
    return createHmac('sha256', this.secret).update(`rufh-peer\n${signed}\n${method}\n${target}`).digest();
  }
}
