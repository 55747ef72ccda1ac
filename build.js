// Compiles src into dist: the old output goes first, so that no file outlives its source.
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { buildSync } from 'esbuild';

rmSync('dist', { recursive: true, force: true });
execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], { stdio: 'inherit' });
if (existsSync('src/store/redis/lua')) cpSync('src/store/redis/lua', 'dist/store/redis/lua', { recursive: true });
// Web pages load the client as one file.
buildSync(JSON.parse(readFileSync('src/client/bundle.json', 'utf8')));

// The page of `rufh-proxy demo`, with the clients that it offers.
const page = 'dist/demo/page';
cpSync('src/demo/page', page, { recursive: true });
cpSync('dist/client/resumable-fetch.min.js', `${page}/client.js`);
const { metafile } = buildSync({
  entryPoints: ['src/demo/bundles/tus.js', 'src/demo/bundles/uppy.js'],
  outdir: page,
  bundle: true,
  splitting: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  define: { 'process.env.NODE_ENV': '"production"' },
  legalComments: 'none',
  metafile: true,
});
writeFileSync(`${page}/licenses.txt`, licensesOf(Object.keys(metafile.inputs)));

/** The notices of all packages that these files come from, as their licenses demand. */
function licensesOf(files) {
  const packages = new Set(files.flatMap((file) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file)?.[0] ?? []));
  const notices = [...packages].sort().map((directory) => {
    const { name, version, license, author } = JSON.parse(readFileSync(`${directory}/package.json`, 'utf8'));
    if (!['MIT', 'ISC', 'BSD-3-Clause'].includes(license))
      throw new Error(`${name} has the license ${license}: may the page contain it?`);
    const file = readdirSync(directory).find((entry) => /^licen[cs]e(\.|$)/i.test(entry));
    const text = file ? readFileSync(`${directory}/${file}`, 'utf8').trim() : `${license}, ${author?.name ?? author}`;
    return `${name} ${version}\n\n${text}\n`;
  });
  return notices.join(`\n${'-'.repeat(80)}\n\n`);
}
