import { PeriodicTask } from '../concurrency/periodic-task.js';
import { removeAndReport } from '../delivery/report.js';
import { Fault } from '../model/fault.js';
import type { Chunk, Upload } from '../model/upload.js';
import { isGeneratedId } from '../model/upload-id.js';
import { type Log, uploadTag } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { answerName, isGivenName } from '../spool/chunk-name.js';
import { ACKNOWLEDGED, type Spool, type SpooledChunk } from '../spool/spool.js';
import type { Leases } from '../store/leases.js';
import { isStoreUnavailable, type LeftoverAge, type UploadStore } from '../store/upload-store.js';
import { type SpooledUpload, spooledUploads } from './recovery.js';
import type { UnreadableBytes, UnrecordedBytes } from './unknown-bytes.js';

export interface CleanupOptions {
  readonly store: UploadStore;
  readonly leases: Leases;
  readonly spool: Spool;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly clock: () => number;
  /** The clock by which uploads expire; by default `clock` without its jumps forward. */
  readonly expiryClock?: () => number;
  /** Monotonic clock in milliseconds; that of this process by default. */
  readonly monotonic?: () => number;
  readonly everyMs: number;
  /** Files that no record counts are removed when they are this old and were seen unchanged for as long. */
  readonly orphanAgeMs: number;
  /** The longest time for which an upload, answer or body may stay unchanged; `orphanAgeMs` by default. */
  readonly longestAgeMs?: number;
  /** The time since which the spool belongs to this store; older files belong to another one. */
  readonly spoolSince?: () => Promise<number | undefined>;
  /** Uploads that were in the spool when it became this store's, whatever the times of their files are. */
  readonly takenOver?: () => Promise<ReadonlySet<string>>;
  /** The node that owns the spool; missing if every node can reach the bytes. */
  readonly node?: string;
  /** Whether a node of this name has ever announced itself; true by default. */
  readonly isAnnounced?: (node: string) => Promise<boolean>;
  /** Asked before the entire spool is read, which only one of many processes needs to do; true by default. */
  readonly mayRemoveOrphans?: () => Promise<boolean>;
  /** Collects the uploads whose files cannot be listed. */
  readonly unreadable: UnreadableBytes;
  /** Uploads without a record: they may come from an incomplete backup. */
  readonly unrecorded?: UnrecordedBytes;
  /** Removes old files beside the records that belong to no record. */
  readonly clearLeftovers?: (age: LeftoverAge) => Promise<void>;
}

/** Removes expired uploads, first their bytes and then their records, and files that no record counts. */
export class Cleanup {
  private readonly periodic: PeriodicTask;
  private rounds = 0;
  private isStoreUnavailable = false;
  private readonly expiryNow: () => number;
  /** Possible orphans by path: their size and modification time, and since when they were seen so. */
  private seenFiles = new Map<string, { readonly state: string; readonly since: number }>();

  constructor(private readonly options: CleanupOptions) {
    const { clock, orphanAgeMs, longestAgeMs = orphanAgeMs } = options;
    const steady = new SteadyClock({ wall: clock, monotonic: this.monotonic, settleMs: longestAgeMs });
    this.expiryNow = options.expiryClock ?? (() => steady.now());
    this.periodic = new PeriodicTask(() => this.runAndReport(), options.everyMs);
  }

  start(): void {
    this.periodic.start();
  }

  /** Changes the interval between two runs. */
  setInterval(everyMs: number): void {
    this.periodic.setInterval(everyMs);
  }

  stop(): Promise<void> {
    return this.periodic.stop();
  }

  /**
   * Runs once: expired uploads every time, orphaned files less often, because finding them takes reading the entire
   * spool.
   */
  async runOnce(): Promise<void> {
    for (const id of await this.options.store.expired(this.expiryNow()))
      await this.logFault(id, 'an expired upload could not be removed', () => this.expire(id));
    this.rounds += 1;
    if (this.rounds % 10 === 1 && (await this.mayRemoveOrphans())) {
      await this.clearLeftovers();
      await this.removeOrphans();
    }
  }

  private runAndReport(): Promise<void> {
    return this.runOnce().then(
      () => void (this.isStoreUnavailable = false),
      (error: unknown) => this.noteFailure(error),
    );
  }

  /** Logs a failure, but an outage of the store only once. */
  private noteFailure(error: unknown): void {
    const wasUnavailable = this.isStoreUnavailable;
    this.isStoreUnavailable = isStoreUnavailable(error);
    // The stack of an outage would say nothing useful.
    const fields = isStoreUnavailable(error) ? { reason: error.message } : { err: error };
    if (!wasUnavailable) this.options.log.error(fields, 'the cleanup of uploads failed; it will be retried');
  }

  private mayRemoveOrphans(): Promise<boolean> {
    return this.options.mayRemoveOrphans?.() ?? Promise.resolve(true);
  }

  /** Logs a fault of one upload, so that the others are still dealt with. */
  private async logFault(id: string, message: string, task: () => Promise<void>): Promise<void> {
    try {
      await task();
    } catch (error) {
      if (!(error instanceof Fault) || isStoreUnavailable(error)) throw error;
      this.options.log.error({ upload: uploadTag(id), err: error }, message);
    }
  }

  /**
   * Removes an upload that has expired. Its time is checked before and after taking the lease: a commit since the round
   * began may have renewed it, and taking the lease for nothing would end a request.
   */
  private async expire(id: string): Promise<void> {
    const { store, leases } = this.options;
    const known = await store.get(id);
    if (!this.hasEnded(known) || (!known && (await this.isSetAside(id)))) return;
    if (known?.phase !== 'receiving') return this.remove(id);
    const lease = await leases.take(id, 'to-end');
    try {
      if (this.hasEnded(await store.get(id))) await this.remove(id);
    } finally {
      await lease.release();
    }
  }

  private hasEnded(upload: Upload | undefined): boolean {
    if (!upload || upload.phase === 'cancelled' || upload.phase === 'invalid') return true;
    return upload.expiresAt <= this.expiryNow();
  }

  private async remove(id: string): Promise<void> {
    const upload = await this.options.store.get(id);
    await removeAndReport(upload ?? { id }, this.options);
  }

  /** Removes leftover files. A fault is logged and does not stop the cleanup of the spool. */
  private async clearLeftovers(): Promise<void> {
    const { clearLeftovers, orphanAgeMs, log } = this.options;
    try {
      await clearLeftovers?.({ now: this.expiryNow(), elapsedMs: this.monotonic(), minAgeMs: orphanAgeMs });
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      log.error({ err: error }, 'old files beside the records could not be removed');
    }
  }

  /** Removes only files whose names this program gives; others belong to other programs. */
  private async removeOrphans(): Promise<void> {
    const { store, spool } = this.options;
    // The record of such an upload cannot be read now, and may count all of its files.
    const setAside = new Set((await store.setAsideRecords()).map(({ id }) => id));
    const seenBefore = this.seenFiles;
    this.seenFiles = new Map();
    const since = (await this.options.spoolSince?.()) ?? -Infinity;
    const takenOver = await this.options.takenOver?.();
    const { orphanAgeMs, longestAgeMs = orphanAgeMs } = this.options;
    const listed = new Set<string>();
    const noteUnlisted = (id: string, fault: Error): void => {
      listed.add(id);
      this.options.unreadable.note(id, fault);
    };
    for await (const spooled of spooledUploads(spool, noteUnlisted)) {
      const { id, files } = spooled;
      listed.add(id);
      if (setAside.has(id)) continue;
      // Files of another store, or of a missing record, which may both come back, are kept as long as an upload may live.
      const mayComeBack = takenOver?.has(id) === true || this.options.unrecorded?.has(id) === true;
      const isOthers = mayComeBack || files.some(({ modifiedAt }) => modifiedAt < since);
      const minAgeMs = isOthers ? Math.max(orphanAgeMs, longestAgeMs) : orphanAgeMs;
      const oldFiles = files.filter((file) => hasGivenName(file) && this.isOld(file, minAgeMs, seenBefore));
      if (oldFiles.length > 0)
        await this.logFault(id, 'old files of an upload could not be removed', () =>
          this.removeOldFiles(spooled, oldFiles),
        );
    }
    this.options.unrecorded?.keepOnly(listed);
  }

  private async removeOldFiles({ id, files }: SpooledUpload, oldFiles: readonly SpooledChunk[]): Promise<void> {
    const { store, spool } = this.options;
    const upload = await store.get(id);
    // Reading the record may have shown that it cannot be used.
    if (!upload && (await this.isSetAside(id))) return;
    const location = await this.locationOf(upload);
    if (location === 'here') await this.removeUncounted(upload!, oldFiles);
    // Files of an upload that has a young one may just be arriving from another node.
    else if (location === 'elsewhere' && files.every((file) => !hasGivenName(file) || oldFiles.includes(file)))
      for (const { name } of oldFiles) await spool.removeChunk(id, name);
  }

  private async isSetAside(id: string): Promise<boolean> {
    return (await this.options.store.setAsideRecords()).some((each) => each.id === id);
  }

  /**
   * Whether the file is old by its time, and this process saw it unchanged for `orphanAgeMs`. The second condition does
   * not depend on clocks that are set, or on those of other machines.
   */
  private isOld(file: SpooledChunk, minAgeMs: number, seenBefore: Cleanup['seenFiles']): boolean {
    const { id, name, size, modifiedAt } = file;
    const { orphanAgeMs } = this.options;
    const now = this.expiryNow();
    if (now - modifiedAt < minAgeMs) return false;
    const key = `${id}/${name}`;
    const state = `${size} ${modifiedAt}`;
    const known = seenBefore.get(key);
    const seen = known?.state === state ? known : { state, since: this.monotonic() };
    this.seenFiles.set(key, seen);
    return this.monotonic() - seen.since >= orphanAgeMs;
  }

  private readonly monotonic = (): number => (this.options.monotonic ?? (() => performance.now()))();

  /**
   * The place of the upload's bytes. `unclear`: `spool.shared` was changed, or its node never announced itself and may
   * be this one under its former name; these files may then be the only copy.
   */
  private async locationOf(upload: Upload | undefined): Promise<'here' | 'elsewhere' | 'unclear'> {
    if (!upload) return 'elsewhere';
    const { node, isAnnounced } = this.options;
    if (upload.node === node) return 'here';
    if (upload.node === undefined || node === undefined) return 'unclear';
    return !isAnnounced || (await isAnnounced(upload.node)) ? 'elsewhere' : 'unclear';
  }

  /**
   * Removes files that the record does not count. Invalid uploads are left alone until they expire, since their files
   * may still be repaired; the lease refuses a suspended process that is about to commit such a file.
   */
  private async removeUncounted(upload: Upload, files: readonly SpooledChunk[]): Promise<void> {
    if (upload.phase === 'invalid' || (await this.uncounted(upload, files)).length === 0) return;
    if (upload.phase !== 'receiving') return this.removeFiles(upload, files);
    const lease = await this.options.leases.take(upload.id, 'to-end');
    try {
      const now = await this.options.store.get(upload.id);
      if (now?.phase === 'receiving' && now.node === upload.node) await this.removeFiles(now, files);
    } finally {
      await lease.release();
    }
  }

  private async removeFiles(upload: Upload, files: readonly SpooledChunk[]): Promise<void> {
    for (const { name } of await this.uncounted(upload, files)) await this.options.spool.removeChunk(upload.id, name);
  }

  private async uncounted(upload: Upload, files: readonly SpooledChunk[]): Promise<readonly SpooledChunk[]> {
    const { store } = this.options;
    const chunks = await store.chunks(upload.id);
    // Chunks of a record that was found damaged in the meantime are not all that it had.
    if ((await store.get(upload.id))?.phase !== upload.phase) return [];
    return files.filter(({ name }) => !isCounted(upload, chunks, name));
  }
}

function hasGivenName({ id, name }: SpooledChunk): boolean {
  return isGeneratedId(id) && (name === ACKNOWLEDGED || isGivenName(name));
}

function isCounted(upload: Upload, chunks: readonly Chunk[], name: string): boolean {
  if (upload.phase === 'delivering' || name === ACKNOWLEDGED) return true;
  const kept = upload.answer ?? upload.undelivered?.answer;
  if (kept?.body.in === 'spool' && kept.body.name === name) return true;
  // A suspended process may still record the answer to the newest attempt.
  if (upload.phase !== 'answered' && name === answerName(upload.attemptCount)) return true;
  return chunks.some((chunk) => chunk.name === name);
}

/** A larger difference between two readings is a step of the clock, and not its drift. */
const STEP_MS = 10_000;

export interface SteadyClockOptions {
  /** The wall-clock time in milliseconds, which may be set at any moment. */
  readonly wall: () => number;
  /** Monotonic clock in milliseconds. */
  readonly monotonic: () => number;
  /** A step forward is accepted after this time: by then everything older has had its full time. */
  readonly settleMs: number;
}

/**
 * A clock for expiry that ignores steps of the wall clock forward, also after a step back, until `settleMs` have
 * passed. A time behind the present only keeps an upload longer.
 */
export class SteadyClock {
  /** The smallest lead of the wall clock over the monotonic clock since the last accepted step. */
  private minAheadMs: number;
  private lastAheadMs: number;
  private steppedAt = -Infinity;

  constructor(private readonly options: SteadyClockOptions) {
    this.minAheadMs = this.lastAheadMs = options.wall() - options.monotonic();
  }

  /** Must be called often: a step is only seen between two calls. */
  now(): number {
    const { wall, monotonic, settleMs } = this.options;
    const passed = monotonic();
    const aheadMs = wall() - passed;
    if (Math.abs(aheadMs - this.lastAheadMs) > STEP_MS) this.steppedAt = passed;
    this.lastAheadMs = aheadMs;
    if (aheadMs < this.minAheadMs || passed - this.steppedAt >= settleMs) this.minAheadMs = aheadMs;
    return passed + this.minAheadMs;
  }
}
