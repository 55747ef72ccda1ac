import { loadConfig, type ConfigSources } from '../config/load.js';
import { configSummary } from './config-summary.js';
import { printDoubts, printMistakes } from './print-mistakes.js';

/** Prints what would be served, and what is doubtful, and ends with 0, or prints every mistake and ends with 1. */
export function check(sources: ConfigSources): void {
  const loaded = loadConfig(sources);
  if ('mistakes' in loaded) {
    printMistakes(loaded.mistakes);
    process.exitCode = 1;
    return;
  }
  printDoubts(loaded.doubts);
  process.stdout.write(`ok\n${configSummary(loaded.config).join('\n')}\n`);
}
