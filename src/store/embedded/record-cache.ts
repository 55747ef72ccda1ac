import type { RecordEntry } from './record-entry.js';

/**
 * The records in memory may have this many bytes on the disk. In memory a record takes about four times as much, and an
 * upload in use needs its record at each step.
 */
const MAX_BYTES = 8 * 1024 * 1024;

/** Counted for each record besides its bytes. */
const BYTES_PER_RECORD = 512;

/** At most so many records are looked at after a step, in case many of them must stay. */
const MAX_LOOKS = 8;

interface Cached {
  readonly entry: RecordEntry;
  bytes: number;
}

/** The records that are in memory. Those that were used last stay, as far as they fit. */
export class RecordCache {
  /** The one used last at the end. */
  private readonly cached = new Map<string, Cached>();
  private bytes = 0;

  constructor(private readonly maxBytes = MAX_BYTES) {}

  /** The record's entry, which counts as used. */
  get(id: string): RecordEntry | undefined {
    const found = this.cached.get(id);
    if (!found) return undefined;
    this.cached.delete(id);
    this.cached.set(id, found);
    return found.entry;
  }

  /** The record's entry, without using it. */
  peek(id: string): RecordEntry | undefined {
    return this.cached.get(id)?.entry;
  }

  /** Adds a record, or takes its new size. */
  put(id: string, entry: RecordEntry): void {
    this.delete(id);
    const bytes = entry.file.recordBytes + BYTES_PER_RECORD;
    this.cached.set(id, { entry, bytes });
    this.bytes += bytes;
  }

  delete(id: string): void {
    this.bytes -= this.cached.get(id)?.bytes ?? 0;
    this.cached.delete(id);
  }

  /** Has `drop` remove the records used longest ago until the others fit; it returns false for one that must stay. */
  shrink(drop: (id: string, entry: RecordEntry) => boolean): void {
    for (let looks = 0; this.bytes > this.maxBytes && looks < MAX_LOOKS; looks++) {
      const [id, { entry }] = this.cached.entries().next().value!;
      if (!drop(id, entry)) this.get(id);
    }
  }

  entries(): Iterable<RecordEntry> {
    return [...this.cached.values()].map(({ entry }) => entry);
  }
}
