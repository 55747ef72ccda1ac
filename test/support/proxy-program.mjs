// `serve` as the binary has it, but for one thing, which TEST_PROXY names. From `dist`, because a start from source takes
// seconds for each process.
import { startApp } from '../../dist/app/app.js';
import { TIMINGS } from '../../dist/app/storage.js';
import { serve } from '../../dist/cli/serve.js';

const PROGRAMS = {
  /** Each worker keeps its own uploads: starting, watching and ending processes is tested without a server for the store. */
  'own-uploads': (config, log, version) => {
    const worker = process.env.RUFH_WORKER ?? '0';
    if (process.env.FAILING_WORKER === worker) throw new Error(`worker ${worker} is meant to fail`);
    if (process.env.ENDING_WORKER === worker) process.exit(7);
    // Beside the directory of all workers, in which only the program itself writes.
    const data = `${config.data}-${worker}`;
    const spool = { ...config.spool, shared: false };
    return startApp({ ...config, data, store: { type: 'embedded' }, spool }, log, version);
  },
  /** A process that stands still or dies soon loses its uploads and deliveries to another one. */
  'short-claims': (config, log, version) =>
    startApp(config, log, version, { ...TIMINGS, leaseMs: 4000, claimMs: 3000, returnGraceMs: 3000 }),
};

/** The command line as `serve` takes it, without any variables. */
function sourcesOf(line) {
  const flags = {};
  for (let at = 0; at < line.length; at += 2)
    flags[line[at].slice(2).replace(/-(.)/g, (_, letter) => letter.toUpperCase())] = line[at + 1];
  const { config: file, ...others } = flags;
  return { env: {}, flags: others, ...(file !== undefined && { file }) };
}

await serve(sourcesOf(process.argv.slice(3)), 'test', PROGRAMS[process.env.TEST_PROXY]);
