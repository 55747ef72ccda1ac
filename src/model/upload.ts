import { fieldValue, type Headers } from './headers.js';
import type { Limits } from './route.js';

/**
 * receiving → complete → delivering → answered | undelivered; cancelled and invalid end an upload early.
 * `complete`: all bytes are here and wait for delivery. `undelivered`: delivery was given up, the bytes are kept.
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

/** A committed part of an upload: one spool file per lease, never reused. `size` counts its committed bytes. */
export interface Chunk {
  readonly name: string;
  readonly start: number;
  readonly size: number;
  /**
   * CRC-32 of the bytes after the last full block, which has its own in the file; missing for files without checksums.
   */
  readonly crc?: number;
}

/** The head of the creation request, from which the origin's request is made. */
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

/** The place of secrets in a record: the values of these lines are empty there. */
export interface Withheld {
  /** Indexes of header lines of the request. */
  readonly lines: readonly number[];
  /** Indexes of lines in `addedHeaders`. */
  readonly added: readonly number[];
  /** Their values and the upload's token as far as they are kept, encrypted; see `UploadSecrets`. */
  readonly sealed?: string;
}

/** A digest of RFC 9530 with a supported algorithm; `value` is the decoded byte sequence in hex. */
export interface Digest {
  readonly algorithm: DigestAlgorithm;
  readonly value: string;
}
export type DigestAlgorithm = 'sha-256' | 'sha-512';

/** A digest of the content of one message, which may also have an algorithm of tus 1.0.0. */
export interface ContentDigest {
  readonly algorithm: DigestAlgorithm | 'sha-1' | 'md5';
  readonly value: string;
}

/**
 * The progress of an attempt, which decides whether it may be repeated. `sent-in-part`: the origin cannot have all
 * bytes.
 */
export type Reached = 'never-sent' | 'sent-in-part' | 'sent' | 'answered';

/** One attempt to deliver the upload to its origin. `endedAt` and `reached` are missing while it is under way. */
export interface Attempt {
  readonly number: number;
  /** Number of the first attempt of its retry budget; a client that asks again after giving up starts a new budget. */
  readonly budgetFrom?: number;
  /** The start of that first attempt; the time limit for retries counts from here. */
  readonly budgetSince?: number;
  readonly origin: string;
  /**
   * The attempt began before the upload was complete and withholds the end of the body: the origin cannot have it all.
   */
  readonly inPart?: true;
  readonly startedAt: number;
  readonly endedAt?: number;
  readonly reached?: Reached;
  readonly status?: number;
  /** A description of the failure, for humans. */
  readonly problem?: string;
  /** The origin's answer could not be accepted: it was incomplete, too large or too slow. */
  readonly invalidAnswer?: true;
  /** The origin's `Retry-After` allows no further attempt before this time. */
  readonly notBefore?: number;
}

/** The origin's final response, as it is kept for clients that lost it. */
export interface Answer {
  readonly status: number;
  readonly reason: string;
  /** End-to-end fields and `Trailer`. */
  readonly headers: Headers;
  /** As in `Upload`. */
  readonly withheld?: Required<Pick<Withheld, 'lines' | 'sealed'>>;
  readonly trailers: Headers;
  readonly bodySize: number;
  /**
   * The place of the body: the record itself, or the spool under this chunk name. `nowhere`: there was no space for it.
   * `crc` covers the entire body in a record, and is that of a `Chunk` in the spool; missing in records of older
   * versions.
   */
  readonly body:
    | { readonly in: 'record'; readonly crc?: number }
    | { readonly in: 'nowhere' }
    | { readonly in: 'spool'; readonly name: string; readonly crc?: number };
  readonly at: number;
}

/** The dialect of an ordinary request whose body was spooled: it has no upload URL and cannot be resumed. */
export const PLAIN_DIALECT = 'plain';

/** The dialect of uploads that were created with tus 1.0.0. */
export const TUS_DIALECT = 'tus';

/**
 * The role of an upload in the extension concatenation of tus 1.0.0: a `part` is never delivered itself, and a `joined`
 * upload has the bytes of its parts.
 */
export function concatenationRole({
  dialect,
  request,
}: Pick<Upload, 'dialect' | 'request'>): 'part' | 'joined' | undefined {
  const value = dialect === TUS_DIALECT ? fieldValue(request.headers, 'upload-concat') : undefined;
  if (value === undefined) return undefined;
  return value === 'partial' ? 'part' : 'joined';
}

/** The upload has all its bytes, but no request has completed it, which a part waits for in vain. */
export function isFull(upload: Pick<Upload, 'phase' | 'offset' | 'length' | 'dialect' | 'request'>): boolean {
  const { phase, offset, length } = upload;
  return phase === 'receiving' && offset > 0 && offset === length && concatenationRole(upload) === undefined;
}

/** A snapshot of one upload's record. Times in `…At` fields are in milliseconds since the epoch. */
export interface Upload {
  /** The hash of its token; see `uploadIdOf`. */
  readonly id: string;
  /** The node whose disk has the bytes; missing if all nodes share a spool. */
  readonly node?: string;
  readonly route: string;
  /** The protocol it was created with: '3' … '10', 'final', `TUS_DIALECT`, or `PLAIN_DIALECT`. */
  readonly dialect: string;
  readonly request: StoredRequest;
  readonly limits: Limits;
  readonly phase: Phase;
  /** Committed bytes. Never decreases. */
  readonly offset: number;
  readonly length?: number;
  readonly reprDigests: readonly Digest[];
  readonly wantedReprDigest?: DigestAlgorithm;
  /** Sent to the origin as `Idempotency-Key`; the id cannot be derived from it. */
  readonly deliveryKey: string;
  /** Digest of the only principal that may continue the upload; undefined: everyone with its id may. */
  readonly principal?: string;
  /**
   * Digest of the client by which its uploads are counted: the principal, or else the address. Missing for an address
   * that stands for many clients, and in records of older versions.
   */
  readonly client?: string;
  /** Digest of the creation's `Idempotency-Key` and its client; see `clientKeyOf`. */
  readonly clientKey?: string;
  /** Header lines of the `forwardAuth` response for the origin; they replace the client's fields of the same names. */
  readonly addedHeaders?: Headers;
  /** The values of `request.headers` and `addedHeaders` that are secrets; missing if there are none. */
  readonly withheld?: Withheld;
  /** The trailers of the completing request, sent after the body. */
  readonly trailers?: Headers;
  /** In phase `invalid`: some of its stored bytes are damaged or missing. */
  readonly lost?: true;
  /** Set at completion: the last byte is not acknowledged yet, see `shownOffset`. */
  readonly heldBack?: { readonly lastByte: number };
  /** The newest attempts, oldest first; `attemptCount` counts all of them. */
  readonly attempts: readonly Attempt[];
  readonly attemptCount: number;
  readonly answer?: Answer;
  /** The reason why delivery was given up, in phase `undelivered`. */
  readonly undelivered?: Undelivered;
  /** The time when the next attempt is due, in phase `complete`. */
  readonly dueAt?: number;
  readonly createdAt: number;
  readonly expiresAt: number;
}

/**
 * The `Idempotency-Key` that the origin gets, and that its log can be searched for: the client's own if it sent one.
 */
export function idempotencyKeyOf({ request, deliveryKey }: Pick<Upload, 'request' | 'deliveryKey'>): string {
  return fieldValue(request.headers, 'idempotency-key') ?? deliveryKey;
}

/**
 * The values by which operators, origins and users identify an upload. The id of an earlier version's upload is a secret:
 * it grants write access.
 */
export interface UploadIdentifiers {
  readonly id: string;
  /** The target of the creation request. */
  readonly target: string;
  readonly idempotencyKey: string;
  /** The address of the client that created the upload. */
  readonly client: string;
}

/** The identifiers of an upload, for its log lines and its gate. */
export function identifiersOf(upload: Pick<Upload, 'id' | 'request' | 'deliveryKey'>): UploadIdentifiers {
  const { target, clientAddress } = upload.request;
  return { id: upload.id, target, idempotencyKey: idempotencyKeyOf(upload), client: clientAddress };
}

/** The reason why delivery was given up. */
export interface Undelivered {
  /**
   * `unreachable`: never sent. `refused`: a status of `retry_on`. `outcome-unknown`: sent, but it is unknown whether
   * the origin processed it. `unauthorized`: the origin wants other credentials. `quarantined`: the gate keeps it for
   * the operator.
   */
  readonly reason: 'unreachable' | 'refused' | 'outcome-unknown' | 'unauthorized' | 'quarantined';
  /** The origin's last status, for `refused`. */
  readonly status?: number;
  readonly problem: string;
  /** For `outcome-unknown`: the origin did answer, but its answer could not be accepted. */
  readonly invalidAnswer?: true;
  /**
   * For `outcome-unknown`: a client was sent a response that says so; its next completing request orders a repetition.
   */
  readonly clientKnows?: true;
  /**
   * For `outcome-unknown`: a client asked again after that response, perhaps because it was lost. Recorded only once.
   */
  readonly hasAskedAgain?: true;
  /** For `unauthorized`: the origin's answer, for clients without other credentials. Its body is in the spool. */
  readonly answer?: Answer;
}

/** Records that a client was sent a response about the unknown outcome. */
export function markClientKnows(undelivered: Undelivered): Undelivered {
  return { ...undelivered, clientKnows: true };
}

/** Records that a client asked again, so it must be informed once more before its request counts as a repetition. */
export function markAskedAgain(undelivered: Undelivered): Undelivered {
  const marked = { ...undelivered, hasAskedAgain: true } as const;
  delete (marked as { clientKnows?: true }).clientKnows;
  return marked;
}

/** The last attempt of a given-up delivery, if it is unknown whether the origin processed the request. */
export interface UnknownOutcome {
  readonly id: string;
  readonly attempt: number;
}

/** The attempt whose outcome is unknown; undefined unless delivery was given up for that reason. */
export function newestUnknownOutcome({ id, attempts, undelivered }: Upload): UnknownOutcome | undefined {
  const newest = attempts.at(-1);
  return newest && undelivered?.reason === 'outcome-unknown' ? { id, attempt: newest.number } : undefined;
}

/**
 * The origin answered with a status below 400: only then is the last byte acknowledged and the upload shown as
 * complete.
 */
export function hasGoodAnswer(upload: Upload): boolean {
  return upload.phase === 'answered' && upload.answer !== undefined && upload.answer.status < 400;
}

/** The origin answered before the upload was complete; its answer is final and no more bytes are accepted. */
export function isAnsweredEarly({ phase, offset, length }: Upload): boolean {
  return phase === 'answered' && offset !== length;
}

/**
 * The offset a client may see. Without a good answer the last byte stays unacknowledged, because clients take
 * "offset = length" for success and never ask for a lost answer. With a good one the offset is the length, even if the
 * origin did not want all bytes; otherwise clients would send the rest again and again.
 */
export function shownOffset(upload: Upload): number {
  if (hasGoodAnswer(upload)) return upload.length ?? upload.offset;
  return upload.heldBack ? upload.offset - 1 : upload.offset;
}

/**
 * All bytes were acknowledged before the length was known, and there is no good answer. A client that compares offset and
 * length takes both together for success; without the length it sends it again, and gets the answer.
 */
export function looksDone(upload: Upload): boolean {
  const { phase, length } = upload;
  const isEnded = phase !== 'receiving' && concatenationRole(upload) === undefined;
  return isEnded && !hasGoodAnswer(upload) && shownOffset(upload) === length;
}
