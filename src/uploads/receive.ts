import { createHash } from 'node:crypto';
import { Fault } from '../model/fault.js';
import type { Interrupted, Refusal } from '../model/outcome.js';
import type { Digest, Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import type { Lease } from '../store/lease.js';
import type { Commit } from '../store/upload-store.js';
import type { Allowance } from './admission.js';
import type { Body } from './body.js';
import { chunkName } from './chunk-name.js';
import { type ChunkRooms, GrowingChunk } from './growing-chunk.js';
import { matches, type RepresentationHashes } from './representation-hash.js';

export interface ReceiveRooms extends ChunkRooms {
  readonly spool: Spool;
  readonly hashes: RepresentationHashes;
}

export interface ReceiveTask {
  /** As it is under the lease: bytes go to its offset. */
  readonly upload: Upload;
  readonly lease: Lease;
  readonly body: Body;
  /** The body's proper end is the end of the upload. */
  readonly isLast: boolean;
  readonly allowance?: Allowance;
  /** Verified over this body alone before any of it counts (RFC 9530 §2). */
  readonly contentDigests: readonly Digest[];
  /** A body that ends with fewer bytes than this does not count. */
  readonly atLeast?: number;
  /** Told after every commit. */
  readonly onCommitted: (upload: Upload) => void;
}

export type Received =
  /** The body ended cleanly and all of it is committed; with it the completion, where nothing has to be verified first. */
  | { readonly kind: 'received'; readonly upload: Upload; readonly lastByte?: number }
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
  private chunk: GrowingChunk | undefined;
  private bytes = 0;
  private lastByte: number | undefined;
  /** The upload's very last byte, as long as nobody knows whether its body ends properly. */
  private kept: Buffer | undefined;
  private overflowed = false;
  private discarded = false;
  private readonly mustBeWhole: boolean;
  private readonly contentHashes;

  constructor(
    private readonly task: ReceiveTask,
    private readonly rooms: ReceiveRooms,
  ) {
    this.mustBeWhole = task.contentDigests.length > 0;
    this.contentHashes = task.contentDigests.map((digest) => ({
      algorithm: digest.algorithm,
      hash: createHash(digest.algorithm.replace('-', '')),
    }));
  }

  async run(): Promise<Received> {
    const { lease, body } = this.task;
    const { activeReceives } = this.rooms.metrics;
    const stop = (): void => body.stop();
    lease.signal.addEventListener('abort', stop, { once: true });
    if (lease.signal.aborted) stop();
    activeReceives.inc();
    try {
      await this.takeAll();
      return await this.finish();
    } catch (fault) {
      this.rooms.hashes.forget(this.task.upload.id);
      // A full disk ends the reception, but what reached it before can still count.
      if (fault instanceof Fault && !this.mustBeWhole) await this.chunk?.rescue();
      throw fault;
    } finally {
      activeReceives.dec();
      lease.signal.removeEventListener('abort', stop);
      stop();
      await this.chunk?.close({ discard: this.discarded });
    }
  }

  private async takeAll(): Promise<void> {
    const { body } = this.task;
    for (let batch = await body.next(); batch; batch = await body.next()) {
      await this.write(this.withoutTheLast(this.withinAllowance(batch)));
      if (this.overflowed || this.chunk?.refusedBy) body.stop();
    }
    if (body.ending === 'clean' && this.kept) await this.write([this.kept]);
  }

  private async write(buffers: Buffer[]): Promise<void> {
    if (buffers.length === 0) return;
    const { hashes, metrics } = this.rooms;
    const { upload, lease } = this.task;
    this.chunk ??= await this.begin();
    await this.chunk.write(buffers);
    hashes.feed(upload.id, lease.token, upload.offset + this.bytes, buffers);
    for (const buffer of buffers) {
      for (const { hash } of this.contentHashes) hash.update(buffer);
      this.bytes += buffer.length;
    }
    this.lastByte = buffers.at(-1)?.at(-1);
    metrics.bytesReceived(sizeOf(buffers));
  }

  private async begin(): Promise<GrowingChunk> {
    const { upload, lease, body, atLeast = 0, onCommitted } = this.task;
    const name = chunkName(lease.token, this.mustBeWhole);
    const commitsFrom = this.mustBeWhole ? Infinity : atLeast;
    const task = { upload, lease, name, commitsFrom, onCommitted, onTrouble: () => body.stop() };
    return new GrowingChunk(await this.rooms.spool.create(upload.id, name), task, this.rooms);
  }

  /** Cuts what exceeds the bound; noticing even one byte too many ends the reception. */
  private withinAllowance(batch: Buffer[]): Buffer[] {
    const { allowance } = this.task;
    const before = this.bytes + (this.kept?.length ?? 0);
    if (!allowance || before + sizeOf(batch) <= allowance.bytes) return batch;
    this.overflowed = true;
    let left = allowance.bytes - before;
    const within: Buffer[] = [];
    for (const buffer of batch) {
      if (left <= 0) break;
      within.push(buffer.subarray(0, left));
      left -= buffer.length;
    }
    return within;
  }

  /**
   * Clients take "offset = length" for success. So the byte that makes it true counts only with the completion, or when
   * the client itself does not call it the end.
   */
  private withoutTheLast(batch: Buffer[]): Buffer[] {
    const { upload, body, isLast } = this.task;
    const last = batch.at(-1);
    const reached = upload.offset + this.bytes + sizeOf(batch);
    if (!isLast || !last || reached !== upload.length || body.ending === 'clean') return batch;
    this.kept = last.subarray(-1);
    return [...batch.slice(0, -1), ...(last.length > 1 ? [last.subarray(0, -1)] : [])];
  }

  private async finish(): Promise<Received> {
    const { ending } = this.task.body;
    const isWhole = ending === 'clean' && !this.overflowed;
    const refusal = isWhole ? this.refusalOfTheWhole() : undefined;
    if (refusal) return this.discard(refusal);
    await this.chunk?.commit(isWhole ? this.completion() : undefined);
    if (this.chunk?.refusedBy) return this.lost();
    const { upload } = this.chunk ?? this.task;
    if (this.overflowed && this.task.allowance) return { kind: 'overflow', upload, beyond: this.task.allowance.beyond };
    if (ending === 'clean') return { kind: 'received', upload, lastByte: this.lastByte };
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

  /** One step instead of two, where the bytes need no look at the whole of them before it. */
  private completion(): Commit['complete'] {
    const { upload, isLast } = this.task;
    const isToBeHashed = upload.reprDigests.length > 0 || upload.wantedReprDigest !== undefined;
    const end = upload.offset + this.bytes;
    if (!isLast || isToBeHashed || (upload.length ?? end) !== end) return undefined;
    return this.lastByte === undefined ? {} : { heldBack: { lastByte: this.lastByte } };
  }

  private discard(refusal: Refusal): Received {
    this.rooms.hashes.forget(this.task.upload.id);
    this.discarded = true;
    return { kind: 'refused', refusal };
  }

  /** The fence refused us: these bytes belong to nobody. */
  private lost(): Received {
    this.rooms.hashes.forget(this.task.upload.id);
    return { kind: 'interrupted', why: 'taken-over' };
  }

  private askedBy(): Interrupted['why'] {
    return this.task.lease.signal.reason === 'draining' ? 'draining' : 'taken-over';
  }
}

function sizeOf(buffers: readonly Buffer[]): number {
  return buffers.reduce((sum, buffer) => sum + buffer.length, 0);
}
