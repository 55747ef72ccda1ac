import { readFileSync } from 'node:fs';
import { check } from './check.js';
import { toAdmin, type AdminConfig } from './admin-settings.js';
import type { Config } from './config.js';
import { explain, type Found } from './explain.js';
import { knownKeys, withoutEmpty } from './json-schema.js';
import { settingName, type Mistake, type SettingPath } from './mistake.js';
import { applyOverride, collectOverrides, OVERRIDES, type Told } from './overrides.js';
import { isObject } from './scalars.js';
import { adminOnly } from './schema.js';
import { misspeltVariables } from './variables.js';
import { readYaml, type YamlFile } from './yaml-file.js';

export interface ConfigSources {
  /** Path of a YAML file; without one, defaults, variables and flags are all there is. */
  readonly file?: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** By the keys of `OVERRIDES`; only those that were given. */
  readonly flags: Readonly<Record<string, unknown>>;
}

/**
 * The configuration, with what is doubtful in it, or every mistake at once. Flags win over variables, variables over the
 * file.
 */
export function loadConfig(
  sources: ConfigSources,
): { config: Config; doubts?: Mistake[] } | { mistakes: Mistake[]; doubts?: Mistake[] } {
  const { read, told } = readSettings(sources);
  const misspelt = misspeltVariables(sources.env, read.text);
  if (read.settings === undefined) return { mistakes: read.mistakes };
  const { config, found, doubts } = check(read.settings);
  const mistakes = [...read.mistakes];
  for (const one of found) {
    const placed = place(one, told, read);
    // A variable that is not set leaves its name behind, which is no proper value either: one mistake, not two.
    if (!read.mistakes.some((known) => known.line === placed.line && known.column === placed.column))
      mistakes.push(placed);
  }
  if (!config || mistakes.length > 0)
    return { mistakes: inOrder(mistakes), ...(misspelt.length > 0 ? { doubts: misspelt } : {}) };
  const all = [...misspelt, ...inOrder(doubts.map((one) => place(one, told, read)))];
  return { config, ...(all.length > 0 ? { doubts: all } : {}) };
}

/** A configuration with mistakes, with defaults in place of the wrong settings. */
export interface Right {
  readonly config: Config;
  /** Whether anything is wrong in this section. */
  readonly isWrong: (section: string) => boolean;
}

/** The configuration that the right settings make where others are mistakes; undefined when it cannot be told. */
export function loadRight(sources: ConfigSources): Right | undefined {
  const { read } = readSettings(sources);
  if (read.settings === undefined) return undefined;
  const { config, found, right = config } = check(read.settings);
  return right && { config: right, isWrong: (section) => found.some(({ path }) => path[0] === section) };
}

/** The mistakes and one more, in order; one that is told at the same place already stays alone. */
export function withMistake(mistakes: readonly Mistake[], one: Mistake): Mistake[] {
  const isTold = ({ source, line, column }: Mistake): boolean =>
    line !== undefined && source === one.source && line === one.line && column === one.column;
  return mistakes.some(isTold) ? [...mistakes] : inOrder([...mistakes, one]);
}

/** Something that is wrong with the value of a setting, as only its use could tell, at its place. */
export function misplaced(sources: ConfigSources, path: SettingPath, problem: string): Mistake {
  const { read, told } = readSettings(sources);
  return place({ path, atKey: false, mistake: { setting: settingName(path), problem } }, told, read);
}

/**
 * Where the admin listener of a proxy with this configuration is; undefined when it has none. Whatever else is wrong with
 * the configuration, or cannot be read by whoever asks, does not matter here.
 */
export function loadAdmin(sources: ConfigSources): { admin?: AdminConfig } | { mistakes: Mistake[] } {
  const { read, told } = readSettings(sources);
  if (read.settings === undefined) return { mistakes: read.mistakes };
  const parsed = adminOnly.safeParse(read.settings);
  if (parsed.success) return { admin: toAdmin(parsed.data.admin) };
  return { mistakes: explain(parsed.error.issues, read.settings, knownKeys).map((one) => place(one, told, read)) };
}

function readSettings({ file, env, flags }: ConfigSources): { read: Reading; told: Told[] } {
  const read = file === undefined ? { settings: {}, mistakes: [] } : readFile(file, env);
  const told = collectOverrides(env, flags);
  if (isObject(read.settings)) for (const one of told) applyOverride(read.settings, one);
  return { read, told };
}

interface Reading {
  readonly file?: string;
  readonly yaml?: YamlFile;
  /** Of the file. */
  readonly text?: string;
  /** Undefined when nothing can be made of the file. */
  readonly settings: unknown;
  readonly mistakes: Mistake[];
}

function readFile(file: string, env: ConfigSources['env']): Reading {
  let content: string;
  try {
    content = readFileSync(file, 'utf8');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'unknown error';
    return { settings: undefined, mistakes: [{ source: file, problem: `cannot be read: ${code}` }] };
  }
  const { file: yaml, mistakes } = readYaml(content, env);
  const settings = yaml.settings === undefined ? undefined : withoutEmpty(yaml.settings ?? {});
  return { file, yaml, text: content, settings, mistakes: mistakes.map((mistake) => ({ source: file, ...mistake })) };
}

/** Where a setting was given: by a flag or variable, else in the file. */
function place({ path, atKey, mistake }: Found, told: readonly Told[], { file, yaml }: Reading): Mistake {
  const names = path.map((step) => (typeof step === 'number' ? '*' : step));
  const override = told.find(({ setting }) => setting.every((step, at) => step === names[at]));
  if (override) return { ...mistake, source: override.source };
  if (file === undefined) return { ...mistake, problem: mistake.problem + otherWays(names) };
  return { ...mistake, source: file, ...yaml?.place(path, atKey) };
}

/** Without a file the flag and the variable are what a reader looks for. */
function otherWays(names: SettingPath): string {
  const ways = OVERRIDES.find(({ setting }) => setting.join('.') === names.join('.'));
  return ways ? `; give it with ${ways.flag} or ${ways.variable}` : '';
}

/** As a reader goes through them: what the command line says first, then the file from top to bottom. */
function inOrder(mistakes: Mistake[]): Mistake[] {
  return mistakes.sort((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0));
}
