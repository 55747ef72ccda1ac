import { startApp } from '../../src/app/app.js';
import { TIMINGS } from '../../src/app/storage.js';
import { serve, type StartApp } from '../../src/cli/serve.js';
import type { ConfigSources } from '../../src/config/load.js';

// `serve` as the binary has it, but for one thing, which `TEST_PROXY` names.

const PROGRAMS: Record<string, StartApp> = {
  /** Each worker keeps its own uploads: starting, watching and ending processes is tested without a server for the store. */
  'own-uploads': (config, log, version) => {
    const worker = process.env['RUFH_WORKER'] ?? '0';
    if (process.env['FAILING_WORKER'] === worker) throw new Error(`worker ${worker} is meant to fail`);
    if (process.env['ENDING_WORKER'] === worker) process.exit(7);
    // Beside the directory of all workers, in which only the program itself writes.
    const data = `${config.data}-${worker}`;
    const own = { store: { type: 'embedded' }, spool: { ...config.spool, shared: false } } as const;
    return startApp({ ...config, data, ...own }, log, version);
  },
  /** A process that stands still within a delivery soon loses it to another one. */
  'short-claims': (config, log, version) =>
    startApp(config, log, version, { ...TIMINGS, claimMs: 3000, returnGraceMs: 3000 }),
};

/** The command line as `serve` takes it, without any variables. */
function sourcesOf(line: readonly string[]): ConfigSources {
  const flags: Record<string, string> = {};
  for (let at = 0; at < line.length; at += 2) {
    const name = line[at]!.slice(2).replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
    flags[name] = line[at + 1]!;
  }
  const { config: file, ...others } = flags;
  return { env: {}, flags: others, ...(file !== undefined && { file }) };
}

await serve(sourcesOf(process.argv.slice(3)), 'test', PROGRAMS[process.env['TEST_PROXY'] ?? '']);
