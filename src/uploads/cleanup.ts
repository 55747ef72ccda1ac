import { removeAndReport } from '../delivery/report.js';
import { Fault } from '../model/fault.js';
import type { Chunk, Upload } from '../model/upload.js';
import { type Log, uploadTag } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { answerName, isGivenName } from '../spool/chunk-name.js';
import { ACKNOWLEDGED, type Spool, type SpooledChunk } from '../spool/spool.js';
import type { Leases } from '../store/leases.js';
import { isStoreUnavailable, type LeftoverAge, type UploadStore } from '../store/upload-store.js';
import { type SpooledUpload, spooledUploads } from './recovery.js';
import type { UnreadableBytes, UnrecordedBytes } from './unknown-bytes.js';

export interface SweepOptions {
  readonly store: UploadStore;
  readonly leases: Leases;
  readonly spool: Spool;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly clock: () => number;
  /** The time by which uploads expire; `clock` without its steps forward when it is missing. */
  readonly expiryClock?: () => number;
  /** Milliseconds that really passed; those of this process when it is missing. */
  readonly monotonic?: () => number;
  readonly everyMs: number;
  /** Files that no record counts are removed when they were seen, unchanged, for this long, and are as old. */
  readonly orphanAgeMs: number;
  /** No upload, answer or body lives longer without being touched; the same as `orphanAgeMs` when it is missing. */
  readonly longestAgeMs?: number;
  /** Since when the spool is this store's; files from before that are of another one. */
  readonly spoolSince?: () => Promise<number | undefined>;
  /** Uploads that were in the spool when it became this store's, whatever the times of their files are. */
  readonly takenOver?: () => Promise<ReadonlySet<string>>;
  /** Whose spool it is; missing where every node reaches the bytes. */
  readonly node?: string;
  /** Whether a node of that name has ever said that it is there; taken for yes when it is missing. */
  readonly isAnnounced?: (node: string) => Promise<boolean>;
  /** Asked before the whole spool is read, which only one of many processes needs to do; true when it is missing. */
  readonly mayRemoveOrphans?: () => Promise<boolean>;
  /** Takes the uploads whose files cannot be listed. */
  readonly unreadable: UnreadableBytes;
  /** Uploads that were found without a record: they may be of a backup that is not complete. */
  readonly unrecorded?: UnrecordedBytes;
  /** Removes what is old and belongs to no record from where the records are. */
  readonly clearLeftovers?: (age: LeftoverAge) => Promise<void>;
}

/** Removes what nobody will ask for any more: expired uploads first the bytes then the record, and files nobody counts. */
export class Sweep {
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<void> | undefined;
  private rounds = 0;
  private isStoreUnavailable = false;
  private readonly now: () => number;
  /** Files that may be orphans, and since when they were seen as they are. */
  private seen = new Map<string, { readonly as: string; readonly since: number }>();

  constructor(private readonly options: SweepOptions) {
    const { clock, orphanAgeMs, longestAgeMs = orphanAgeMs } = options;
    const steady = new SteadyClock({ wall: clock, monotonic: this.monotonic, settleMs: longestAgeMs });
    this.now = options.expiryClock ?? (() => steady.now());
  }

  start(): void {
    this.timer = setInterval(() => this.begin(), this.options.everyMs);
    this.timer.unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.running;
  }

  /** One round: expired uploads every time, orphaned files now and then, since finding those reads the whole spool. */
  async sweep(): Promise<void> {
    for (const id of await this.options.store.expired(this.now()))
      await this.orNote(id, 'an upload that is over could not be removed', () => this.expire(id));
    this.rounds += 1;
    if (this.rounds % 10 === 1 && (await this.mayRemoveOrphans())) {
      await this.clearLeftovers();
      await this.removeOrphans();
    }
  }

  private begin(): void {
    this.running ??= this.sweep()
      .then(() => void (this.isStoreUnavailable = false))
      .catch((error: unknown) => this.noteFailure(error))
      .finally(() => (this.running = undefined));
  }

  /** Once for each time the store is away. */
  private noteFailure(error: unknown): void {
    const wasUnavailable = this.isStoreUnavailable;
    this.isStoreUnavailable = isStoreUnavailable(error);
    // An outage is nothing to search for in our code: no stack.
    const why = isStoreUnavailable(error) ? { reason: error.message } : { err: error };
    if (!wasUnavailable) this.options.log.error(why, 'sweep failed; it will be tried again');
  }

  private mayRemoveOrphans(): Promise<boolean> {
    return this.options.mayRemoveOrphans?.() ?? Promise.resolve(true);
  }

  /** One that fails does not keep the others, which may not be named again so soon. */
  private async orNote(id: string, message: string, task: () => Promise<void>): Promise<void> {
    try {
      await task();
    } catch (error) {
      if (!(error instanceof Fault) || isStoreUnavailable(error)) throw error;
      this.options.log.error({ upload: uploadTag(id), err: error }, message);
    }
  }

  /**
   * A body that is still coming, or a commit that came since the round began, renews an upload's time. One that is named and
   * not over is left alone: to take its lease would end the request that has it.
   */
  private async expire(id: string): Promise<void> {
    const { store, leases } = this.options;
    const known = await store.get(id);
    if (!this.isOver(known)) return;
    if (known?.phase !== 'receiving') return this.remove(id);
    const lease = await leases.take(id, 'to-end');
    try {
      if (this.isOver(await store.get(id))) await this.remove(id);
    } finally {
      await lease.release();
    }
  }

  private isOver(upload: Upload | undefined): boolean {
    if (!upload || upload.phase === 'cancelled' || upload.phase === 'invalid') return true;
    return upload.expiresAt <= this.now();
  }

  private async remove(id: string): Promise<void> {
    const upload = await this.options.store.get(id);
    await removeAndReport(upload ?? { id }, this.options);
  }

  /** A fault there keeps nothing of the spool. */
  private async clearLeftovers(): Promise<void> {
    const { clearLeftovers, orphanAgeMs, log } = this.options;
    try {
      await clearLeftovers?.({ now: this.now(), elapsedMs: this.monotonic(), minAgeMs: orphanAgeMs });
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      log.error({ err: error }, 'old files beside the records were not removed');
    }
  }

  /** Only names of the shape that this program gives; whatever else is in the spool is somebody's. */
  private async removeOrphans(): Promise<void> {
    const { store, spool } = this.options;
    // A record that cannot be read now, or that somebody has to look at, may count all of them.
    const setAside = new Set((await store.setAsideRecords()).map(({ id }) => id));
    const before = this.seen;
    this.seen = new Map();
    const since = (await this.options.spoolSince?.()) ?? -Infinity;
    const takenOver = await this.options.takenOver?.();
    const { orphanAgeMs, longestAgeMs = orphanAgeMs } = this.options;
    const listed = new Set<string>();
    const unlisted = (id: string, fault: Error): void => {
      listed.add(id);
      this.options.unreadable.note(id, fault);
    };
    for await (const spooled of spooledUploads(spool, unlisted)) {
      const { id, files } = spooled;
      listed.add(id);
      if (setAside.has(id)) continue;
      // One of a store, or of a record, that may come back stays as long as an upload of that store may.
      const isNamed = takenOver?.has(id) === true || this.options.unrecorded?.has(id) === true;
      const isOthers = isNamed || files.some(({ modifiedAt }) => modifiedAt < since);
      const leastMs = isOthers ? Math.max(orphanAgeMs, longestAgeMs) : orphanAgeMs;
      const old = files.filter((file) => isOurs(file) && this.isOld(file, leastMs, before));
      if (old.length > 0)
        await this.orNote(id, 'old files of an upload were not removed', () => this.clear(spooled, old));
    }
    this.options.unrecorded?.keepOnly(listed);
  }

  private async clear({ id, files }: SpooledUpload, old: readonly SpooledChunk[]): Promise<void> {
    const { store, spool } = this.options;
    const upload = await store.get(id);
    const where = await this.whereIs(upload);
    if (where === 'here') await this.removeUncounted(upload!, old);
    // As long as anything of it is young, it may just be coming.
    else if (where === 'elsewhere' && files.every((file) => !isOurs(file) || old.includes(file)))
      for (const { name } of old) await spool.removeChunk(id, name);
  }

  /**
   * Neither a clock that was set nor one of another machine makes a file old: this process has seen it, as it is, for the
   * whole time.
   */
  private isOld(file: SpooledChunk, leastMs: number, before: Sweep['seen']): boolean {
    const { id, name, size, modifiedAt } = file;
    const { orphanAgeMs } = this.options;
    const now = this.now();
    if (now - modifiedAt < leastMs) return false;
    const key = `${id}/${name}`;
    const as = `${size} ${modifiedAt}`;
    const known = before.get(key);
    const seen = known?.as === as ? known : { as, since: this.monotonic() };
    this.seen.set(key, seen);
    return this.monotonic() - seen.since >= orphanAgeMs;
  }

  private readonly monotonic = (): number => (this.options.monotonic ?? (() => performance.now()))();

  /**
   * `unclear`: from before `spool.shared` was changed, or of a node that has never said that it is there, which may be this
   * one under its right name. These files may be all that there is of the upload.
   */
  private async whereIs(upload: Upload | undefined): Promise<'here' | 'elsewhere' | 'unclear'> {
    if (!upload) return 'elsewhere';
    const { node, isAnnounced } = this.options;
    if (upload.node === node) return 'here';
    if (upload.node === undefined || node === undefined) return 'unclear';
    return !isAnnounced || (await isAnnounced(upload.node)) ? 'elsewhere' : 'unclear';
  }

  /**
   * Not of one that was given up: its files may be put right until it expires, and then all of them go. A process that stood
   * still may be about to commit such a file of an upload that is received: with the lease taken from it, that is refused.
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
    const chunks = await this.options.store.chunks(upload.id);
    return files.filter(({ name }) => !isCounted(upload, chunks, name));
  }
}

function isOurs({ id, name }: SpooledChunk): boolean {
  return OUR_ID.test(id) && (name === ACKNOWLEDGED || isGivenName(name));
}

const OUR_ID = /^[A-Za-z0-9_-]{32}$/;

function isCounted(upload: Upload, chunks: readonly Chunk[], name: string): boolean {
  if (upload.phase === 'delivering' || name === ACKNOWLEDGED) return true;
  const kept = upload.answer ?? upload.undelivered?.answer;
  if (kept?.body.in === 'spool' && kept.body.name === name) return true;
  // A process that stood still may record the answer to the newest attempt as long as there is none.
  if (upload.phase !== 'answered' && name === answerName(upload.attemptCount)) return true;
  return chunks.some((chunk) => chunk.name === name);
}

/** A larger difference between two looks is a step of the clock, not its drift. */
const STEP_MS = 10_000;

export interface SteadyClockOptions {
  /** The time of the system, which may be set at any moment. */
  readonly wall: () => number;
  /** Milliseconds that really passed since some moment. */
  readonly monotonic: () => number;
  /** A step is believed after this long: then everything from before it has had its whole time. */
  readonly settleMs: number;
}

/**
 * The time as it is read for the end of uploads: a clock that is put forward ends nothing early, nor does one that was put
 * back and is put right again. A time behind the present only keeps an upload longer.
 */
export class SteadyClock {
  /** The least that the wall was ahead of the monotonic clock since the last step was believed. */
  private leastAheadMs: number;
  private lastAheadMs: number;
  private steppedAt = -Infinity;

  constructor(private readonly options: SteadyClockOptions) {
    this.leastAheadMs = this.lastAheadMs = options.wall() - options.monotonic();
  }

  /** To be asked often: a step is only seen between two questions. */
  now(): number {
    const { wall, monotonic, settleMs } = this.options;
    const passed = monotonic();
    const aheadMs = wall() - passed;
    if (Math.abs(aheadMs - this.lastAheadMs) > STEP_MS) this.steppedAt = passed;
    this.lastAheadMs = aheadMs;
    if (aheadMs < this.leastAheadMs || passed - this.steppedAt >= settleMs) this.leastAheadMs = aheadMs;
    return passed + this.leastAheadMs;
  }
}
