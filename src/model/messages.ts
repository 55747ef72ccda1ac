import type { Headers } from './headers.js';
import type { Digest, DigestAlgorithm, Undelivered, Upload } from './upload.js';

/** Opens an upload with the first bytes of its representation, all of them, or none. */
export interface CreateIntent {
  readonly kind: 'create';
  readonly dialect: string;
  /** This body is the end of the representation. */
  readonly complete: boolean;
  /** From `Upload-Length`. */
  readonly declaredLength?: number;
  /** From `Content-Length`. */
  readonly contentLength?: number;
  /** `max-append-size` and `min-append-size` hold for a creation's body too (RUFH §4.1.4 since interop 9). */
  readonly appendLimitsApply: boolean;
  readonly contentDigests: readonly Digest[];
  readonly reprDigests: readonly Digest[];
  readonly wantedReprDigest?: DigestAlgorithm;
}

/** Adds this body at `offset`. */
export interface AppendIntent {
  readonly kind: 'append';
  readonly id: string;
  readonly offset: number;
  readonly complete: boolean;
  readonly declaredLength?: number;
  readonly contentLength?: number;
  readonly contentDigests: readonly Digest[];
  /** Repeated by some clients on every append; only taken when the creation had none. */
  readonly reprDigests: readonly Digest[];
}

export interface RetrieveIntent {
  readonly kind: 'retrieve';
  readonly id: string;
}

export interface CancelIntent {
  readonly kind: 'cancel';
  readonly id: string;
}

/** What does this resource allow? `id` when the upload resource itself was asked. */
interface DiscoverIntent {
  readonly kind: 'discover';
  readonly id?: string;
}

export type Intent = CreateIntent | AppendIntent | RetrieveIntent | CancelIntent | DiscoverIntent;

/** Why a request was turned down; every one is something the client can understand and act on. */
export type Refusal =
  | { readonly reason: 'malformed'; readonly detail: string; readonly upload?: Upload }
  | { readonly reason: 'unknown-upload' }
  /** Known, but expired, cancelled or invalid. */
  | { readonly reason: 'gone'; readonly detail: string }
  | { readonly reason: 'mismatching-offset'; readonly upload: Upload; readonly provided: number }
  | { readonly reason: 'already-complete'; readonly upload: Upload }
  /** An upload of another content, or to another target, was begun with the same `Idempotency-Key`. */
  | { readonly reason: 'key-reused'; readonly differsIn: string }
  | { readonly reason: 'inconsistent-length'; readonly detail: string; readonly upload?: Upload }
  /** The bytes went beyond the declared length: the upload is invalid from now on. */
  | { readonly reason: 'exceeds-length'; readonly length: number }
  | { readonly reason: 'too-large'; readonly maxSize: number; readonly upload?: Upload }
  /** The route makes a form of the bytes, with fields of its own: it takes none that is a form already. */
  | { readonly reason: 'form-of-its-own' }
  /** The route takes no body that is not an upload; `field` would make it one. */
  | { readonly reason: 'upload-required'; readonly field: string }
  | { readonly reason: 'append-too-large'; readonly maxAppendSize: number; readonly upload?: Upload }
  | { readonly reason: 'append-too-small'; readonly minAppendSize: number; readonly upload?: Upload }
  | { readonly reason: 'unsupported-media-type'; readonly expected: string; readonly upload?: Upload }
  /** An upload resource was asked something it does not understand. */
  | { readonly reason: 'method-not-allowed'; readonly allowed: readonly string[] }
  | { readonly reason: 'digest-mismatch'; readonly field: 'Content-Digest' | 'Repr-Digest'; readonly upload?: Upload }
  /** The client wants its content passed on as it comes (RFC 10036), and here it is not; `busy`: not now. */
  | { readonly reason: 'incremental-refused'; readonly isBusy: boolean }
  | { readonly reason: 'storage-full'; readonly upload?: Upload }
  | { readonly reason: 'unavailable'; readonly detail: string; readonly retryAfterSeconds: number };

/** An interim response of the origin (RFC 9110 §15.2), with every field as it came. */
export interface OriginInterim {
  readonly status: number;
  readonly reason: string;
  readonly headers: Headers;
}

/** The origin's answer as it is given to a client, now or again. */
export interface RelayedAnswer {
  readonly status: number;
  readonly reason: string;
  /** End-to-end fields only, with the announcement of trailers, in the origin's order and case. */
  readonly headers: Headers;
  /** Can be read once. Fails when the origin breaks off in the middle of its answer. */
  readonly body: AsyncIterable<Uint8Array>;
  /** Known when the whole body is already here. */
  readonly bodySize?: number;
  /** Known once `body` has ended. */
  readonly trailers: () => Headers;
}

/** What came of an intent; the protocol says how it looks on the wire. */
export type Outcome =
  | { readonly kind: 'created'; readonly upload: Upload; readonly reprDigest?: Digest }
  | { readonly kind: 'appended'; readonly upload: Upload; readonly reprDigest?: Digest }
  | { readonly kind: 'retrieved'; readonly upload: Upload; readonly reprDigest?: Digest }
  | {
      readonly kind: 'answered';
      /** Which request gets it: only a creation's answer may be given the upload's URL. */
      readonly to: 'create' | 'append';
      readonly upload: Upload;
      readonly answer: RelayedAnswer;
      readonly reprDigest?: Digest;
    }
  /** Whole, but the origin has not answered and will not be asked again for now. */
  | {
      readonly kind: 'undelivered';
      readonly upload: Upload;
      readonly why: Undelivered;
      readonly retryAfterSeconds: number;
    }
  /** Whole, and its delivery goes on: there was no answer as long as a client is held open for one. */
  | {
      readonly kind: 'pending';
      readonly upload: Upload;
      /** Why the newest attempt brought no answer; missing while the first is under way. */
      readonly why?: Undelivered;
      readonly retryAfterSeconds: number;
    }
  /** The origin wants other credentials: its answer for now, while the upload is kept for a client that has them. */
  | { readonly kind: 'parked'; readonly upload: Upload; readonly answer: RelayedAnswer }
  /** The one who was asked whether this client may upload said no; nothing of this request counts. */
  | { readonly kind: 'turned-away'; readonly answer: RelayedAnswer }
  /** It was delivered and answered, but that answer is damaged or missing, and cannot be given again. */
  | { readonly kind: 'answer-lost'; readonly upload: Upload }
  /** The client does not wait: the delivery goes on, and the status URL tells of it. */
  | { readonly kind: 'accepted'; readonly upload: Upload }
  | { readonly kind: 'cancelled' }
  | { readonly kind: 'discovered' }
  | { readonly kind: 'refused'; readonly refusal: Refusal };

/**
 * The body broke off: there is nobody left to answer, it came too slowly, or a newer request has taken over. `lost`: it cannot be said whether
 * one has, because the store was away for too long.
 */
export interface Interrupted {
  readonly kind: 'interrupted';
  readonly why: 'client-left' | 'idle' | 'slow' | 'taken-over' | 'draining' | 'lost';
}

/** The bytes of the upload that a creation is about are with another node: the request is for that one. */
export interface Elsewhere {
  readonly kind: 'elsewhere';
  readonly node: string;
}

/** What an interim response can say while the body is still coming. */
export type InterimUpdate =
  | { readonly kind: 'resumable'; readonly upload: Upload }
  /** `offset` is durable and has never been shown lower. */
  | {
      readonly kind: 'progress';
      readonly during: 'create' | 'append';
      readonly upload: Upload;
      readonly offset: number;
    };
