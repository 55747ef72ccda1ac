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
  /** Path of a YAML file; without one, only defaults, variables and flags apply. */
  readonly file?: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The flags that were given, by the keys of `OVERRIDES`. */
  readonly flags: Readonly<Record<string, unknown>>;
}

/** A valid configuration with its warnings, or all errors of an invalid one. */
export type LoadedConfig =
  | {
      readonly config: Config;
      readonly settings: Settings;
      readonly warnings?: ConfigError[];
    }
  | { readonly configErrors: ConfigError[]; readonly warnings?: ConfigError[] };

/**
 * Loads the configuration with its warnings, or returns all errors together. A flag overrides its variable, and both
 * override the file.
 */
export function loadConfig(sources: ConfigSources): LoadedConfig {
  const { loaded, overrides } = readSettings(sources);
  const unknownVariables = findUnknownVariables(sources.env, loaded.text);
  if (loaded.settings === undefined) return { configErrors: loaded.configErrors };
  const { config, settings, errors, warnings } = checkSettings(loaded.settings);
  const configErrors = [...loaded.configErrors];
  for (const error of errors) {
    const located = locate(error, overrides, loaded);
    // `${NAME}` of an unset variable stays in the value and usually makes that invalid too. Only the first error at a
    // position is reported.
    if (!loaded.configErrors.some((known) => known.line === located.line && known.column === located.column))
      configErrors.push(located);
  }
  if (!config || !settings || configErrors.length > 0)
    return {
      configErrors: sortByPosition(configErrors),
      ...(unknownVariables.length > 0 ? { warnings: unknownVariables } : {}),
    };
  const allWarnings = [
    ...unknownVariables,
    ...sortByPosition(warnings.map((warning) => locate(warning, overrides, loaded))),
  ];
  return {
    config,
    settings,
    ...(allWarnings.length > 0 ? { warnings: allWarnings } : {}),
  };
}

/** The valid part of a configuration with errors; invalid settings have their defaults. */
export interface ValidPart {
  readonly config: Config;
  /** Whether this section has an error. */
  readonly hasErrors: (section: string) => boolean;
}

/** The configuration that results from the valid settings; undefined if it cannot be determined. */
export function loadValidPart(sources: ConfigSources): ValidPart | undefined {
  const { loaded } = readSettings(sources);
  if (loaded.settings === undefined) return undefined;
  const { config, errors, validPart = config } = checkSettings(loaded.settings);
  return validPart && { config: validPart, hasErrors: (section) => errors.some(({ path }) => path[0] === section) };
}

/** Adds an error in the order of positions, unless another one has the same position. */
export function withError(configErrors: readonly ConfigError[], added: ConfigError): ConfigError[] {
  const isAtSamePosition = ({ source, line, column }: ConfigError): boolean =>
    line !== undefined && source === added.source && line === added.line && column === added.column;
  return configErrors.some(isAtSamePosition) ? [...configErrors] : sortByPosition([...configErrors, added]);
}

/** An error that appeared only when a setting was used, with the position of the setting. */
export function settingError(sources: ConfigSources, path: SettingPath, problem: string): ConfigError {
  const { loaded, overrides } = readSettings(sources);
  return locate(toUnlocated({ path, problem }, loaded.settings), overrides, loaded);
}

/**
 * The admin listener of a proxy with this configuration; undefined if it has none. Errors in other settings do not matter,
 * nor do files that the current user cannot read.
 */
export function loadAdmin(sources: ConfigSources): { admin?: AdminConfig } | { configErrors: ConfigError[] } {
  const { loaded, overrides } = readSettings(sources);
  if (loaded.settings === undefined) return { configErrors: loaded.configErrors };
  const parsed = adminSchema.safeParse(loaded.settings);
  if (parsed.success) return { admin: toAdmin(parsed.data.admin) };
  return {
    configErrors: formatIssues(parsed.error.issues, loaded.settings, knownKeys).map((error) =>
      locate(error, overrides, loaded),
    ),
  };
}

function readSettings({ file, env, flags }: ConfigSources): { loaded: LoadedSettings; overrides: GivenSetting[] } {
  const loaded = file === undefined ? { settings: {}, configErrors: [] } : readFile(file, env);
  const overrides = collectOverrides(env, flags);
  if (isObject(loaded.settings)) for (const override of overrides) applyOverride(loaded.settings, override);
  return { loaded, overrides };
}

/** The settings of the file with the overrides applied, not checked yet. */
interface LoadedSettings {
  readonly file?: string;
  readonly yaml?: YamlFile;
  /** Content of the file. */
  readonly text?: string;
  /** Undefined if the file cannot be read or parsed. */
  readonly settings: unknown;
  readonly configErrors: ConfigError[];
}

function readFile(file: string, env: ConfigSources['env']): LoadedSettings {
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

/** Adds the source of a setting to its error: the flag or variable that set it, otherwise the position in the file. */
function locate(
  { path, isKeyError, configError }: UnlocatedError,
  overrides: readonly GivenSetting[],
  { file, yaml }: LoadedSettings,
): ConfigError {
  const names = path.map((step) => (typeof step === 'number' ? '*' : step));
  const override = overrides.find(({ setting }) => setting.every((step, index) => step === names[index]));
  if (override) return { ...configError, source: override.source };
  if (file === undefined) return { ...configError, problem: configError.problem + flagHint(names) };
  return { ...configError, source: file, ...yaml?.locate(path, isKeyError) };
}

/** Names the flag and the variable of a setting, for configurations without a file. */
function flagHint(names: SettingPath): string {
  const override = OVERRIDES.find(({ setting }) => setting.join('.') === names.join('.'));
  return override ? `; set it with ${override.flag} or ${override.variable}` : '';
}

/** Errors of the command line first, then those of the file from top to bottom. */
function sortByPosition(configErrors: ConfigError[]): ConfigError[] {
  return configErrors.sort((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0));
}

/** Checks settings. Returns their configuration, all errors and all warnings. */
export function checkSettings(settings: unknown): CheckResult {
  const parsed = schema.safeParse(settings);
  if (parsed.success) {
    const config = toConfig(parsed.data);
    const errors = crossChecks(config, parsed.data).map((issue) => toUnlocated(issue, settings));
    return {
      config,
      settings: parsed.data,
      errors,
      warnings: findWarnings(config, parsed.data).map((issue) => toUnlocated(issue, settings)),
    };
  }
  const schemaErrors = formatIssues(parsed.error.issues, settings, knownKeys);
  const validSettings = isObject(settings) ? removeInvalid(settings) : undefined;
  if (!validSettings) return { errors: schemaErrors, warnings: [] };
  const validPart = toConfig(validSettings);
  const errors = [
    ...schemaErrors,
    ...crossCheckValidPart({ errors: schemaErrors, settings, validSettings, validPart }),
  ];
  return { errors, warnings: [], validPart };
}

export interface CheckResult {
  /** Undefined if a setting is invalid. Cross-check errors can exist beside it. */
  readonly config?: Config;
  /** The settings of `config`. */
  readonly settings?: Settings;
  readonly errors: UnlocatedError[];
  readonly warnings: UnlocatedError[];
  /** The configuration of the valid settings, with defaults in place of the invalid ones. */
  readonly validPart?: Config;
}

interface PartialCheck {
  readonly errors: readonly UnlocatedError[];
  readonly settings: unknown;
  readonly validSettings: Settings;
  readonly validPart: Config;
}

/**
 * Cross-checks the valid settings, after the invalid ones are removed, so that all errors are reported together.
 * Sections with an invalid setting are skipped.
 */
function crossCheckValidPart({ errors, settings, validSettings, validPart }: PartialCheck): UnlocatedError[] {
  const sections = new Set(errors.flatMap(({ path }) => path.slice(0, Math.max(1, path.length - 1))));
  const involvesInvalidSection = ({ path, relatedPath = [] }: SettingIssue) =>
    [...path, ...relatedPath].some((step) => step !== 'routes' && typeof step === 'string' && sections.has(step));
  return crossChecks(validPart, validSettings)
    .filter((issue) => !involvesInvalidSection(issue))
    .map((issue) => toUnlocated(issue, settings));
}

/** Removes invalid settings until the rest is valid; undefined if five rounds are not enough. */
function removeInvalid(original: Record<string, unknown>): Settings | undefined {
  const settings = structuredClone(original);
  for (let round = 0; round < 5; round++) {
    const parsed = schema.safeParse(settings);
    if (parsed.success) return parsed.data;
    for (const { path } of formatIssues(parsed.error.issues, settings, () => [])) removeSetting(settings, path);
  }
  return undefined;
}

/** Removes a setting, or its parent if it is missing or in a list. The required `origin` gets a placeholder instead. */
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

/** The path as written in the file: a single listener has no index, and an address may replace the `admin` group. */
function pathAsWritten(path: SettingPath, settings: unknown): SettingPath {
  if (!isObject(settings)) return path;
  if (path[0] === 'listen' && !Array.isArray(settings['listen'])) return ['listen', ...path.slice(2)];
  return path[0] === 'admin' && !isObject(settings['admin']) ? ['admin'] : path;
}

type Environment = Readonly<Record<string, string | undefined>>;

const KNOWN_VARIABLES: readonly string[] = ['RUFH_PROXY_CONFIG', ...OVERRIDES.map(({ variable }) => variable)];

/** Variables that Kubernetes sets for services named `rufh-proxy` or, for example, `rufh-proxy-nodes`. */
const KUBERNETES_VARIABLE =
  /^RUFH_PROXY(?:_[A-Z0-9]+)*_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)$/;

/** Unknown variables that were probably intended for this program. Variables named in `text`, the config file, are skipped. */
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
