import { createHash } from 'node:crypto';
import { Fault } from '../model/fault.js';
import type { Interrupted, Refusal } from '../model/outcome.js';
import type { Chunk, Digest, Upload } from '../model/upload.js';
import type { Metrics } from '../observe/metrics.js';
import type { ChunkWriter, Spool } from '../spool/spool.js';
import type { Lease } from '../store/lease.js';
import type { Commit, UploadStore } from '../store/upload-store.js';
import type { Allowance } from './admission.js';
import type { Body } from './body.js';
import { matches, type RepresentationHashes } from './representation-hash.js';

/** When received bytes become committed ones: after every write, or in groups bounded in bytes and time. */
export interface CommitPace {
  readonly bytes: number;
  readonly everyMs: number;
}

export interface ReceiveRooms {
  readonly store: Pick<UploadStore, 'commit'>;
  readonly spool: Spool;
  readonly hashes: RepresentationHashes;
  readonly metrics: Metrics;
  readonly clock: () => number;
  readonly pace: CommitPace;
}

export interface ReceiveTask {
  /** As it is under the lease: bytes go to its offset. */
  readonly upload: Upload;
  readonly lease: Lease;
  readonly body: Body;
  readonly allowance?: Allowance;
  /** Verified over this body alone before any of it counts (RFC 9530 §2). */
  readonly contentDigests: readonly Digest[];
  /** A body that ends with fewer bytes than this does not count. */
  readonly atLeast?: number;
  /** Told after every commit. */
  readonly onCommitted: (upload: Upload) => void;
}

export type Received =
  /** The body ended cleanly and all of it is committed. */
  | { readonly kind: 'received'; readonly upload: Upload; readonly bytes: number; readonly lastByte?: number }
  /** More bytes came than may; those within the bound are committed. */
  | { readonly kind: 'overflow'; readonly upload: Upload; readonly beyond: Allowance['beyond'] }
  | { readonly kind: 'refused'; readonly refusal: Refusal }
  | Interrupted;

/**
 * Takes a body into the spool under a lease, committing as it goes. Whatever ends it, what was committed stays and what
 * arrived before the end is committed too, unless the body has to be whole to count.
 */
export async function receive(task: ReceiveTask, rooms: ReceiveRooms): Promise<Received> {
  return new Reception(task, rooms).run();
}

class Reception {
  private upload: Upload;
  private writer: ChunkWriter | undefined;
  private bytes = 0;
  private lastByte: number | undefined;
  private committedBytes = 0;
  private committedAt: number;
  private committing: Promise<void> | undefined;
  private commitFailure: unknown;
  private refusedBy: 'stale' | 'gone' | undefined;
  private overflowed = false;
  private readonly mustBeWhole: boolean;
  private readonly contentHashes;

  constructor(
    private readonly task: ReceiveTask,
    private readonly rooms: ReceiveRooms,
  ) {
    this.upload = task.upload;
    this.committedAt = rooms.clock();
    this.mustBeWhole = task.contentDigests.length > 0;
    this.contentHashes = task.contentDigests.map((digest) => ({
      algorithm: digest.algorithm,
      hash: createHash(digest.algorithm.replace('-', '')),
    }));
  }

  async run(): Promise<Received> {
    const { lease, body } = this.task;
    const stop = (): void => body.stop();
    lease.signal.addEventListener('abort', stop, { once: true });
    if (lease.signal.aborted) stop();
    try {
      await this.takeAll();
      return await this.finish();
    } catch (fault) {
      await this.keepWhatIsWritten(fault);
      throw fault;
    } finally {
      lease.signal.removeEventListener('abort', stop);
      await this.writer?.close();
    }
  }

  private async takeAll(): Promise<void> {
    for (let batch = await this.task.body.next(); batch; batch = await this.task.body.next()) {
      const buffers = this.withinAllowance(batch);
      if (buffers.length > 0) await this.write(buffers);
      if (this.overflowed || this.refusedBy) return this.task.body.stop();
      this.throwCommitFailure();
      if (this.commitIsDue()) {
        this.committing = this.commitInBackground();
        if (this.rooms.pace.bytes === 0) await this.committing;
      }
    }
  }

  private async write(buffers: Buffer[]): Promise<void> {
    const { spool, hashes, metrics } = this.rooms;
    const { upload, lease } = this.task;
    this.writer ??= await spool.create(upload.id, chunkName(lease.token, this.mustBeWhole));
    await this.writer.write(buffers);
    hashes.feed(upload.id, upload.offset + this.bytes, buffers);
    for (const buffer of buffers) {
      for (const { hash } of this.contentHashes) hash.update(buffer);
      this.bytes += buffer.length;
    }
    this.lastByte = buffers.at(-1)?.at(-1);
    metrics.bytesReceived(sizeOf(buffers));
  }

  /** Cuts what exceeds the bound; noticing even one byte too many ends the reception. */
  private withinAllowance(batch: Buffer[]): Buffer[] {
    const { allowance } = this.task;
    if (!allowance || this.bytes + sizeOf(batch) <= allowance.bytes) return batch;
    this.overflowed = true;
    let left = allowance.bytes - this.bytes;
    const within: Buffer[] = [];
    for (const buffer of batch) {
      if (left <= 0) break;
      within.push(buffer.subarray(0, left));
      left -= buffer.length;
    }
    return within;
  }

  private commitIsDue(): boolean {
    if (this.mustBeWhole || this.committing || this.bytes < (this.task.atLeast ?? 0)) return false;
    const { bytes, everyMs } = this.rooms.pace;
    const pending = this.bytes - this.committedBytes;
    return pending > bytes || (pending > 0 && this.rooms.clock() - this.committedAt >= everyMs);
  }

  /** Overlaps with further writes; its failure surfaces at the next step. */
  private async commitInBackground(): Promise<void> {
    try {
      await this.commit();
    } catch (fault) {
      this.commitFailure = fault;
    } finally {
      this.committing = undefined;
    }
  }

  private async commit(): Promise<void> {
    if (!this.writer || this.refusedBy) return;
    const { store, clock } = this.rooms;
    const startedAt = clock();
    const size = this.writer.size;
    await this.writer.sync();
    const result = await store.commit(this.upload.id, this.commitOf(size));
    this.committedAt = clock();
    if (result === 'stale' || result === 'gone') {
      this.refusedBy = result;
      return;
    }
    this.committedBytes = size;
    this.upload = result;
    this.rooms.metrics.commit((this.committedAt - startedAt) / 1000);
    this.task.onCommitted(result);
  }

  private commitOf(size: number): Commit {
    const { upload, lease } = this.task;
    const chunk: Chunk = { name: chunkName(lease.token, this.mustBeWhole), start: upload.offset, size };
    return { token: lease.token, chunk, expiresAt: this.rooms.clock() + upload.limits.maxAgeSeconds * 1000 };
  }

  private async finish(): Promise<Received> {
    await this.committing;
    this.throwCommitFailure();
    const { ending } = this.task.body;
    const refusal = ending === 'clean' && !this.overflowed ? this.refusalOfTheWhole() : undefined;
    if (refusal) return this.discard(refusal);
    if (this.bytes > this.committedBytes) await this.commit();
    if (this.refusedBy) return this.lost();
    if (this.overflowed && this.task.allowance)
      return { kind: 'overflow', upload: this.upload, beyond: this.task.allowance.beyond };
    if (ending === 'clean')
      return { kind: 'received', upload: this.upload, bytes: this.bytes, lastByte: this.lastByte };
    return { kind: 'interrupted', why: ending === 'stopped' || !ending ? this.askedBy() : ending };
  }

  private refusalOfTheWhole(): Refusal | undefined {
    const { atLeast, contentDigests, upload } = this.task;
    if (atLeast !== undefined && this.bytes < atLeast)
      return { reason: 'append-too-small', minAppendSize: atLeast, upload };
    const actual = this.contentHashes.map(({ algorithm, hash }) => ({ algorithm, value: hash.digest('hex') }));
    if (!matches(contentDigests, actual)) return { reason: 'digest-mismatch', field: 'Content-Digest', upload };
    return undefined;
  }

  private async discard(refusal: Refusal): Promise<Received> {
    const { upload, lease } = this.task;
    this.rooms.hashes.forget(upload.id);
    if (this.writer) await this.rooms.spool.removeChunk(upload.id, chunkName(lease.token, this.mustBeWhole));
    return { kind: 'refused', refusal };
  }

  /** The fence refused us: these bytes belong to nobody, and the sweep removes their file. */
  private lost(): Received {
    this.rooms.hashes.forget(this.upload.id);
    return { kind: 'interrupted', why: 'taken-over' };
  }

  private askedBy(): Interrupted['why'] {
    return this.task.lease.signal.reason === 'draining' ? 'draining' : 'taken-over';
  }

  private throwCommitFailure(): void {
    if (this.commitFailure) throw this.commitFailure as Error;
  }

  /** A full disk ends the reception, but what reached it before can still count. */
  private async keepWhatIsWritten(fault: unknown): Promise<void> {
    this.rooms.hashes.forget(this.upload.id);
    if (!(fault instanceof Fault) || this.mustBeWhole || !this.writer) return;
    await this.committing;
    try {
      await this.commit();
    } catch (second) {
      if (!(second instanceof Fault)) throw second;
      // The record cannot grow either: the committed offset stands, and the caller reports the first fault.
    }
  }
}

/**
 * Names carry the lease's token, so that no two writers ever share a file. Those of bodies that must be whole are told
 * apart: after a crash nobody knows whether they were, and recovery must not count them.
 */
export function chunkName(token: number, mustBeWhole: boolean): string {
  return `${mustBeWhole ? 'whole' : 'chunk'}-${token}`;
}

/** What the name of a chunk says; undefined for other files, such as a kept answer. */
export function chunkToken(name: string): { readonly token: number; readonly mustBeWhole: boolean } | undefined {
  const [, kind, digits] = /^(chunk|whole)-(\d+)$/.exec(name) ?? [];
  return digits === undefined ? undefined : { token: Number(digits), mustBeWhole: kind === 'whole' };
}

function sizeOf(buffers: readonly Buffer[]): number {
  return buffers.reduce((sum, buffer) => sum + buffer.length, 0);
}
