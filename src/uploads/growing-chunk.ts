import { Fault } from '../model/fault.js';
import type { Upload } from '../model/upload.js';
import type { Metrics } from '../observe/metrics.js';
import type { ChunkWriter, Spool } from '../spool/spool.js';
import type { Lease } from '../store/lease.js';
import type { Commit, UploadStore } from '../store/upload-store.js';

/** When written bytes become committed ones: after every write, or in groups bounded in bytes and time. */
export interface CommitPace {
  readonly bytes: number;
  readonly everyMs: number;
  /** The first bytes do not wait: somebody wants them who can say that no more are wanted. */
  readonly firstAtOnce?: true;
}

export interface ChunkRooms {
  readonly store: Pick<UploadStore, 'commit'>;
  readonly spool: Pick<Spool, 'removeChunk'>;
  readonly metrics: Metrics;
  readonly clock: () => number;
  readonly pace: CommitPace;
}

export interface ChunkTask {
  /** As it is under the lease: the chunk begins at its offset. */
  readonly upload: Upload;
  readonly lease: Lease;
  readonly name: string;
  /** Before there are so many bytes none is committed, except by `commit`. */
  readonly commitsFrom: number;
  /** Told after every commit. */
  readonly onCommitted: (upload: Upload) => void;
  /** A commit in the background failed or was refused: nothing more need be written. */
  readonly onTrouble: () => void;
}

/**
 * One lease's chunk: it grows with every write, and the record follows, one commit at a time, while more is written. No
 * byte waits for its commit longer than the pace says, also when nothing follows it.
 */
export class GrowingChunk {
  /** As of the last commit. */
  upload: Upload;
  /** A newer lease was taken, or the upload is no longer receiving: what is not committed belongs to nobody. */
  refusedBy: 'stale' | 'gone' | undefined;
  private committedBytes = 0;
  private committing: Promise<void> | undefined;
  private failure: unknown;
  private timer: NodeJS.Timeout | undefined;
  private hasEnded = false;

  constructor(
    private readonly writer: ChunkWriter,
    private readonly task: ChunkTask,
    private readonly rooms: ChunkRooms,
  ) {
    this.upload = task.upload;
  }

  /** Fails with what a commit in the background has met since. */
  async write(buffers: readonly Uint8Array[]): Promise<void> {
    await this.writer.write(buffers);
    this.throwFailure();
    if (this.rooms.pace.bytes > 0) this.keepPace();
    else if (this.pendingBytes > 0) await this.commitNow();
  }

  /** Everything that was written, in one step with the completion if it is given; what was refused stays refused. */
  async commit(complete?: Commit['complete']): Promise<void> {
    await this.endOfPace();
    this.throwFailure();
    if (this.writer.size > this.committedBytes) await this.commitNow(complete);
  }

  /** As `commit` after a fault: what had been written before it can still count. */
  async rescue(): Promise<void> {
    await this.endOfPace();
    try {
      await this.commitNow();
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      // The record cannot grow either: the committed offset stands, and the caller reports the first fault.
    }
  }

  /** A file of which nothing can count any more is removed; if that fails, by the sweep. */
  async close({ discard = false } = {}): Promise<void> {
    await this.endOfPace();
    await this.writer.close();
    const countsForNothing = discard || this.refusedBy !== undefined || this.writer.size === 0;
    if (!countsForNothing || this.committedBytes > 0) return;
    const { upload, name } = this.task;
    await this.rooms.spool.removeChunk(upload.id, name).catch(ignoreFault);
  }

  private get pendingBytes(): number {
    const { size } = this.writer;
    return size < this.task.commitsFrom ? 0 : size - this.committedBytes;
  }

  private keepPace(): void {
    const { pace } = this.rooms;
    if (this.hasEnded || this.committing || this.pendingBytes === 0) return;
    const isDue = this.pendingBytes >= pace.bytes || (pace.firstAtOnce && this.committedBytes === 0);
    if (isDue) this.commitInBackground();
    else this.timer ??= setTimeout(() => this.commitInBackground(), pace.everyMs);
  }

  private commitInBackground(): void {
    this.committing = this.commitNow()
      .catch((fault: unknown) => (this.failure = fault))
      .then(() => {
        this.committing = undefined;
        if (this.failure !== undefined || this.refusedBy) this.task.onTrouble();
        else this.keepPace();
      });
  }

  private async endOfPace(): Promise<void> {
    this.hasEnded = true;
    clearTimeout(this.timer);
    await this.committing;
  }

  private async commitNow(complete?: Commit['complete']): Promise<void> {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.refusedBy) return;
    const { store, clock, metrics } = this.rooms;
    const startedAt = clock();
    const { size } = this.writer;
    await this.writer.sync();
    const result = await store.commit(this.upload.id, this.stepTo(size, complete));
    if (result === 'stale' || result === 'gone') {
      this.refusedBy = result;
      return;
    }
    this.committedBytes = size;
    this.upload = result;
    metrics.commit((clock() - startedAt) / 1000);
    this.task.onCommitted(result);
  }

  private stepTo(size: number, complete: Commit['complete']): Commit {
    const { upload, lease, name } = this.task;
    const expiresAt = this.rooms.clock() + upload.limits.maxAgeSeconds * 1000;
    return { token: lease.token, chunk: { name, start: upload.offset, size }, expiresAt, complete };
  }

  private throwFailure(): void {
    if (this.failure !== undefined) throw this.failure as Error;
  }
}

function ignoreFault(fault: unknown): void {
  if (!(fault instanceof Fault)) throw fault;
}
