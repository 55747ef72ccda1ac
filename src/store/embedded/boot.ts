import { readFile, readlink } from 'node:fs/promises';
import { uptime } from 'node:os';
import { join } from 'node:path';
import type { DirectorySync } from '../../fs/directory-sync.js';
import { hasCode, readFully, rename, storageFault, writeFully } from '../../fs/files.js';
import type { Fault } from '../../model/fault.js';

/** The id of the current boot of the operating system; undefined if the system has none. */
export async function bootId(): Promise<string | undefined> {
  return readIfPossible(readFile('/proc/sys/kernel/random/boot_id', 'utf8'));
}

/** The namespace in which this process's id is valid: each container has its own. Undefined if the system has none. */
export async function pidNamespace(): Promise<string | undefined> {
  return readIfPossible(readlink('/proc/self/ns/pid'));
}

/**
 * The start of a process in ticks since boot, which distinguishes it from a later process with the same id. `ended` for
 * a zombie, which stays visible until its parent collects it.
 */
export async function processStart(pid: number): Promise<string | undefined> {
  const stat = await readIfPossible(readFile(`/proc/${pid}/stat`, 'utf8'));
  // The second field is the program's name in parentheses and may contain spaces and parentheses.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields && /[ZX]/.test(fields[0]!) ? 'ended' : fields?.[19];
}

/** The trimmed text, or undefined if it cannot be read for any reason. */
async function readIfPossible(reading: Promise<string>): Promise<string | undefined> {
  try {
    return (await reading).trim();
  } catch {
    return undefined;
  }
}

/** The start time of this machine, by the current wall clock; within a boot it changes only when the clock is set. */
export function bootedAt(): number {
  return Date.now() - Math.round(uptime() * 1000);
}

/** More leases than one process ever hands out; exact numbers allow 9,000,000 starts. */
const TOKENS_PER_START = 1_000_000_000;

/**
 * Counts the starts of a data directory. The tokens of a start are larger than all earlier ones, committed or not, so
 * that the name of a dead writer's chunk is never used again. No token is given before the start is recorded, which a
 * full disk can delay.
 * Reasons: docs/decisions/0006.
 */
export class StartNumber {
  private isOnDisk = false;

  private constructor(
    private readonly path: string,
    private readonly number: number,
    private readonly directory: string,
    private readonly directorySync: DirectorySync,
  ) {}

  /**
   * `largestToken`: the largest token in all records, in case the file is lost. Rejects when the disk fails, but not
   * when it is full.
   */
  static async open(directory: string, largestToken: number, directorySync: DirectorySync): Promise<StartNumber> {
    const path = join(directory, 'last-start.json');
    const last = await readLastStart(path);
    const number = Math.max(last?.number ?? 0, Math.floor(largestToken / TOKENS_PER_START)) + 1;
    const start = new StartNumber(path, number, directory, directorySync);
    await start.persist().catch((fault: unknown) => {
      if ((fault as Fault).code !== 'STORAGE_FULL') throw fault;
    });
    return start;
  }

  get isPersisted(): boolean {
    return this.isOnDisk;
  }

  get firstToken(): number {
    return this.number * TOKENS_PER_START + 1;
  }

  /** Records the start unless that is done; must resolve before a token is given. */
  async persist(): Promise<void> {
    if (this.isOnDisk) return;
    const { path, number, directory, directorySync } = this;
    const since = directorySync.failures;
    try {
      await writeFully(`${path}.tmp`, Buffer.from(`${JSON.stringify({ number })}\n`), directorySync.isDurable);
      await rename(`${path}.tmp`, path);
      await directorySync.sync(directory, since);
    } catch (error) {
      throw storageFault(error, 'the data directory cannot be written');
    }
    this.isOnDisk = true;
  }
}

async function readLastStart(path: string): Promise<{ readonly number?: number } | undefined> {
  try {
    return JSON.parse((await readFully(path)).toString()) as { number?: number };
  } catch (error) {
    // A missing or damaged file says nothing of the last start, so the largest token decides.
    if (hasCode(error, 'ENOENT') || (error as Error).name === 'SyntaxError') return undefined;
    throw storageFault(error, 'the data directory cannot be read');
  }
}
