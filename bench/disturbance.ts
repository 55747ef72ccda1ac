import { availableParallelism } from 'node:os';
import { cpuSeconds, kernelCpuSeconds, machineCpuSeconds } from './process-figures.js';

/** A run in which others use more than this share of the machine is repeated. */
const DISTURBED_SHARE = 0.05;

/** CPU seconds at one moment. */
export interface CpuTimes {
  readonly atSeconds: number;
  readonly machine: number;
  /** Of the bench and all that it has started. */
  readonly contest: number;
  /** Of the kernel's threads: they write what the contest has written. */
  readonly kernel: number;
}

/** Reads all of them; NaN where there is no /proc. */
export function cpuTimes(): CpuTimes {
  return {
    atSeconds: performance.now() / 1000,
    machine: machineCpuSeconds(),
    contest: cpuSeconds(process.pid),
    kernel: kernelCpuSeconds(),
  };
}

/** The share of the machine between two moments that was used by nobody in the contest; 0 where it is unknown. */
export function foreignShare(before: CpuTimes, after: CpuTimes, cores = availableParallelism()): number {
  const used = (key: 'machine' | 'contest' | 'kernel'): number => after[key] - before[key];
  const share = (used('machine') - used('contest') - used('kernel')) / ((after.atSeconds - before.atSeconds) * cores);
  return Number.isFinite(share) ? Math.max(0, share) : 0;
}

export function isDisturbed(share: number): boolean {
  return share > DISTURBED_SHARE;
}
