import { readFile, readlink } from 'node:fs/promises';
import { uptime } from 'node:os';
import { join } from 'node:path';
import type { DirectorySync } from '../../fs/directory-sync.js';
import { hasCode, readFully, rename, storageFault, writeFully } from '../../fs/files.js';
import type { Fault } from '../../model/fault.js';

/** Tells one run of the operating system from another; undefined where the system does not say. */
export async function bootId(): Promise<string | undefined> {
  return readIfPossible(readFile('/proc/sys/kernel/random/boot_id', 'utf8'));
}

/** Tells apart the spaces in which a process id means something: each container has its own. */
export async function pidNamespace(): Promise<string | undefined> {
  return readIfPossible(readlink('/proc/self/ns/pid'));
}

/**
 * When a process began, in ticks since the boot: with it a process id is never mistaken for a later process's. A zombie
 * has ended, although it can be seen until its parent looks after it.
 */
export async function processStart(pid: number): Promise<string | undefined> {
  const stat = await readIfPossible(readFile(`/proc/${pid}/stat`, 'utf8'));
  // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields && /[ZX]/.test(fields[0]!) ? 'ended' : fields?.[19];
}

/** Whatever keeps us from knowing leaves us not knowing. */
async function readIfPossible(reading: Promise<string>): Promise<string | undefined> {
  try {
    return (await reading).trim();
  } catch {
    return undefined;
  }
}

/** When this machine was started, by the clock of the wall as it is now: within a boot it changes only when that is set. */
export function bootedAt(): number {
  return Date.now() - Math.round(uptime() * 1000);
}

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
    private readonly directorySync: DirectorySync,
  ) {}

  /** `largestToken`: of all records, in case the file is lost. Fails when the disk does, but not for want of room. */
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

  /** Writes it down, unless that is done: to be fulfilled before a token is given. */
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
    // Missing, or damaged: then nothing is known of the last start, and the largest token must do.
    if (hasCode(error, 'ENOENT') || (error as Error).name === 'SyntaxError') return undefined;
    throw storageFault(error, 'the data directory cannot be read');
  }
}
