import { createHash, type Hash } from 'node:crypto';
import type { ContentDigest, Digest, DigestAlgorithm, Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import type { Lease } from '../store/leases.js';
import type { UploadStore } from '../store/upload-store.js';

interface RunningHashes {
  /** The token of the lease whose bytes are hashed. */
  token: number;
  position: number;
  /** Bytes before this position are committed, so they never change. */
  committedEnd: number;
  readonly hashes: ReadonlyMap<DigestAlgorithm, Hash>;
}

/** Number of uploads with running hashes; a hash that was dropped is computed again from the spool. */
const MAX_UPLOADS = 256;

/**
 * Digests of the bytes of an upload so far (RFC 9530 §3). Bytes are hashed as they arrive; others, for example after a
 * restart, are read from the spool again, because Node cannot store the state of a hash.
 */
export class RepresentationHashes {
  private readonly running = new Map<string, RunningHashes>();

  constructor(
    private readonly store: Pick<UploadStore, 'chunks'>,
    private readonly spool: Pick<Spool, 'read'>,
  ) {}

  /** Begins or continues the hashes of an upload under a new lease, if its digest will be needed. */
  track(upload: Upload, { token }: Pick<Lease, 'token'>): void {
    const algorithms = algorithmsOf(upload);
    if (algorithms.size === 0) return;
    const running = this.running.get(upload.id);
    // Uncommitted bytes of an older lease are not part of the upload.
    const isSound = running && (running.token === token || running.position <= running.committedEnd);
    if (isSound && running.position <= upload.offset) running.token = token;
    else this.begin(upload.id, token, algorithms);
  }

  /**
   * Hashes bytes that were written at `position`; ignores them unless they follow the hashed ones under the newest
   * lease.
   */
  update(id: string, token: number, position: number, buffers: readonly Uint8Array[]): void {
    const running = this.running.get(id);
    if (running?.token !== token || running.position !== position) return;
    for (const buffer of buffers) {
      for (const hash of running.hashes.values()) hash.update(buffer);
      running.position += buffer.length;
    }
  }

  /** Bytes written under this lease are committed up to the upload's offset. */
  noteCommitted({ id, offset }: Upload, token: number): void {
    const running = this.running.get(id);
    if (running?.token === token) running.committedEnd = Math.max(running.committedEnd, offset);
  }

  forget(id: string): void {
    this.running.delete(id);
  }

  /**
   * The digest of everything up to the upload's offset, followed by `rest`. Rejects with the reason of the lease's
   * signal.
   */
  async digest(
    upload: Upload,
    algorithm: DigestAlgorithm,
    lease: Pick<Lease, 'token' | 'signal'>,
    rest: Uint8Array = new Uint8Array(),
  ): Promise<Digest> {
    this.track(upload, lease);
    let running = this.running.get(upload.id);
    if (!running?.hashes.has(algorithm))
      running = {
        token: lease.token,
        position: 0,
        committedEnd: 0,
        hashes: new Map([[algorithm, newHash(algorithm)]]),
      };
    await this.catchUp(upload, running, lease.signal);
    return { algorithm, value: running.hashes.get(algorithm)!.copy().update(rest).digest('hex') };
  }

  private begin(id: string, token: number, algorithms: ReadonlySet<DigestAlgorithm>): void {
    const oldest = this.running.keys().next();
    if (this.running.size >= MAX_UPLOADS && !oldest.done) this.running.delete(oldest.value);
    this.running.set(id, {
      token,
      position: 0,
      committedEnd: 0,
      hashes: new Map([...algorithms].map((name) => [name, newHash(name)])),
    });
  }

  private async catchUp(upload: Upload, running: RunningHashes, signal: AbortSignal): Promise<void> {
    if (running.position === upload.offset) return;
    const chunks = await this.store.chunks(upload.id);
    const missing = this.spool.read(upload.id, chunks, { start: running.position, end: upload.offset });
    for await (const data of missing as AsyncIterable<Buffer>) {
      signal.throwIfAborted();
      for (const hash of running.hashes.values()) hash.update(data);
      running.position += data.length;
      running.committedEnd = running.position;
    }
  }
}

/** Whether the computed digests contain every digest that the client sent. */
export function matches(expected: readonly ContentDigest[], actual: readonly ContentDigest[]): boolean {
  return expected.every((digest) =>
    actual.some(({ algorithm, value }) => algorithm === digest.algorithm && value === digest.value),
  );
}

function algorithmsOf(upload: Upload): Set<DigestAlgorithm> {
  const algorithms = new Set(upload.reprDigests.map((digest) => digest.algorithm));
  if (upload.wantedReprDigest) algorithms.add(upload.wantedReprDigest);
  return algorithms;
}

function newHash(algorithm: DigestAlgorithm): Hash {
  return createHash(algorithm.replace('-', ''));
}
