import type { Headers } from './headers.js';
import type { UploadProtocol } from './route.js';
import type { ContentDigest, Digest, DigestAlgorithm, Undelivered, Upload } from './upload.js';

/** Creates an upload from a body with some, all or none of its bytes. */
export interface CreateIntent {
  readonly kind: 'create';
  readonly dialect: string;
  /** This body is the end of the representation. */
  readonly complete: boolean;
  /**
   * The protocol counts bytes instead of stating the end (tus 1.0.0): the body is the end if it reaches the length of
   * the upload, and one that exceeds it does not end the upload.
   */
  readonly completesAtLength?: true;
  /** From `Upload-Length`. */
  readonly declaredLength?: number;
  /** From `Content-Length`. */
  readonly contentLength?: number;
  /** `max-append-size` and `min-append-size` hold for a creation's body too (RUFH §4.1.4 since interop 9). */
  readonly appendLimitsApply: boolean;
  readonly contentDigests: readonly ContentDigest[];
  readonly trailingDigests?: TrailingDigests;
  readonly reprDigests: readonly Digest[];
  readonly wantedReprDigest?: DigestAlgorithm;
  /**
   * The URLs of the uploads whose bytes this one has, in order (tus 1.0.0, concatenation), as the client sent them. The
   * body is empty.
   */
  readonly partUrls?: readonly string[];
}

/** Appends the body at `offset`. */
export interface AppendIntent {
  readonly kind: 'append';
  readonly id: string;
  readonly offset: number;
  readonly complete: boolean;
  /** As in a creation. */
  readonly completesAtLength?: true;
  readonly declaredLength?: number;
  readonly contentLength?: number;
  readonly contentDigests: readonly ContentDigest[];
  readonly trailingDigests?: TrailingDigests;
  /** Some clients repeat it on every append; used only if the creation had none. */
  readonly reprDigests: readonly Digest[];
}

/** Digests that follow the content, which names their algorithm only then (tus 1.0.0, checksum-trailer). */
export interface TrailingDigests {
  /** The algorithms that the client may have used. */
  readonly algorithms: readonly ContentDigest['algorithm'][];
  /** Reads the trailers of the content when it has ended. */
  readonly read: (trailers: Headers) => readonly ContentDigest[] | Extract<Refusal, { readonly reason: 'malformed' }>;
}

/** Asks for the offset of an upload. */
export interface RetrieveIntent {
  readonly kind: 'retrieve';
  readonly id: string;
}

/** Ends an upload and discards its bytes. */
export interface CancelIntent {
  readonly kind: 'cancel';
  readonly id: string;
}

/** Asks for the limits of a target, or of the upload `id`. */
interface DiscoverIntent {
  readonly kind: 'discover';
  readonly id?: string;
}

/** The meaning of a request that belongs to an upload protocol. */
export type Intent = CreateIntent | AppendIntent | RetrieveIntent | CancelIntent | DiscoverIntent;

/** The reason why a request was refused. The client can understand and act on every reason. */
export type Refusal =
  | { readonly reason: 'malformed'; readonly detail: string; readonly upload?: Upload }
  | { readonly reason: 'unknown-upload' }
  /** A tus request of another version, or without one. */
  | { readonly reason: 'unsupported-tus-version' }
  /** The upload was made of parts, so nothing can be appended to it. */
  | { readonly reason: 'joined-upload' }
  /** The route does not offer the protocol of the request. */
  | { readonly reason: 'protocol-not-offered'; readonly protocol: UploadProtocol }
  /** The upload is known, but expired, cancelled or invalid. */
  | { readonly reason: 'gone'; readonly detail: string }
  | { readonly reason: 'mismatching-offset'; readonly upload: Upload; readonly provided: number }
  | { readonly reason: 'already-complete'; readonly upload: Upload }
  /** The same `Idempotency-Key` was used for an upload with other content or to another target. */
  | { readonly reason: 'key-reused'; readonly differsIn: string }
  | { readonly reason: 'inconsistent-length'; readonly detail: string; readonly upload?: Upload }
  /** The content exceeds the declared length, which makes the upload invalid unless it is in `upload`. */
  | { readonly reason: 'exceeds-length'; readonly length: number; readonly upload?: Upload }
  | { readonly reason: 'too-large'; readonly maxSize: number; readonly upload?: Upload }
  /** The route puts the content into a form with fields of its own and accepts no content that is a form already. */
  | { readonly reason: 'nested-form' }
  /** The route accepts bodies only as uploads; a client begins one with `field`. */
  | { readonly reason: 'upload-required'; readonly field: string }
  | { readonly reason: 'append-too-large'; readonly maxAppendSize: number; readonly upload?: Upload }
  | { readonly reason: 'append-too-small'; readonly minAppendSize: number; readonly upload?: Upload }
  | { readonly reason: 'unsupported-media-type'; readonly expected: string; readonly upload?: Upload }
  /** The upload resource does not support the method. */
  | { readonly reason: 'method-not-allowed'; readonly allowed: readonly string[] }
  | { readonly reason: 'digest-mismatch'; readonly field: 'Content-Digest' | 'Repr-Digest'; readonly upload?: Upload }
  /**
   * The client wants its content forwarded incrementally (RFC 10036), which the route does not do, or not now
   * (`isBusy`).
   */
  | { readonly reason: 'incremental-refused'; readonly isBusy: boolean }
  | { readonly reason: 'storage-full'; readonly upload?: Upload }
  /** The client has created uploads too fast, or has as many of them, or as many bytes in them, as one client may. */
  | {
      readonly reason: 'client-limit';
      readonly limit: 'rate' | 'uploads' | 'bytes';
      readonly retryAfterSeconds: number;
    }
  | { readonly reason: 'unavailable'; readonly detail: string; readonly retryAfterSeconds: number };

/** An interim response of the origin (RFC 9110 §15.2), with all fields unchanged. */
export interface OriginInterim {
  readonly status: number;
  readonly reason: string;
  readonly headers: Headers;
}

/** The origin's answer as it is relayed to a client, live or from storage. */
export interface RelayedAnswer {
  readonly status: number;
  readonly reason: string;
  /** End-to-end fields and `Trailer`, in the origin's order and case. */
  readonly headers: Headers;
  /** Can be read once. Fails if the origin's answer ends prematurely. */
  readonly body: AsyncIterable<Uint8Array>;
  /** Length of the body in bytes, if the complete body is already here. */
  readonly bodySize?: number;
  /** Valid once `body` has ended. */
  readonly trailers: () => Headers;
}

/** The result of an intent, which a `Protocol` renders as a response. */
export type Outcome =
  | { readonly kind: 'created'; readonly upload: Upload; readonly reprDigest?: Digest }
  | { readonly kind: 'appended'; readonly upload: Upload; readonly reprDigest?: Digest }
  | { readonly kind: 'retrieved'; readonly upload: Upload; readonly reprDigest?: Digest }
  | {
      readonly kind: 'answered';
      /** The request that gets the answer: only a creation's may also get the upload's URL. */
      readonly to: 'create' | 'append';
      readonly upload: Upload;
      readonly answer: RelayedAnswer;
      readonly reprDigest?: Digest;
    }
  /** The upload is complete, but the origin has not answered and there are no more attempts for now. */
  | {
      readonly kind: 'undelivered';
      readonly upload: Upload;
      readonly failure: Undelivered;
      readonly retryAfterSeconds: number;
    }
  /** The upload is complete and its delivery continues, but there was no answer within `waitMs`. */
  | {
      readonly kind: 'pending';
      readonly upload: Upload;
      /** The failure of the newest attempt; missing while the first is under way. */
      readonly failure?: Undelivered;
      readonly retryAfterSeconds: number;
    }
  /** The origin wants other credentials: this answer is relayed, and the upload is kept for a client that has them. */
  | { readonly kind: 'parked'; readonly upload: Upload; readonly answer: RelayedAnswer }
  /** The authorization service or the origin's preflight refused the client; the request changed nothing. */
  | { readonly kind: 'turned-away'; readonly answer: RelayedAnswer }
  /** The upload was delivered and answered, but the stored answer is damaged or missing. */
  | { readonly kind: 'answer-lost'; readonly upload: Upload }
  /** The client does not wait: delivery continues, and the status URL shows its progress. */
  | { readonly kind: 'accepted'; readonly upload: Upload }
  | { readonly kind: 'cancelled' }
  | { readonly kind: 'discovered' }
  | { readonly kind: 'refused'; readonly refusal: Refusal };

/**
 * The request body ended early: the client left, sent nothing or too slowly, a newer request took over, or the process
 * stops. `lost`: it is unknown whether a newer request took over, because the store was unavailable for too long.
 */
export interface Interrupted {
  readonly kind: 'interrupted';
  readonly reason: 'client-left' | 'idle' | 'slow' | 'taken-over' | 'draining' | 'lost';
}

/** The upload of a creation has its bytes on another node, to which the request must be relayed. */
export interface Elsewhere {
  readonly kind: 'elsewhere';
  readonly node: string;
}

/** An event during a request body that an interim response can report. */
export type InterimUpdate =
  | { readonly kind: 'resumable'; readonly upload: Upload }
  /** `offset` is durable and never lower than one reported before. */
  | {
      readonly kind: 'progress';
      readonly during: 'create' | 'append';
      readonly upload: Upload;
      readonly offset: number;
    };
