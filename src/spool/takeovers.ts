import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { DirectorySync } from '../disk/directory-sync.js';
import { removeDrafts, withDraft } from '../disk/drafts.js';
import { opendir, patiently, readdir, readText, rename, stat, unlinkIfThere, writeWhole } from '../disk/files.js';
import { removeIfEmpty } from '../disk/remove-if-empty.js';
import { isGivenId } from '../disk/safe-name.js';
import { storageFault, unlessMissing } from '../disk/storage-fault.js';

/** The notes about takeovers, in the spool: each has the name of the store that took it over, and lists what was there. */
const NOTES = '.taken-over';
const DRAFT = /^\.draft-/;

/** What earlier stores have left in a spool when others took it over. */
export interface Takeovers {
  /** The uploads that were there, whether the present store knows them or not. */
  readonly ids: ReadonlySet<string>;
  /** The time of the first of them. */
  readonly since: number;
  /** The names of the notes that say so. */
  readonly notes: readonly string[];
}

/**
 * Lists durably what is in the spool at this moment, since the store of this id takes it over from one that was lost. The
 * list of one takeover is made once, and is a file of its own: nobody who forgets an earlier one removes it.
 */
export function noteTakeover(directory: string, storeId: string): Promise<void> {
  return failing(directory, async () => {
    const spool = join(directory, 'spool');
    const notes = join(spool, NOTES);
    const names = new DirectorySync('group');
    const known = await unlessMissing(readdir(notes));
    if (!known?.includes(storeId)) {
      const ids = await uploadsIn(spool);
      if (ids.length === 0) return;
      await names.make(notes);
      await removeDrafts(notes, DRAFT);
      await writeNote(notes, storeId, ids);
    }
    try {
      // The process that has made it may have been killed before it synced its name.
      await names.sync(notes);
      await names.sync(spool);
    } catch (error) {
      // The next try must not take a name for durable whose sync has failed.
      await unlinkIfThere(join(notes, storeId)).catch(() => undefined);
      await removeIfEmpty(notes).catch(() => undefined);
      throw error;
    }
  });
}

/** Undefined when the spool was not taken over, or nothing of an earlier store is left in it. */
export function readTakeovers(directory: string): Promise<Takeovers | undefined> {
  return failing(directory, async () => {
    const path = join(directory, 'spool', NOTES);
    const ids = new Set<string>();
    const notes: string[] = [];
    let since = Infinity;
    for (const name of (await unlessMissing(readdir(path))) ?? []) {
      const text = DRAFT.test(name) ? undefined : await unlessMissing(readText(join(path, name)));
      if (text === undefined) continue;
      const found = await unlessMissing(stat(join(path, name)));
      for (const id of text.split('\n')) if (isGivenId(id)) ids.add(id);
      notes.push(name);
      since = Math.min(since, found?.mtimeMs ?? since);
    }
    return notes.length === 0 ? undefined : { ids, since, notes };
  });
}

/** Removes the notes that were read, and none that was made since. */
export function forgetTakeovers(directory: string, { notes }: Takeovers): Promise<void> {
  return failing(directory, async () => {
    const path = join(directory, 'spool', NOTES);
    for (const name of notes) await unlinkIfThere(join(path, name));
    await removeIfEmpty(path);
  });
}

async function writeNote(notes: string, name: string, ids: readonly string[]): Promise<void> {
  const draft = join(notes, `.draft-${randomUUID()}`);
  await withDraft(draft, async () => {
    await writeWhole(draft, Buffer.from(`${ids.join('\n')}\n`), true);
    await rename(draft, join(notes, name));
  });
}

async function uploadsIn(spool: string): Promise<string[]> {
  const ids: string[] = [];
  for await (const entry of await patiently(() => opendir(spool)))
    if (entry.isDirectory() && isGivenId(entry.name)) ids.push(entry.name);
  return ids;
}

async function failing<T>(directory: string, task: () => Promise<T>): Promise<T> {
  try {
    return await task();
  } catch (error) {
    throw storageFault(error, `the takeover of the spool in ${directory} cannot be noted or read`);
  }
}
