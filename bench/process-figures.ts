import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';

/** `getconf CLK_TCK` on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

/** Other systems than Linux have none. */
const hasProc = existsSync('/proc/self/stat');

/** The process whose children are the threads of the kernel. */
const KTHREADD = 2;

/** CPU seconds of a process, its descendants and their ended children so far; NaN where there is no /proc. */
export function cpuSeconds(pid: number): number {
  const own = ownCpuSeconds(pid);
  return childrenOf(pid).reduce((sum, child) => sum + (cpuSeconds(child) || 0), own);
}

/** CPU seconds of the machine that processes and the kernel's threads have used, and that other machines have taken. */
export function machineCpuSeconds(): number {
  const line = read('/proc/stat')?.split('\n')[0];
  return line === undefined ? Number.NaN : busySeconds(line);
}

/** CPU seconds of the first line of /proc/stat. Interrupts are left out: no process is charged for them. */
export function busySeconds(line: string): number {
  const [user, nice, system, , , , , steal] = line.trim().split(/\s+/).slice(1).map(Number);
  return (user! + nice! + system! + (steal ?? 0)) / TICKS_PER_SECOND;
}

/** CPU seconds of the kernel's threads so far, such as those that write to the disk. */
export function kernelCpuSeconds(): number {
  if (!hasProc) return Number.NaN;
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids
    .filter((pid) => statFields(Number(pid))?.[1] === `${KTHREADD}`)
    .reduce((sum, pid) => sum + (ownCpuSeconds(Number(pid)) || 0), 0);
}

/** Resident memory in bytes of a process and its descendants, now and at its highest; undefined where there is no /proc. */
export function residentMemory(pid: number): { readonly now: number; readonly highest: number } | undefined {
  const status = read(`/proc/${pid}/status`);
  if (status === undefined) return undefined;
  const bytes = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1]) * 1024;
  const all = [
    { now: bytes('VmRSS'), highest: bytes('VmHWM') },
    ...childrenOf(pid).flatMap((c) => residentMemory(c) ?? []),
  ];
  return {
    now: all.reduce((sum, one) => sum + one.now, 0),
    highest: all.reduce((sum, one) => sum + one.highest, 0),
  };
}

/** Makes the highest resident memory of a process begin anew at what it is now (proc(5), clear_refs). */
export function forgetHighestMemory(pid: number): void {
  if (!hasProc) return;
  for (const one of [pid, ...childrenOf(pid)]) writeFileSync(`/proc/${one}/clear_refs`, '5');
}

/** All processes that a process has started and that still run, and theirs. */
export function descendantsOf(pid: number): number[] {
  return childrenOf(pid).flatMap((child) => [child, ...descendantsOf(child)]);
}

function ownCpuSeconds(pid: number): number {
  const fields = statFields(pid);
  if (!fields) return Number.NaN;
  const [user, system, childrenUser, childrenSystem] = fields.slice(11, 15).map(Number);
  return (user! + system! + childrenUser! + childrenSystem!) / TICKS_PER_SECOND;
}

/** From the third field on: the second is the program's name in parentheses and may contain anything. */
function statFields(pid: number): string[] | undefined {
  const stat = read(`/proc/${pid}/stat`);
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
}

function childrenOf(pid: number): number[] {
  return read(`/proc/${pid}/task/${pid}/children`)?.split(' ').filter(Boolean).map(Number) ?? [];
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
