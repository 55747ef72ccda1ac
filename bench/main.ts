// Measures the built proxy: contests with other servers, and what concerns ours alone. `npm run bench -- --help` tells more.
import { judge } from './bars.js';
import type { Contest, Contestant } from './contest.js';
import { CONTESTS } from './contests.js';
import { type MeasurementName, parsePlan, type Plan, usage } from './plan.js';
import { knownPeers } from './peers.js';
import { descendantsOf } from './process-figures.js';
import { machine, printMachine, printTable } from './report.js';
import { barsTable, isGood, keepResults, printResult, type Result } from './results.js';
import { readyMemory } from './free-memory.js';
import { holdRounds } from './rounds.js';
import { withBench } from './workbench.js';

/** Each is loaded when it is asked for. */
const MEASURE: Record<MeasurementName, (plan: Plan) => Promise<void>> = {
  takeover: async (plan) => (await import('./takeover.js')).benchTakeover(plan),
  memory: async (plan) => (await import('./memory.js')).benchMemory(plan),
  rolling: async (plan) => (await import('./rolling.js')).benchRolling(plan),
  nodes: async (plan) => (await import('./nodes.js')).benchNodes(plan),
  'round-trips': async (plan) => (await import('./round-trips.js')).benchRoundTrips(plan),
  neighbour: async (plan) => (await import('./neighbour.js')).benchNeighbour(plan),
};

async function main(): Promise<number> {
  const names = CONTESTS.map(({ name }) => name);
  let plan: Plan | undefined;
  try {
    plan = parsePlan(process.argv.slice(2), names);
  } catch (error) {
    console.error(`${(error as Error).message}\n${usage(names)}`);
    return 2;
  }
  if (!plan) {
    console.log(usage(names));
    return 0;
  }
  try {
    if (plan.isForDocs) await (await import('./docs-page.js')).writeDocs();
    else return await run(plan);
    return 0;
  } catch (error) {
    console.error(`\n${error instanceof Error ? error.message : String(error)}`);
    return 1;
  }
}

async function run(plan: Plan): Promise<number> {
  const startedAt = performance.now();
  printMachine();
  const held = { isQuick: plan.isQuick, rounds: plan.rounds, machine: machine() };
  for (const name of plan.measurements) await MEASURE[name](plan);
  const contests: Result[] = [];
  for (const contest of CONTESTS.filter(({ name }) => plan.contests.includes(name))) {
    const result = await hold(contest, plan);
    printResult(result);
    contests.push(result);
    // After each, so that a run that is ended early leaves what it has found.
    keepResults({ ...held, at: new Date().toISOString(), peers: await knownPeers(), contests });
  }
  if (contests.length === 0) return 0;
  printTable(barsTable(contests));
  console.log(`Took ${((performance.now() - startedAt) / 60_000).toFixed(1)} min.`);
  return isGood(contests) ? 0 : 1;
}

/** One that fails does not keep the others from being held. */
async function hold({ prepare, ...contest }: Contest, plan: Plan): Promise<Result> {
  const startedAt = performance.now();
  const seconds = (): number => (performance.now() - startedAt) / 1000;
  const { name, title, method, figures, bars } = contest;
  const common = { name, title, method, figures };
  console.log(`\n${name}: ${title} …`);
  try {
    return await withBench(plan, async (bench) => {
      const contestants = await prepare(bench);
      const directory = await bench.directory();
      const readyBytes = contest.readyBytes?.(bench) ?? 0;
      const rows = await holdRounds(contestants.filter(isHere), {
        rounds: plan.rounds,
        isFresh: contest.isFresh,
        beforeRun: () => readyMemory(directory, readyBytes),
      });
      const judgements = bars.map((bar) => judge(bar, rows));
      const missing = contestants.flatMap((one) =>
        'missing' in one ? [{ contestant: one.name, reason: one.missing }] : [],
      );
      return { ...common, rows, missing, judgements, seconds: seconds() };
    });
  } catch (error) {
    const failure = error instanceof Error ? error.message : String(error);
    return { ...common, rows: [], missing: [], judgements: [], seconds: seconds(), failure };
  }
}

function isHere(contestant: Contestant): contestant is Extract<Contestant, { run: unknown }> {
  return 'run' in contestant;
}

/** Servers and clients do not outlive a bench that is ended from outside. */
function endAll(): void {
  for (const pid of descendantsOf(process.pid)) process.kill(pid, 'SIGKILL');
  process.exit(1);
}

process.once('SIGINT', endAll).once('SIGTERM', endAll);
process.exitCode = await main();
