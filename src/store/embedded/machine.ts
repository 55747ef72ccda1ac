import { readFile, readlink } from 'node:fs/promises';
import { uptime } from 'node:os';

/** Tells one run of the operating system from another; undefined where the system does not say. */
export async function bootId(): Promise<string | undefined> {
  return unlessMissing(readFile('/proc/sys/kernel/random/boot_id', 'utf8'));
}

/** Tells apart the spaces in which a process id means something: each container has its own. */
export async function pidNamespace(): Promise<string | undefined> {
  return unlessMissing(readlink('/proc/self/ns/pid'));
}

/**
 * When a process began, in ticks since the boot: with it a process id is never mistaken for a later process's. A zombie
 * has ended, although it can be seen until its parent looks after it.
 */
export async function processStart(pid: number): Promise<string | undefined> {
  const stat = await unlessMissing(readFile(`/proc/${pid}/stat`, 'utf8'));
  // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields && /[ZX]/.test(fields[0]!) ? 'ended' : fields?.[19];
}

/** Whatever keeps us from knowing leaves us not knowing. */
async function unlessMissing(reading: Promise<string>): Promise<string | undefined> {
  try {
    return (await reading).trim();
  } catch {
    return undefined;
  }
}

/** When this machine was started, by the clock of the wall as it is now: within a boot it changes only when that is set. */
export function bootedAt(): number {
  return Date.now() - Math.round(uptime() * 1000);
}
