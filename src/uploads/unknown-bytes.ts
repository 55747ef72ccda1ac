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
  /** What was in the spool when it was taken over from a store that was lost; undefined when it was not. */
  readonly takeovers: () => Promise<Takeovers | undefined>;
  /** Called when nothing of that store is left. */
  readonly forget: (takeovers: Takeovers) => Promise<void>;
  readonly everyMs: number;
}

/** Uploads in the spool that the store does not know. */
export interface UnknownUploads {
  readonly uploads: number;
  readonly bytes: number;
  /** When the spool was taken over, or the start that found them. */
  readonly since: number;
  /** `store`: they are of another one. `records`: those are missing. */
  readonly lack: 'store' | 'records';
}

/**
 * Counts what a store that came up empty has left in the spool, for as long as it is there, so that operators are told of
 * it. Removes nothing: the sweep does when it is old.
 */
export class UnknownBytes {
  private found: UnknownUploads | undefined;
  private timer: NodeJS.Timeout | undefined;
  private looking: Promise<void> | undefined;

  constructor(private readonly options: UnknownBytesOptions) {}

  /** Looks at once and from time to time, without keeping a start waiting. */
  start(): void {
    this.timer = setInterval(() => this.begin(), this.options.everyMs).unref();
    this.begin();
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.looking;
  }

  /** Undefined when there are none, as far as is known. */
  get known(): UnknownUploads | undefined {
    return this.found;
  }

  private begin(): void {
    this.looking ??= this.look()
      .catch((error: unknown) => {
        // Without the store nobody can tell; what was known stays.
        if (!isStoreUnavailable(error))
          this.options.log.warn({ err: error }, 'the spool could not be searched for unknown uploads');
      })
      .finally(() => (this.looking = undefined));
  }

  private async look(): Promise<void> {
    const takeovers = await this.options.takeovers();
    if (takeovers === undefined) return void (this.found = undefined);
    const found = { uploads: 0, bytes: 0, since: takeovers.since, lack: 'store' as const };
    for (const id of takeovers.ids) await this.add(id, found);
    this.found = found.uploads > 0 ? found : undefined;
    if (!this.found) await this.options.forget(takeovers);
  }

  private async add(id: string, found: { uploads: number; bytes: number }): Promise<void> {
    const files = await this.filesOf(id);
    const bytes = files ? bytesIn(files) : 0;
    if (bytes === undefined || (await this.options.store.get(id))) return;
    found.uploads += 1;
    found.bytes += bytes;
  }

  /** Undefined for one that cannot be listed now: nobody knows that it is gone. */
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
 * The bytes of an upload in these files of its place in the spool; undefined where none has a name that this program gives.
 * The note of what was promised is one, and has no bytes.
 */
function bytesIn(files: readonly SpooledChunk[]): number | undefined {
  const given = files.filter(({ name }) => isGivenName(name));
  if (given.length === 0 && !files.some(({ name }) => name === ACKNOWLEDGED)) return undefined;
  return given.reduce((sum, { size }) => sum + size, 0);
}

/**
 * Uploads whose bytes a start has found, and no record, where no other process could have either. A record is durable before
 * the first byte of its upload and goes after the last one, so a kill leaves none where the disk is well: a backup was copied in part, or
 * records were lost. They are told for as long as they are there, and kept as long as an upload may live.
 */
export class UnrecordedBytes {
  private readonly found = new Map<string, number>();
  private readonly since: number;

  constructor(private readonly options: { readonly log: Log; readonly clock: () => number }) {
    this.since = options.clock();
  }

  /** Files of other names are somebody's, and say nothing. */
  note(id: string, files: readonly SpooledChunk[]): void {
    const bytes = bytesIn(files);
    if (bytes !== undefined) this.found.set(id, bytes);
  }

  /** In the log, once they are all known. */
  tell(): void {
    const { known } = this;
    if (known) this.options.log.error({ uploads: known.uploads, bytes: known.bytes }, FOUND);
  }

  has(id: string): boolean {
    return this.found.has(id);
  }

  /** The spool has listed these alone. */
  keepOnly(ids: ReadonlySet<string>): void {
    for (const id of this.found.keys()) if (!ids.has(id)) this.found.delete(id);
  }

  /** Undefined when there are none. */
  get known(): UnknownUploads | undefined {
    if (this.found.size === 0) return undefined;
    const bytes = [...this.found.values()].reduce((sum, one) => sum + one, 0);
    return { uploads: this.found.size, bytes, since: this.since, lack: 'records' };
  }
}

const FOUND =
  'the spool has bytes of uploads whose records are not in uploads: where the data directory is a copy, stop, copy the whole ' +
  'directory and start again. The bytes stay as long as an upload may (the longest limits.max_age), and are removed then';

export interface UnreadableBytesOptions {
  readonly spool: Pick<Spool, 'filesOf'>;
  readonly log: Log;
  /** The time of the wall. */
  readonly clock: () => number;
  /** How often the disk is asked again; every five seconds when it is missing. */
  readonly everyMs?: number;
}

/** Brings an upload and its files together after a start, once they can be read. */
export type LookAfter = (id: string, files: readonly SpooledChunk[]) => Promise<void>;

const EVERY_MS = 5000;

/**
 * Uploads whose bytes the disk does not list, or that could not be looked after for another fault of it. Nothing of them is
 * removed. Each is told once, when it begins and when it is over, and tried again until then.
 */
export class UnreadableBytes {
  private readonly known = new Map<string, SetAsideRecord>();
  /** Those of them that the start could not look after. */
  private readonly unrecovered = new Set<string>();
  private timer: NodeJS.Timeout | undefined;
  private trying: Promise<void> | undefined;

  constructor(private readonly options: UnreadableBytesOptions) {}

  /** From now on they are tried again. */
  start(lookAfter: LookAfter): void {
    this.timer = setInterval(() => {
      this.trying ??= this.tryAgain(lookAfter)
        .catch((error: unknown) => this.options.log.error({ err: error }, 'uploads could not be looked after again'))
        .finally(() => (this.trying = undefined));
    }, this.options.everyMs ?? EVERY_MS).unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.trying;
  }

  has(id: string): boolean {
    return this.known.has(id);
  }

  list(): readonly SetAsideRecord[] {
    return [...this.known.values()];
  }

  /** Found at the start: as soon as its files can be read, it is looked after as at a start. */
  readonly noteUnrecovered = (id: string, fault: Error): void => {
    this.unrecovered.add(id);
    this.note(id, fault);
  };

  /** Found since then: requests and deliveries may be at work on it, so its files are only listed again. */
  readonly note = (id: string, fault: Error): void => {
    if (this.known.has(id)) return;
    this.known.set(id, { id, state: 'unreadable', reason: fault.message, since: this.options.clock() });
    this.options.log.error({ upload: uploadTag(id), err: fault }, NOTED);
  };

  /** One round over all of them. */
  async tryAgain(lookAfter: LookAfter): Promise<void> {
    for (const id of [...this.known.keys()])
      try {
        const files = await this.options.spool.filesOf(id);
        if (this.unrecovered.has(id)) await lookAfter(id, files);
        this.unrecovered.delete(id);
        this.known.delete(id);
        this.options.log.info({ upload: uploadTag(id) }, 'the bytes of an upload can be read again');
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        // It has been told, and stays as it is.
      }
  }
}

const NOTED = 'an upload could not be looked after: nothing of it is removed, and it is tried again';
