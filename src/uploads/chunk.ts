import { Fault } from '../model/fault.js';
import { PLAIN_DIALECT, type Upload } from '../model/upload.js';
import type { Metrics } from '../observe/metrics.js';
import type { ChunkWriter, Extent, Spool } from '../spool/spool.js';
import type { Lease } from '../store/leases.js';
import { type Commit, retryWhileUnavailable, type UploadStore } from '../store/upload-store.js';

/** When written bytes become committed ones: after every write, or in groups bounded in bytes and time. */
export interface CommitPace {
  readonly bytes: number;
  readonly everyMs: number;
  /** The first bytes do not wait: somebody wants them who can say that no more are wanted. */
  readonly firstAtOnce?: true;
}

export interface ChunkDeps {
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
  /** Told after every commit; the next one waits for it. */
  readonly onCommitted: (upload: Upload) => unknown;
  /** A commit in the background failed or was refused: nothing more need be written. */
  readonly onTrouble: () => void;
}

/**
 * One lease's chunk: it grows with every write, and the record follows, one commit at a time, while more is written. No
 * byte waits for its commit longer than the pace says, also when nothing follows it. While the store is away it goes on
 * growing, and the commit is tried again until the lease has ended.
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
  private isComplete = false;
  /** A commit was not answered, or has failed: the record may count more than we know of. */
  private isUnsure = false;
  private onUnavailable = (): void => undefined;

  constructor(
    private readonly writer: ChunkWriter,
    private readonly task: ChunkTask,
    private readonly deps: ChunkDeps,
  ) {
    this.upload = task.upload;
  }

  /** Fails with what a commit in the background has met since. */
  async write(buffers: readonly Uint8Array[]): Promise<void> {
    await this.writer.write(buffers);
    this.throwFailure();
    if (this.deps.pace.bytes > 0 || this.committing) this.keepPace();
    else if (this.pendingBytes > 0) await this.commitBeforeMore();
  }

  /** Everything that was written; nothing is written after it, except by `complete`. */
  async commit(): Promise<void> {
    await this.endOfPace();
    this.throwFailure();
    if (this.writer.size > this.committedBytes) await this.commitNow(this.writer.extent);
  }

  /** What is left, and the completion in the same step. */
  async complete(rest: readonly Uint8Array[], complete: Commit['complete']): Promise<Upload | 'stale' | 'gone'> {
    await this.endOfPace();
    this.throwFailure();
    if (rest.length > 0) await this.writer.write(rest);
    this.isComplete = true;
    await this.commitNow(this.writer.extent, complete);
    return this.refusedBy ?? this.upload;
  }

  /** As `commit` after a fault: what had been written before it can still count, but for the byte that makes it whole. */
  async rescue(): Promise<void> {
    await this.endOfPace();
    const extent = this.isComplete ? this.writer.extentWithoutLastByte : this.writer.extent;
    try {
      if (extent.size > this.committedBytes) await this.commitNow(extent);
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      // The record cannot grow either: the committed offset stands, and the caller reports the first fault.
    }
  }

  /** A file of which nothing was committed never counts, and is removed; if that fails, by the sweep. */
  async close(): Promise<void> {
    await this.endOfPace();
    await this.writer.close();
    if (this.committedBytes > 0 || this.isUnsure) return;
    const { upload, name } = this.task;
    await this.deps.spool.removeChunk(upload.id, name).catch(ignoreFault);
  }

  private get pendingBytes(): number {
    const { size } = this.writer;
    return size < this.task.commitsFrom ? 0 : size - this.committedBytes;
  }

  private keepPace(): void {
    const { pace } = this.deps;
    if (this.hasEnded || this.committing || this.pendingBytes === 0) return;
    const isDue = this.pendingBytes >= pace.bytes || (pace.firstAtOnce && this.committedBytes === 0);
    if (isDue) this.commitInBackground();
    else this.timer ??= setTimeout(() => this.commitInBackground(), pace.everyMs);
  }

  private commitInBackground(): void {
    this.committing = this.commitNow(this.writer.extent)
      .catch((fault: unknown) => (this.failure = fault))
      .then(() => {
        this.committing = undefined;
        if (this.failure !== undefined || this.refusedBy) this.task.onTrouble();
        else this.keepPace();
      });
  }

  /** Not longer than the store is there: meanwhile bytes are taken, and committed when it is back. */
  private async commitBeforeMore(): Promise<void> {
    const away = new Promise<void>((resolve) => (this.onUnavailable = resolve));
    this.commitInBackground();
    await Promise.race([this.committing, away]);
    this.throwFailure();
  }

  private async endOfPace(): Promise<void> {
    this.hasEnded = true;
    clearTimeout(this.timer);
    await this.committing;
  }

  private async commitNow(extent: Extent, complete?: Commit['complete']): Promise<void> {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.refusedBy) return;
    const { store, metrics } = this.deps;
    const startedAt = performance.now();
    await this.writer.sync();
    const step = this.stepTo(extent, complete);
    const result = await this.inDoubt(() => store.commit(this.upload.id, step));
    if (result === 'stale' || result === 'gone') {
      this.refusedBy = result;
      return;
    }
    this.committedBytes = extent.size;
    this.upload = result;
    metrics.commit((performance.now() - startedAt) / 1000);
    await this.task.onCommitted(result);
  }

  /**
   * A step that fails may be on the disk all the same, where a start would find it; an answer tells of itself alone, and
   * nothing of an earlier step that was not answered.
   */
  private async inDoubt<T>(step: () => Promise<T>): Promise<T> {
    let wasUnsure = this.isUnsure;
    const onUnavailable = (): void => {
      wasUnsure = true;
      this.deps.metrics.storeUnavailable();
      this.onUnavailable();
    };
    this.isUnsure = true;
    const result = await retryWhileUnavailable(step, { signal: this.task.lease.signal, onUnavailable });
    this.isUnsure = wasUnsure;
    return result;
  }

  private stepTo(extent: Extent, complete: Commit['complete']): Commit {
    const { upload, lease, name } = this.task;
    const chunk = { name, start: upload.offset, ...extent };
    return { token: lease.token, chunk, expiresAt: expiry(upload, this.deps, complete !== undefined), complete };
  }

  private throwFailure(): void {
    if (this.failure !== undefined) throw this.failure as Error;
  }
}

/** The body of an ordinary request that nothing was added to for this long has lost its process: nobody can go on with it. */
const ABANDONED_MS = 15 * 60_000;

/** Each step of a client renews an upload's time. */
export function expiry(
  { limits, dialect }: Pick<Upload, 'limits' | 'dialect'>,
  { clock }: Pick<ChunkDeps, 'clock'>,
  isComplete = false,
): number {
  const ageMs = limits.maxAgeSeconds * 1000;
  return clock() + (dialect === PLAIN_DIALECT && !isComplete ? Math.min(ageMs, ABANDONED_MS) : ageMs);
}

function ignoreFault(fault: unknown): void {
  if (!(fault instanceof Fault)) throw fault;
}
