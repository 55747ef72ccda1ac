// `serve` as the binary has it, but a process that stands still within a delivery soon loses it to another one.
import { startApp } from '../../src/app.js';
import { serve } from '../../src/cli/serve.js';
import { TIMINGS } from '../../src/storage.js';
import { sourcesOf } from './program-flags.js';

const timings = { ...TIMINGS, claimMs: 3000, returnMs: 3000 };

await serve(sourcesOf(process.argv.slice(3)), 'test', (config, log, version) =>
  startApp(config, log, version, timings),
);
