// Measures the built proxy. Every bench prints a table and writes its figures to bench/results/.
import { benchEager } from './eager.js';
import { benchMemory } from './memory.js';
import { benchNeighbour } from './neighbour.js';
import { benchNodes } from './nodes.js';
import { parsePlan, USAGE, type BenchName, type Plan } from './plan.js';
import { printMachine } from './report.js';
import { benchRolling } from './rolling.js';
import { benchRoundTrips } from './round-trips.js';
import { benchSmall } from './small.js';
import { benchTakeover } from './takeover.js';
import { benchUpload } from './upload.js';

const BENCH: Record<BenchName, (plan: Plan) => Promise<void>> = {
  upload: benchUpload,
  takeover: benchTakeover,
  memory: benchMemory,
  eager: benchEager,
  rolling: benchRolling,
  nodes: benchNodes,
  'round-trips': benchRoundTrips,
  small: benchSmall,
  neighbour: benchNeighbour,
};

async function main(): Promise<number> {
  let plan: Plan | undefined;
  try {
    plan = parsePlan(process.argv.slice(2));
  } catch (error) {
    console.error(`${(error as Error).message}\n${USAGE}`);
    return 2;
  }
  if (!plan) {
    console.log(USAGE);
    return 0;
  }
  printMachine();
  try {
    for (const bench of plan.benches) await BENCH[bench](plan);
    return 0;
  } catch (error) {
    console.error(`\n${error instanceof Error ? error.message : String(error)}`);
    return 1;
  }
}

process.exitCode = await main();
