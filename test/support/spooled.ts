import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { until } from './temporary.js';

/** How many bytes of an upload have reached the proxy's disk, committed or not. */
export async function spooledBytes(data: string, id: string): Promise<number> {
  const directory = join(data, 'spool', id);
  const names = (await readdir(directory).catch(() => [])).filter((name) => /^(chunk|whole)-/.test(name));
  // Files that go while we look are gone.
  const sizes = await Promise.all(names.map((name) => stat(join(directory, name)).catch(() => ({ size: 0 }))));
  return sizes.reduce((sum, { size }) => sum + size, 0);
}

/** Waits until that many have. */
export async function untilSpooled(data: string, location: string, bytes: number): Promise<void> {
  const id = new URL(location).pathname.split('/').at(-1)!;
  let last = 0;
  await until(
    async () => (last = await spooledBytes(data, id)) >= bytes,
    () => `${bytes} bytes in the spool (${last})`,
  );
}
