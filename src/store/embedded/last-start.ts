import { join } from 'node:path';
import type { DirectorySync } from '../../disk/directory-sync.js';
import { readWhole, rename, writeWhole } from '../../disk/files.js';
import { hasCode, storageFault } from '../../disk/storage-fault.js';
import type { Fault } from '../../model/fault.js';

/** More leases than one process will ever hand out. 9,000,000 starts fit into exact numbers. */
const TOKENS_PER_START = 1_000_000_000;

/**
 * Counts the starts of a data directory. The tokens of a start are larger than every one handed out before, committed or not:
 * the name of a dead writer's chunk never comes again. None is given before the start is noted, which a full disk can put off.
 */
export class StartNumber {
  private isOnDisk = false;

  private constructor(
    private readonly path: string,
    private readonly number: number,
    private readonly directory: string,
    private readonly names: DirectorySync,
  ) {}

  /** `largestToken`: of all records, in case the file is lost. Fails when the disk does, but not for want of room. */
  static async open(directory: string, largestToken: number, names: DirectorySync): Promise<StartNumber> {
    const path = join(directory, 'last-start.json');
    const last = await readLast(path);
    const number = Math.max(last?.number ?? 0, Math.floor(largestToken / TOKENS_PER_START)) + 1;
    const start = new StartNumber(path, number, directory, names);
    await start.note().catch((fault: unknown) => {
      if ((fault as Fault).code !== 'STORAGE_FULL') throw fault;
    });
    return start;
  }

  get isNoted(): boolean {
    return this.isOnDisk;
  }

  get firstToken(): number {
    return this.number * TOKENS_PER_START + 1;
  }

  /** Writes it down, unless that is done: to be fulfilled before a token is given. */
  async note(): Promise<void> {
    if (this.isOnDisk) return;
    const { path, number, directory, names } = this;
    const since = names.failures;
    try {
      await writeWhole(`${path}.tmp`, Buffer.from(`${JSON.stringify({ number })}\n`), names.isDurable);
      await rename(`${path}.tmp`, path);
      await names.sync(directory, since);
    } catch (error) {
      throw storageFault(error, 'the data directory cannot be written');
    }
    this.isOnDisk = true;
  }
}

async function readLast(path: string): Promise<{ readonly number?: number } | undefined> {
  try {
    return JSON.parse((await readWhole(path)).toString()) as { number?: number };
  } catch (error) {
    // Missing, or damaged: then nothing is known of the last start, and the largest token must do.
    if (hasCode(error, 'ENOENT') || (error as Error).name === 'SyntaxError') return undefined;
    throw storageFault(error, 'the data directory cannot be read');
  }
}
