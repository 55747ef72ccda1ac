import { Fault } from '../model/fault.js';
import type { Chunk, Upload } from '../model/upload.js';
import { type Log, uploadTag } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { PROMISED, type Spool, type SpooledChunk } from '../spool/spool.js';
import type { Leases } from '../store/lease.js';
import { isAway } from '../store/until-available.js';
import type { UploadStore } from '../store/upload-store.js';
import { spooledUploads } from './spooled-uploads.js';

export interface SweepOptions {
  readonly store: UploadStore;
  readonly leases: Leases;
  readonly spool: Spool;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly clock: () => number;
  readonly everyMs: number;
  /** Files that no record counts are removed when nothing has touched them for this long. */
  readonly orphanAgeMs: number;
  /** Whose spool it is; missing where every node reaches the bytes. */
  readonly node?: string;
  /** Asked before the whole spool is read, which only one of many processes needs to do; true when it is missing. */
  readonly mayLookForOrphans?: () => Promise<boolean>;
}

/** Removes what nobody will ask for any more: expired uploads first the bytes then the record, and files nobody counts. */
export class Sweep {
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<void> | undefined;
  private rounds = 0;
  private isAway = false;

  constructor(private readonly options: SweepOptions) {}

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
    const { store, clock } = this.options;
    for (const id of await store.expired(clock())) await this.expireOrNote(id);
    this.rounds += 1;
    if (this.rounds % 10 === 1 && (await this.mayLookForOrphans())) await this.removeOrphans();
  }

  private begin(): void {
    this.running ??= this.sweep()
      .then(() => void (this.isAway = false))
      .catch((error: unknown) => this.noteFailure(error))
      .finally(() => (this.running = undefined));
  }

  /** Once for each time the store is away. */
  private noteFailure(error: unknown): void {
    const wasAway = this.isAway;
    this.isAway = isAway(error);
    // An outage is nothing to search for in our code: no stack.
    const why = isAway(error) ? { reason: error.message } : { err: error };
    if (!wasAway) this.options.log.error(why, 'sweep failed; it will be tried again');
  }

  private mayLookForOrphans(): Promise<boolean> {
    return this.options.mayLookForOrphans?.() ?? Promise.resolve(true);
  }

  /** One that cannot be removed now does not keep the others, which may not be named again so soon. */
  private async expireOrNote(id: string): Promise<void> {
    try {
      await this.expire(id);
    } catch (error) {
      if (!(error instanceof Fault) || isAway(error)) throw error;
      this.options.log.error({ upload: uploadTag(id), err: error }, 'an upload that is over could not be removed');
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
    return upload.expiresAt <= this.options.clock();
  }

  private async remove(id: string): Promise<void> {
    const { store, spool, metrics } = this.options;
    const upload = await store.get(id);
    if (upload && isUnfinished(upload)) metrics.uploadEnded('expired');
    await spool.remove(id);
    await store.remove(id);
  }

  private async removeOrphans(): Promise<void> {
    const { store, spool, clock, orphanAgeMs } = this.options;
    // A record that cannot be read now, or that somebody has to look at, may count all of them.
    const setAside = new Set((await store.setAside()).map(({ id }) => id));
    for await (const { id, files } of spooledUploads(spool)) {
      if (setAside.has(id)) continue;
      const old = files.filter(({ modifiedAt }) => clock() - modifiedAt >= orphanAgeMs);
      if (old.length === 0) continue;
      const upload = await store.get(id);
      const where = this.whereIs(upload);
      if (where === 'here') await this.removeUncounted(upload!, old);
      // As long as anything of it is young, it may just be coming.
      else if (where === 'elsewhere' && old.length === files.length) await spool.remove(id);
    }
  }

  /** `unclear`: from before `spool.shared` was changed. These files may be all that there is of the upload. */
  private whereIs(upload: Upload | undefined): 'here' | 'elsewhere' | 'unclear' {
    if (upload && upload.node === this.options.node) return 'here';
    const isClear = !upload || (upload.node !== undefined && this.options.node !== undefined);
    return isClear ? 'elsewhere' : 'unclear';
  }

  private async removeUncounted(upload: Upload, files: readonly SpooledChunk[]): Promise<void> {
    const { store, spool } = this.options;
    const chunks = await store.chunks(upload.id);
    for (const { name } of files) if (!isCounted(upload, chunks, name)) await spool.removeChunk(upload.id, name);
  }
}

function isCounted(upload: Upload, chunks: readonly Chunk[], name: string): boolean {
  if (upload.phase === 'delivering' || name === PROMISED) return true;
  const kept = upload.answer ?? upload.undelivered?.answer;
  if (kept?.body.in === 'spool' && kept.body.name === name) return true;
  return chunks.some((chunk) => chunk.name === name);
}

function isUnfinished(upload: Upload): boolean {
  return upload.phase !== 'answered' && upload.phase !== 'cancelled' && upload.phase !== 'invalid';
}
