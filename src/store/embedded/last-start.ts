import { readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { DirectorySync } from '../../disk/directory-sync.js';
import { writeWhole } from '../../disk/files.js';
import { hasCode, storageFault } from '../../disk/storage-fault.js';
import { bootId } from './machine.js';

/** More leases than one process will ever hand out. 9,000,000 starts fit into exact numbers. */
const TOKENS_PER_START = 1_000_000_000;

export interface Start {
  /** Larger than every token handed out before, committed or not: a dead writer's chunk name never comes again. */
  readonly firstToken: number;
  /** The machine has kept running since the last start, so what a killed process wrote is still there. */
  readonly sameBoot: boolean;
}

/** Counts the starts of this data directory, and remembers under which boot of the machine the last one was. */
export async function noteStart(directory: string, largestToken: number, names: DirectorySync): Promise<Start> {
  const path = join(directory, 'last-start.json');
  try {
    const last = await readLast(path);
    const boot = await bootId();
    const number = Math.max(last?.number ?? 0, Math.floor(largestToken / TOKENS_PER_START)) + 1;
    await writeWhole(`${path}.tmp`, Buffer.from(`${JSON.stringify({ number, boot })}\n`), names.isDurable);
    await rename(`${path}.tmp`, path);
    await names.sync(directory);
    return { firstToken: number * TOKENS_PER_START + 1, sameBoot: boot !== undefined && boot === last?.boot };
  } catch (error) {
    throw storageFault(error, 'the data directory cannot be written');
  }
}

async function readLast(path: string): Promise<{ readonly number?: number; readonly boot?: string } | undefined> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as { number?: number; boot?: string };
  } catch (error) {
    // Missing, or damaged: then nothing is known of the last start, and the largest token must do.
    if (hasCode(error, 'ENOENT') || (error as Error).name === 'SyntaxError') return undefined;
    throw error;
  }
}
