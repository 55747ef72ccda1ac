import type { Interrupted, Refusal } from '../model/outcome.js';
import type { Digest, Upload } from '../model/upload.js';
import type { Lease } from '../store/lease.js';
import type { UploadStore } from '../store/upload-store.js';
import { matches, type RepresentationHashes } from './representation-hash.js';

export type Completed =
  | { readonly kind: 'complete'; readonly upload: Upload; readonly reprDigest?: Digest }
  | { readonly kind: 'refused'; readonly refusal: Refusal }
  /** The bytes are not what their digest says: nobody can use them. */
  | { readonly kind: 'invalid'; readonly refusal: Refusal }
  | Interrupted;

export interface CompleteRooms {
  readonly store: Pick<UploadStore, 'commit'>;
  readonly hashes: RepresentationHashes;
  readonly clock: () => number;
}

/**
 * Marks an upload whose last body ended cleanly as complete, after checking its length and its `Repr-Digest`. Everything
 * is committed already, so an interruption here costs the client one empty append.
 */
export async function completeWhole(
  last: { readonly upload: Upload; readonly lastByte?: number },
  lease: Lease,
  rooms: CompleteRooms,
): Promise<Completed> {
  const { upload } = last;
  if (upload.length !== undefined && upload.length !== upload.offset) {
    const detail = `The content ended at ${upload.offset} bytes, but the length of this upload is ${upload.length}.`;
    return { kind: 'refused', refusal: { reason: 'inconsistent-length', detail, upload } };
  }
  const digests = await digestsOf(upload, lease, rooms);
  if (digests === 'stopped') return { kind: 'interrupted', why: 'taken-over' };
  if (!matches(upload.reprDigests, digests))
    return { kind: 'invalid', refusal: { reason: 'digest-mismatch', field: 'Repr-Digest' } };
  const complete = last.lastByte === undefined ? {} : { heldBack: { lastByte: last.lastByte } };
  const expiresAt = rooms.clock() + upload.limits.maxAgeSeconds * 1000;
  const result = await rooms.store.commit(upload.id, { token: lease.token, complete, expiresAt });
  if (result === 'stale' || result === 'gone') return { kind: 'interrupted', why: 'taken-over' };
  const reprDigest = digests.find(({ algorithm }) => algorithm === upload.wantedReprDigest);
  return { kind: 'complete', upload: result, reprDigest };
}

async function digestsOf(upload: Upload, lease: Lease, { hashes }: CompleteRooms): Promise<Digest[] | 'stopped'> {
  const wanted = new Set(upload.reprDigests.map(({ algorithm }) => algorithm));
  if (upload.wantedReprDigest) wanted.add(upload.wantedReprDigest);
  const digests: Digest[] = [];
  try {
    for (const algorithm of wanted) digests.push(await hashes.digest(upload, algorithm, lease));
  } catch (error) {
    if (lease.signal.aborted) return 'stopped';
    throw error;
  }
  return digests;
}
