import { createHash, type Hash } from 'node:crypto';
import type { Digest, DigestAlgorithm, Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import type { Lease } from '../store/leases.js';
import type { UploadStore } from '../store/upload-store.js';

interface Running {
  /** Of the lease whose bytes are taken in. */
  token: number;
  position: number;
  /** Up to here the bytes are certainly the upload's: what is committed never changes. */
  committed: number;
  readonly hashes: ReadonlyMap<DigestAlgorithm, Hash>;
}

/** Running hashes kept for this many uploads; one that was dropped is made again from the spool. */
const KEPT = 256;

/**
 * Digests of an upload's first bytes (RFC 9530 §3). Bytes are hashed as they arrive; only what was missed, after a
 * restart say, is read again from the spool. Node cannot store a hash's state, so none outlives the process.
 */
export class RepresentationHashes {
  private readonly running = new Map<string, Running>();

  constructor(
    private readonly store: Pick<UploadStore, 'chunks'>,
    private readonly spool: Pick<Spool, 'read'>,
  ) {}

  /** Follows an upload under a new lease, if a digest of it will be asked for. */
  follow(upload: Upload, { token }: Pick<Lease, 'token'>): void {
    const algorithms = algorithmsOf(upload);
    if (algorithms.size === 0) return;
    const running = this.running.get(upload.id);
    // What an older writer wrote without committing it is no part of the upload, and others may have gone on without it.
    const isSound = running && (running.token === token || running.position <= running.committed);
    if (isSound && running.position <= upload.offset) running.token = token;
    else this.begin(upload.id, token, algorithms);
  }

  /** Takes in bytes that were written at `position`; ignored unless they continue what is known, by the newest lease. */
  feed(id: string, token: number, position: number, buffers: readonly Uint8Array[]): void {
    const running = this.running.get(id);
    if (running?.token !== token || running.position !== position) return;
    for (const buffer of buffers) {
      for (const hash of running.hashes.values()) hash.update(buffer);
      running.position += buffer.length;
    }
  }

  /** What was written under this lease counts up to the upload's offset. */
  committed({ id, offset }: Upload, token: number): void {
    const running = this.running.get(id);
    if (running?.token === token) running.committed = Math.max(running.committed, offset);
  }

  forget(id: string): void {
    this.running.delete(id);
  }

  /** The digest of everything up to the upload's offset, and of `rest`. Rejects with the reason of the lease's signal. */
  async digest(
    upload: Upload,
    algorithm: DigestAlgorithm,
    lease: Pick<Lease, 'token' | 'signal'>,
    rest: Uint8Array = new Uint8Array(),
  ): Promise<Digest> {
    this.follow(upload, lease);
    let running = this.running.get(upload.id);
    if (!running?.hashes.has(algorithm))
      running = { token: lease.token, position: 0, committed: 0, hashes: new Map([[algorithm, start(algorithm)]]) };
    await this.catchUp(upload, running, lease.signal);
    return { algorithm, value: running.hashes.get(algorithm)!.copy().update(rest).digest('hex') };
  }

  private begin(id: string, token: number, algorithms: ReadonlySet<DigestAlgorithm>): void {
    const oldest = this.running.keys().next();
    if (this.running.size >= KEPT && !oldest.done) this.running.delete(oldest.value);
    this.running.set(id, {
      token,
      position: 0,
      committed: 0,
      hashes: new Map([...algorithms].map((name) => [name, start(name)])),
    });
  }

  private async catchUp(upload: Upload, running: Running, signal: AbortSignal): Promise<void> {
    if (running.position === upload.offset) return;
    const chunks = await this.store.chunks(upload.id);
    const missing = this.spool.read(upload.id, chunks, { start: running.position, end: upload.offset });
    for await (const data of missing as AsyncIterable<Buffer>) {
      signal.throwIfAborted();
      for (const hash of running.hashes.values()) hash.update(data);
      running.position += data.length;
      running.committed = running.position;
    }
  }
}

/** True when every digest the client gave is that of the bytes. */
export function matches(expected: readonly Digest[], actual: readonly Digest[]): boolean {
  return expected.every((digest) =>
    actual.some(({ algorithm, value }) => algorithm === digest.algorithm && value === digest.value),
  );
}

function algorithmsOf(upload: Upload): Set<DigestAlgorithm> {
  const algorithms = new Set(upload.reprDigests.map((digest) => digest.algorithm));
  if (upload.wantedReprDigest) algorithms.add(upload.wantedReprDigest);
  return algorithms;
}

function start(algorithm: DigestAlgorithm): Hash {
  return createHash(algorithm.replace('-', ''));
}
