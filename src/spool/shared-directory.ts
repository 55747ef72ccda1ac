import { join } from 'node:path';
import { DirectorySync } from '../disk/directory-sync.js';
import { withDraft } from '../disk/drafts.js';
import {
  close,
  fsync,
  mkdir,
  open,
  readdir,
  readText,
  readWhole,
  removeTree,
  rename,
  stat,
  writeAll,
  writeWhole,
} from '../disk/files.js';
import { hasCode, isNoRoom } from '../disk/storage-fault.js';
import { Fault } from '../model/fault.js';

/** Says whose spool this is; in the spool itself, so that an empty mount point is not taken for it. */
export const IDENTITY = '.store';

const PROBE = Buffer.alloc(128 * 1024, 'rufh');

/**
 * Tries out what a directory must do that many machines write to; fails with what it does not do, and where. `unique`: no
 * other node tries it out under this name.
 */
export async function assertShareable(directory: string, unique: string): Promise<void> {
  const place = join(directory, `.probe-${unique}`);
  const file = join(place, 'new');
  try {
    await step(directory, 'a directory can be made', () => makeIn(directory, place));
    await step(directory, 'a new file is refused to the second who makes it', () => assertExclusive(file));
    await step(directory, 'bytes are there for the next who opens the file', () => assertReadBack(file));
    await step(directory, 'names can be changed and made durable', () => assertRenames(place, file));
  } finally {
    // What cannot be removed is in nobody's way.
    await removeTree(place).catch(() => undefined);
  }
}

/** As `assertShareable`; gives false where the disk has no room to try it out, which says nothing of what it does. */
export async function isShareable(directory: string, unique: string): Promise<boolean> {
  try {
    await assertShareable(directory, unique);
    return true;
  } catch (error) {
    if (!isNoRoom((error as Error).cause)) throw error;
    return false;
  }
}

/** The id of the store whose spool it is; undefined: of none yet, or it is not mounted. */
export async function spoolMark(directory: string): Promise<string | undefined> {
  return (await named(directory, () => noteIn(directory))) || undefined;
}

/** Where it is written whose spool this is. */
export function markPath(directory: string): string {
  return join(directory, 'spool', IDENTITY);
}

/** From now on it belongs to the store of this id. Harmless when several nodes say so at once. */
export function noteSpoolIdentity(directory: string, storeId: string, unique: string): Promise<void> {
  return named(directory, () => noteIdentity(join(directory, 'spool'), storeId, unique));
}

/** The same of any directory, which is made where it is missing. */
export async function noteIdentity(root: string, storeId: string, unique: string): Promise<void> {
  const names = new DirectorySync('group');
  const written = join(root, `${IDENTITY}-${unique}`);
  await names.make(root);
  await withDraft(written, async () => {
    await writeWhole(written, Buffer.from(`${storeId}\n`), true);
    await rename(written, join(root, IDENTITY));
    await names.sync(root);
  });
}

/** Since when it belongs to the store it belongs to; undefined: to none yet. */
export function spoolIdentitySince(directory: string): Promise<number | undefined> {
  return named(directory, () => timeOf(markPath(directory)));
}

async function timeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).mtimeMs;
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    return undefined;
  }
}

async function noteIn(directory: string): Promise<string | undefined> {
  try {
    return (await readText(markPath(directory))).trim();
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    return undefined;
  }
}

async function makeIn(directory: string, place: string): Promise<void> {
  await new DirectorySync('group').make(directory);
  await mkdir(place, 0o700);
}

async function assertExclusive(file: string): Promise<void> {
  const first = await open(file, 'wx', 0o600);
  try {
    await assertRefused(file);
  } finally {
    await close(first);
  }
  await assertRefused(file);
}

async function assertRefused(file: string): Promise<void> {
  try {
    await close(await open(file, 'wx', 0o600));
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return;
    throw error;
  }
  throw new Error('two could make the same file');
}

async function assertReadBack(file: string): Promise<void> {
  const fd = await open(file, 'r+');
  try {
    await writeAll(fd, PROBE, 0);
    await fsync(fd);
  } finally {
    await close(fd);
  }
  if (!(await readWhole(file)).equals(PROBE)) throw new Error('what was read is not what was written');
}

async function assertRenames(place: string, file: string): Promise<void> {
  const renamed = join(place, 'renamed');
  await writeWhole(renamed, Buffer.from('old'), true);
  await rename(file, renamed);
  await new DirectorySync('group').sync(place);
  const names = await readdir(place);
  if (names.join() !== 'renamed') throw new Error(`the directory lists ${names.join(', ') || 'nothing'}`);
  if (!(await readWhole(renamed)).equals(PROBE)) throw new Error('the file under the new name is another one');
}

async function step(directory: string, what: string, task: () => Promise<unknown>): Promise<void> {
  await named(
    directory,
    task,
    `, but spool.shared needs a directory where ${what}; mount one that does, or set it to false`,
  );
}

/** The operator reads this at the start: it names the directory, which is no secret. */
async function named<T>(directory: string, task: () => Promise<T>, needed = ''): Promise<T> {
  try {
    return await task();
  } catch (error) {
    throw new Fault('STORAGE_UNAVAILABLE', `${directory}: ${(error as Error).message}${needed}`, false, {
      cause: error,
    });
  }
}
