import { type Document, isMap, isPair, isScalar, LineCounter, parseDocument, visit } from 'yaml';
import type { ConfigError, SettingPath } from './errors.js';

/** A parsed config file: its settings and their positions. */
export interface YamlFile {
  readonly settings: unknown;
  /** Position of a setting or, if it is missing, of its closest parent. `ofKey`: position of the key instead of the value. */
  locate(path: SettingPath, ofKey?: boolean): { line: number; column: number } | undefined;
}

type Locate = (offset: number) => { line: number; column: number };
type Environment = Readonly<Record<string, string | undefined>>;

/** Parses YAML and substitutes variables. Errors are returned, not thrown. */
export function readYaml(content: string, env: Environment): { file: YamlFile; configErrors: ConfigError[] } {
  const lines = new LineCounter();
  const document = parseDocument(content.replace(VARIABLE, encodeVariable), {
    lineCounter: lines,
    prettyErrors: false,
    merge: true,
  });
  const locate: Locate = (offset) => {
    const { line, col } = lines.linePos(offset);
    return { line, column: col };
  };
  const syntax = [...document.errors, ...document.warnings].map((error): ConfigError => ({
    ...locate(error.pos[0]),
    problem: `not valid YAML: ${error.code === 'DUPLICATE_KEY' ? describeDuplicateKey(content, error.pos[0]) : withoutContent(error.message)}`,
  }));
  if (syntax.length === 0) syntax.push(...unresolvedAliases(document, locate));
  const unset = syntax.length > 0 ? [] : substituteVariables(document, env, locate);
  const { settings, problem } = syntax.length > 0 ? {} : toSettings(document);
  if (problem !== undefined) syntax.push({ problem });
  const file: YamlFile = {
    settings,
    locate: (path, key = false) => {
      const offset = offsetOf(document, path, key);
      return offset === undefined ? undefined : locate(offset);
    },
  };
  return { file, configErrors: [...syntax, ...unset] };
}

/** Shows the key only if it is a plain name, because other text may be a password. */
function describeDuplicateKey(content: string, offset: number): string {
  const key = /^[\w.-]+(?=\s*:)/.exec(content.slice(offset))?.[0];
  return `${key === undefined ? 'a key' : `"${key}"`} is defined twice; merge the two, or remove one of them`;
}

/** Removes the quoted content from a message, because it may be an unquoted password. */
function withoutContent(message: string): string {
  return message.replace(
    /^(Unresolved|Block scalar header)(.*?): .*/s,
    '$1$2; quote text that contains such characters',
  );
}

function unresolvedAliases(document: Document, locate: Locate): ConfigError[] {
  const configErrors: ConfigError[] = [];
  visit(document, {
    Alias: (_key, alias) => {
      if (alias.resolve(document) || !hasRange(alias)) return;
      const problem = 'not valid YAML: no anchor of this name precedes it; quote text that begins with *';
      configErrors.push({ ...locate(alias.range[0]), problem });
    },
  });
  return configErrors;
}

/** Converts the document to plain values; some YAML errors appear only at this step. */
function toSettings(document: Document): { settings?: unknown; problem?: string } {
  try {
    return { settings: document.toJS() as unknown };
  } catch (error) {
    return { problem: `not valid YAML: ${(error as Error).message}` };
  }
}

/** `${NAME}`, `${NAME:-default}`; `$${` is an escaped `${`. */
const VARIABLE = /\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}\n]*))?\}/g;

/**
 * Inside `{ … }` and `[ … ]` YAML would interpret the braces of a variable. During parsing, each character of a
 * variable is replaced by a private-use one, which has no meaning in YAML and keeps all lines and columns unchanged.
 */
function encodeVariable(variable: string): string {
  return variable.replace(/[!-~]/g, (letter) => String.fromCharCode(PRIVATE_USE_START + letter.charCodeAt(0)));
}

function decodeVariables(text: string): string {
  return text.replace(/[\uE000-\uE07F]/g, (letter) => String.fromCharCode(letter.charCodeAt(0) - PRIVATE_USE_START));
}

const PRIVATE_USE_START = 0xe000;

/**
 * Substitutes variables in values after parsing, so that their content cannot change the structure of the file.
 * The values are text; every setting also parses numbers and booleans from text.
 */
function substituteVariables(document: Document, env: Environment, locate: Locate): ConfigError[] {
  const configErrors: ConfigError[] = [];
  visit(document, {
    Scalar: (key, node) => {
      if (typeof node.value !== 'string') return;
      node.value = decodeVariables(node.value);
      if (key === 'key') return;
      node.value = (node.value as string).replace(
        VARIABLE,
        (match, name: string | undefined, fallback: string | undefined) => {
          if (name === undefined) return '${';
          const value = env[name];
          // As in a shell, `:-` also applies to an empty variable.
          if (fallback !== undefined) return value === undefined || value === '' ? fallback : value;
          if (value !== undefined) return value;
          const problem = `the variable ${name} is not set; set it or write \${${name}:-default}`;
          configErrors.push({ ...(node.range ? locate(node.range[0]) : {}), problem });
          return match;
        },
      );
    },
  });
  return configErrors;
}

/** Offset of the deepest part of the path that exists in the document. */
function offsetOf(document: Document, path: SettingPath, ofKey: boolean): number | undefined {
  let found: number | undefined = document.contents?.range?.[0];
  for (let depth = 1; depth <= path.length; depth++) {
    const offset = stepOffset(document, path.slice(0, depth), ofKey || depth < path.length);
    if (offset === undefined) break;
    found = offset;
  }
  return found;
}

/** Offset of the last step of a path: of its key, or of its value. */
function stepOffset(document: Document, path: SettingPath, ofKey: boolean): number | undefined {
  const step = path.at(-1)!;
  const parent = path.length === 1 ? document.contents : document.getIn(path.slice(0, -1), true);
  const pair = isMap(parent)
    ? parent.items.find((item) => isPair(item) && isScalar(item.key) && item.key.value === step)
    : undefined;
  const node = pair && (ofKey || !hasRange(pair.value)) ? pair.key : document.getIn(path, true);
  return hasRange(node) ? node.range[0] : undefined;
}

function hasRange(node: unknown): node is { range: [number, number, number] } {
  return typeof node === 'object' && node !== null && Array.isArray((node as { range?: unknown }).range);
}
