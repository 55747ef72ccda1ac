import { join } from 'node:path';
import { opendir, withReadRetries, stat, storageFault, undefinedIfMissing, unlinkIfExists } from '../../fs/files.js';
import type { LeftoverAge } from '../upload-store.js';
import { type RecordsDisk, splitFileName } from './load.js';

/** Damaged records are kept this long for the operator to look at; not forever, because they hold request headers. */
const KEEP_DAMAGED_MS = 7 * 24 * 3600 * 1000;

interface Sighting {
  readonly fingerprint: string;
  readonly sinceMs: number;
}

/** The records that `Leftovers` must not touch. */
interface KnownRecords {
  has(id: string): boolean;
}

/**
 * Removes files next to the records that belong to none: answers without a record, which may still be on its way from
 * a backup, and damaged records set aside a week ago. A copy keeps the time of a file, so each file must also be seen
 * unchanged for a while by this process.
 */
export class Leftovers {
  private sightings = new Map<string, Sighting>();

  constructor(
    private readonly disk: RecordsDisk,
    private readonly records: KnownRecords,
  ) {}

  /** Looks once at all files and returns the ids of the damaged records that were removed. */
  async clear(age: LeftoverAge): Promise<readonly string[]> {
    const earlierSightings = this.sightings;
    this.sightings = new Map();
    const removedIds: string[] = [];
    try {
      for await (const { name } of await withReadRetries(() => opendir(this.disk.directory))) {
        const [id, kind] = splitFileName(name);
        if ((kind !== 'answer' && kind !== 'damaged') || !(await this.isRemovable(name, earlierSightings, age)))
          continue;
        await unlinkIfExists(join(this.disk.directory, name));
        if (kind === 'damaged') removedIds.push(id);
      }
    } catch (error) {
      throw storageFault(error, 'leftover files next to the records cannot be removed');
    }
    return removedIds;
  }

  private async isRemovable(
    name: string,
    earlierSightings: ReadonlyMap<string, Sighting>,
    age: LeftoverAge,
  ): Promise<boolean> {
    const [id, kind] = splitFileName(name);
    if (kind === 'answer' && this.records.has(id)) return false;
    const stats = await undefinedIfMissing(stat(join(this.disk.directory, name)));
    if (!stats) return false;
    const { size, mtimeMs } = stats;
    const fingerprint = `${size} ${mtimeMs}`;
    const sighting = earlierSightings.get(name);
    const { sinceMs } = sighting?.fingerprint === fingerprint ? sighting : { sinceMs: age.elapsedMs };
    this.sightings.set(name, { fingerprint, sinceMs });
    const seenMs = age.elapsedMs - sinceMs;
    const keepMs = kind === 'damaged' ? KEEP_DAMAGED_MS : age.minAgeMs;
    // Old by its own time, or, in case a wrong clock set that, by how long this process has seen it.
    return seenMs >= age.minAgeMs && (age.now - mtimeMs >= keepMs || seenMs >= keepMs);
  }
}
