import { startApp } from '../../src/app/app.js';
import { serve, type StartApp } from '../../src/cli/serve.js';
import { sourcesOf } from './program-flags.js';

// `serve` as the binary has it, but each worker keeps its own uploads in memory and on disk: how processes are started,
// looked after and ended can be seen without a server for the store.

const startAlone: StartApp = (config, log, version) => {
  const worker = process.env['RUFH_WORKER'] ?? '0';
  if (process.env['FAILING_WORKER'] === worker) throw new Error(`worker ${worker} is meant to fail`);
  if (process.env['ENDING_WORKER'] === worker) process.exit(7);
  // Beside the directory of all: what is in that is the program's alone.
  const data = `${config.data}-${worker}`;
  return startApp(
    { ...config, data, store: { type: 'embedded' }, spool: { ...config.spool, shared: false } },
    log,
    version,
  );
};

await serve(sourcesOf(process.argv.slice(3)), 'test', startAlone);
