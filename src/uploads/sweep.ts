import type { Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { PROMISED, type Spool } from '../spool/spool.js';
import type { Leases } from '../store/lease.js';
import type { UploadStore } from '../store/upload-store.js';

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
}

/** Removes what nobody will ask for any more: expired uploads first the bytes then the record, and files nobody counts. */
export class Sweep {
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<void> | undefined;
  private rounds = 0;

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
    for (const id of await store.expired(clock())) await this.expire(id);
    this.rounds += 1;
    if (this.rounds % 10 === 1) await this.removeOrphans();
  }

  private begin(): void {
    this.running ??= this.sweep()
      .catch((error: unknown) => this.options.log.error({ err: error }, 'sweep failed; it will be tried again'))
      .finally(() => (this.running = undefined));
  }

  /** A body that is still coming, or a commit that came since the round began, renews an upload's time. */
  private async expire(id: string): Promise<void> {
    const { store, leases, clock } = this.options;
    if ((await store.get(id))?.phase !== 'receiving') return this.remove(id);
    const lease = await leases.take(id);
    try {
      const upload = await store.get(id);
      if (!upload || upload.expiresAt <= clock()) await this.remove(id);
    } finally {
      await lease.release();
    }
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
    for await (const file of spool.list()) {
      if (clock() - file.modifiedAt < orphanAgeMs) continue;
      const upload = await store.get(file.id);
      if (!upload) await spool.remove(file.id);
      else if (!(await this.isCounted(upload, file.name))) await spool.removeChunk(file.id, file.name);
    }
  }

  private async isCounted(upload: Upload, name: string): Promise<boolean> {
    if (upload.phase === 'delivering' || name === PROMISED) return true;
    const kept = upload.answer ?? upload.undelivered?.answer;
    if (kept?.body.in === 'spool' && kept.body.name === name) return true;
    const chunks = await this.options.store.chunks(upload.id);
    return chunks.some((chunk) => chunk.name === name);
  }
}

function isUnfinished(upload: Upload): boolean {
  return upload.phase !== 'answered' && upload.phase !== 'cancelled' && upload.phase !== 'invalid';
}
