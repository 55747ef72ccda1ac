import { readFileSync } from 'node:fs';

/** `getconf CLK_TCK` on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

/** CPU seconds a process has used so far, its ended children included; undefined where there is no /proc. */
export function cpuSeconds(pid: number): number | undefined {
  const stat = read(`/proc/${pid}/stat`);
  // The second field is the program's name in parentheses and may contain anything.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  if (!fields) return undefined;
  const [user, system, childrenUser, childrenSystem] = fields.slice(11, 15).map(Number);
  return (user! + system! + childrenUser! + childrenSystem!) / TICKS_PER_SECOND;
}

/** The same for a process and the children it has now. */
export function cpuSecondsOfAll(pid: number): number | undefined {
  const children = read(`/proc/${pid}/task/${pid}/children`)?.split(' ').filter(Boolean).map(Number) ?? [];
  const seconds = [pid, ...children].map(cpuSeconds).filter((known) => known !== undefined);
  return seconds.length === 0 ? undefined : seconds.reduce((sum, one) => sum + one, 0);
}

/** Resident memory in bytes, now and at its highest so far; undefined where there is no /proc. */
export function residentMemory(pid: number): { readonly now: number; readonly highest: number } | undefined {
  const status = read(`/proc/${pid}/status`);
  const kibibytes = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status!)?.[1]);
  return status === undefined ? undefined : { now: kibibytes('VmRSS') * 1024, highest: kibibytes('VmHWM') * 1024 };
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
