import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';

const PIECE = Buffer.alloc(1024 ** 2, 'rufh-proxy ');

/**
 * Makes the kernel have this much free memory that it can use at once. A virtual machine may return free memory to its
 * host, and the first use of a page then costs ten times as much as writing to it: whoever runs after a pause would pay
 * for it, and whoever runs after another has deleted a file would not.
 */
export async function readyMemory(directory: string, bytes: number): Promise<void> {
  if (bytes === 0) return;
  const path = join(directory, 'ready');
  const file = await open(path, 'w');
  try {
    for (let at = 0; at < bytes; at += PIECE.length) await file.write(PIECE, 0, PIECE.length, at);
  } finally {
    await file.close();
    await rm(path);
  }
}
