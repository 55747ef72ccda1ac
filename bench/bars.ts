import type { Bar, Figure } from './contest.js';
import type { Spread } from './statistics.js';

/** A contestant's figures over all counted rounds. */
export interface Row {
  readonly contestant: string;
  readonly figures: Readonly<Record<string, Spread>>;
  /** Runs that others disturbed although they were repeated. */
  readonly disturbedRuns: number;
}

export interface Judgement {
  readonly bar: Bar;
  /** Ours, as a multiple of the peer's where the bar names one. */
  readonly reached?: number;
  readonly verdict: 'held' | 'missed' | 'not judged';
}

/** Compares the medians; a bar whose peer, or whose own figure, is not there is not judged. */
export function judge(bar: Bar, rows: readonly Row[]): Judgement {
  const ours = medianOf(rows, bar.contestant, bar.figure);
  const theirs = bar.peer === undefined ? 1 : medianOf(rows, bar.peer, bar.figure);
  const reached = ours === undefined || theirs === undefined ? Number.NaN : ours / theirs;
  if (!Number.isFinite(reached)) return { bar, verdict: 'not judged' };
  const isHeld = bar.is === 'at most' ? reached <= bar.value : reached >= bar.value;
  return { bar, reached, verdict: isHeld ? 'held' : 'missed' };
}

/** "rufh-proxy, spool: wall s at most 1.0 × nginx" */
export function barText(bar: Bar, figures: readonly Figure[]): string {
  const label = figures.find(({ key }) => key === bar.figure)?.label ?? bar.figure;
  const limit = bar.peer === undefined ? `${bar.value}` : `${bar.value.toFixed(2)} × ${bar.peer}`;
  return `${bar.contestant}: ${label} ${bar.is} ${limit}`;
}

export function atMost(contestant: string, figure: string, value: number, peer?: string): Bar {
  return { contestant, figure, is: 'at most', value, peer };
}

export function atLeast(contestant: string, figure: string, value: number, peer?: string): Bar {
  return { contestant, figure, is: 'at least', value, peer };
}

function medianOf(rows: readonly Row[], contestant: string, figure: string): number | undefined {
  return rows.find((row) => row.contestant === contestant)?.figures[figure]?.median;
}
