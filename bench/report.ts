import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Rows under headings; the first column is text, the others are figures. */
export interface Table {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
  readonly notes?: readonly string[];
}

const RESULTS = fileURLToPath(new URL('./results/', import.meta.url));

export function printTable(table: Table): void {
  const lines = [table.columns, ...table.rows];
  const widths = table.columns.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  const show = (line: readonly string[]): string =>
    line.map((cell, at) => (at === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[at]!))).join('   ');
  console.log(`\n${table.title}\n`);
  console.log(`  ${show(table.columns)}`);
  console.log(`  ${widths.map((width) => '─'.repeat(width)).join('   ')}`);
  for (const row of table.rows) console.log(`  ${show(row)}`);
  for (const note of table.notes ?? []) console.log(`  ${note}`);
}

/** Keeps the figures of one bench, with the machine they were made on. */
export function keepResult(bench: string, figures: object): void {
  mkdirSync(RESULTS, { recursive: true });
  const file = join(RESULTS, `${bench}.json`);
  writeFileSync(
    file,
    `${JSON.stringify({ bench, at: new Date().toISOString(), machine: machine(), ...figures }, null, 2)}\n`,
  );
  console.log(`  → bench/results/${bench}.json`);
}

/** Says what runs beside us: figures made on a busy machine mean little. */
export function printMachine(): void {
  const { node, cpu, cores, load } = machine();
  console.log(`Node ${node} on ${cores} × ${cpu}, load ${load.toFixed(2)}`);
  if (load > cores / 2) console.log('The machine is busy: compare ratios, not figures.');
}

/** Where figures were made. */
export interface Machine {
  readonly node: string;
  readonly commit: string | undefined;
  readonly kernel: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  /** Of the last minute. */
  readonly load: number;
}

export function machine(): Machine {
  return {
    node: process.version,
    commit: commit(),
    kernel: release(),
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryBytes: totalmem(),
    load: loadavg()[0] ?? 0,
  };
}

function commit(): string | undefined {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return undefined;
  }
}
