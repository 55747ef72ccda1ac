import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parse, parseAllDocuments } from 'yaml';

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
