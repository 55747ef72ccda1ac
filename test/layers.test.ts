import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';

const src = join(dirname(fileURLToPath(import.meta.url)), '..', 'src');

const STORES = ['store', 'store/embedded', 'store/redis'];
const BELOW_STORAGE = ['admin', 'config', 'delivery', 'disk', 'model', 'observe', 'spool', ...STORES, 'uploads'];

/** What each room may import, types included: other rooms and packages. A longer path is a room of its own. */
const rooms: Record<string, { rooms: string[]; packages: string[] }> = {
  model: { rooms: [], packages: [] },
  streams: { rooms: [], packages: [] },
  observe: { rooms: [], packages: ['pino', 'pino-pretty', 'prom-client'] },
  protocol: { rooms: ['model'], packages: ['structured-headers'] },
  store: { rooms: ['model'], packages: [] },
  disk: { rooms: ['model'], packages: ['@node-rs/crc32'] },
  'store/embedded': { rooms: ['store', 'disk', 'model', 'observe'], packages: [] },
  'store/redis': { rooms: ['store', 'disk', 'model', 'observe'], packages: ['ioredis'] },
  spool: { rooms: ['disk', 'model', 'observe'], packages: [] },
  delivery: { rooms: ['streams', 'store', 'spool', 'disk', 'model', 'observe'], packages: ['undici'] },
  uploads: { rooms: ['delivery', 'store', 'spool', 'model', 'observe'], packages: [] },
  http: {
    rooms: ['streams', 'uploads', 'protocol', 'disk', 'model', 'observe'],
    packages: ['http-proxy', 'ipaddr.js'],
  },
  cluster: { rooms: ['streams', 'http', 'uploads', 'delivery', 'store', 'spool', 'model', 'observe'], packages: [] },
  admin: { rooms: ['uploads', 'delivery', 'store', 'disk', 'model', 'observe'], packages: [] },
  config: { rooms: ['model'], packages: ['zod', 'yaml', 'picomatch', 'ipaddr.js'] },
  workers: { rooms: ['app', 'admin', 'config', 'http', 'observe', 'model'], packages: [] },
  cli: { rooms: ['streams', 'workers', 'app', 'storage', 'config', 'observe', 'model'], packages: ['commander'] },
  storage: { rooms: BELOW_STORAGE, packages: [] },
  'redis-storage': { rooms: ['storage', ...BELOW_STORAGE], packages: [] },
  'cluster-membership': {
    rooms: ['storage', 'cluster', 'config', 'http', 'model', 'observe', 'spool', 'store'],
    packages: [],
  },
  app: {
    rooms: [
      'storage',
      'redis-storage',
      'cluster-membership',
      'cluster',
      'admin',
      'config',
      'delivery',
      'http',
      'model',
      'observe',
      'spool',
      'store',
      'uploads',
    ],
    packages: [],
  },
};

/** Implementations: only app.ts, storage.ts and their own room may name them. */
const implementations = [/^store\/(embedded|redis)\//, /^spool\/local-/, /^delivery\/undici-/];

const ASSEMBLY: ReadonlySet<string> = new Set(['app.ts', 'storage.ts', 'redis-storage.ts']);

interface Import {
  readonly file: string;
  readonly line: number;
  readonly specifier: string;
}

const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
const imports = files.flatMap((file) => importsOf(file));

test('imports go down only, and each package enters by its own room', () => {
  expect(imports.length).toBeGreaterThan(50);
  expect(imports.filter((found) => !isAllowed(found)).map(describeImport)).toEqual([]);
});

test('only app.ts names an implementation', () => {
  const named = imports.filter((found) => {
    const target = targetOf(found);
    const implementation = target && implementations.find((pattern) => pattern.test(target));
    return implementation && !ASSEMBLY.has(found.file) && roomOf(target) !== roomOf(found.file);
  });
  expect(named.map(describeImport)).toEqual([]);
});

test('nothing below http sees a Node request or response', () => {
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
  const own = roomOf(found.file);
  const rules = rooms[own];
  if (!rules) return false;
  const target = targetOf(found);
  if (target === undefined) return rules.packages.includes(found.specifier);
  const room = roomOf(target);
  return room === own || rules.rooms.includes(room);
}

/** The imported file, relative to src; undefined for a package. */
function targetOf({ file, specifier }: Import): string | undefined {
  if (!specifier.startsWith('.')) return undefined;
  return relative(src, join(src, dirname(file), specifier)).replace(/\.js$/, '.ts');
}

function roomOf(file: string): string {
  if (!file.includes('/')) return file.replace(/\.ts$/, '');
  const folder = dirname(file);
  return rooms[folder] ? folder : folder.split('/')[0]!;
}

function describeImport({ file, line, specifier }: Import): string {
  return `src/${file}:${line} imports ${specifier}`;
}
