import type { StoryEntry } from '../model/story.js';

/** An entry with the tag of its upload. */
export interface TaggedEntry {
  readonly tag: string;
  readonly entry: StoryEntry;
}

/** Keeps the stories of uploads for a while, within a bound. */
export interface History {
  /** Appends entries, and rejects if some of them may be missing. Never called twice at the same time. */
  append(entries: readonly TaggedEntry[]): Promise<void>;
  /** The entries of one upload, in the order in which they were written. */
  read(tag: string): Promise<readonly StoryEntry[]>;
  close(): Promise<void>;
}
