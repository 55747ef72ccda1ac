// Compiles src into dist: the old output goes first, so that no file outlives its source.
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { buildSync } from 'esbuild';

rmSync('dist', { recursive: true, force: true });
execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], { stdio: 'inherit' });
if (existsSync('src/store/redis/lua')) cpSync('src/store/redis/lua', 'dist/store/redis/lua', { recursive: true });
// Web pages load the client as one file.
buildSync(JSON.parse(readFileSync('src/client/bundle.json', 'utf8')));
