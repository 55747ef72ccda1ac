import { readFileSync } from 'node:fs';
import { type AdminConfig, toAdmin } from './admin.js';
import { type Config, crossChecks, toConfig } from './config.js';
import {
  type CrossCheck,
  editDistance,
  explain,
  type Found,
  type ConfigError,
  settingName,
  type SettingPath,
  valueAt,
} from './errors.js';
import { applyOverride, collectOverrides, OVERRIDES, type GivenSetting } from './flags.js';
import { knownKeys, withoutEmpty } from './json-schema.js';
import { adminOnly, schema, type Settings } from './schema.js';
import { isObject } from './values.js';
import { warnings } from './warnings.js';
import { readYaml, type YamlFile } from './yaml.js';

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
): { config: Config; doubts?: ConfigError[] } | { configErrors: ConfigError[]; doubts?: ConfigError[] } {
  const { read, told } = readSettings(sources);
  const misspelt = misspeltVariables(sources.env, read.text);
  if (read.settings === undefined) return { configErrors: read.configErrors };
  const { config, found, doubts } = check(read.settings);
  const configErrors = [...read.configErrors];
  for (const one of found) {
    const placed = place(one, told, read);
    // A variable that is not set leaves its name behind, which is no proper value either: one mistake, not two.
    if (!read.configErrors.some((known) => known.line === placed.line && known.column === placed.column))
      configErrors.push(placed);
  }
  if (!config || configErrors.length > 0)
    return { configErrors: inOrder(configErrors), ...(misspelt.length > 0 ? { doubts: misspelt } : {}) };
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
export function withError(configErrors: readonly ConfigError[], one: ConfigError): ConfigError[] {
  const isTold = ({ source, line, column }: ConfigError): boolean =>
    line !== undefined && source === one.source && line === one.line && column === one.column;
  return configErrors.some(isTold) ? [...configErrors] : inOrder([...configErrors, one]);
}

/** Something that is wrong with the value of a setting, as only its use could tell, at its place. */
export function misplaced(sources: ConfigSources, path: SettingPath, problem: string): ConfigError {
  const { read, told } = readSettings(sources);
  return place({ path, atKey: false, configError: { setting: settingName(path), problem } }, told, read);
}

/**
 * Where the admin listener of a proxy with this configuration is; undefined when it has none. Whatever else is wrong with
 * the configuration, or cannot be read by whoever asks, does not matter here.
 */
export function loadAdmin(sources: ConfigSources): { admin?: AdminConfig } | { configErrors: ConfigError[] } {
  const { read, told } = readSettings(sources);
  if (read.settings === undefined) return { configErrors: read.configErrors };
  const parsed = adminOnly.safeParse(read.settings);
  if (parsed.success) return { admin: toAdmin(parsed.data.admin) };
  return { configErrors: explain(parsed.error.issues, read.settings, knownKeys).map((one) => place(one, told, read)) };
}

function readSettings({ file, env, flags }: ConfigSources): { read: Reading; told: GivenSetting[] } {
  const read = file === undefined ? { settings: {}, configErrors: [] } : readFile(file, env);
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
  readonly configErrors: ConfigError[];
}

function readFile(file: string, env: ConfigSources['env']): Reading {
  let content: string;
  try {
    content = readFileSync(file, 'utf8');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'unknown error';
    return { settings: undefined, configErrors: [{ source: file, problem: `cannot be read: ${code}` }] };
  }
  const { file: yaml, configErrors } = readYaml(content, env);
  const settings = yaml.settings === undefined ? undefined : withoutEmpty(yaml.settings ?? {});
  return {
    file,
    yaml,
    text: content,
    settings,
    configErrors: configErrors.map((configError) => ({ source: file, ...configError })),
  };
}

/** Where a setting was given: by a flag or variable, else in the file. */
function place(
  { path, atKey, configError }: Found,
  told: readonly GivenSetting[],
  { file, yaml }: Reading,
): ConfigError {
  const names = path.map((step) => (typeof step === 'number' ? '*' : step));
  const override = told.find(({ setting }) => setting.every((step, at) => step === names[at]));
  if (override) return { ...configError, source: override.source };
  if (file === undefined) return { ...configError, problem: configError.problem + otherWays(names) };
  return { ...configError, source: file, ...yaml?.place(path, atKey) };
}

/** Without a file the flag and the variable are what a reader looks for. */
function otherWays(names: SettingPath): string {
  const ways = OVERRIDES.find(({ setting }) => setting.join('.') === names.join('.'));
  return ways ? `; give it with ${ways.flag} or ${ways.variable}` : '';
}

/** As a reader goes through them: what the command line says first, then the file from top to bottom. */
function inOrder(configErrors: ConfigError[]): ConfigError[] {
  return configErrors.sort((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0));
}

/** The configuration these settings make, everything that is wrong with them, and what is doubtful. */
export function check(settings: unknown): Checked {
  const parsed = schema.safeParse(settings);
  if (parsed.success) {
    const config = toConfig(parsed.data);
    const found = crossChecks(config, parsed.data).map((one) => asFound(one, settings));
    return { config, found, doubts: warnings(config, parsed.data).map((one) => asFound(one, settings)) };
  }
  const wrong = explain(parsed.error.issues, settings, knownKeys);
  const rest = isObject(settings) ? withoutWrong(settings) : undefined;
  if (!rest) return { found: wrong, doubts: [] };
  const right = toConfig(rest);
  const found = [...wrong, ...crossChecksBeside({ wrong, settings, rest, right })];
  return { found, doubts: [], right };
}

export interface Checked {
  /** Missing where the settings are not what they should be; they may contradict each other all the same. */
  readonly config?: Config;
  readonly found: Found[];
  readonly doubts: Found[];
  /** The configuration that the right settings make, with defaults in place of the wrong ones. */
  readonly right?: Config;
}

interface Beside {
  readonly wrong: readonly Found[];
  readonly settings: unknown;
  readonly rest: Settings;
  readonly right: Config;
}

/**
 * Contradictions among the settings that are right: the wrong ones are taken out first, so that all mistakes are told
 * at once. What is in one section with a wrong setting is left for later.
 */
function crossChecksBeside({ wrong, settings, rest, right }: Beside): Found[] {
  const sections = new Set(wrong.flatMap(({ path }) => path.slice(0, Math.max(1, path.length - 1))));
  const isTouched = ({ path, against = [] }: CrossCheck) =>
    [...path, ...against].some((step) => step !== 'routes' && typeof step === 'string' && sections.has(step));
  return crossChecks(right, rest)
    .filter((contradiction) => !isTouched(contradiction))
    .map((one) => asFound(one, settings));
}

/** Takes wrong settings out until the rest is right; undefined when that does not come to an end soon. */
function withoutWrong(original: Record<string, unknown>): Settings | undefined {
  const settings = structuredClone(original);
  for (let round = 0; round < 5; round++) {
    const parsed = schema.safeParse(settings);
    if (parsed.success) return parsed.data;
    for (const { path } of explain(parsed.error.issues, settings, () => [])) takeOut(settings, path);
  }
  return undefined;
}

/** Removes a setting; where it is missing, or one of a list, what it belongs to. A missing origin is made up. */
function takeOut(settings: Record<string, unknown>, path: SettingPath): void {
  if (path.length === 1 && path[0] === 'origin') {
    settings['origin'] = 'http://127.0.0.1';
    return;
  }
  const [step, parent] = [path.at(-1), valueAt(settings, path.slice(0, -1))];
  if (isObject(parent) && typeof step === 'string' && step in parent) Reflect.deleteProperty(parent, step);
  else if (path.length > 1) takeOut(settings, path.slice(0, -1));
}

function asFound({ path, problem }: CrossCheck, settings: unknown): Found {
  const written = asWritten(path, settings);
  return { path: written, atKey: false, configError: { setting: settingName(written), problem } };
}

/** As the settings have it: one listener is no list, and so without a number; an address may stand for its group. */
function asWritten(path: SettingPath, settings: unknown): SettingPath {
  if (!isObject(settings)) return path;
  if (path[0] === 'listen' && !Array.isArray(settings['listen'])) return ['listen', ...path.slice(2)];
  return path[0] === 'admin' && !isObject(settings['admin']) ? ['admin'] : path;
}

type Environment = Readonly<Record<string, string | undefined>>;

const KNOWN: readonly string[] = ['RUFH_PROXY_CONFIG', ...OVERRIDES.map(({ variable }) => variable)];

/** Kubernetes sets these by itself beside services whose names begin so, such as `rufh-proxy` and `rufh-proxy-nodes`. */
const OF_KUBERNETES =
  /^RUFH_PROXY(?:_[A-Z0-9]+)*_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)$/;

/** Variables that were probably meant for us and say nothing. `text`: of the configuration, which may name some itself. */
export function misspeltVariables(env: Environment, text = ''): ConfigError[] {
  return Object.keys(env)
    .filter((name) => env[name] !== '' && isMeantForUs(name) && !text.includes(`\${${name}`))
    .sort()
    .map((name) => ({ source: name, problem: `there is no such variable; ${hint(name)}` }));
}

function isMeantForUs(name: string): boolean {
  if (KNOWN.includes(name) || OF_KUBERNETES.test(name)) return false;
  return /^RUFH[_-]?PROXY/i.test(name) || KNOWN.some((known) => editDistance(name, known) <= 2);
}

function hint(name: string): string {
  const nearest = KNOWN.map((known) => ({ known, distance: editDistance(name, known) })).sort(
    (a, b) => a.distance - b.distance,
  )[0]!;
  return nearest.distance <= 4
    ? `did you mean ${nearest.known}?`
    : 'those that there are stand in `rufh-proxy serve --help`';
}
