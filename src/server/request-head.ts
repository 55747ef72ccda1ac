import { Http2ServerRequest } from 'node:http2';
import { fieldValue, fromRawHeaders, type HeaderLine, type Headers } from '../model/headers.js';
import { remembered } from '../model/remembered.js';
import type { RequestHead } from '../model/request-head.js';
import { normalizePath, percentEncoded, removeDotSegments, withoutTrailing } from '../model/uri.js';
import { type HttpRequest, peerOf } from './exchange.js';
import { isAuthority, type Provenance, type TrustedProxies } from './trusted-proxies.js';

/** A request head that is refused, with the status and the detail for the client. */
export class InvalidHead {
  constructor(
    readonly status: 400 | 417 | 501,
    readonly detail: string,
  ) {}
}

/** Reads and validates a request head, the same for HTTP/1.1 and HTTP/2. */
export function readHead(req: HttpRequest, trust: Pick<TrustedProxies, 'provenanceOf'>): RequestHead | InvalidHead {
  const method = req.method ?? '';
  // Methods are case-sensitive (RFC 9110 §9.1), but Node's client would send this one to the origin in capitals.
  if (method !== method.toUpperCase())
    return new InvalidHead(501, `The method ${method} is unknown; methods are in capitals.`);
  const target = readTarget(method, req.url ?? '');
  if (!target) return new InvalidHead(400, 'The request target is malformed.');
  const overHttp2 = req instanceof Http2ServerRequest;
  const headers = overHttp2 ? http2Headers(req) : http1Headers(req.rawHeaders, target);
  const httpVersion = overHttp2 ? '2.0' : req.httpVersion === '1.0' ? '1.0' : '1.1';
  const error = hostError(headers, httpVersion) ?? lengthError(headers);
  if (error !== undefined) return new InvalidHead(400, error);
  const expectation = httpVersion === '1.0' ? undefined : fieldValue(headers, 'expect')?.trim().toLowerCase();
  if (expectation !== undefined && expectation !== '100-continue') {
    return new InvalidHead(417, 'The only expectation that can be met is 100-continue.');
  }
  const contentLength = contentLengthOf(headers);
  const peer = peerOf(req);
  const provenance = trust.provenanceOf(peer, headers);
  const { connection } = provenance;
  const host = fieldValue(headers, 'host')?.trim();
  const scheme = provenance.scheme ?? (peer.encrypted ? 'https' : 'http');
  const authority = provenance.authority ?? (host ? host : peer.localAuthority);
  const base = provenance.base ?? baseOf(scheme, authority, provenance);
  return {
    method,
    target: target.target,
    path: target.path,
    pathAmbiguity: target.pathAmbiguity,
    httpVersion,
    scheme,
    authority,
    base,
    headers,
    contentLength,
    hasBody: hasBody(req, headers, contentLength),
    expectsContinue: expectation !== undefined,
    connection,
  };
}

const DEFAULT_PORT = { http: '80', https: '443' } as const;

/**
 * The base URL that clients use; undefined if scheme and authority are enough. A port in the authority wins over a
 * forwarded one.
 */
function baseOf(scheme: 'http' | 'https', authority: string, { port, prefix = '' }: Provenance): string | undefined {
  const needsPort = port !== undefined && port !== DEFAULT_PORT[scheme] && !/:\d+$/.test(authority);
  if (!needsPort && prefix === '') return undefined;
  return `${scheme}://${authority}${needsPort ? `:${port}` : ''}${prefix}`;
}

/** The header lines, with Host replaced by the authority of an absolute target (RFC 9112 §3.2.2). */
function http1Headers(raw: readonly string[], { authority }: Target): HeaderLine[] {
  const lines = fromRawHeaders(raw);
  if (authority === undefined) return lines;
  return lines.map(([name, value]) => [name, name.toLowerCase() === 'host' ? authority : value]);
}

/**
 * The header lines without pseudo-header fields: `:authority` becomes Host (RFC 9113 §8.3.1), and several Cookie lines
 * become one (§8.2.3).
 */
function http2Headers(req: Http2ServerRequest): HeaderLine[] {
  const all = fromRawHeaders(req.rawHeaders);
  const authority = fieldValue(all, ':authority');
  const fields = all.filter(([name]) => !name.startsWith(':'));
  const lines: HeaderLine[] = authority === undefined ? [] : [['host', authority]];
  // A Host equal to `:authority` is dropped; a different one is left for `hostError` to refuse.
  lines.push(...fields.filter(([name, value]) => name !== 'host' || value !== authority));
  const cookies = lines.filter(([name]) => name === 'cookie').map(([, value]) => value);
  if (cookies.length < 2) return lines;
  const firstCookie = lines.findIndex(([name]) => name === 'cookie');
  return lines.flatMap((line, index): HeaderLine[] => {
    if (line[0] !== 'cookie') return [line];
    return index === firstCookie ? [['cookie', cookies.join('; ')]] : [];
  });
}

/** The reason why the Host is refused: HTTP/1.1 requires exactly one valid Host (RFC 9112 §3.2). */
function hostError(headers: Headers, httpVersion: string): string | undefined {
  let host: string | undefined;
  for (const [name, value] of headers) {
    if (name.length !== 4 || name.toLowerCase() !== 'host') continue;
    if (host !== undefined) return 'The request names more than one host.';
    host = value.trim();
  }
  if (host === undefined) return httpVersion === '1.0' ? undefined : 'The request names no host.';
  return host === '' || isAuthority(host) ? undefined : 'The Host is malformed.';
}

/**
 * The reason why the Content-Length is refused. The parsers already refuse malformed and contradictory lengths; this
 * guards against a more lenient one.
 */
function lengthError(headers: Headers): string | undefined {
  const length = fieldValue(headers, 'content-length');
  if (length === undefined || Number.isSafeInteger(contentLengthOf(headers))) return undefined;
  return /^\d+$/.test(length) ? 'The Content-Length is beyond all limits.' : 'The Content-Length is malformed.';
}

function contentLengthOf(headers: Headers): number | undefined {
  const length = fieldValue(headers, 'content-length');
  return length === undefined ? undefined : /^\d+$/.test(length) ? Number(length) : NaN;
}

function hasBody(req: HttpRequest, headers: Headers, contentLength: number | undefined): boolean {
  if (contentLength === 0) return false;
  if (req instanceof Http2ServerRequest) return !req.stream.endAfterHeaders;
  return contentLength !== undefined || fieldValue(headers, 'transfer-encoding') !== undefined;
}

/** A parsed request target. */
export interface Target {
  /** In origin-form, or `*`. */
  readonly target: string;
  /** For matching routes: dot segments resolved, unnecessary escapes decoded. */
  readonly path: string;
  /** The reason why servers could read the path in several ways; missing if they cannot. */
  readonly pathAmbiguity?: string;
  /** The authority of an absolute target. */
  readonly authority?: string;
}

/** The request target (RFC 9112 §3.2) in origin-form; undefined if it is malformed. */
export function readTarget(method: string, received: string): Target | undefined {
  // A target has no fragment: routes would be matched without it, while the origin would get it.
  if (received.includes('#')) return undefined;
  if (received === '*') return method === 'OPTIONS' ? { target: '*', path: '*' } : undefined;
  if (received.startsWith('/')) return originForm(received);
  const [, authority, rest] = /^https?:\/\/([^/?]+)(.*)/is.exec(received) ?? [];
  if (authority === undefined || rest === undefined || authority.includes('@')) return undefined;
  if (rest === '' && method === 'OPTIONS') return { target: '*', path: '*', authority };
  return { ...originForm(rest.startsWith('/') ? rest : `/${rest}`), authority };
}

/**
 * The target with its path in normal form, which servers read the same way as the proxy. The query stays as received;
 * nothing is matched against it.
 */
export function canonicalTarget({ target, path }: Pick<Target, 'target' | 'path'>): string {
  const query = target.indexOf('?');
  return query === -1 ? path : path + target.slice(query);
}

function originForm(target: string): Target {
  const raw = pathOf(target);
  if (PLAIN_PATH.test(raw)) return { target, path: raw };
  const normalized = normalizePath(raw);
  const ambiguity = ambiguityOf(raw, normalized);
  if (ambiguity !== undefined) return { target, path: normalized, pathAmbiguity: ambiguity };
  return { target, path: removeDotSegments(normalized) };
}

/** A path that every server reads in the same way: it has no escapes, no empty segments and none that begins with a dot. */
const PLAIN_PATH = /^(?:\/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$/;

function pathOf(target: string): string {
  const query = target.indexOf('?');
  return query === -1 ? target : target.slice(0, query);
}

/** Forms that servers read in different ways and that clients do not need. */
const AMBIGUITIES: readonly (readonly [form: RegExp, description: string])[] = [
  [/%(?![0-9A-F]{2})/, 'a % that begins no escape'],
  [/%(?:2F|5C)/, 'an escaped slash or backslash'],
  [/\\/, 'a backslash'],
  [/\/\//, 'an empty segment (//)'],
  [/\/\.{1,2};/, 'a dot segment with parameters'],
  [/%(?:[01][0-9A-F]|7F)/, 'a control character'],
  [/%25(?:25)*(?:2[EF]|5C|3B|[01][0-9A-F]|7F)/i, 'characters that are escaped twice'],
  [/%C[01]%[89AB][0-9A-F]|%E0%[89][0-9A-F]|%F0%8[0-9A-F]/, 'an overlong UTF-8 sequence'],
];

function ambiguityOf(raw: string, normalized: string): string | undefined {
  const match = AMBIGUITIES.find(([form]) => form.test(normalized));
  if (match) return match[1];
  if (countDotSegments(normalized) !== countDotSegments(raw)) return 'an escaped dot segment';
  return hidesStructure(normalized) ? 'a character that some servers take for a slash or a dot' : undefined;
}

function countDotSegments(path: string): number {
  return path.split('/').filter((segment) => segment === '.' || segment === '..').length;
}

/** Whether the path contains characters, such as full-width forms, that NFKC turns into slashes or dots. */
function hidesStructure(normalized: string): boolean {
  if (!/%[EF]/.test(normalized)) return false;
  const nfkc = toNfkc(unescape(normalized));
  return (
    /\\/.test(nfkc) ||
    nfkc.split('/').length !== normalized.split('/').length ||
    countDotSegments(nfkc) > countDotSegments(normalized)
  );
}

/** The longest path in bytes whose readings are computed if it has unusual forms. */
const MAX_UNUSUAL_PATH_LENGTH = 1024;

/** The most readings that are computed, because unusual forms multiply. No client needs a path with more. */
export const MAX_READINGS = 64;

/** Forms that may make a server read a path differently, including those that clients have good reasons for. */
const UNUSUAL = /[;\\]|%(?:[01]|2[035BF]|3[BF]|5C|7F|[89A-F])|%(?![0-9A-F]{2})|\.(?:\/|$)|\/\.|\/\/|.\/$/;

/** A transformation that some servers apply to paths and others do not. */
type ReadingStep = (path: string) => readonly string[];

/**
 * Servers unescape once, twice or not at all, before or after resolving dot segments. They merge slashes, turn backslashes
 * into slashes, and drop parameters, control characters, a leading authority, and dots and blanks at the end.
 */
const STEPS: readonly ReadingStep[] = [
  (path) => [path, unescape(path), fullyUnescaped(path)],
  (path) => [path, path.replace(/[\0?#].*/s, '')],
  (path) => [path, path.replace(/[\0-\x1f\x7f]/g, '')],
  (path) => [path, path.replaceAll('\\', '/')],
  (path) => [path, path.replace(/;[^/]*/g, '')],
  (path) => [path, path.replace(/^\/\/[^/]*(?=\/)/, '')],
  (path) => [path, removeDotSegments(path)],
  (path) => [path, path.replace(/\/{2,}/g, '/')],
  (path) => [path, removeDotSegments(path)],
  (path) => [path, trimSegmentEnds(path), path.replace(/(.)\/$/, '$1')],
];

/**
 * Every other path, in normal form, that a server may read the target as; undefined if there are too many. `STEPS`
 * lists what servers do to a path; each step is linear and takes at most `MAX_READINGS` paths of
 * `MAX_UNUSUAL_PATH_LENGTH`.
 */
export function otherReadings({ target, path }: Pick<Target, 'target' | 'path'>): readonly string[] | undefined {
  const normalized = normalizePath(pathOf(target));
  if (path === '*' || (!UNUSUAL.test(normalized) && normalized === path)) return [];
  if (normalized.length > MAX_UNUSUAL_PATH_LENGTH) return undefined;
  let paths: ReadonlySet<string> = new Set([normalized]);
  for (const step of STEPS) {
    paths = new Set([...paths].flatMap(step));
    if (paths.size > MAX_READINGS) return undefined;
  }
  const readings = new Set([...paths].map((reading) => normalizePath(maskDotSegments(reading === '' ? '/' : reading))));
  readings.delete(path);
  return [...readings];
}

/**
 * Whether some reading of the target could be below this path. It works for any number of readings: they drop, unescape
 * and move segments, but the characters of a remaining segment stay together in the unescaped target.
 */
export function mayBeBelow({ target }: Pick<Target, 'target'>, below: string): boolean {
  const targetLetters = alphanumericsOf(pathOf(target));
  return segmentLetters(below).every((letters) => targetLetters.includes(letters));
}

const segmentLetters = remembered((path) => path.split('/').map(alphanumericsOf));

/**
 * Whether some reading of the target could climb above the root, and thereby leave the path of an origin URL that has
 * one.
 */
export function mayEscapeRoot({ target }: Pick<Target, 'target'>): boolean {
  const unescaped = fullyUnescaped(pathOf(target));
  // Some servers treat an escaped delimiter as the end of the path, others as a part of it.
  return [unescaped, unescaped.replace(/[\0?#].*/s, '')].some(escapesRoot);
}

/** Whether an unescaped path has more `..` than segments before it. */
function escapesRoot(unescaped: string): boolean {
  const path = unescaped.replace(/[\0-\x1f\x7f]/g, '').replaceAll('\\', '/');
  let depth = 0;
  return path.split('/').some((segment) => {
    const name = segment.replace(/;.*/s, '').trim();
    // An empty segment does not add depth, because some servers merge slashes.
    if (name !== '' && name !== '.') depth += name === '..' ? -1 : 1;
    return depth < 0;
  });
}

/** The letters and digits of a fully unescaped path. */
function alphanumericsOf(path: string): string {
  if (PLAIN_PATH.test(path)) return path.replace(/[^A-Za-z0-9]/g, '');
  let current = path;
  for (let round = 0; round < 5; round++) current = unescape(current).replace(/[\0-\x1f\x7f]/g, '');
  return toNfkc(current).replace(/[^A-Za-z0-9]/g, '');
}

/**
 * Replaces dot segments with an ordinary segment: route patterns never match them, but a server that does not resolve
 * them treats them as any other.
 */
function maskDotSegments(path: string): string {
  return path.replace(/\/\.{1,2}(?=\/|$)/g, '/-');
}

/** Removes dots and blanks at the end of segments, as Windows file systems do. */
function trimSegmentEnds(path: string): string {
  return path
    .split('/')
    .map((segment) => withoutTrailing(segment, '. '))
    .join('/');
}

/** Decodes every kind of escape once, into bytes, and overlong UTF-8 sequences into their characters. */
function unescape(path: string): string {
  return path
    .replace(/%u([0-9A-F]{4})/gi, (_, hex: string) => octetsOf(parseInt(hex, 16)))
    .replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)))
    .replace(/(?:[\xc0\xc1]|\xe0[\x80\x81]|\xf0\x80[\x80\x81])[\x80-\xbf]/g, decodeOverlong);
}

/** The escaped octets that some servers read `%uXXXX` as: one octet where that is enough, otherwise UTF-8. */
function octetsOf(code: number): string {
  const text = String.fromCharCode(code);
  return (code < 0x100 ? text : Buffer.from(text, 'utf8').toString('latin1')).replace(/[\s\S]/g, percentEncoded);
}

/**
 * The character of an overlong UTF-8 sequence: the last bit of its last byte but one, and six bits of its last byte.
 */
function decodeOverlong(sequence: string): string {
  const high = sequence.charCodeAt(sequence.length - 2);
  const low = sequence.charCodeAt(sequence.length - 1);
  return String.fromCharCode(((high & 1) << 6) | (low & 0x3f));
}

/** Decodes repeated escapes, as servers do that unescape more than once. */
function fullyUnescaped(path: string): string {
  let current = path;
  for (let round = 0; round < 4; round++) current = unescape(current);
  return toNfkc(current);
}

/** NFKC-normalizes text given as UTF-8 bytes; anything else stays as it is. */
function toNfkc(bytes: string): string {
  if (!/[\x80-\xff]/.test(bytes)) return bytes;
  const text = Buffer.from(bytes, 'latin1').toString('utf8');
  return text.includes('\ufffd') ? bytes : Buffer.from(text.normalize('NFKC'), 'utf8').toString('latin1');
}
