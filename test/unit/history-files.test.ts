import { appendFileSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import type { StoryEntry } from '../../src/model/story.js';
import { HistoryFiles } from '../../src/store/embedded/history-files.js';
import type { TaggedEntry } from '../../src/store/history.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

const DAY = 86_400_000;
const ONE = '3f0c9a17be';
const OTHER = '0123456789';

let directory: TemporaryDirectory;
let opened: HistoryFiles[];
let now: number;
let freeBytes: number;

beforeEach(async () => {
  directory = await temporaryDirectory();
  opened = [];
  now = Date.now();
  freeBytes = Infinity;
});
afterEach(async () => {
  useFileSystem();
  await Promise.all(opened.map((history) => history.close()));
  await directory.remove();
});

function open({ maxBytes = 1024 * 1024, keepMs = 7 * DAY } = {}): HistoryFiles {
  const options = { directory: directory.path, keepMs, maxBytes, clock: () => now };
  const history = new HistoryFiles({ ...options, freeBytes: () => Promise.resolve(freeBytes) });
  opened.push(history);
  return history;
}

const entry = (count: number): StoryEntry => ({ kind: 'retry', afterMs: count, at: now });
const tagged = (tag: string, ...counts: number[]): TaggedEntry[] =>
  counts.map((count) => ({ tag, entry: entry(count) }));
const files = (): string[] => readdirSync(join(directory.path, 'history')).sort();
const pathOf = (name: string): string => join(directory.path, 'history', name);
const totalBytes = (): number => files().reduce((sum, name) => sum + statSync(pathOf(name)).size, 0);

async function countsOf(history: HistoryFiles, tag: string): Promise<number[]> {
  return (await history.read(tag)).map((each) => (each.kind === 'retry' ? each.afterMs : -1));
}

describe('the history', () => {
  test('gives each upload its own entries, in their order, also after a restart', async () => {
    const history = open();
    await history.append([...tagged(ONE, 1, 2), ...tagged(OTHER, 3)]);
    await history.append(tagged(ONE, 4));
    expect(await history.read(ONE)).toEqual([entry(1), entry(2), entry(4)]);
    await history.close();
    const again = open();
    await again.append(tagged(ONE, 5));
    expect(await countsOf(again, ONE)).toEqual([1, 2, 4, 5]);
    expect(await countsOf(again, OTHER)).toEqual([3]);
    expect(files()).toEqual(['stories-000000000001.jsonl']);
  });

  test('of an upload that is not in it is empty, also without any files', async () => {
    expect(await open().read(ONE)).toEqual([]);
  });

  test('is unaffected by a torn last line, and by lines that look like others', async () => {
    const history = open();
    await history.append([
      { tag: ONE, entry: { kind: 'end', phase: 'invalid', problem: `{"tag":"${OTHER}",`, at: now } },
    ]);
    await history.append(tagged(OTHER, 1));
    await history.close();
    const [name] = files();
    appendFileSync(pathOf(name!), `{"tag":"${OTHER}","at":1,"kin`);
    const again = open();
    expect(await countsOf(again, OTHER)).toEqual([1]);
    await again.append(tagged(OTHER, 2));
    expect(await countsOf(again, OTHER)).toEqual([1, 2]);
  });

  test('never takes more than its bound, and loses its oldest entries first', async () => {
    const maxBytes = 64 * 1024;
    const history = open({ maxBytes });
    const tags = Array.from({ length: 400 }, (_, count) => String(count).padStart(10, '0'));
    for (const tag of tags) {
      await history.append(tagged(tag, 1, 2, 3, 4, 5));
      expect(totalBytes()).toBeLessThanOrEqual(maxBytes);
    }
    expect(files().length).toBeGreaterThan(2);
    expect(await countsOf(history, tags.at(-1)!)).toEqual([1, 2, 3, 4, 5]);
    expect(await countsOf(history, tags[0]!)).toEqual([]);
  });

  test('keeps the story of one upload beside another with very many entries', async () => {
    const history = open({ maxBytes: 1024 * 1024 });
    await history.append(tagged(ONE, 1, 2));
    for (let count = 0; count < 30_000; count += 100)
      await history.append(tagged(OTHER, ...Array.from({ length: 100 }, (_, more) => count + more)));
    expect(await countsOf(history, ONE)).toEqual([1, 2]);
    const counts = await countsOf(history, OTHER);
    expect(counts.slice(0, 20)).toEqual(Array.from({ length: 20 }, (_, count) => count));
    expect(counts.at(-1)).toBe(29_999);
    const found = await history.read(OTHER);
    const all = found.reduce((sum, each) => sum + (each.kind === 'left-out' ? each.count : 1), 0);
    expect([all, counts.length < 10_000]).toEqual([30_000, true]);
  });

  test('forgets what is older than it keeps', async () => {
    const history = open();
    await history.append(tagged(ONE, 1));
    now += 5 * DAY;
    await history.append(tagged(ONE, 2));
    expect(files().length).toBe(2);
    now += 3 * DAY;
    expect(await countsOf(history, ONE)).toEqual([2]);
    expect(files().length).toBe(1);
    now += 5 * DAY;
    expect(await history.read(ONE)).toEqual([]);
    expect(files()).toEqual([]);
  });

  test('takes no space that is kept for uploads', async () => {
    const history = open();
    freeBytes = 10;
    await expect(history.append(tagged(ONE, 1))).rejects.toMatchObject({ code: 'STORAGE_FULL' });
    freeBytes = Infinity;
    await history.append(tagged(ONE, 2));
    expect(await countsOf(history, ONE)).toEqual([2]);
  });

  test('goes on after a write that failed in the middle of a line', async () => {
    const history = open();
    await history.append(tagged(ONE, 1));
    const torn = Buffer.from(`{"tag":"${ONE}","at`);
    useFileSystem({
      ...nodeFileSystem,
      write: async (fd, _bytes, position) => {
        await nodeFileSystem.write(fd, torn, position);
        throw Object.assign(new Error('EIO'), { code: 'EIO', syscall: 'write', errno: -5 });
      },
    });
    await expect(history.append(tagged(ONE, 2))).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    useFileSystem();
    await history.append(tagged(ONE, 3));
    expect(await countsOf(history, ONE)).toEqual([1, 3]);
  });

  test('goes on where a full file cannot be thinned', async () => {
    const history = open();
    useFileSystem({
      ...nodeFileSystem,
      open: (path, flags, mode) =>
        path.endsWith('.tmp')
          ? Promise.reject(Object.assign(new Error('ENOSPC'), { code: 'ENOSPC', syscall: 'open', errno: -28 }))
          : nodeFileSystem.open(path, flags, mode),
    });
    let count = 0;
    do await history.append(tagged(ONE, ...Array.from({ length: 100 }, () => ++count)));
    while (files().length < 2 && count < 10_000);
    expect(files()).toHaveLength(2);
    expect(count).toBeGreaterThan(100);
  });

  test('syncs nothing, and a batch is one write', async () => {
    const history = open();
    await history.append(tagged(ONE, 1));
    const calls: string[] = [];
    const noted = Object.entries(nodeFileSystem).map(([name, call]) => [
      name,
      (...args: unknown[]) => {
        calls.push(name);
        return (call as (...all: unknown[]) => unknown)(...args);
      },
    ]);
    useFileSystem(Object.fromEntries(noted) as typeof nodeFileSystem);
    await history.append([...tagged(ONE, 2, 3), ...tagged(OTHER, 4)]);
    expect(calls).toEqual(['open', 'write', 'close']);
  });

  test('leaves other files alone, and removes its drafts', async () => {
    const history = open();
    await history.append(tagged(ONE, 1));
    await history.close();
    writeFileSync(pathOf('notes.txt'), 'mine');
    writeFileSync(pathOf('stories-000000000001.jsonl.tmp'), 'half');
    expect(await countsOf(open(), ONE)).toEqual([1]);
    expect(files()).toEqual(['notes.txt', 'stories-000000000001.jsonl']);
    expect(readFileSync(pathOf('notes.txt'), 'utf8')).toBe('mine');
  });
});
