import fs from 'node:fs';
import { promisify } from 'node:util';

/** Bare descriptors: a FileHandle costs a fifth more per call and its streams far more per chunk. */
export const open = promisify(fs.open) as (path: string, flags: string, mode?: number) => Promise<number>;
export const close = promisify(fs.close);
export const fsync = promisify(fs.fsync);
export const fdatasync = promisify(fs.fdatasync);
export const ftruncate = promisify(fs.ftruncate) as (fd: number, size: number) => Promise<void>;
export const fstat = promisify(fs.fstat) as (fd: number) => Promise<fs.Stats>;

/** Writes all of it at the position, however many calls the system makes of it. */
export async function writeAll(fd: number, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await write(fd, bytes, at, position + at);
}

/** Makes or replaces a file that is for the owner alone, and syncs its bytes where they must survive a power cut. */
export async function writeWhole(path: string, bytes: Uint8Array, durable: boolean): Promise<void> {
  const fd = await open(path, 'w', 0o600);
  try {
    await writeAll(fd, bytes, 0);
    if (durable) await fdatasync(fd);
  } finally {
    await close(fd);
  }
}

function write(fd: number, bytes: Uint8Array, at: number, position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.write(fd, bytes, at, bytes.length - at, position, (error, written) => {
      if (error) reject(error);
      else resolve(written);
    });
  });
}
