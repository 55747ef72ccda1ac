import type { Log } from '../observe/log.js';
import type { SpooledChunk } from '../spool/spool.js';
import { bytesIn, type UnknownUploads } from './unknown-bytes.js';

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
