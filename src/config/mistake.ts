/** Something wrong with the configuration, with everything needed to put it right. */
export interface Mistake {
  /** Path of the setting, such as `routes[1].limits.max_size`; missing where the file as a whole is meant. */
  readonly setting?: string;
  /** The file, variable or flag it comes from. */
  readonly source?: string;
  readonly line?: number;
  readonly column?: number;
  /** What is wrong, and what is allowed instead. */
  readonly problem: string;
}

/** A step is a key or an index. */
export type SettingPath = readonly (string | number)[];

/** `routes[1].limits.max_size`. */
export function settingName(path: SettingPath): string {
  return path.map((step, at) => (typeof step === 'number' ? `[${step}]` : at === 0 ? step : `.${step}`)).join('');
}

/** One mistake as one line for people: place, setting, problem. */
export function describeMistake({ setting, source, line, column, problem }: Mistake): string {
  const place = [source, line, column].filter((part) => part !== undefined).join(':');
  return [place, setting, problem].filter((part) => part !== undefined && part !== '').join(': ');
}

/** What was found, short enough for one line, without the passwords in it. */
export function quote(found: unknown): string {
  const text = JSON.stringify(found, (key, value: unknown) =>
    SECRET.test(key) ? '***' : typeof value === 'string' ? withoutCredentials(value) : value,
  ) as string | undefined;
  if (text === undefined) return 'nothing';
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** The values of these settings are not for anybody's eyes. */
export function isSecret(path: SettingPath): boolean {
  return SECRET.test(String(path.at(-1)));
}

const SECRET = /^(password|secret)$/;

/** A URL, well formed or not, without what stands before its host, or what only looks as if its host followed. */
function withoutCredentials(text: string): string {
  return text.replace(/(:\/\/).*@/s, '$1***@').replace(/(:\/\/[^/@[]*:)(?!\d+(?:[/?#]|$)).*/s, '$1***');
}

/** What stands at a path of the settings. */
export function valueAt(settings: unknown, path: SettingPath): unknown {
  return path.reduce<unknown>(
    (value, step) =>
      typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[step] : undefined,
    settings,
  );
}
/** Settings that are right one by one, but not together or not on this machine. */

export interface Contradiction {
  readonly path: SettingPath;
  /** The other setting that is part of it, where that is in another section. */
  readonly against?: SettingPath;
  readonly problem: string;
}
