import type { Digest, DigestAlgorithm } from './upload.js';

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
export interface DiscoverIntent {
  readonly kind: 'discover';
  readonly id?: string;
}

export type Intent = CreateIntent | AppendIntent | RetrieveIntent | CancelIntent | DiscoverIntent;
