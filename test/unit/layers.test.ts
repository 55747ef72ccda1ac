import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';

const src = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'src');

/** What each folder may import, types included: folders below it, and packages (docs/decisions/0029). */
const FOLDERS: Record<string, { folders: string[]; packages: string[] }> = {
  model: { folders: [], packages: [] },
  concurrency: { folders: [], packages: [] },
  observe: { folders: [], packages: ['pino', 'pino-pretty', 'prom-client'] },
  streams: { folders: ['model'], packages: [] },
  fs: { folders: ['model'], packages: ['@node-rs/crc32'] },
  protocol: { folders: ['model'], packages: ['structured-headers'] },
  config: { folders: ['model'], packages: ['zod', 'yaml', 'picomatch', 'ipaddr.js'] },
  store: { folders: ['model'], packages: [] },
  'store/embedded': { folders: ['store', 'fs', 'concurrency', 'model', 'observe'], packages: [] },
  'store/redis': { folders: ['store', 'fs', 'concurrency', 'model', 'observe'], packages: ['ioredis'] },
  spool: { folders: ['fs', 'concurrency', 'model', 'observe'], packages: [] },
  secrets: { folders: ['fs', 'model'], packages: [] },
  origin: { folders: ['streams', 'model'], packages: [] },
  server: { folders: ['protocol', 'streams', 'fs', 'model', 'observe'], packages: ['ipaddr.js'] },
  proxy: { folders: ['server', 'origin', 'protocol', 'streams', 'model', 'observe'], packages: [] },
  delivery: {
    folders: ['origin', 'secrets', 'spool', 'store', 'streams', 'fs', 'concurrency', 'model', 'observe'],
    packages: [],
  },
  uploads: {
    folders: ['delivery', 'secrets', 'spool', 'store', 'streams', 'concurrency', 'model', 'observe'],
    packages: [],
  },
  handler: {
    folders: ['uploads', 'secrets', 'proxy', 'server', 'origin', 'protocol', 'streams', 'model', 'observe'],
    packages: [],
  },
  cluster: {
    folders: ['uploads', 'delivery', 'proxy', 'server', 'origin', 'spool', 'store', 'streams', 'model', 'observe'],
    packages: [],
  },
  admin: { folders: ['uploads', 'delivery', 'store', 'fs', 'model', 'observe'], packages: [] },
  app: {
    folders: [
      ...['admin', 'cluster', 'handler', 'uploads', 'delivery', 'proxy', 'server', 'secrets', 'spool'],
      ...['store', 'store/embedded', 'store/redis', 'config', 'origin', 'concurrency', 'fs', 'model', 'observe'],
    ],
    packages: [],
  },
  // Runs in browsers.
  client: { folders: [], packages: [] },
  workers: { folders: ['app', 'admin', 'config', 'server', 'observe', 'model'], packages: [] },
  // Knows the proxy only as a program.
  demo: { folders: [], packages: [] },
  cli: {
    folders: ['workers', 'app', 'client', 'demo', 'config', 'streams', 'observe', 'model'],
    packages: ['commander'],
  },
};

/** Implementations behind an interface: only `app/` and their own folder may name them. */
const IMPLEMENTATIONS = [/^store\/(embedded|redis)\//, /^spool\/local-/, /^delivery\/http-origin/];

interface Import {
  readonly file: string;
  readonly line: number;
  readonly specifier: string;
}

const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
const imports = files.flatMap((file) => importsOf(file));

test('imports go down only, and each package enters by its own folder', () => {
  expect(imports.length).toBeGreaterThan(50);
  expect(imports.filter((found) => !isAllowed(found)).map(describeImport)).toEqual([]);
});

test('no file imports itself by way of others', () => {
  expect(circles()).toEqual([]);
});

test('only app/ names an implementation', () => {
  const named = imports.filter((found) => {
    const target = targetOf(found);
    const implementation = target && IMPLEMENTATIONS.find((pattern) => pattern.test(target));
    return implementation && folderOf(found.file) !== 'app' && folderOf(target) !== folderOf(found.file);
  });
  expect(named.map(describeImport)).toEqual([]);
});

test('nothing below the handlers of requests sees a Node request or response', () => {
  const below = files.filter((file) => /^(model|protocol|store|spool|delivery|uploads)\//.test(file));
  const seen = below.filter((file) => /\b(IncomingMessage|ServerResponse|Http2Server)/.test(read(file)));
  expect(seen).toEqual([]);
});

function read(file: string): string {
  return readFileSync(join(src, file), 'utf8');
}

function importsOf(file: string): Import[] {
  const found: Import[] = [];
  const pattern = /^(?:import|export)\s[^'";]*?from\s+'([^'\n]+)'|^import\s+'([^'\n]+)'|\bimport\('([^'\n]+)'\)/gm;
  const text = read(file);
  for (const match of text.matchAll(pattern)) {
    const specifier = (match[1] ?? match[2] ?? match[3])!;
    found.push({ file, line: text.slice(0, match.index).split('\n').length, specifier });
  }
  return found;
}

function isAllowed(found: Import): boolean {
  if (found.specifier.startsWith('node:')) return true;
  const own = folderOf(found.file);
  const rules = FOLDERS[own];
  if (!rules) return false;
  const target = targetOf(found);
  if (target === undefined) return rules.packages.includes(found.specifier);
  const folder = folderOf(target);
  return folder === own || rules.folders.includes(folder);
}

/** Each circle of imports once, as the files on it. */
function circles(): string[] {
  const targets = new Map(files.map((file) => [file, new Set<string>()]));
  for (const found of imports) {
    const target = targetOf(found);
    if (target !== undefined) targets.get(found.file)!.add(target);
  }
  const found: string[] = [];
  const done = new Set<string>();
  const visit = (file: string, way: readonly string[]): void => {
    const at = way.indexOf(file);
    if (at >= 0) found.push([...way.slice(at), file].join(' -> '));
    if (at >= 0 || done.has(file)) return;
    for (const target of targets.get(file) ?? []) visit(target, [...way, file]);
    done.add(file);
  };
  for (const file of files) visit(file, []);
  return found;
}

/** The imported file, relative to src; undefined for a package. */
function targetOf({ file, specifier }: Import): string | undefined {
  if (!specifier.startsWith('.')) return undefined;
  return relative(src, join(src, dirname(file), specifier)).replace(/\.js$/, '.ts');
}

function folderOf(file: string): string {
  const folder = dirname(file);
  return FOLDERS[folder] ? folder : folder.split('/')[0]!;
}

function describeImport({ file, line, specifier }: Import): string {
  return `src/${file}:${line} imports ${specifier}`;
}
