#!/usr/bin/env node
import { existsSync } from 'node:fs';

const program = new URL('../dist/cli/main.js', import.meta.url);
if (existsSync(program)) {
  await import(program.href);
} else {
  process.stderr.write('rufh-proxy: this checkout is not built yet: run `npm ci && npm run build`\n');
  process.exitCode = 1;
}
