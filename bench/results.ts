import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { barText, type Judgement, type Row } from './bars.js';
import { chart } from './chart.js';
import type { Figure } from './contest.js';
import { type Machine, printTable, type Table } from './report.js';
import type { Spread } from './statistics.js';

/** What came of one contest. */
export interface Result {
  readonly name: string;
  readonly title: string;
  readonly method: string;
  readonly figures: readonly Figure[];
  readonly rows: readonly Row[];
  readonly missing: readonly { readonly contestant: string; readonly reason: string }[];
  readonly judgements: readonly Judgement[];
  /** Of the whole contest. */
  readonly seconds: number;
  /** Why it was not held to its end. */
  readonly failure?: string;
}

/** Everything that the bench has found on one machine and commit. */
export interface Results {
  readonly at: string;
  readonly isQuick: boolean;
  readonly rounds: number;
  readonly machine: Machine;
  /** Versions by the names of the peers, or why they are missing. */
  readonly peers: Readonly<Record<string, string>>;
  readonly contests: readonly Result[];
}

const DIRECTORY = fileURLToPath(new URL('./results/', import.meta.url));
/** The page is made from these. */
const NAME = 'contests';

/**
 * Keeps the figures and a chart. Contests of an earlier run stay beside them if they were held in the same way, on the
 * same machine and commit, so that all of them need not be held in one go.
 */
export function keepResults(results: Results): void {
  const all = mergeResults(keptResults(), results);
  mkdirSync(DIRECTORY, { recursive: true });
  writeFileSync(join(DIRECTORY, `${NAME}.json`), `${JSON.stringify(all, null, 2)}\n`);
  writeFileSync(join(DIRECTORY, `${NAME}.svg`), chart(all.contests));
}

/** The newer results, with those contests of the older ones that they lack; of an incomparable run none are taken. */
export function mergeResults(older: Results | undefined, newer: Results): Results {
  if (!older || wayOf(older) !== wayOf(newer)) return newer;
  const contests = new Map([...older.contests, ...newer.contests].map((one) => [one.name, one]));
  return { ...newer, peers: { ...older.peers, ...newer.peers }, contests: [...contests.values()] };
}

/** How a run was held: the figures of two runs stand beside each other only where this is equal. */
function wayOf({ isQuick, rounds, machine }: Results): string {
  return JSON.stringify({ isQuick, rounds, machine: { ...machine, load: undefined } });
}

function keptResults(): Results | undefined {
  const file = join(DIRECTORY, `${NAME}.json`);
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Results) : undefined;
}

/** Those of the last runs; throws when there are none. */
export function lastResults(): Results {
  const kept = keptResults();
  if (!kept) throw new Error('there are no results yet: run `npm run bench` first');
  return kept;
}

/** The table of one contest: medians with their least and greatest. */
export function contestTable({ title, figures, rows, missing, judgements, failure }: Result): Table {
  return {
    title,
    columns: ['', ...figures.map(({ label }) => label), 'disturbed runs'],
    rows: rows.map(({ contestant, figures: found, disturbedRuns }) => [
      contestant,
      ...figures.map(({ key, digits }) => spreadText(found[key], digits)),
      `${disturbedRuns}`,
    ]),
    notes: [
      ...missing.map(({ contestant, reason }) => `${contestant}: ${reason}`),
      ...judgements.map((one) => `${verdictOf(one)} ${barText(one.bar, figures)}`),
      ...(failure === undefined ? [] : [`FAILED: ${failure}`]),
    ],
  };
}

/** The table of all bars. */
export function barsTable(contests: readonly Result[]): Table {
  return {
    title: 'Bars',
    columns: ['', 'bar', 'reached', ''],
    rows: contests.flatMap(({ name, figures, judgements }) =>
      judgements.map((one) => [name, barText(one.bar, figures), reachedText(one), one.verdict]),
    ),
  };
}

export function printResult(result: Result): void {
  printTable(contestTable(result));
  console.log(`  ${(result.seconds / 60).toFixed(1)} min`);
}

/** Whether the run is a success: nothing failed, and no bar is missed. */
export function isGood(contests: readonly Result[]): boolean {
  return contests.every(
    ({ failure, judgements }) => failure === undefined && judgements.every(({ verdict }) => verdict !== 'missed'),
  );
}

function verdictOf(judgement: Judgement): string {
  return `${judgement.verdict.toUpperCase()} (${reachedText(judgement)})`;
}

function reachedText({ bar, reached }: Judgement): string {
  if (reached === undefined) return '–';
  return bar.peer === undefined ? reached.toPrecision(3) : `${reached.toFixed(2)} ×`;
}

function spreadText(spread: Spread | undefined, digits: number): string {
  if (!spread) return '–';
  const { median, min, max } = spread;
  return `${median.toFixed(digits)} (${min.toFixed(digits)}–${max.toFixed(digits)})`;
}
