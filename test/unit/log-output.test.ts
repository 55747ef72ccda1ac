import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { temporaryDirectory, type TemporaryDirectory, within } from '../support/temporary.js';

const ALL_SAID = 'all are said\n';
const PROGRAM = join(import.meta.dirname, '../support/log-program.ts');

let child: ChildProcess;
let disk: TemporaryDirectory;
beforeEach(async () => {
  disk = await temporaryDirectory();
});
afterEach(async () => {
  child.kill('SIGKILL');
  await disk.remove();
});

/** The program, with its output in a pipe or in a file. */
function run(lines: number, output: 'pipe' | number = 'pipe'): ChildProcess {
  child = spawn(process.execPath, ['--import', 'tsx', PROGRAM, `${lines}`], { stdio: ['pipe', output, 'pipe'] });
  // A failure of its own is to be seen.
  child.stderr!.on('data', (said: Buffer) => said.toString() === ALL_SAID || process.stderr.write(said));
  return child;
}

/** Tells it to end. Gives its exit code. */
async function end(program: ChildProcess): Promise<number | null> {
  const exited = once(program, 'exit') as Promise<[number | null]>;
  program.stdin!.end();
  return (await within(exited, 'the program to end'))[0];
}

interface Line {
  readonly msg: string;
  readonly number?: number;
}

/** One line after the other; fails with the first that is not whole. */
async function* linesOf(output: Readable): AsyncGenerator<Line> {
  for await (const line of createInterface({ input: output })) yield JSON.parse(line) as Line;
}

/** What a program has printed by its end, which is when somebody reads it. */
async function allOf(program: ChildProcess): Promise<Line[]> {
  const lines: Line[] = [];
  for await (const line of linesOf(program.stdout!)) lines.push(line);
  return lines;
}

const numbered = (from: number, to: number): unknown[] =>
  Array.from({ length: to - from }, (_, at) => expect.objectContaining({ msg: 'line', number: from + at }));

test('a reader that has left does not keep the process from ending', async () => {
  const program = run(0);
  await linesOf(program.stdout!).next();
  program.stdout!.destroy();
  expect(await end(program)).toBe(0);
});

test('a reader that stands still does not keep the process from ending', async () => {
  const program = run(1000);
  await once(program.stdout!, 'readable');
  expect(await end(program)).toBe(0);
});

test('a reader that is slower than the lines gets all of them, whole and in their order', async () => {
  const program = run(3000);
  const all = allOf(program);
  expect(await end(program)).toBe(0);
  const [first, ...lines] = await all;
  expect([first?.msg, ...lines.slice(-2).map(({ msg }) => msg)]).toEqual(['first', 'ending', 'last']);
  expect(lines.slice(0, -2)).toEqual(numbered(0, 3000));
});

test('of more than anybody wants to keep the first are kept, whole', async () => {
  const program = run(20_000);
  // Nobody reads before all are said, or who is quick enough would see them all.
  await once(program.stderr!, 'data');
  const lines: Line[] = [];
  for await (const line of linesOf(program.stdout!)) {
    lines.push(line);
    // The rest of what it kept, and no more.
    if (line.number === 8000) program.stdin!.end();
  }
  expect(lines.length).toBeGreaterThan(8000);
  expect(lines.length).toBeLessThan(10_000);
  expect(lines.at(-1)?.msg).toBe('last');
  expect(lines.slice(1, -2)).toEqual(numbered(0, lines.length - 3));
});

test('a file is added to', async () => {
  const path = join(disk.path, 'log');
  writeFileSync(path, 'of before\n');
  const file = openSync(path, 'a');
  const code = await end(run(50, file));
  closeSync(file);
  const [before, first, ...lines] = readFileSync(path, 'utf8').trimEnd().split('\n');
  expect([code, before, (JSON.parse(first!) as Line).msg]).toEqual([0, 'of before', 'first']);
  const parsed = lines.map((line) => JSON.parse(line) as Line);
  expect(parsed.slice(0, -2)).toEqual(numbered(0, 50));
  expect(parsed.at(-1)?.msg).toBe('last');
});
