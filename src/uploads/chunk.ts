import { Fault } from '../model/fault.js';
import { PLAIN_DIALECT, type Upload } from '../model/upload.js';
import type { Metrics } from '../observe/metrics.js';
import type { ChunkWriter, Extent, Spool } from '../spool/spool.js';
import type { Lease } from '../store/leases.js';
import { type Commit, retryWhileUnavailable, type UploadStore } from '../store/upload-store.js';
import { isNoRoomFault } from '../store/usage.js';
import type { Admission } from './admission.js';

/** The pace of commits: after every write, or in groups bounded in bytes and time. */
export interface CommitPace {
  readonly bytes: number;
  readonly everyMs: number;
  /** The first bytes are committed immediately: the origin gets them, and may refuse the rest. */
  readonly firstAtOnce?: true;
}

export interface ChunkDeps {
  readonly store: Pick<UploadStore, 'commit'>;
  readonly spool: Pick<Spool, 'removeChunk'>;
  readonly metrics: Metrics;
  readonly clock: () => number;
  readonly pace: CommitPace;
  /** Missing: there is no limit to the room that uploads take. */
  readonly admission?: Pick<Admission, 'capacityFor'>;
}

export interface ChunkTask {
  /** The upload as read under the lease; the chunk begins at its offset. */
  readonly upload: Upload;
  readonly lease: Lease;
  readonly name: string;
  /** Nothing is committed before this many bytes are written, except by `commit`. */
  readonly minCommitBytes: number;
  /** Called after every commit; the next commit waits for it. */
  readonly onCommitted: (upload: Upload) => unknown;
  /** A commit in the background failed or was refused, so writing more is useless. */
  readonly onFailure: () => void;
}

/**
 * The chunk of one lease. It grows with every write while commits run one at a time, and no byte waits longer for its
 * commit than the pace allows. While the store is unavailable it keeps growing, and the commit is retried until the
 * lease ends.
 * Reasons: docs/decisions/0004.
 */
export class GrowingChunk {
  /** The upload as of the last commit. */
  upload: Upload;
  /** A newer lease was taken, or the upload is no longer receiving: uncommitted bytes are discarded. */
  refusedBy: 'stale' | 'gone' | undefined;
  private committedBytes = 0;
  private committing: Promise<void> | undefined;
  private failure: unknown;
  private timer: NodeJS.Timeout | undefined;
  private hasEnded = false;
  private isComplete = false;
  /** A commit failed or got no reply, so the record may count more bytes than this process knows. */
  private isCommitUncertain = false;
  private onUnavailable = (): void => undefined;

  constructor(
    private readonly writer: ChunkWriter,
    private readonly task: ChunkTask,
    private readonly deps: ChunkDeps,
  ) {
    this.upload = task.upload;
  }

  /** Rejects with the error of an earlier commit in the background. */
  async write(buffers: readonly Uint8Array[]): Promise<void> {
    await this.writer.write(buffers);
    this.throwFailure();
    if (this.deps.pace.bytes > 0 || this.committing) this.commitWhenDue();
    else if (this.pendingBytes > 0) await this.commitOrUnavailable();
  }

  /** Commits everything that was written. Afterwards only `complete` may write. */
  async commit(): Promise<void> {
    await this.stopPacing();
    this.throwFailure();
    if (this.writer.size > this.committedBytes) await this.commitNow(this.writer.extent);
  }

  /** Writes the last bytes and commits them together with the completion. */
  async complete(rest: readonly Uint8Array[], complete: Commit['complete']): Promise<Upload | 'stale' | 'gone'> {
    await this.stopPacing();
    this.throwFailure();
    if (rest.length > 0) await this.writer.write(rest);
    this.isComplete = true;
    await this.commitNow(this.writer.extent, complete);
    return this.refusedBy ?? this.upload;
  }

  /** Commits what was written before a fault, except the byte that would complete the upload. Ignores further faults. */
  async commitAfterFault(): Promise<void> {
    await this.stopPacing();
    const extent = this.isComplete ? this.writer.extentWithoutLastByte : this.writer.extent;
    try {
      if (extent.size > this.committedBytes) await this.commitNow(extent);
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      // The record cannot grow either: the committed offset stays, and the caller reports the first fault.
    }
  }

  /** Closes the file, and removes it when nothing of it was committed. The cleanup removes it when that fails. */
  async close(): Promise<void> {
    await this.stopPacing();
    await this.writer.close();
    if (this.committedBytes > 0 || this.isCommitUncertain) return;
    const { upload, name } = this.task;
    await this.deps.spool.removeChunk(upload.id, name).catch(ignoreFault);
  }

  private get pendingBytes(): number {
    const { size } = this.writer;
    return size < this.task.minCommitBytes ? 0 : size - this.committedBytes;
  }

  private commitWhenDue(): void {
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
        if (this.failure !== undefined || this.refusedBy) this.task.onFailure();
        else this.commitWhenDue();
      });
  }

  /** Stops waiting when the store is unavailable: bytes are still accepted, and committed when it is back. */
  private async commitOrUnavailable(): Promise<void> {
    const unavailable = new Promise<void>((resolve) => (this.onUnavailable = resolve));
    this.commitInBackground();
    await Promise.race([this.committing, unavailable]);
    this.throwFailure();
  }

  private async stopPacing(): Promise<void> {
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
    const step = this.commitOf(extent, complete);
    const result = await this.trackUncertainty(() => store.commit(this.upload.id, step));
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
   * A failed commit may still have reached the disk, where the next start would find it. A later success says nothing about
   * an earlier commit without a reply.
   */
  private async trackUncertainty<T>(step: () => Promise<T>): Promise<T> {
    let wasUncertain = this.isCommitUncertain;
    const onUnavailable = (): void => {
      wasUncertain = true;
      this.deps.metrics.storeUnavailable();
      this.onUnavailable();
    };
    this.isCommitUncertain = true;
    try {
      const result = await retryWhileUnavailable(step, { signal: this.task.lease.signal, onUnavailable });
      this.isCommitUncertain = wasUncertain;
      return result;
    } catch (fault) {
      // It was refused before anything was written, so its bytes do not stay where room is missing.
      if (isNoRoomFault(fault)) this.isCommitUncertain = wasUncertain;
      throw fault;
    }
  }

  private commitOf(extent: Extent, complete: Commit['complete']): Commit {
    const { upload, lease, name } = this.task;
    const chunk = { name, start: upload.offset, ...extent };
    const after = { ...upload, offset: upload.offset + extent.size };
    const expiresAt = expiry(after, this.deps, complete !== undefined);
    // An upload of a known length took its room with the step that announced the length.
    const capacity = upload.length === undefined ? this.deps.admission?.capacityFor(upload.route) : undefined;
    return { token: lease.token, chunk, expiresAt, complete, capacity };
  }

  private throwFailure(): void {
    if (this.failure !== undefined) throw this.failure as Error;
  }
}

/**
 * The body of an ordinary request is abandoned after this time without progress: its process is gone, and nobody can
 * resume it.
 */
const ABANDONED_MS = 15 * 60_000;

/** The time at which an upload expires, renewed by each step of its client. One without bytes has a shorter life. */
export function expiry(
  { limits, dialect, offset }: Pick<Upload, 'limits' | 'dialect' | 'offset'>,
  { clock }: Pick<ChunkDeps, 'clock'>,
  isComplete = false,
): number {
  const { maxAgeSeconds, maxEmptyAgeSeconds = Infinity } = limits;
  const isEmpty = offset === 0 && !isComplete;
  const ageMs = (isEmpty ? Math.min(maxAgeSeconds, maxEmptyAgeSeconds) : maxAgeSeconds) * 1000;
  return clock() + (dialect === PLAIN_DIALECT && !isComplete ? Math.min(ageMs, ABANDONED_MS) : ageMs);
}

function ignoreFault(fault: unknown): void {
  if (!(fault instanceof Fault)) throw fault;
}
