import type { Row } from './bars.js';
import type { Contestant, Figures } from './contest.js';
import { type CpuTimes, cpuTimes, foreignShare, isDisturbed } from './disturbance.js';
import { spreadOf } from './statistics.js';

type Entrant = Extract<Contestant, { run: unknown }>;

interface Run {
  readonly figures: Figures;
  readonly isDisturbed: boolean;
}

export interface HowToHold {
  readonly rounds: number;
  /** See `Contest`. */
  readonly isFresh?: boolean;
  /** Brings the machine into the same state before every run; not measured. */
  readonly beforeRun?: () => Promise<void>;
}

/** Lets the contestants run in turn, A B A B …, so that a slow change of the machine meets all alike; a first round only warms up,
 * unless every run starts a process of its own.
 * A disturbed run is repeated, as often as there are rounds in the whole contest. */
export async function holdRounds(
  entrants: readonly Entrant[],
  { rounds, isFresh = false, beforeRun }: HowToHold,
  readTimes: () => CpuTimes = cpuTimes,
): Promise<Row[]> {
  const runs = entrants.map((): Run[] => []);
  const next = async (entrant: Entrant): Promise<Run> => {
    await beforeRun?.();
    return runOnce(entrant, readTimes);
  };
  let spare = rounds;
  for (let round = isFresh ? 0 : -1; round < rounds; round++)
    for (const [at, entrant] of entrants.entries()) {
      let run = await next(entrant);
      for (; round >= 0 && run.isDisturbed && spare > 0; spare--) run = await next(entrant);
      if (round >= 0) runs[at]!.push(run);
    }
  return entrants.map(({ name }, at) => rowOf(name, runs[at]!));
}

async function runOnce({ run }: Entrant, readTimes: () => CpuTimes): Promise<Run> {
  const before = readTimes();
  const figures = await run();
  return { figures, isDisturbed: isDisturbed(foreignShare(before, readTimes())) };
}

function rowOf(contestant: string, runs: readonly Run[]): Row {
  const keys = Object.keys(runs[0]!.figures);
  const spreads = keys.map((key) => [key, spreadOf(runs.map(({ figures }) => figures[key]!))]);
  const disturbedRuns = runs.filter((run) => run.isDisturbed).length;
  return { contestant, figures: Object.fromEntries(spreads) as Row['figures'], disturbedRuns };
}
