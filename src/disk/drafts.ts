import { join } from 'node:path';
import { lstat, readdir, unlink, unlinkIfThere } from './files.js';

/** Nobody takes so long to give a draft its name. */
const OLD_MS = 3_600_000;

/** Makes a file by way of a draft, of which nothing is left. A disk that does not remove it leaves that to `removeDrafts`. */
export async function withDraft<T>(draft: string, make: () => Promise<T>): Promise<T> {
  try {
    return await make();
  } finally {
    await unlinkIfThere(draft).catch(() => undefined);
  }
}

/**
 * Removes the drafts of processes that were killed, or whose disk failed: those that are too old to be anybody's now, or
 * all of them where the directory is this process's alone.
 */
export async function removeDrafts(
  directory: string,
  isDraft: RegExp,
  { isOthersToo = true }: { readonly isOthersToo?: boolean } = {},
): Promise<void> {
  try {
    for (const name of await readdir(directory)) {
      if (!isDraft.test(name)) continue;
      const found = await lstat(join(directory, name));
      const isDead = !isOthersToo || Date.now() - found.mtimeMs > OLD_MS;
      if (found.isFile() && isDead) await unlink(join(directory, name));
    }
  } catch {
    // They are in nobody's way, and the next start tries again.
  }
}
