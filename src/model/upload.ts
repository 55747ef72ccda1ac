import { fieldValue, type Headers } from './headers.js';
import type { Limits } from './route.js';

/**
 * receiving → complete → delivering → answered | undelivered; cancelled and invalid end it early.
 * `complete`: the whole is here and waits for its delivery. `undelivered`: trying ended, the bytes are kept.
 */
export const PHASES = [
  'receiving',
  'complete',
  'delivering',
  'answered',
  'undelivered',
  'cancelled',
  'invalid',
] as const;
export type Phase = (typeof PHASES)[number];

/** One committed piece of the spool: one file a lease, never used twice. `size` is what is committed of it. */
export interface Chunk {
  readonly name: string;
  readonly start: number;
  readonly size: number;
  /** CRC-32 of the bytes behind the last full block, whose own is in the file; missing where files have none. */
  readonly crc?: number;
}

/** The creation's head, as it will be given to the origin. */
export interface StoredRequest {
  readonly method: string;
  readonly target: string;
  readonly httpVersion: string;
  readonly scheme: 'http' | 'https';
  readonly authority: string;
  readonly headers: Headers;
  readonly peerAddress: string;
  readonly clientAddress: string;
  readonly peerIsTrusted: boolean;
}

/** A digest of RFC 9530 with a supported algorithm; `value` is the decoded byte sequence in hex. */
export interface Digest {
  readonly algorithm: DigestAlgorithm;
  readonly value: string;
}
export type DigestAlgorithm = 'sha-256' | 'sha-512';

/** How far an attempt got: what may be repeated depends on it. `sent-in-part`: the origin certainly never had all of it. */
export type Reached = 'never-sent' | 'sent-in-part' | 'sent' | 'answered';

/** One try to give the whole to the origin. While it is under way `endedAt` and `reached` are missing. */
export interface Attempt {
  readonly number: number;
  /** Number of the first attempt of its budget; a new one begins when a client asks again after trying had ended. */
  readonly budgetFrom?: number;
  /** When that first attempt began: how long trying may go on is counted from here. */
  readonly budgetSince?: number;
  readonly origin: string;
  /** Begun before the upload was whole, and its end is withheld: as long as this is set, the origin cannot have all of it. */
  readonly inPart?: true;
  readonly startedAt: number;
  readonly endedAt?: number;
  readonly reached?: Reached;
  readonly status?: number;
  /** What went wrong, for people. */
  readonly problem?: string;
  /** The origin's answer was none that could be taken: without end, too large or too slow. */
  readonly invalidAnswer?: true;
  /** The origin asked not to be asked again before this (`Retry-After`). */
  readonly notBefore?: number;
}

/** The origin's final response, kept whole. */
export interface Answer {
  readonly status: number;
  readonly reason: string;
  /** End-to-end fields only, with the announcement of trailers. */
  readonly headers: Headers;
  readonly trailers: Headers;
  readonly bodySize: number;
  /**
   * Where the body is: in the record itself, or in the spool under this chunk name. `nowhere`: there was no room for it.
   * `crc`: of all of it, or as that of a chunk; missing where the answer is from before there were checksums.
   */
  readonly body:
    | { readonly in: 'record'; readonly crc?: number }
    | { readonly in: 'nowhere' }
    | { readonly in: 'spool'; readonly name: string; readonly crc?: number };
  readonly at: number;
}

/** The dialect of an ordinary request whose body was spooled: no client knows of the upload, and nobody can go on with it. */
export const PLAIN_DIALECT = 'plain';

export interface Upload {
  readonly id: string;
  /** The node whose disk has the bytes; missing where every node reaches them. */
  readonly node?: string;
  readonly route: string;
  /** Name of the protocol it was created with: '3' … '10', 'final'; or `PLAIN`. */
  readonly dialect: string;
  readonly request: StoredRequest;
  readonly limits: Limits;
  readonly phase: Phase;
  /** Committed bytes. Never decreases. */
  readonly offset: number;
  readonly length?: number;
  readonly reprDigests: readonly Digest[];
  readonly wantedReprDigest?: DigestAlgorithm;
  /** Sent to the origin as `Idempotency-Key`; says nothing about the id. */
  readonly deliveryKey: string;
  /** Who may go on with it, as a digest; undefined: whoever knows the id. */
  readonly principal?: string;
  /** The `Idempotency-Key` of its creation and the client who sent it, as one digest; see `clientKeyOf`. */
  readonly clientKey?: string;
  /** What `forwardAuth` said to tell the origin, in place of what the client sent of the same names. */
  readonly addedHeaders?: Headers;
  /** What followed the last body: sent behind the whole. */
  readonly trailers?: Headers;
  /** In phase `invalid`: stored bytes of it are damaged or missing. */
  readonly lost?: true;
  /** Set with completion: the last byte was never acknowledged, see `shownOffset`. */
  readonly heldBack?: { readonly lastByte: number };
  /** The newest attempts, oldest first; `attemptCount` counts all of them. */
  readonly attempts: readonly Attempt[];
  readonly attemptCount: number;
  readonly answer?: Answer;
  /** Why trying ended, in phase `undelivered`. */
  readonly undelivered?: Undelivered;
  /** When a waiting delivery is due, in phase `complete`. Milliseconds since the epoch, like every `…At`. */
  readonly dueAt?: number;
  readonly createdAt: number;
  readonly expiresAt: number;
}

/** What the origin gets as `Idempotency-Key`: the client's own where it sent one. By this its log can be searched. */
export function idempotencyKeyOf({ request, deliveryKey }: Pick<Upload, 'request' | 'deliveryKey'>): string {
  return fieldValue(request.headers, 'idempotency-key') ?? deliveryKey;
}

/** By what operators, origins and users name an upload. Only its id is a secret: whoever has it may write. */
export interface UploadIdentifiers {
  readonly id: string;
  /** The target of its creation. */
  readonly target: string;
  readonly idempotencyKey: string;
  /** The address of its creator. */
  readonly client: string;
}

export function identifiersOf(upload: Pick<Upload, 'id' | 'request' | 'deliveryKey'>): UploadIdentifiers {
  const { target, clientAddress } = upload.request;
  return { id: upload.id, target, idempotencyKey: idempotencyKeyOf(upload), client: clientAddress };
}

export interface Undelivered {
  /**
   * `unreachable`: never sent. `refused`: a status of `retry_on`. `outcome-unknown`: sent, and nobody knows what came of
   * it. `unauthorized`: the origin wants other credentials. `quarantined`: the gate keeps it for the operator.
   */
  readonly reason: 'unreachable' | 'refused' | 'outcome-unknown' | 'unauthorized' | 'quarantined';
  /** The origin's last status, for `refused`. */
  readonly status?: number;
  readonly problem: string;
  /** For `outcome-unknown`: the origin did answer, but its answer could not be taken. */
  readonly invalidAnswer?: true;
  /** For `outcome-unknown`: a client was sent a response that says so, and when it asks again, it knows what it asks for. */
  readonly clientKnows?: true;
  /** For `outcome-unknown`: a client asked again after it was sent that response, as one does that lost it. Counts once. */
  readonly hasAskedAgain?: true;
  /** For `unauthorized`: what the origin said, for a client that comes without other credentials. Its body is in the spool. */
  readonly answer?: Answer;
}

/** The same end, of which a client was told. */
export function markClientKnows(why: Undelivered): Undelivered {
  return { ...why, clientKnows: true };
}

/** The same end, after a client asked again: it has to be told once more. */
export function markAskedAgain(why: Undelivered): Undelivered {
  const asked = { ...why, hasAskedAgain: true } as const;
  delete (asked as { clientKnows?: true }).clientKnows;
  return asked;
}

/** Trying ended after this attempt, and nobody knows what came of it. */
export interface UnknownOutcome {
  readonly id: string;
  readonly attempt: number;
}

/** The attempt of which nobody knows what came, and after which trying ended; undefined where that is not so. */
export function newestUnknownOutcome({ id, attempts, undelivered }: Upload): UnknownOutcome | undefined {
  const newest = attempts.at(-1);
  return newest && undelivered?.reason === 'outcome-unknown' ? { id, attempt: newest.number } : undefined;
}

/** The origin said yes: only then is the last byte acknowledged and the upload shown as complete. */
export function hasGoodAnswer(upload: Upload): boolean {
  return upload.phase === 'answered' && upload.answer !== undefined && upload.answer.status < 400;
}

/** The origin has answered before it had all: there is nothing to add any more, and its answer is all there is to say. */
export function isAnsweredEarly({ phase, offset, length }: Upload): boolean {
  return phase === 'answered' && offset !== length;
}

/**
 * The offset a client may see. Until the origin has given a good answer the last byte stays unacknowledged, because
 * clients take "offset = length" for success and then never ask for the answer they lost. With it they are shown the total,
 * also when the origin did not want all of it: else they would bring the rest for ever.
 */
export function shownOffset(upload: Upload): number {
  if (hasGoodAnswer(upload)) return upload.length ?? upload.offset;
  return upload.heldBack ? upload.offset - 1 : upload.offset;
}
