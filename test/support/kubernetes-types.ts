import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import type { KubernetesObject } from './kustomize.js';

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
