import { inOrder, type Stories, type StoryEntry, type StoryEvent, thinned } from '../model/story.js';
import type { History } from './history.js';

export interface StoryNotesOptions {
  readonly history: History;
  /** Returns the tag of an upload, under which its story is kept. */
  readonly tagOf: (id: string) => string;
  readonly clock: () => number;
  /** Called when entries could not be kept; `error` is missing when there were too many at a time. */
  readonly onDropped: (count: number, error?: unknown) => void;
  /** Entries are collected for this long; 50 ms by default. */
  readonly everyMs?: number;
  /** More entries than these do not wait; 10,000 by default. */
  readonly maxPending?: number;
}

/** The time for which entries of all uploads are collected, so that a small upload costs no write of its own. */
const EVERY_MS = 50;

/** About 3 MB: a disk that hangs must not fill the memory. */
const MAX_PENDING = 10_000;

interface PendingEntry {
  readonly id: string;
  readonly entry: StoryEntry;
}

/** Collects entries in memory and writes them in batches. An entry that cannot be written is dropped and counted. */
export class StoryNotes implements Stories {
  private pending: PendingEntry[] = [];
  private timer: NodeJS.Timeout | undefined;
  private writing: Promise<void> = Promise.resolve();

  constructor(private readonly options: StoryNotesOptions) {}

  note(id: string, event: StoryEvent, msAgo = 0): void {
    const { clock, onDropped, maxPending = MAX_PENDING, everyMs = EVERY_MS } = this.options;
    if (this.pending.length >= maxPending) return onDropped(1);
    this.pending.push({ id, entry: { at: Math.floor(clock() - msAgo), ...event } });
    this.timer ??= setTimeout(() => void this.flush(), everyMs).unref();
  }

  async read(tag: string): Promise<readonly StoryEntry[]> {
    await this.flush();
    return thinned(inOrder(await this.options.history.read(tag)));
  }

  /** Writes what was noted so far. Never rejects. */
  flush(): Promise<void> {
    clearTimeout(this.timer);
    this.writing = this.writing.then(() => this.write());
    return this.writing;
  }

  async close(): Promise<void> {
    await this.flush();
    await this.options.history.close();
  }

  private async write(): Promise<void> {
    const batch = this.pending;
    this.pending = [];
    this.timer = undefined;
    if (batch.length === 0) return;
    const { history, tagOf, onDropped } = this.options;
    try {
      await history.append(batch.map(({ id, entry }) => ({ tag: tagOf(id), entry })));
    } catch (error) {
      onDropped(batch.length, error);
    }
  }
}
