import { resolve } from 'node:path';
import ipaddr from 'ipaddr.js';
import * as z from 'zod';
import { withoutTrailing } from '../model/uri.js';
import { MAX_TIMER_MS } from '../model/timer.js';

/** An address to listen on. */
export type Address =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

interface ValueTypeOptions<T> {
  /** Parses the value; undefined if it is invalid. Variables and flags supply every value as text. */
  readonly read: (found: unknown) => T | undefined;
  /** Completes the sentence "expected …". */
  readonly allowed: string;
  /** JSON Schema for editors. */
  readonly json: Record<string, unknown>;
  /** Unit or form, for the documentation. */
  readonly unit?: string;
}

/** The zod type of one value, with its parser, its error message and its JSON Schema. */
export function valueType<T>({ read, allowed, json, unit }: ValueTypeOptions<T>) {
  return z
    .unknown()
    .transform((found, context): T => {
      const value = read(found);
      if (value !== undefined) return value;
      context.issues.push({ code: 'custom', message: allowed, input: found });
      return z.NEVER;
    })
    .meta({ ...json, ...(unit === undefined ? {} : { unit }) });
}

const SIZE = /^(\d+(?:\.\d+)?)\s?(B|[kK]B|MB|GB|TB|KiB|MiB|GiB|TiB)?$/;
const BYTES: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};
const SIZE_ALLOWED = 'a size such as 10GiB, 5MB or a number of bytes';
const SIZE_JSON = { type: ['string', 'integer'], pattern: SIZE.source, minimum: 0 };

function readSize(found: unknown, min: number, max = Infinity): number | undefined {
  if (typeof found !== 'string' && typeof found !== 'number') return undefined;
  const [, amount, unit = 'B'] = SIZE.exec(String(found)) ?? [];
  if (amount === undefined) return undefined;
  const bytes = Number(amount) * BYTES[unit]!;
  return Number.isSafeInteger(bytes) && bytes >= min && bytes <= max ? bytes : undefined;
}

/** A number of bytes: `10GiB`, `5MB`, `1000`. */
export function size({ min = 0, max = Infinity } = {}) {
  const atLeast = min > 0 ? `, at least ${min}` : '';
  const allowed = `${SIZE_ALLOWED}${atLeast}${max < Infinity ? `, at most ${max}` : ''}`;
  return valueType({ read: (found) => readSize(found, min, max), allowed, json: SIZE_JSON, unit: 'size' });
}

const PERCENTAGE = /^(\d{1,2}(?:\.\d+)?)\s?%$/;

/** A size, a percentage of a whole, or `null`; the description of the setting defines `null`. */
export function sizeOrShareOrNull() {
  return valueType({
    read: (found): { readonly bytes: number } | { readonly share: number } | null | undefined => {
      if (isNull(found)) return null;
      const [, percent] = PERCENTAGE.exec(String(found)) ?? [];
      if (percent !== undefined) return { share: Number(percent) / 100 };
      const bytes = readSize(found, 0);
      return bytes === undefined ? undefined : { bytes };
    },
    allowed: 'a size such as 10GiB, a percentage such as 5%, or null',
    json: { ...SIZE_JSON, type: ['string', 'integer', 'null'], pattern: `${SIZE.source}|${PERCENTAGE.source}` },
    unit: 'size or percentage',
  });
}

/** A size, or `null` for "no limit". */
export function sizeOrNull() {
  return valueType({
    read: (found) => (isNull(found) ? null : readSize(found, 0)),
    allowed: `${SIZE_ALLOWED}, or null`,
    json: { ...SIZE_JSON, type: ['string', 'integer', 'null'] },
    unit: 'size',
  });
}

const DURATION = /^(\d+(?:\.\d+)?)\s?(ms|s|m|h|d)$/;
const MILLISECONDS: Readonly<Record<string, number>> = { ms: 1, s: 1e3, m: 60e3, h: 3600e3, d: 86400e3 };

interface Bounds {
  readonly minMs?: number;
  readonly maxMs?: number;
}

function readDuration(found: unknown, { minMs = 0, maxMs = MAX_TIMER_MS }: Bounds): number | undefined {
  const [, amount, unit] = DURATION.exec(String(found)) ?? [];
  if (typeof found !== 'string' || amount === undefined) return undefined;
  const ms = Math.round(Number(amount) * MILLISECONDS[unit!]!);
  return ms >= minMs && ms <= maxMs ? ms : undefined;
}

function durationAllowed({ minMs = 0, maxMs = MAX_TIMER_MS }: Bounds): string {
  const min = minMs > 0 ? `, at least ${minMs}ms` : '';
  const max = maxMs === MAX_TIMER_MS ? ', at most 24d' : '';
  return `a time with a unit, such as 500ms, 30s, 5m, 24h or 7d${min}${max}`;
}

/** A time in milliseconds: `500ms`, `30s`, `5m`, `24h`, `7d`. */
export function duration(bounds: Bounds = {}) {
  const json = { type: 'string', pattern: DURATION.source };
  return valueType({
    read: (found) => readDuration(found, bounds),
    allowed: durationAllowed(bounds),
    json,
    unit: 'time',
  });
}

/** A time, or `null`; the description of the setting defines `null`. */
export function durationOrNull(bounds: Bounds = {}) {
  return valueType({
    read: (found) => (isNull(found) ? null : readDuration(found, bounds)),
    allowed: `${durationAllowed(bounds)}, or null`,
    json: { type: ['string', 'null'], pattern: DURATION.source },
    unit: 'time',
  });
}

/** A whole number within bounds. */
export function integer({ min, max }: { min: number; max: number }) {
  return valueType({
    read: (found) => readInteger(found, min, max),
    allowed: `a whole number from ${min} to ${max}`,
    json: { type: 'integer', minimum: min, maximum: max },
    unit: 'number',
  });
}

/** A whole number, or `null`; the description of the setting defines `null`. */
export function integerOrNull({ min, max }: { min: number; max: number }) {
  return valueType({
    read: (found) => (isNull(found) ? null : readInteger(found, min, max)),
    allowed: `a whole number from ${min} to ${max}, or null`,
    json: { type: ['integer', 'null'], minimum: min, maximum: max },
    unit: 'number',
  });
}

function readInteger(found: unknown, min: number, max: number): number | undefined {
  const value = typeof found === 'string' && /^\d+$/.test(found) ? Number(found) : found;
  return typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max ? value : undefined;
}

/** `true` or `false`. */
export function boolean() {
  return valueType({
    read: (found) =>
      found === true || found === 'true' ? true : found === false || found === 'false' ? false : undefined,
    allowed: 'true or false',
    json: { type: 'boolean' },
    unit: 'true or false',
  });
}

export function booleanOrNull() {
  return valueType({
    read: (found) => {
      if (isNull(found)) return null;
      return found === true || found === 'true' ? true : found === false || found === 'false' ? false : undefined;
    },
    allowed: 'true, false or null',
    json: { type: ['boolean', 'null'] },
    unit: 'true or false',
  });
}

/** One of the given words. */
export function oneOf<const W extends string>(words: readonly W[], allowed = `one of ${words.join(', ')}`) {
  return valueType({
    read: (found) => words.find((word) => word === found),
    allowed,
    json: { enum: [...words] },
    unit: words.join(' \\| '),
  });
}

/** Text that matches a pattern. */
export function text({ pattern, allowed, unit = 'text' }: { pattern: RegExp; allowed: string; unit?: string }) {
  return valueType({
    read: (found) => (typeof found === 'string' && pattern.test(found) ? found : undefined),
    allowed,
    json: { type: 'string', pattern: pattern.source },
    unit,
  });
}

/** A file or directory, resolved against the working directory. */
export function path() {
  return valueType({
    read: (found) => (typeof found === 'string' && found !== '' ? resolve(found) : undefined),
    allowed: 'the path of a file or directory',
    json: { type: 'string', minLength: 1 },
    unit: 'path',
  });
}

function readUrl(found: unknown): string | undefined {
  if (typeof found !== 'string' || !/^https?:\/\//i.test(found) || !URL.canParse(found)) return undefined;
  const url = new URL(found);
  if (url.search || url.hash || url.username || url.password) return undefined;
  return withoutTrailing(url.origin + url.pathname, '/');
}
const URL_ALLOWED = 'a URL such as http://127.0.0.1:3000, without query, fragment or credentials';
const URL_PATTERN = '^https?://[^?#@]+$';

/** An http or https URL, optionally with a path; a trailing slash is removed. */
export function httpUrl() {
  return valueType({
    read: readUrl,
    allowed: URL_ALLOWED,
    json: { type: 'string', pattern: URL_PATTERN },
    unit: 'URL',
  });
}

export function httpUrlOrNull() {
  return valueType({
    read: (found) => (isNull(found) ? null : readUrl(found)),
    allowed: `${URL_ALLOWED}, or null`,
    json: { type: ['string', 'null'], pattern: URL_PATTERN },
    unit: 'URL',
  });
}

/** Parses `HOST:PORT`, `[::1]:PORT` or `unix:/path`; undefined if invalid. */
export function readAddress(found: unknown): Address | undefined {
  if (typeof found !== 'string') return undefined;
  if (found.startsWith('unix:')) {
    return found.length > 'unix:'.length ? { kind: 'unix', path: resolve(found.slice('unix:'.length)) } : undefined;
  }
  const [, v6, name, digits] = /^(?:\[([^\]]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(found) ?? [];
  const host = v6 ?? name;
  const port = Number(digits);
  if (host === undefined || port > 65535 || (v6 !== undefined && !ipaddr.IPv6.isValid(v6))) return undefined;
  return { kind: 'tcp', host, port };
}

/** The address as it is written in the file. */
export function formatAddress(address: Address): string {
  if (address.kind === 'unix') return `unix:${address.path}`;
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

const ADDRESS_ALLOWED = 'HOST:PORT such as 127.0.0.1:8080 or [::1]:8080 (port 0 picks a free port), or unix:/path';
const ADDRESS_PATTERN = '^(unix:.+|(\\[[^\\]]+\\]|[A-Za-z0-9._-]+):\\d{1,5})$';

/** An address to listen on. */
export function address() {
  const json = { type: 'string', pattern: ADDRESS_PATTERN };
  return valueType({ read: readAddress, allowed: ADDRESS_ALLOWED, json, unit: 'address' });
}

/** An address to listen on, or `false`. */
export function addressOrOff() {
  return valueType({
    read: (found) => (found === false || found === 'false' ? false : readAddress(found)),
    allowed: `${ADDRESS_ALLOWED}, or false`,
    json: { anyOf: [{ type: 'string', pattern: ADDRESS_PATTERN }, { const: false }] },
    unit: 'address',
  });
}

const FILE_MODE = /^0?[0-7]{3}$/;

/** File permissions in octal digits, as for `chmod`. Only text is accepted, because YAML reads a bare 0660 as the number 660. */
export function fileMode() {
  return valueType({
    read: (found) => (typeof found === 'string' && FILE_MODE.test(found) ? parseInt(found, 8) : undefined),
    allowed: "file permissions as octal digits in quotes, such as '0660'",
    json: { type: 'string', pattern: FILE_MODE.source },
    unit: 'octal digits',
  });
}

/** An address range; `unix` stands for peers on a Unix socket, which have no address. */
export function cidr() {
  return valueType({
    read: (found) => {
      if (typeof found !== 'string') return undefined;
      if (found === 'unix') return found;
      if (ipaddr.isValidCIDR(found)) return isMappedTooWide(found) ? undefined : found;
      if (!ipaddr.IPv4.isValidFourPartDecimal(found) && !ipaddr.IPv6.isValid(found)) return undefined;
      return `${found}/${ipaddr.parse(found).kind() === 'ipv4' ? 32 : 128}`;
    },
    allowed: 'an address or range such as 10.0.0.0/8, 192.168.1.7 or fd00::/8, or unix',
    json: { type: 'string', minLength: 1 },
    unit: 'CIDR',
  });
}

/** `::ffff:10.0.0.0/8` is intended for IPv4 addresses but covers IPv6 ones such as `::1`: in IPv6, 10.0.0.0/8 has 104 bits. */
function isMappedTooWide(range: string): boolean {
  const [start, bits] = ipaddr.parseCIDR(range);
  return start.kind() === 'ipv6' && (start as ipaddr.IPv6).isIPv4MappedAddress() && bits < 96;
}

/** Whether a value is unset or empty: `${NAME:-}` yields empty text. */
export function isNull(found: unknown): boolean {
  return found === null || found === '';
}

/** Whether a value is a plain group of settings, not a list. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** One value or a list, always as a list. */
export function listOf<T>(oneOrMore: T | readonly T[]): readonly T[] {
  return Array.isArray(oneOrMore) ? (oneOrMore as readonly T[]) : [oneOrMore as T];
}

/** A pattern, and the error message for text that does not match it. */
export interface TextPattern {
  readonly pattern: RegExp;
  /** Completes the sentence "expected …". */
  readonly allowed: string;
}

/** RFC 9110 §5.1. */
export const headerName: TextPattern = {
  pattern: /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/,
  allowed: 'the name of a header such as X-Request-Id',
};

/** A method whose request carries a body, or `null`. */
export function methodOrNull() {
  const pattern = /^(?!(?:GET|HEAD|DELETE|OPTIONS|TRACE|CONNECT)$)[A-Z][A-Z-]*$/;
  return valueType({
    read: (found) => (isNull(found) ? null : typeof found === 'string' && pattern.test(found) ? found : undefined),
    allowed: 'an uppercase method that carries a body, such as PUT, or null',
    json: { type: ['string', 'null'], pattern: pattern.source },
    unit: 'method',
  });
}

/** An http or https URL that is requested exactly as written, including path and query. */
export function endpoint() {
  return valueType({
    read: (found) => {
      if (typeof found !== 'string' || !/^https?:\/\//i.test(found) || !URL.canParse(found)) return undefined;
      const url = new URL(found);
      return url.hash || url.username || url.password ? undefined : url.href;
    },
    allowed: 'a URL such as http://127.0.0.1:4181/verify, without fragment or credentials',
    json: { type: 'string', pattern: '^https?://[^#@]+$' },
    unit: 'URL',
  });
}

/** A group of names and text values, in the order of the file; numbers and booleans are converted to text. */
export function textMap({ name, value }: { readonly name: TextPattern; readonly value: TextPattern }) {
  return z
    .unknown()
    .transform((found, context): [name: string, value: string][] => {
      const issue = (message: string, path: string[] = []) =>
        void context.issues.push({ code: 'custom', message, path, input: found });
      if (typeof found !== 'object' || found === null || Array.isArray(found)) {
        issue('a group of names and text values (name: value)');
        return z.NEVER;
      }
      const entries = Object.entries(found).map(([key, entry]): [string, string] => [key, asText(entry)]);
      for (const [key, entry] of entries) {
        if (!name.pattern.test(key)) issue(`${name.allowed} before each colon`);
        else if (!value.pattern.test(entry)) issue(value.allowed, [key]);
      }
      return entries;
    })
    .meta({ type: 'object', additionalProperties: { type: ['string', 'number', 'boolean'] }, unit: 'names and texts' });
}

/** Converts a value to text. A value that cannot be text becomes one that no pattern accepts. */
function asText(found: unknown): string {
  if (typeof found === 'string') return found;
  return typeof found === 'number' || typeof found === 'boolean' ? String(found) : '\0';
}

/** The settings of one group, by their keys. */
export type Shape = Readonly<Record<string, z.ZodType>>;

/** Adds defaults to settings: for the top level, from which routes inherit. */
export function withDefaults<S extends Shape>(
  settings: S,
  defaults: { readonly [K in keyof S]: z.input<S[K]> },
): { [K in keyof S]: z.ZodPrefault<S[K]> } {
  const entries = Object.entries(settings).map(([key, setting]) => [key, setting.prefault(defaults[key])] as const);
  return Object.fromEntries(entries) as { [K in keyof S]: z.ZodPrefault<S[K]> };
}
