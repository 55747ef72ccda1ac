import type * as z from 'zod';

type Issue = z.core.$ZodIssue;

/** A config error whose position in the file is not known yet. */
export interface UnlocatedError {
  readonly path: SettingPath;
  /** The key itself is wrong, not its value. */
  readonly isKeyError: boolean;
  readonly configError: ConfigError;
}

/** Converts the issues of the schema to config errors, each with the value found and the values allowed. */
export function formatIssues(
  issues: readonly Issue[],
  settings: unknown,
  knownKeysAt: (path: SettingPath) => string[],
): UnlocatedError[] {
  return issues.flatMap((issue) => formatIssue(issue, [], settings, knownKeysAt));
}

function formatIssue(
  issue: Issue,
  parentPath: SettingPath,
  settings: unknown,
  knownKeysAt: (path: SettingPath) => string[],
): UnlocatedError[] {
  const path = [...parentPath, ...(issue.path as (string | number)[])];
  if (issue.code === 'invalid_union') {
    return closestForm(issue.errors).flatMap((inner) => formatIssue(inner, path, settings, knownKeysAt));
  }
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => {
      const setting = settingName([...path, key]);
      const problem =
        REPLACED_SETTINGS[settingName([...path, key].slice(-2))] ?? describeUnknownKey(key, knownKeysAt(path));
      return { path: [...path, key], isKeyError: true, configError: { setting, problem } };
    });
  }
  return [
    {
      path,
      isKeyError: false,
      configError: { setting: settingName(path), problem: describeWrongValue(issue, path, valueAt(settings, path)) },
    },
  ];
}

/**
 * Of the forms a setting may have, the one that was most likely intended: a form of the right type, preferably one that
 * is valid at its top level.
 */
function closestForm(forms: readonly (readonly Issue[])[]): readonly Issue[] {
  const issueDistance = (issue: Issue): number => {
    if (issue.code === 'invalid_union') return issue.path.length > 0 ? 0 : Math.min(...issue.errors.map(formDistance));
    if (issue.path.length > 0 || issue.code === 'unrecognized_keys') return 0;
    return issue.code === 'invalid_type' ? 2 : 1;
  };
  const formDistance = (form: readonly Issue[]): number => Math.max(0, ...form.map(issueDistance));
  return [...forms].sort((a, b) => formDistance(a) - formDistance(b))[0] ?? [];
}

function describeWrongValue(issue: Issue, path: SettingPath, value: unknown): string {
  if (value === undefined) return `is missing; expected ${allowedValues(issue)}`;
  if (isSecretSetting(path)) return `invalid value (not shown); expected ${allowedValues(issue)}`;
  return `found ${quote(value)}, expected ${allowedValues(issue)}`;
}

function allowedValues(issue: Issue): string {
  if (issue.code !== 'invalid_type') return issue.message;
  if (issue.expected === 'object') return 'a group of settings (name: value)';
  return issue.expected === 'array' ? 'a list' : issue.expected;
}

/** Settings of older versions, by section and name. */
const REPLACED_SETTINGS: Readonly<Record<string, string>> = {
  'delivery.idempotent':
    'was replaced by `guarantee`: write `guarantee: at_least_once` for `idempotent: true`, and remove `idempotent: false`',
};

function describeUnknownKey(key: string, known: readonly string[]): string {
  const nearest = known
    .map((name) => ({ name, distance: editDistance(key, name) }))
    .filter(({ name, distance }) => distance <= Math.max(1, Math.floor(name.length / 3)))
    .sort((a, b) => a.distance - b.distance)[0];
  const hint = nearest ? `did you mean ${nearest.name}?` : `known settings here: ${known.join(', ')}`;
  return `unknown setting; ${hint}`;
}

/** Levenshtein distance. Case is ignored, and `-` counts as `_`. */
export function editDistance(first: string, second: string): number {
  const [a, b] = [first, second].map((word) => word.toLowerCase().replaceAll('-', '_')) as [string, string];
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}

/** An error in the configuration, with everything needed to fix it. */
export interface ConfigError {
  /** Path of the setting, such as `routes[1].limits.max_size`; undefined for an error of the file itself. */
  readonly setting?: string;
  /** The file, variable or flag it comes from. */
  readonly source?: string;
  readonly line?: number;
  readonly column?: number;
  /** The problem, and the allowed values. */
  readonly problem: string;
}

/** The keys and indexes that lead to a setting. */
export type SettingPath = readonly (string | number)[];

/** The path as text, such as `routes[1].limits.max_size`. */
export function settingName(path: SettingPath): string {
  return path.map((step, index) => (typeof step === 'number' ? `[${step}]` : index === 0 ? step : `.${step}`)).join('');
}

/** The error as one line: position, setting, problem. */
export function describeError({ setting, source, line, column, problem }: ConfigError): string {
  const position = [source, line, column].filter((part) => part !== undefined).join(':');
  return [position, setting, problem].filter((part) => part !== undefined && part !== '').join(': ');
}

/** The value, shortened to fit one line, without passwords. */
function quote(value: unknown): string {
  const text = JSON.stringify(value, (key, value: unknown) =>
    SECRET_KEY.test(key) ? '***' : typeof value === 'string' ? withoutCredentials(value) : value,
  ) as string | undefined;
  if (text === undefined) return 'nothing';
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** Whether the value of a setting must not be shown. */
function isSecretSetting(path: SettingPath): boolean {
  return SECRET_KEY.test(String(path.at(-1)));
}

const SECRET_KEY = /^(password|secret)$/;

/** Masks the credentials in a URL, even in a malformed one. */
function withoutCredentials(text: string): string {
  return text.replace(/(:\/\/).*@/s, '$1***@').replace(/(:\/\/[^/@[]*:)(?!\d+(?:[/?#]|$)).*/s, '$1***');
}

/** The value of a setting; undefined if it is not set. */
export function valueAt(settings: unknown, path: SettingPath): unknown {
  return path.reduce<unknown>(
    (value, step) =>
      typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[step] : undefined,
    settings,
  );
}

/** A problem of settings that are valid one by one, but not together or not on this machine. */
export interface SettingIssue {
  readonly path: SettingPath;
  /** The other setting involved, if it is in another section. */
  readonly relatedPath?: SettingPath;
  readonly problem: string;
}
