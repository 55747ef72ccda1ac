import type { Log } from '../observe/log.js';
import { Fault } from '../model/fault.js';
import { isGivenName } from '../spool/chunk-name.js';
import { PROMISED, type Spool, type SpooledChunk } from '../spool/spool.js';
import type { Takeovers } from '../spool/takeovers.js';
import { isAway } from '../store/until-available.js';
import type { UploadStore } from '../store/upload-store.js';
import type { UnreadableBytes } from './unreadable-bytes.js';

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
        if (!isAway(error))
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
export function bytesIn(files: readonly SpooledChunk[]): number | undefined {
  const given = files.filter(({ name }) => isGivenName(name));
  if (given.length === 0 && !files.some(({ name }) => name === PROMISED)) return undefined;
  return given.reduce((sum, { size }) => sum + size, 0);
}
