import { describeMistake, type Mistake } from '../config/mistake.js';

/** Tells on standard error what is doubtful, one a line. */
export function printDoubts(doubts: readonly Mistake[] = []): void {
  for (const doubt of doubts) process.stderr.write(`rufh-proxy: warning: ${describeMistake(doubt)}\n`);
}

/** Tells all mistakes on standard error, one a line. */
export function printMistakes(mistakes: readonly Mistake[]): void {
  const count = mistakes.length === 1 ? 'one mistake' : `${mistakes.length} mistakes`;
  process.stderr.write(`rufh-proxy: ${count} in the configuration\n`);
  for (const mistake of mistakes) process.stderr.write(`  ${describeMistake(mistake)}\n`);
}
