import type { Interrupted, Refusal, RelayedAnswer } from '../model/outcome.js';
import type { Digest, DigestAlgorithm, Upload } from '../model/upload.js';
import type { Lease } from '../store/lease.js';
import { matches, type RepresentationHashes } from './representation-hash.js';

/** Why a body that ended properly does not complete its upload. */
export type Objection =
  | { readonly kind: 'refused'; readonly refusal: Refusal }
  /** The bytes are not what their digest says: nobody can use them. */
  | { readonly kind: 'invalid'; readonly refusal: Refusal }
  | { readonly kind: 'turned-away'; readonly answer: RelayedAnswer }
  | Interrupted;

export type Passed = { readonly kind: 'passed'; readonly reprDigest?: Digest } | Objection;

export interface LastCheckTask {
  /** As it is when its last body begins. */
  readonly upload: Upload;
  readonly lease: Lease;
  /** Asked when all bytes are here, before they count as the whole. */
  readonly mayComplete?: (upload: Upload) => Promise<RelayedAnswer | undefined>;
  /** The client is told "complete" before the origin has answered: then no byte can be held back. */
  readonly doesNotWait?: boolean;
}

/** What stands between the proper end of a last body and the completion of its upload. */
export class LastCheck {
  private readonly algorithms: ReadonlySet<DigestAlgorithm>;

  constructor(
    private readonly task: LastCheckTask,
    private readonly hashes: RepresentationHashes,
  ) {
    const { reprDigests, wantedReprDigest } = task.upload;
    const wanted = wantedReprDigest === undefined ? [] : [wantedReprDigest];
    this.algorithms = new Set([...reprDigests.map(({ algorithm }) => algorithm), ...wanted]);
  }

  /** Nothing but the length matters. */
  get isImmediate(): boolean {
    return this.algorithms.size === 0 && this.task.mayComplete === undefined;
  }

  /** See `shownOffset`. */
  get holdsBack(): boolean {
    return this.task.doesNotWait !== true;
  }

  /** `upload`: with all bytes but `rest`, which come after its offset. */
  async pass(upload: Upload, rest: Uint8Array = new Uint8Array()): Promise<Passed> {
    const end = upload.offset + rest.length;
    if (upload.length !== undefined && upload.length !== end) {
      const detail = `The content ended at ${end} bytes, but the length of this upload is ${upload.length}.`;
      return { kind: 'refused', refusal: { reason: 'inconsistent-length', detail, upload } };
    }
    const answer = await this.task.mayComplete?.(upload);
    if (answer) return { kind: 'turned-away', answer };
    const digests = await this.digestsOf(upload, rest);
    if (digests === 'stopped') return { kind: 'interrupted', why: 'taken-over' };
    if (!matches(upload.reprDigests, digests))
      return { kind: 'invalid', refusal: { reason: 'digest-mismatch', field: 'Repr-Digest' } };
    return { kind: 'passed', reprDigest: digests.find(({ algorithm }) => algorithm === upload.wantedReprDigest) };
  }

  private async digestsOf(upload: Upload, rest: Uint8Array): Promise<Digest[] | 'stopped'> {
    const { lease } = this.task;
    const digests: Digest[] = [];
    try {
      for (const algorithm of this.algorithms) digests.push(await this.hashes.digest(upload, algorithm, lease, rest));
    } catch (error) {
      if (lease.signal.aborted) return 'stopped';
      throw error;
    }
    return digests;
  }
}
