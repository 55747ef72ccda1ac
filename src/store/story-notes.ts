import { setTimeout as sleep } from 'node:timers/promises';
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
  /** At the end, what was noted last has this long to be written; 2 s by default. */
  readonly closeMs?: number;
}

/** The time for which entries of all uploads are collected, so that a small upload costs no write of its own. */
const EVERY_MS = 50;

/** About 3 MB: a disk that hangs must not fill the memory. */
const MAX_PENDING = 10_000;

/** A disk that hangs must not hold up the end of the process. */
const CLOSE_MS = 2000;

interface PendingEntry {
  readonly id: string;
  readonly entry: StoryEntry;
}

/** Collects entries in memory and writes them in batches. An entry that cannot be written is dropped and counted. */
export class StoryNotes implements Stories {
  private pending: PendingEntry[] = [];
  private timer: NodeJS.Timeout | undefined;
  private isClosed = false;
  private writing: Promise<void> = Promise.resolve();

  constructor(private readonly options: StoryNotesOptions) {}

  note(id: string, event: StoryEvent, msAgo = 0): void {
    const { clock, onDropped, maxPending = MAX_PENDING, everyMs = EVERY_MS } = this.options;
    // The directory may belong to another process by then.
    if (this.isClosed) return;
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

  /** Writes what was noted last, if that does not take too long. */
  async close(): Promise<void> {
    this.isClosed = true;
    const waiting = new AbortController();
    const late = sleep(this.options.closeMs ?? CLOSE_MS, undefined, { signal: waiting.signal }).catch(() => undefined);
    await Promise.race([this.flush().then(() => this.options.history.close()), late]);
    waiting.abort();
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
