import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { parse, parseAllDocuments } from 'yaml';
import type { Config } from '../../src/config/config.js';
import { loadConfig } from '../../src/config/load.js';

/** Where the containers that we describe get their secrets. */
export const SECRETS = '/run/secrets/rufh-proxy';

/** What our own loader makes of a configuration that we ship; fails with its mistakes. */
export function loadShipped(
  text: string,
  { env = {}, secrets = {} }: { env?: Record<string, string>; secrets?: Readonly<Record<string, string>> } = {},
): Config {
  const directory = mkdtempSync(join(tmpdir(), 'rufh-shipped-'));
  try {
    for (const [name, value] of Object.entries(secrets)) writeFileSync(join(directory, name), value);
    const file = join(directory, 'rufh-proxy.yaml');
    writeFileSync(file, text.replaceAll(SECRETS, directory));
    const loaded = loadConfig({ file, env, flags: {} });
    if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors, undefined, 2));
    return loaded.config;
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** One object of Kubernetes, as its manifest says it. */
export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string };
}

interface Kustomization {
  readonly resources?: readonly string[];
  readonly configMapGenerator?: readonly { readonly name: string; readonly files: readonly string[] }[];
  readonly patches?: readonly { readonly target: { kind: string; name: string }; readonly path: string }[];
}

interface Addition {
  readonly op: string;
  readonly path: string;
  readonly value: unknown;
}

/**
 * What `kubectl kustomize` makes of a directory, as far as ours use it: resources, config maps of files, and patches
 * that add. Names keep no hash at their end.
 */
export function kustomize(directory: string): KubernetesObject[] {
  const settings = yamlFile(join(directory, 'kustomization.yaml')) as Kustomization;
  const { resources = [], configMapGenerator = [], patches = [] } = settings;
  const objects = [
    ...resources.flatMap((path) => resource(join(directory, path))),
    ...configMapGenerator.map(({ name, files }) => ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name },
      data: Object.fromEntries(files.map((file) => [basename(file), readFileSync(join(directory, file), 'utf8')])),
    })),
  ];
  for (const { target, path } of patches) {
    const targets = objects.filter(({ kind, metadata }) => kind === target.kind && metadata.name === target.name);
    if (targets.length !== 1) throw new Error(`${path} is for ${targets.length} objects`);
    for (const addition of yamlFile(join(directory, path)) as Addition[]) add(targets[0]!, addition);
  }
  return objects;
}

function resource(path: string): KubernetesObject[] {
  if (!path.endsWith('.yaml')) return kustomize(path);
  return parseAllDocuments(readFileSync(path, 'utf8')).map((document) => document.toJS() as KubernetesObject);
}

/** JSON Patch (RFC 6902 §4.1), without the escapes of pointers. */
function add(object: KubernetesObject, { op, path, value }: Addition): void {
  const steps = path.slice(1).split('/');
  const last = steps.pop()!;
  const parent = steps.reduce<unknown>((at, step) => (at as Record<string, unknown>)[step], object);
  if (op !== 'add' || typeof parent !== 'object' || parent === null) throw new Error(`cannot ${op} ${path}`);
  if (Array.isArray(parent)) parent.splice(last === '-' ? parent.length : Number(last), 0, value);
  else (parent as Record<string, unknown>)[last] = value;
}

function yamlFile(path: string): unknown {
  return parse(readFileSync(path, 'utf8'));
}

const FILE = fileURLToPath(new URL('./kubernetes-objects.virtual.ts', import.meta.url));

/**
 * What Kubernetes' own types have against objects: fields that do not exist, are missing or of another type, and kinds
 * that are not of their group. Empty when there is nothing.
 */
export function typeMistakes(objects: readonly KubernetesObject[]): string[] {
  const declarations = objects.map((object, at) => {
    const type = `import('kubernetes-types/${groupOf(object.apiVersion)}.js').${object.kind}`;
    return `export const object${at}: ${type} = ${JSON.stringify(object, undefined, 1)};`;
  });
  const program = ts.createProgram([FILE], OPTIONS, hostWith(declarations.join('\n')));
  return ts.getPreEmitDiagnostics(program).map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'));
}

const OPTIONS: ts.CompilerOptions = {
  strict: true,
  exactOptionalPropertyTypes: true,
  noEmit: true,
  skipLibCheck: true,
  types: [],
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
};

/** The compiler's own host, with one more file. */
function hostWith(text: string): ts.CompilerHost {
  const host = ts.createCompilerHost(OPTIONS);
  return {
    ...host,
    fileExists: (name) => name === FILE || host.fileExists(name),
    getSourceFile: (name, options, ...rest) =>
      name === FILE ? ts.createSourceFile(name, text, options) : host.getSourceFile(name, options, ...rest),
  };
}

/** `v1` is the core group; others carry a domain that their types do not. */
function groupOf(apiVersion: string): string {
  const [group, version] = apiVersion.includes('/') ? apiVersion.split('/') : ['core', apiVersion];
  return `${group!.split('.')[0]}/${version}`;
}
