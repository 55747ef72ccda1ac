import type { Log } from '../observe/log.js';
import { isGivenName } from '../spool/chunk-name.js';
import { PROMISED, type Spool, type SpooledChunk } from '../spool/spool.js';
import { isAway } from '../store/until-available.js';
import type { UploadStore } from '../store/upload-store.js';
import { type SpooledUpload, spooledUploads } from './spooled-uploads.js';
import type { UnreadableBytes } from './unreadable-bytes.js';

export interface UnknownBytesOptions {
  readonly spool: Pick<Spool, 'list'>;
  readonly store: Pick<UploadStore, 'get'>;
  readonly unreadable: Pick<UnreadableBytes, 'note'>;
  readonly log: Log;
  /** When the spool was taken over from a store that was lost; undefined when it was not. */
  readonly takenOverAt: () => Promise<number | undefined>;
  /** Called when nothing of that store is left. */
  readonly forget: () => Promise<void>;
  readonly everyMs: number;
}

/** Uploads in the spool that the store does not know. */
export interface UnknownUploads {
  readonly uploads: number;
  readonly bytes: number;
  /** When the spool was taken over. */
  readonly since: number;
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
        if (!isAway(error))
          this.options.log.warn({ err: error }, 'the spool could not be searched for unknown uploads');
      })
      .finally(() => (this.looking = undefined));
  }

  private async look(): Promise<void> {
    const since = await this.options.takenOverAt();
    if (since === undefined) return void (this.found = undefined);
    const found = { uploads: 0, bytes: 0, since };
    for await (const upload of spooledUploads(this.options.spool, this.options.unreadable.note))
      await this.add(upload, found);
    this.found = found.uploads > 0 ? found : undefined;
    if (!this.found) await this.options.forget();
  }

  /** What is younger than the takeover is of this store, whose record of it may just be coming. */
  private async add({ id, files }: SpooledUpload, found: { uploads: number; bytes: number; since: number }) {
    const own = files.filter(({ name }) => name === PROMISED || isGivenName(name));
    const isOld = own.length > 0 && own.every(({ modifiedAt }) => modifiedAt <= found.since);
    if (!isOld || (await this.options.store.get(id))) return;
    found.uploads += 1;
    found.bytes += own.reduce((sum, file) => sum + bytesOf(file), 0);
  }
}

/** The note of what was promised has no bytes of an upload. */
function bytesOf({ name, size }: SpooledChunk): number {
  return name === PROMISED ? 0 : size;
}
