import { join } from 'node:path';
import { PeriodicTask } from '../../concurrency/periodic-task.js';
import { Turns } from '../../concurrency/turns.js';
import {
  close,
  hasCode,
  mkdir,
  open,
  readdir,
  readFully,
  rename,
  stat,
  storageFault,
  undefinedIfMissing,
  unlinkIfExists,
  withDraft,
  writeAll,
  writeFully,
} from '../../fs/files.js';
import { Fault } from '../../model/fault.js';
import type { StoryEntry } from '../../model/story.js';
import type { History, TaggedEntry } from '../history.js';
import { thinnedLines } from './history-lines.js';

export interface HistoryFilesOptions {
  /** The data directory, locked by this process; the files are below `history/` in it. */
  readonly directory: string;
  /** Entries are removed after this time. */
  readonly keepMs: number;
  /** The size of all files together. */
  readonly maxBytes: number;
  /** Milliseconds since the epoch, without jumps forward. */
  readonly clock: () => number;
  /** The bytes of the disk that nothing else may need. */
  readonly freeBytes: () => Promise<number>;
}

/** The bytes and the time that are kept are spread over this many files, and the oldest file is removed as a whole. */
const FILES = 8;

const NAME = /^stories-(\d{12})\.jsonl$/;
const DRAFT = /^stories-\d{12}\.jsonl\.tmp$/;

interface Segment {
  readonly number: number;
  readonly path: string;
  readonly startedAt: number;
  size: number;
  /** The time of its last entry. */
  newestAt: number;
  /** A crash or a failed write may have left a part of a line at its end. */
  mayBeTorn: boolean;
}

/**
 * The stories of all uploads in a few files in rotation: an entry is a line, and nothing is synced. A file that is full
 * is thinned, so that one upload with very many requests does not displace the stories of all others.
 * Reasons: docs/decisions/0043.
 */
export class HistoryFiles implements History {
  private readonly directory: string;
  private readonly pruning: PeriodicTask;
  /** All files, oldest first; the last one is written to. */
  private segments: Segment[] = [];
  private isLoaded = false;
  private tasks: Promise<unknown> = Promise.resolve();

  constructor(private readonly options: HistoryFilesOptions) {
    this.directory = join(options.directory, 'history');
    const everyMs = Math.min(Math.max(this.shareOfTime, 1000), 3_600_000);
    // A file that cannot be removed now is tried again.
    this.pruning = new PeriodicTask(() => this.inTurn(() => this.prune()).catch(() => undefined), everyMs);
    this.pruning.start();
  }

  append(entries: readonly TaggedEntry[]): Promise<void> {
    return this.inTurn(async () => {
      try {
        for (const bytes of batchesOf(entries, this.shareOfBytes))
          await this.write(await this.makeRoom(bytes.length), bytes);
      } catch (error) {
        // The files may have changed in any way.
        this.isLoaded = false;
        throw storageFault(error, 'the histories of uploads cannot be written');
      }
    });
  }

  /** Scans all files: operators seldom ask, and an index would have to be as large as what it finds. */
  read(tag: string): Promise<readonly StoryEntry[]> {
    return this.inTurn(async () => {
      await this.prune();
      const oldest = this.options.clock() - this.options.keepMs;
      const found: StoryEntry[] = [];
      const turns = new Turns();
      for (const { path } of this.segments) {
        const bytes = await undefinedIfMissing(readFully(path));
        for (const entry of bytes ? entriesIn(bytes, tag) : []) if (entry.at >= oldest) found.push(entry);
        if (turns.isOver) await turns.next();
      }
      return found;
    });
  }

  async close(): Promise<void> {
    await this.pruning.stop();
    await this.tasks;
  }

  private inTurn<T>(task: () => Promise<T>): Promise<T> {
    const done = this.tasks.then(task);
    this.tasks = done.catch(() => undefined);
    return done;
  }

  private get shareOfTime(): number {
    return this.options.keepMs / FILES;
  }

  private get shareOfBytes(): number {
    return Math.floor(this.options.maxBytes / FILES);
  }

  /** Finds the files of earlier processes. */
  private async load(): Promise<void> {
    if (this.isLoaded) return;
    const segments: Segment[] = [];
    for (const name of (await undefinedIfMissing(readdir(this.directory))) ?? []) {
      const path = join(this.directory, name);
      const [, number] = NAME.exec(name) ?? [];
      if (DRAFT.test(name)) await unlinkIfExists(path);
      if (number === undefined) continue;
      const { size, mtimeMs } = await stat(path);
      segments.push({ number: Number(number), path, size, startedAt: mtimeMs, newestAt: mtimeMs, mayBeTorn: true });
    }
    this.segments = segments.sort((a, b) => a.number - b.number);
    this.isLoaded = true;
  }

  /** Removes the files whose entries are all too old. */
  private async prune(): Promise<void> {
    await this.load();
    const oldest = this.options.clock() - this.options.keepMs;
    while (this.segments.length > 0 && this.segments[0]!.newestAt < oldest) await this.removeOldest();
  }

  /** Returns the file to append to, and removes the oldest ones as far as the bound demands it. */
  private async makeRoom(bytes: number): Promise<Segment> {
    await this.prune();
    const freeBytes = await this.options.freeBytes();
    if (bytes > freeBytes) throw new Fault('STORAGE_FULL', 'what is free on the disk is kept for uploads', true);
    const { maxBytes, clock } = this.options;
    const total = (): number => this.segments.reduce((sum, { size }) => sum + size, bytes + 1);
    while (this.segments.length > 1 && total() > maxBytes) await this.removeOldest();
    const newest = this.segments.at(-1);
    const isOld = newest && clock() - newest.startedAt > this.shareOfTime;
    if (newest && !isOld && newest.size + bytes < this.shareOfBytes) return newest;
    // A file that cannot be thinned now stays as it is: the next one is begun in any case.
    if (newest && newest.size < freeBytes) await this.thin(newest).catch(() => undefined);
    return this.makeSegment((newest?.number ?? 0) + 1);
  }

  private async makeSegment(number: number): Promise<Segment> {
    await mkdir(this.directory, 0o700).catch(ignoreExisting);
    const path = join(this.directory, `stories-${String(number).padStart(12, '0')}.jsonl`);
    const now = this.options.clock();
    const segment = { number, path, size: 0, startedAt: now, newestAt: now, mayBeTorn: false };
    this.segments.push(segment);
    return segment;
  }

  /** Opens the file for each write: an open file would keep its disk from being unmounted or made read-only. */
  private async write(segment: Segment, bytes: Uint8Array): Promise<void> {
    const lines = segment.mayBeTorn ? Buffer.concat([Buffer.from('\n'), bytes]) : bytes;
    const fd = await open(segment.path, 'a', 0o600);
    try {
      await writeAll(fd, lines, segment.size);
    } finally {
      await close(fd);
    }
    segment.size += lines.length;
    segment.newestAt = this.options.clock();
    segment.mayBeTorn = false;
  }

  private async removeOldest(): Promise<void> {
    await unlinkIfExists(this.segments[0]!.path);
    this.segments.shift();
  }

  private async thin(segment: Segment): Promise<void> {
    const bytes = await undefinedIfMissing(readFully(segment.path));
    const thinner = bytes && (await thinnedLines(bytes));
    if (!thinner) return;
    const draft = `${segment.path}.tmp`;
    await withDraft(draft, async () => {
      await writeFully(draft, thinner, false);
      await rename(draft, segment.path);
    });
    segment.size = thinner.length;
  }
}

function ignoreExisting(error: unknown): void {
  if (!hasCode(error, 'EEXIST')) throw error;
}

/** The tag comes first, so that lines are found without being parsed. */
function lineOf({ tag, entry }: TaggedEntry): string {
  return `${JSON.stringify({ tag, ...entry })}\n`;
}

/** The lines of the entries, together as far as they fit into one file. */
function batchesOf(entries: readonly TaggedEntry[], maxBytes: number): readonly Buffer[] {
  const batches: string[] = [''];
  for (const entry of entries) {
    const line = lineOf(entry);
    // A character has at most three bytes.
    if (3 * (batches.at(-1)!.length + line.length) > maxBytes) batches.push('');
    batches.push(batches.pop()! + line);
  }
  return batches.filter((batch) => batch !== '').map((batch) => Buffer.from(batch));
}

const NEWLINE = 10;

/** The entries of one upload; lines that are torn or damaged are left out. */
function* entriesIn(bytes: Buffer, tag: string): Generator<StoryEntry> {
  const start = Buffer.from(`{"tag":"${tag}",`);
  for (let at = bytes.indexOf(start); at !== -1; at = bytes.indexOf(start, at + 1)) {
    const end = bytes.indexOf(NEWLINE, at);
    if (end === -1) return;
    if (at > 0 && bytes[at - 1] !== NEWLINE) continue;
    const entry = parsed(bytes.toString('utf8', at, end));
    if (entry) yield entry;
  }
}

function parsed(line: string): StoryEntry | undefined {
  try {
    const entry = JSON.parse(line) as StoryEntry & { tag?: string };
    delete entry.tag;
    return typeof entry.at === 'number' && typeof entry.kind === 'string' ? entry : undefined;
  } catch {
    return undefined;
  }
}
