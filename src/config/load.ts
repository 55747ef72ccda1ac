import { readFileSync } from 'node:fs';
import { type AdminConfig, toAdmin } from './admin.js';
import { type Config, crossChecks, toConfig } from './config.js';
import {
  type SettingIssue,
  editDistance,
  formatIssues,
  type UnlocatedError,
  type ConfigError,
  settingName,
  type SettingPath,
  valueAt,
} from './errors.js';
import { applyOverride, collectOverrides, OVERRIDES, type GivenSetting } from './flags.js';
import { knownKeys, withoutEmpty } from './json-schema.js';
import { adminSchema, schema, type Settings } from './schema.js';
import { isObject } from './values.js';
import { findWarnings } from './warnings.js';
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
): { config: Config; warnings?: ConfigError[] } | { configErrors: ConfigError[]; warnings?: ConfigError[] } {
  const { source: source, overrides: overrides } = readSettings(sources);
  const unknownVariables = findUnknownVariables(sources.env, source.text);
  if (source.settings === undefined) return { configErrors: source.configErrors };
  const { config, errors: found, warnings } = checkSettings(source.settings);
  const configErrors = [...source.configErrors];
  for (const one of found) {
    const located = locate(one, overrides, source);
    // A variable that is not set leaves its name behind, which is no proper value either: one error, not two.
    if (!source.configErrors.some((known) => known.line === located.line && known.column === located.column))
      configErrors.push(located);
  }
  if (!config || configErrors.length > 0)
    return {
      configErrors: sortByPlace(configErrors),
      ...(unknownVariables.length > 0 ? { warnings: unknownVariables } : {}),
    };
  const all = [...unknownVariables, ...sortByPlace(warnings.map((one) => locate(one, overrides, source)))];
  return { config, ...(all.length > 0 ? { warnings: all } : {}) };
}

/** A configuration with mistakes, with defaults in place of the wrong settings. */
export interface ValidPart {
  readonly config: Config;
  /** Whether anything is wrong in this section. */
  readonly hasErrors: (section: string) => boolean;
}

/** The configuration that the right settings make where others are mistakes; undefined when it cannot be told. */
export function loadValidPart(sources: ConfigSources): ValidPart | undefined {
  const { source: source } = readSettings(sources);
  if (source.settings === undefined) return undefined;
  const { config, errors: found, validPart: right = config } = checkSettings(source.settings);
  return right && { config: right, hasErrors: (section) => found.some(({ path }) => path[0] === section) };
}

/** The mistakes and one more, in order; one that is told at the same place already stays alone. */
export function withError(configErrors: readonly ConfigError[], added: ConfigError): ConfigError[] {
  const isAtSamePlace = ({ source, line, column }: ConfigError): boolean =>
    line !== undefined && source === added.source && line === added.line && column === added.column;
  return configErrors.some(isAtSamePlace) ? [...configErrors] : sortByPlace([...configErrors, added]);
}

/** Something that is wrong with the value of a setting, as only its use could tell, at its place. */
export function settingError(sources: ConfigSources, path: SettingPath, problem: string): ConfigError {
  const { source: source, overrides: overrides } = readSettings(sources);
  return locate({ path, isKeyError: false, configError: { setting: settingName(path), problem } }, overrides, source);
}

/**
 * Where the admin listener of a proxy with this configuration is; undefined when it has none. Whatever else is wrong with
 * the configuration, or cannot be read by whoever asks, does not matter here.
 */
export function loadAdmin(sources: ConfigSources): { admin?: AdminConfig } | { configErrors: ConfigError[] } {
  const { source: source, overrides: overrides } = readSettings(sources);
  if (source.settings === undefined) return { configErrors: source.configErrors };
  const parsed = adminSchema.safeParse(source.settings);
  if (parsed.success) return { admin: toAdmin(parsed.data.admin) };
  return {
    configErrors: formatIssues(parsed.error.issues, source.settings, knownKeys).map((one) =>
      locate(one, overrides, source),
    ),
  };
}

function readSettings({ file, env, flags }: ConfigSources): { source: SettingsSource; overrides: GivenSetting[] } {
  const read = file === undefined ? { settings: {}, configErrors: [] } : readFile(file, env);
  const told = collectOverrides(env, flags);
  if (isObject(read.settings)) for (const one of told) applyOverride(read.settings, one);
  return { source: read, overrides: told };
}

interface SettingsSource {
  readonly file?: string;
  readonly yaml?: YamlFile;
  /** Of the file. */
  readonly text?: string;
  /** Undefined when nothing can be made of the file. */
  readonly settings: unknown;
  readonly configErrors: ConfigError[];
}

function readFile(file: string, env: ConfigSources['env']): SettingsSource {
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
function locate(
  { path, isKeyError: isKeyError, configError }: UnlocatedError,
  overrides: readonly GivenSetting[],
  { file, yaml }: SettingsSource,
): ConfigError {
  const names = path.map((step) => (typeof step === 'number' ? '*' : step));
  const override = overrides.find(({ setting }) => setting.every((step, at) => step === names[at]));
  if (override) return { ...configError, source: override.source };
  if (file === undefined) return { ...configError, problem: configError.problem + flagHint(names) };
  return { ...configError, source: file, ...yaml?.locate(path, isKeyError) };
}

/** Without a file the flag and the variable are what a reader looks for. */
function flagHint(names: SettingPath): string {
  const override = OVERRIDES.find(({ setting }) => setting.join('.') === names.join('.'));
  return override ? `; set it with ${override.flag} or ${override.variable}` : '';
}

/** As a reader goes through them: what the command line says first, then the file from top to bottom. */
function sortByPlace(configErrors: ConfigError[]): ConfigError[] {
  return configErrors.sort((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0));
}

/** The configuration these settings make, everything that is wrong with them, and what is doubtful. */
export function checkSettings(settings: unknown): CheckResult {
  const parsed = schema.safeParse(settings);
  if (parsed.success) {
    const config = toConfig(parsed.data);
    const found = crossChecks(config, parsed.data).map((one) => toUnlocated(one, settings));
    return {
      config,
      errors: found,
      warnings: findWarnings(config, parsed.data).map((one) => toUnlocated(one, settings)),
    };
  }
  const wrong = formatIssues(parsed.error.issues, settings, knownKeys);
  const rest = isObject(settings) ? removeInvalid(settings) : undefined;
  if (!rest) return { errors: wrong, warnings: [] };
  const right = toConfig(rest);
  const found = [...wrong, ...crossCheckValidPart({ errors: wrong, settings, validSettings: rest, validPart: right })];
  return { errors: found, warnings: [], validPart: right };
}

export interface CheckResult {
  /** Missing where the settings are not what they should be; they may contradict each other all the same. */
  readonly config?: Config;
  readonly errors: UnlocatedError[];
  readonly warnings: UnlocatedError[];
  /** The configuration that the right settings make, with defaults in place of the wrong ones. */
  readonly validPart?: Config;
}

interface PartialCheck {
  readonly errors: readonly UnlocatedError[];
  readonly settings: unknown;
  readonly validSettings: Settings;
  readonly validPart: Config;
}

/**
 * Contradictions among the settings that are right: the wrong ones are taken out first, so that all mistakes are told
 * at once. What is in one section with a wrong setting is left for later.
 */
function crossCheckValidPart({
  errors: wrong,
  settings,
  validSettings: rest,
  validPart: right,
}: PartialCheck): UnlocatedError[] {
  const sections = new Set(wrong.flatMap(({ path }) => path.slice(0, Math.max(1, path.length - 1))));
  const involvesWrongSection = ({ path, relatedPath: against = [] }: SettingIssue) =>
    [...path, ...against].some((step) => step !== 'routes' && typeof step === 'string' && sections.has(step));
  return crossChecks(right, rest)
    .filter((contradiction) => !involvesWrongSection(contradiction))
    .map((one) => toUnlocated(one, settings));
}

/** Takes wrong settings out until the rest is right; undefined when that does not come to an end soon. */
function removeInvalid(original: Record<string, unknown>): Settings | undefined {
  const settings = structuredClone(original);
  for (let round = 0; round < 5; round++) {
    const parsed = schema.safeParse(settings);
    if (parsed.success) return parsed.data;
    for (const { path } of formatIssues(parsed.error.issues, settings, () => [])) removeSetting(settings, path);
  }
  return undefined;
}

/** Removes a setting; where it is missing, or one of a list, what it belongs to. A missing origin is made up. */
function removeSetting(settings: Record<string, unknown>, path: SettingPath): void {
  if (path.length === 1 && path[0] === 'origin') {
    settings['origin'] = 'http://127.0.0.1';
    return;
  }
  const [step, parent] = [path.at(-1), valueAt(settings, path.slice(0, -1))];
  if (isObject(parent) && typeof step === 'string' && step in parent) Reflect.deleteProperty(parent, step);
  else if (path.length > 1) removeSetting(settings, path.slice(0, -1));
}

function toUnlocated({ path, problem }: SettingIssue, settings: unknown): UnlocatedError {
  const written = pathAsWritten(path, settings);
  return { path: written, isKeyError: false, configError: { setting: settingName(written), problem } };
}

/** As the settings have it: one listener is no list, and so without a number; an address may stand for its group. */
function pathAsWritten(path: SettingPath, settings: unknown): SettingPath {
  if (!isObject(settings)) return path;
  if (path[0] === 'listen' && !Array.isArray(settings['listen'])) return ['listen', ...path.slice(2)];
  return path[0] === 'admin' && !isObject(settings['admin']) ? ['admin'] : path;
}

type Environment = Readonly<Record<string, string | undefined>>;

const KNOWN_VARIABLES: readonly string[] = ['RUFH_PROXY_CONFIG', ...OVERRIDES.map(({ variable }) => variable)];

/** Kubernetes sets these by itself beside services whose names begin so, such as `rufh-proxy` and `rufh-proxy-nodes`. */
const KUBERNETES_VARIABLE =
  /^RUFH_PROXY(?:_[A-Z0-9]+)*_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)$/;

/** Variables that were probably meant for us and say nothing. `text`: of the configuration, which may name some itself. */
export function findUnknownVariables(env: Environment, text = ''): ConfigError[] {
  return Object.keys(env)
    .filter((name) => env[name] !== '' && looksLikeOurs(name) && !text.includes(`\${${name}`))
    .sort()
    .map((name) => ({ source: name, problem: `unknown variable; ${variableHint(name)}` }));
}

function looksLikeOurs(name: string): boolean {
  if (KNOWN_VARIABLES.includes(name) || KUBERNETES_VARIABLE.test(name)) return false;
  return /^RUFH[_-]?PROXY/i.test(name) || KNOWN_VARIABLES.some((known) => editDistance(name, known) <= 2);
}

function variableHint(name: string): string {
  const nearest = KNOWN_VARIABLES.map((known) => ({ known, distance: editDistance(name, known) })).sort(
    (a, b) => a.distance - b.distance,
  )[0]!;
  return nearest.distance <= 4 ? `did you mean ${nearest.known}?` : '`rufh-proxy serve --help` lists the known ones';
}
