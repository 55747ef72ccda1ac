import { hasCode } from '../disk/storage-fault.js';

/**
 * What is found in a file; undefined when there certainly is none. An NFS client remembers for a while that a name was not
 * there, which another node may have made since: what is missing is looked for again after `refresh`.
 */
export async function lookTwice<T>(look: () => Promise<T>, refresh: () => Promise<void>): Promise<T | undefined> {
  const first = await unlessMissing(look);
  if (first) return first.found;
  await refresh();
  return (await unlessMissing(look))?.found;
}

async function unlessMissing<T>(look: () => Promise<T>): Promise<{ readonly found: T } | undefined> {
  try {
    return { found: await look() };
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    return undefined;
  }
}
