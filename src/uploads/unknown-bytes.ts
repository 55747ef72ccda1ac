import { PeriodicTask } from '../concurrency/periodic-task.js';
import { Fault } from '../model/fault.js';
import { type Log, uploadTag } from '../observe/log.js';
import { isGivenName } from '../spool/chunk-name.js';
import type { Takeovers } from '../spool/spool-claim.js';
import { ACKNOWLEDGED, type Spool, type SpooledChunk } from '../spool/spool.js';
import { isStoreUnavailable, type SetAsideRecord, type UploadStore } from '../store/upload-store.js';

export interface UnknownBytesOptions {
  readonly spool: Pick<Spool, 'filesOf'>;
  readonly store: Pick<UploadStore, 'get'>;
  readonly unreadable: Pick<UnreadableBytes, 'note'>;
  readonly log: Log;
  /** The uploads that were in the spool when it was taken over from a lost store; undefined if it never was. */
  readonly takeovers: () => Promise<Takeovers | undefined>;
  /** Called when no upload of the lost store is left. */
  readonly forget: (takeovers: Takeovers) => Promise<void>;
  readonly everyMs: number;
}

/** Uploads in the spool that the store does not know. */
export interface UnknownUploads {
  readonly uploads: number;
  readonly bytes: number;
  /** When the spool was taken over, or when the proxy started and found the uploads; in wall-clock milliseconds. */
  readonly since: number;
  /** `store`: they belong to another store. `records`: their records are missing. */
  readonly missing: 'store' | 'records';
}

/**
 * Counts the uploads that a lost store has left in the spool, so that operators learn of them. It removes nothing; the
 * cleanup removes them when they are old enough.
 * Reasons: docs/decisions/0026.
 */
export class UnknownBytes {
  private counted: UnknownUploads | undefined;
  private readonly periodic: PeriodicTask;

  constructor(private readonly options: UnknownBytesOptions) {
    this.periodic = new PeriodicTask(() => this.countOrReport(), options.everyMs);
  }

  /** Counts immediately and then periodically, without delaying the start. */
  start(): void {
    this.periodic.start();
    this.periodic.run();
  }

  stop(): Promise<void> {
    return this.periodic.stop();
  }

  /** The result of the last count; undefined if there are none. */
  get known(): UnknownUploads | undefined {
    return this.counted;
  }

  private countOrReport(): Promise<void> {
    return this.count().catch((error: unknown) => {
      // Without the store they cannot be counted, and the last result stays.
      if (!isStoreUnavailable(error))
        this.options.log.warn({ err: error }, 'the search for unknown uploads in the spool failed');
    });
  }

  private async count(): Promise<void> {
    const takeovers = await this.options.takeovers();
    if (takeovers === undefined) return void (this.counted = undefined);
    const total = { uploads: 0, bytes: 0, since: takeovers.since, missing: 'store' as const };
    for (const id of takeovers.ids) await this.add(id, total);
    this.counted = total.uploads > 0 ? total : undefined;
    if (!this.counted) await this.options.forget(takeovers);
  }

  private async add(id: string, total: { uploads: number; bytes: number }): Promise<void> {
    const files = await this.filesOf(id);
    const bytes = files ? bytesIn(files) : 0;
    if (bytes === undefined || (await this.options.store.get(id))) return;
    total.uploads += 1;
    total.bytes += bytes;
  }

  /** Undefined if the files cannot be listed now, which does not mean that they are gone. */
  private async filesOf(id: string): Promise<readonly SpooledChunk[] | undefined> {
    try {
      return await this.options.spool.filesOf(id);
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      this.options.unreadable.note(id, error);
      return undefined;
    }
  }
}

/**
 * The number of bytes in these files of an upload; undefined if no file has a name that this program gives. The file of
 * the acknowledged offset has such a name, but holds no bytes of the upload.
 */
function bytesIn(files: readonly SpooledChunk[]): number | undefined {
  const given = files.filter(({ name }) => isGivenName(name));
  if (given.length === 0 && !files.some(({ name }) => name === ACKNOWLEDGED)) return undefined;
  return given.reduce((sum, { size }) => sum + size, 0);
}

/**
 * Uploads that the proxy found in its own spool without a record when it started. A record exists before the first byte
 * of its upload and until after the last, so they come from a partial copy or from lost records.
 * They are reported while they exist, and kept as long as an upload may live.
 * Reasons: docs/decisions/0028.
 */
export class UnrecordedBytes {
  private readonly bytesById = new Map<string, number>();
  private readonly since: number;

  constructor(private readonly options: { readonly log: Log; readonly clock: () => number }) {
    this.since = options.clock();
  }

  /** Ignores files whose names this program does not give. */
  note(id: string, files: readonly SpooledChunk[]): void {
    const bytes = bytesIn(files);
    if (bytes !== undefined) this.bytesById.set(id, bytes);
  }

  /** Logs how many there are. Called once, after all of them were noted. */
  logAll(): void {
    const { known } = this;
    if (known) this.options.log.error({ uploads: known.uploads, bytes: known.bytes }, UNRECORDED);
  }

  has(id: string): boolean {
    return this.bytesById.has(id);
  }

  /** Forgets uploads that are no longer in the spool, of which `ids` is the full list. */
  keepOnly(ids: ReadonlySet<string>): void {
    for (const id of this.bytesById.keys()) if (!ids.has(id)) this.bytesById.delete(id);
  }

  /** Undefined if there are none. */
  get known(): UnknownUploads | undefined {
    if (this.bytesById.size === 0) return undefined;
    const bytes = [...this.bytesById.values()].reduce((sum, one) => sum + one, 0);
    return { uploads: this.bytesById.size, bytes, since: this.since, missing: 'records' };
  }
}

const UNRECORDED =
  'the spool has bytes of uploads that have no record in uploads/: if the data directory is a copy, stop the proxy, copy the ' +
  'whole directory and start again. The bytes are kept as long as an upload may live (the longest limits.max_age), and then removed';

export interface UnreadableBytesOptions {
  readonly spool: Pick<Spool, 'filesOf'>;
  readonly log: Log;
  /** Wall-clock time in milliseconds. */
  readonly clock: () => number;
  /** Interval of the retries; five seconds by default. */
  readonly everyMs?: number;
}

/** Recovers an upload whose files can be read again, as a start does. */
export type RecoverUpload = (id: string, files: readonly SpooledChunk[]) => Promise<void>;

const RETRY_MS = 5000;

/**
 * Uploads whose files cannot be listed, or that could not be recovered because of another fault of the disk. None of
 * their files is removed. Each upload is logged when the fault begins and when it ends, and retried in between.
 */
export class UnreadableBytes {
  private readonly known = new Map<string, SetAsideRecord>();
  /** The uploads among them that the start could not recover. */
  private readonly unrecovered = new Set<string>();
  private periodic: PeriodicTask | undefined;

  constructor(private readonly options: UnreadableBytesOptions) {}

  /** Starts the retries. */
  start(recoverUpload: RecoverUpload): void {
    const retry = (): Promise<void> =>
      this.retry(recoverUpload).catch((error: unknown) =>
        this.options.log.error({ err: error }, 'the retry of unreadable uploads failed'),
      );
    this.periodic = new PeriodicTask(retry, this.options.everyMs ?? RETRY_MS);
    this.periodic.start();
  }

  async stop(): Promise<void> {
    await this.periodic?.stop();
  }

  has(id: string): boolean {
    return this.known.has(id);
  }

  list(): readonly SetAsideRecord[] {
    return [...this.known.values()];
  }

  /** Adds an upload found at the start; it is recovered as soon as its files can be read. */
  readonly noteUnrecovered = (id: string, fault: Error): void => {
    this.unrecovered.add(id);
    this.note(id, fault);
  };

  /** Adds an upload found later. Requests and deliveries may use it, so its files are only listed again. */
  readonly note = (id: string, fault: Error): void => {
    if (this.known.has(id)) return;
    this.known.set(id, { id, state: 'unreadable', reason: fault.message, since: this.options.clock() });
    this.options.log.error({ upload: uploadTag(id), err: fault }, UNREADABLE);
  };

  /** Retries all of them once. */
  async retry(recoverUpload: RecoverUpload): Promise<void> {
    for (const id of [...this.known.keys()])
      try {
        const files = await this.options.spool.filesOf(id);
        if (this.unrecovered.has(id)) await recoverUpload(id, files);
        this.unrecovered.delete(id);
        this.known.delete(id);
        this.options.log.info({ upload: uploadTag(id) }, 'the bytes of an upload can be read again');
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        // The fault is logged already, and the upload stays in the list.
      }
  }
}

const UNREADABLE = 'the files of an upload cannot be read: none of them is removed, and reading is retried';
