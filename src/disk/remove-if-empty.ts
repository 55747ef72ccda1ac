import { rmdir } from './files.js';
import { hasCode } from './storage-fault.js';

/** Removes a directory in which nothing is (any more). */
export async function removeIfEmpty(directory: string): Promise<void> {
  try {
    await rmdir(directory);
  } catch (error) {
    if (!hasCode(error, 'ENOENT', 'ENOTEMPTY', 'EEXIST', 'ENOTDIR')) throw error;
  }
}
