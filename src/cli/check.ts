import { accessSync, constants, statfsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Config } from '../config/config.js';
import { loadConfig, loadRight, misplaced, withMistake, type ConfigSources, type Right } from '../config/load.js';
import type { Mistake } from '../config/mistake.js';
import { assertUsable } from '../storage.js';
import { configSummary } from './config-summary.js';
import { printDoubts, printMistakes } from './print-mistakes.js';
import { whyNotStarted } from './why-not-started.js';

/** Prints what would be served, and what is doubtful, and ends with 0, or prints every mistake and ends with 1. */
export async function check(sources: ConfigSources): Promise<void> {
  const loaded = loadConfig(sources);
  const { doubts = [] } = loaded;
  const directory = 'mistakes' in loaded ? directoryBeside(loadRight(sources)) : loaded.config;
  const unusable = directory && (await whyUnusable(directory));
  const missing = directory && unusable === undefined ? whyNotMade(directory) : undefined;
  const atData = (problem: string): Mistake => misplaced(sources, ['data'], problem);
  const told = 'mistakes' in loaded ? loaded.mistakes : [];
  const mistakes = unusable === undefined ? told : withMistake(told, atData(unusable));
  if (mistakes.length > 0) {
    printMistakes(mistakes);
    process.exitCode = 1;
  }
  printDoubts([...doubts, ...(missing === undefined ? [] : [atData(missing)])]);
  if (mistakes.length === 0 && 'config' in loaded)
    process.stdout.write(`ok\n${configSummary(loaded.config).join('\n')}\n`);
}

/** The data directory, and what decides whether a start may use it; without a store its rights alone are looked at. */
type Directory = Pick<Config, 'data' | 'admin'> & Partial<Pick<Config, 'store' | 'spool'>>;

/** As far as it is known beside mistakes. */
function directoryBeside(right: Right | undefined): Directory | undefined {
  if (!right || right.isWrong('data')) return undefined;
  const { data, admin, store, spool } = right.config;
  return right.isWrong('store') || right.isWrong('spool') ? { data, admin } : { data, admin, store, spool };
}

/** Why a start would refuse the data directory; nothing of it is changed. */
async function whyUnusable(config: Directory): Promise<string | undefined> {
  const { data: directory, store, spool } = config;
  try {
    if (store && spool) await assertUsable({ directory, store: store.type, shared: spool.shared });
    if (statSync(directory, { throwIfNoEntry: false })) return unlessAllowed(directory);
    const above = existingAbove(directory);
    // Newer versions of Node do not tell a path below a file from one that is not there.
    if (!statSync(above).isDirectory())
      return `${directory} cannot be made: ${above} is not a directory; choose another --data`;
    return KERNEL_FILE_SYSTEMS.has(statfsSync(above).type)
      ? `${directory} is not there, and cannot be made: ${above} shows what the kernel knows and keeps no files; choose another --data`
      : undefined;
  } catch (error) {
    return whyNotStarted(error, config);
  }
}

/** Why a directory that is not there could not be made by this user: the one who starts the proxy may be another. */
function whyNotMade({ data }: Directory): string | undefined {
  if (statSync(data, { throwIfNoEntry: false })) return undefined;
  const why = unlessAllowed(existingAbove(data));
  return why === undefined ? undefined : `${data} is not there, and cannot be made by this user: ${why}`;
}

/** proc, sysfs, cgroup and cgroup2 (statfs(2)): what root may write by their rights, they refuse all the same. */
const KERNEL_FILE_SYSTEMS: ReadonlySet<number> = new Set([0x9fa0, 0x62656572, 0x27e0eb, 0x63677270]);

/** The directory in which the first missing part of a path would be made. */
function existingAbove(directory: string): string {
  const above = dirname(directory);
  return statSync(above, { throwIfNoEntry: false }) || above === dirname(above) ? above : existingAbove(above);
}

function unlessAllowed(directory: string): string | undefined {
  try {
    accessSync(directory, constants.R_OK | constants.W_OK | constants.X_OK);
    return undefined;
  } catch (error) {
    return `${directory} cannot be written by this user (${(error as NodeJS.ErrnoException).code})`;
  }
}
