import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
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

/** All that one run of the bench has found. */
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
/** Of a run of all contests; the page is made from these. */
const ALL = 'contests';

/** Keeps the figures and a chart of a run; `isWhole` says that it held all contests. */
export function keepResults(results: Results, isWhole: boolean): void {
  const name = isWhole ? ALL : results.contests.map((one) => one.name).join('+');
  mkdirSync(DIRECTORY, { recursive: true });
  writeFileSync(join(DIRECTORY, `${name}.json`), `${JSON.stringify(results, null, 2)}\n`);
  writeFileSync(join(DIRECTORY, `${name}.svg`), chart(results.contests));
  console.log(`\n→ bench/results/${name}.json and .svg`);
}

/** Of the last run of all contests; throws when there was none. */
export function lastResults(): Results {
  return JSON.parse(readFileSync(join(DIRECTORY, `${ALL}.json`), 'utf8')) as Results;
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
