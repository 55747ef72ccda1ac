import type { RecordEntry } from './record-entry.js';

/** The size on the disk of the records that may be in memory, where a record takes up to four times as much. */
interface CacheLimits {
  /** The bytes of all records. */
  readonly bytes: number;
  /** The bytes as long as all of them are of records used in the last minute: each step of an upload needs its record. */
  readonly recentBytes: number;
}

const DEFAULT_LIMITS: CacheLimits = { bytes: 8 * 1024 * 1024, recentBytes: 16 * 1024 * 1024 };

const RECENT_MS = 60_000;

/** Counted for each record besides its bytes. */
const BYTES_PER_RECORD = 512;

/** At most so many records are looked at after a step, in case many of them must stay. */
const MAX_LOOKS = 8;

interface Cached {
  readonly entry: RecordEntry;
  readonly bytes: number;
  /** By the monotonic clock. */
  usedAt: number;
}

/** The records that are in memory. Those that were used last stay, as far as they fit. */
export class RecordCache {
  /** The one used last at the end. */
  private readonly cached = new Map<string, Cached>();
  private bytes = 0;

  constructor(
    private readonly limits = DEFAULT_LIMITS,
    private readonly monotonic = (): number => performance.now(),
  ) {}

  /** The record's entry, which counts as used. */
  get(id: string): RecordEntry | undefined {
    const found = this.cached.get(id);
    if (!found) return undefined;
    this.cached.delete(id);
    found.usedAt = this.monotonic();
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
    this.cached.set(id, { entry, bytes, usedAt: this.monotonic() });
    this.bytes += bytes;
  }

  delete(id: string): void {
    this.bytes -= this.cached.get(id)?.bytes ?? 0;
    this.cached.delete(id);
  }

  /**
   * Has `drop` remove the records used longest ago until the others fit; it returns false for one that must stay. Looks
   * at up to `maxLooks` records.
   */
  shrink(drop: (id: string, entry: RecordEntry) => boolean, maxLooks = MAX_LOOKS): void {
    for (let looks = 0; this.bytes > this.limits.bytes && looks < maxLooks; looks++) {
      const [id, { entry, usedAt }] = this.cached.entries().next().value!;
      if (this.bytes <= this.limits.recentBytes && this.monotonic() - usedAt < RECENT_MS) return;
      if (!drop(id, entry)) this.get(id);
    }
  }

  get size(): number {
    return this.cached.size;
  }

  entries(): Iterable<RecordEntry> {
    return [...this.cached.values()].map(({ entry }) => entry);
  }
}
