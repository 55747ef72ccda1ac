import { accessSync, constants, statfsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Config } from '../config/config.js';
import { loadConfig, misplaced, type ConfigSources } from '../config/load.js';
import { assertUsable } from '../storage.js';
import { configSummary } from './config-summary.js';
import { printDoubts, printMistakes } from './print-mistakes.js';
import { whyNotStarted } from './why-not-started.js';

/** Prints what would be served, and what is doubtful, and ends with 0, or prints every mistake and ends with 1. */
export async function check(sources: ConfigSources): Promise<void> {
  const loaded = loadConfig(sources);
  if ('mistakes' in loaded) {
    printMistakes(loaded.mistakes);
    printDoubts(loaded.doubts);
    process.exitCode = 1;
    return;
  }
  const { config, doubts = [] } = loaded;
  const unusable = await whyUnusable(config);
  if (unusable !== undefined) {
    printMistakes([misplaced(sources, ['data'], unusable)]);
    process.exitCode = 1;
  }
  const missing = unusable === undefined ? whyNotMade(config) : undefined;
  printDoubts([...doubts, ...(missing === undefined ? [] : [misplaced(sources, ['data'], missing)])]);
  if (unusable === undefined) process.stdout.write(`ok\n${configSummary(config).join('\n')}\n`);
}

/** Why a start would refuse the data directory; nothing of it is changed. */
async function whyUnusable(config: Config): Promise<string | undefined> {
  const { data: directory, store, spool } = config;
  try {
    await assertUsable({ directory, store: store.type, shared: spool.shared });
    if (statSync(directory, { throwIfNoEntry: false })) return unlessAllowed(directory);
    const above = existingAbove(directory);
    return KERNEL_FILE_SYSTEMS.has(statfsSync(above).type)
      ? `${directory} is not there, and cannot be made: ${above} shows what the kernel knows and keeps no files; choose another --data`
      : undefined;
  } catch (error) {
    return whyNotStarted(error, config);
  }
}

/** Why a directory that is not there could not be made by this user: the one who starts the proxy may be another. */
function whyNotMade({ data }: Config): string | undefined {
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
