import { join } from 'node:path';
import type { DirectorySync } from '../../disk/directory-sync.js';
import { readWhole, rename, writeWhole } from '../../disk/files.js';
import { hasCode, storageFault } from '../../disk/storage-fault.js';

/** More leases than one process will ever hand out. 9,000,000 starts fit into exact numbers. */
const TOKENS_PER_START = 1_000_000_000;

/**
 * Counts the starts of this data directory. Gives a token that is larger than every one handed out before, committed or not:
 * the name of a dead writer's chunk never comes again.
 */
export async function noteStart(directory: string, largestToken: number, names: DirectorySync): Promise<number> {
  const path = join(directory, 'last-start.json');
  try {
    const last = await readLast(path);
    const number = Math.max(last?.number ?? 0, Math.floor(largestToken / TOKENS_PER_START)) + 1;
    await writeWhole(`${path}.tmp`, Buffer.from(`${JSON.stringify({ number })}\n`), names.isDurable);
    await rename(`${path}.tmp`, path);
    await names.sync(directory);
    return number * TOKENS_PER_START + 1;
  } catch (error) {
    throw storageFault(error, 'the data directory cannot be written');
  }
}

async function readLast(path: string): Promise<{ readonly number?: number } | undefined> {
  try {
    return JSON.parse((await readWhole(path)).toString()) as { number?: number };
  } catch (error) {
    // Missing, or damaged: then nothing is known of the last start, and the largest token must do.
    if (hasCode(error, 'ENOENT') || (error as Error).name === 'SyntaxError') return undefined;
    throw error;
  }
}
