import { startApp } from '../../src/app/app.js';
import { TIMINGS } from '../../src/app/storage.js';
import { serve } from '../../src/cli/serve.js';
import { sourcesOf } from './program-flags.js';

// `serve` as the binary has it, but a process that stands still within a delivery soon loses it to another one.

const timings = { ...TIMINGS, claimMs: 3000, returnGraceMs: 3000 };

await serve(sourcesOf(process.argv.slice(3)), 'test', (config, log, version) =>
  startApp(config, log, version, timings),
);
