import { accessSync, constants, statSync } from 'node:fs';
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
    return statSync(directory, { throwIfNoEntry: false }) && unlessAllowed(directory);
  } catch (error) {
    return whyNotStarted(error, config);
  }
}

/** Why a directory that is not there could not be made by this user: the one who starts the proxy may be another. */
function whyNotMade({ data }: Config): string | undefined {
  if (statSync(data, { throwIfNoEntry: false })) return undefined;
  let above = dirname(data);
  while (!statSync(above, { throwIfNoEntry: false }) && above !== dirname(above)) above = dirname(above);
  const why = unlessAllowed(above);
  return why === undefined ? undefined : `${data} is not there, and cannot be made by this user: ${why}`;
}

function unlessAllowed(directory: string): string | undefined {
  try {
    accessSync(directory, constants.R_OK | constants.W_OK | constants.X_OK);
    return undefined;
  } catch (error) {
    return `${directory} cannot be written by this user (${(error as NodeJS.ErrnoException).code})`;
  }
}
