import { join } from 'node:path';
import { opendir, patiently, stat, unlinkIfThere } from '../../disk/files.js';
import { storageFault, unlessMissing } from '../../disk/storage-fault.js';
import type { OldAge, SetAside } from '../upload-store.js';
import { type Entry, nameParts, type RecordsDisk } from './load.js';

/** A record nobody can read is kept this long for people to look at: it holds request headers, so not for ever. */
const KEEP_DAMAGED_MS = 7 * 24 * 3600 * 1000;

interface Sight {
  readonly as: string;
  readonly since: number;
}

/** What the records know of a name. */
export interface KnownRecords {
  entry(id: string): Entry | undefined;
  aside(id: string): SetAside | undefined;
}

/**
 * Files beside the records that belong to none: answers whose record is not there, which may still be on its way from a
 * backup, and records that were set aside as damaged a week ago. The time of a file proves nothing, because a copy keeps it:
 * each has to be seen unchanged for a while that really passed.
 */
export class Leftovers {
  private seen = new Map<string, Sight>();

  constructor(
    private readonly disk: RecordsDisk,
    private readonly known: KnownRecords,
  ) {}

  /** One look at all files. Gives the ids of damaged records that are gone. */
  async clear(age: OldAge): Promise<readonly string[]> {
    const before = this.seen;
    this.seen = new Map();
    const gone: string[] = [];
    try {
      for await (const { name } of await patiently(() => opendir(this.disk.directory))) {
        const [id, kind] = nameParts(name);
        if ((kind !== 'answer' && kind !== 'damaged') || !(await this.isOver(name, before, age))) continue;
        await unlinkIfThere(join(this.disk.directory, name));
        if (kind === 'damaged') gone.push(id);
      }
    } catch (error) {
      throw storageFault(error, 'what is left beside the records cannot be cleared away');
    }
    return gone;
  }

  private async isOver(name: string, before: ReadonlyMap<string, Sight>, age: OldAge): Promise<boolean> {
    const [id, kind] = nameParts(name);
    const { known } = this;
    const isWithRecord = known.entry(id) !== undefined || known.aside(id) !== undefined;
    if (kind === 'answer' && isWithRecord) return false;
    const found = await unlessMissing(stat(join(this.disk.directory, name)));
    if (!found) return false;
    const { size, mtimeMs } = found;
    const as = `${size} ${mtimeMs}`;
    const sight = before.get(name);
    const { since } = sight?.as === as ? sight : { since: age.passedMs };
    this.seen.set(name, { as, since });
    const seenMs = age.passedMs - since;
    const keepMs = kind === 'damaged' ? KEEP_DAMAGED_MS : age.leastMs;
    // By its own time, or, where a clock was wrong when it got that, because this process has seen it for so long.
    return seenMs >= age.leastMs && (age.now - mtimeMs >= keepMs || seenMs >= keepMs);
  }
}
