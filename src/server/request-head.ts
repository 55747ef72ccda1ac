import { Http2ServerRequest } from 'node:http2';
import { fieldValue, fromRawHeaders, type HeaderLine, type Headers } from '../model/headers.js';
import type { RequestHead } from '../model/request-head.js';
import { percentEncoded, normalizePath, removeDotSegments, withoutTrailing } from '../model/uri.js';
import { type HttpRequest, peerOf } from './exchange.js';
import { isAuthority, type Provenance, type TrustedProxies } from './trusted-proxies.js';

/** A head that nobody can act on; the client is told why. */
export class InvalidHead {
  constructor(
    readonly status: 400 | 417 | 501,
    readonly detail: string,
  ) {}
}

/** What is known of a request before its body. What HTTP/1.1 and HTTP/2 say differently is said one way here. */
export function readHead(req: HttpRequest, trust: Pick<TrustedProxies, 'provenanceOf'>): RequestHead | InvalidHead {
  const method = req.method ?? '';
  // Methods are case-sensitive (RFC 9110 §9.1), but Node's client would say this one in capitals to the origin.
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
    ...(target.ambiguity === undefined ? {} : { pathAmbiguity: target.ambiguity }),
    httpVersion,
    scheme,
    authority,
    ...(base === undefined ? {} : { base }),
    headers,
    contentLength,
    hasBody: hasBody(req, headers, contentLength),
    expectsContinue: expectation !== undefined,
    connection,
  };
}

const DEFAULT_PORT = { http: '80', https: '443' } as const;

/** Undefined where scheme and authority say it all. An authority with a port of its own keeps that one. */
function baseOf(scheme: 'http' | 'https', authority: string, { port, prefix = '' }: Provenance): string | undefined {
  const needsPort = port !== undefined && port !== DEFAULT_PORT[scheme] && !/:\d+$/.test(authority);
  if (!needsPort && prefix === '') return undefined;
  return `${scheme}://${authority}${needsPort ? `:${port}` : ''}${prefix}`;
}

/** RFC 9112 §3.2.2: the authority of an absolute target replaces Host. */
function http1Headers(raw: readonly string[], { authority }: Target): HeaderLine[] {
  const lines = fromRawHeaders(raw);
  if (authority === undefined) return lines;
  return lines.map(([name, value]) => [name, name.toLowerCase() === 'host' ? authority : value]);
}

/** Without pseudo-header fields; `:authority` as Host (RFC 9113 §8.3.1), cookie crumbs as one line (§8.2.3). */
function http2Headers(req: Http2ServerRequest): HeaderLine[] {
  const all = fromRawHeaders(req.rawHeaders);
  const authority = fieldValue(all, ':authority');
  const fields = all.filter(([name]) => !name.startsWith(':'));
  const lines: HeaderLine[] = authority === undefined ? [] : [['host', authority]];
  // A Host that says the same is the same line; another one is left for `hostComplaint`.
  lines.push(...fields.filter(([name, value]) => name !== 'host' || value !== authority));
  const crumbs = lines.filter(([name]) => name === 'cookie').map(([, value]) => value);
  const first = lines.findIndex(([name]) => name === 'cookie');
  if (crumbs.length < 2) return lines;
  return lines.flatMap((line, at): HeaderLine[] => {
    if (line[0] !== 'cookie') return [line];
    return at === first ? [['cookie', crumbs.join('; ')]] : [];
  });
}

/** RFC 9112 §3.2: exactly one valid Host in HTTP/1.1. */
function hostError(headers: Headers, httpVersion: string): string | undefined {
  const hosts = headers.filter(([name]) => name.toLowerCase() === 'host').map(([, value]) => value.trim());
  if (hosts.length > 1) return 'The request names more than one host.';
  if (hosts.length === 0) return httpVersion === '1.0' ? undefined : 'The request names no host.';
  const [host] = hosts;
  return host === '' || isAuthority(host!) ? undefined : 'The Host is malformed.';
}

/** The parsers refuse what is no number and what contradicts itself; this holds if one should be more lenient. */
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

export interface Target {
  /** In origin-form, or `*`. */
  readonly target: string;
  /** For matching: dot segments resolved, escapes that mean nothing taken away. */
  readonly path: string;
  /** Why the path has more than one reading; missing when it has one. */
  readonly ambiguity?: string;
  /** Of an absolute target. */
  readonly authority?: string;
}

/** The request target of RFC 9112 §3.2 in origin-form; undefined when it is malformed. */
export function readTarget(method: string, received: string): Target | undefined {
  // A fragment is not part of a target: routes would be matched without it and the origin would see it.
  if (received.includes('#')) return undefined;
  if (received === '*') return method === 'OPTIONS' ? { target: '*', path: '*' } : undefined;
  if (received.startsWith('/')) return originForm(received);
  const [, authority, rest] = /^https?:\/\/([^/?]+)(.*)/is.exec(received) ?? [];
  if (authority === undefined || rest === undefined || authority.includes('@')) return undefined;
  if (rest === '' && method === 'OPTIONS') return { target: '*', path: '*', authority };
  return { ...originForm(rest.startsWith('/') ? rest : `/${rest}`), authority };
}

/**
 * The target that says to everybody what its path says to us. The query stays as it came; nothing is matched against it.
 */
export function canonicalTarget({ target, path }: Pick<Target, 'target' | 'path'>): string {
  const query = target.indexOf('?');
  return query === -1 ? path : path + target.slice(query);
}

function originForm(target: string): Target {
  const raw = pathOf(target);
  const asSent = normalizePath(raw);
  const flaw = ambiguityOf(raw, asSent);
  if (flaw !== undefined) return { target, path: asSent, ambiguity: flaw };
  return { target, path: removeDotSegments(asSent) };
}

function pathOf(target: string): string {
  return target.split('?', 1)[0]!;
}

/** What makes servers read one path in different ways, and clients have no need of. */
const AMBIGUITIES: readonly (readonly [form: RegExp, flaw: string])[] = [
  [/%(?![0-9A-F]{2})/, 'a % that begins no escape'],
  [/%(?:2F|5C)/, 'an escaped slash or backslash'],
  [/\\/, 'a backslash'],
  [/\/\//, 'an empty segment (//)'],
  [/\/\.{1,2};/, 'a dot segment with parameters'],
  [/%(?:[01][0-9A-F]|7F)/, 'a control character'],
  [/%25(?:25)*(?:2[EF]|5C|3B|[01][0-9A-F]|7F)/i, 'characters that are escaped twice'],
  [/%C[01]%[89AB][0-9A-F]|%E0%[89][0-9A-F]|%F0%8[0-9A-F]/, 'an overlong UTF-8 sequence'],
];

function ambiguityOf(raw: string, asSent: string): string | undefined {
  const known = AMBIGUITIES.find(([form]) => form.test(asSent));
  if (known) return known[1];
  if (dotSegments(asSent) !== dotSegments(raw)) return 'an escaped dot segment';
  return hidesStructure(asSent) ? 'a character that some servers take for a slash or a dot' : undefined;
}

function dotSegments(path: string): number {
  return path.split('/').filter((segment) => segment === '.' || segment === '..').length;
}

/** Full-width forms and their like, which become slashes and dots when text is brought into one form (NFKC). */
function hidesStructure(asSent: string): boolean {
  if (!/%[EF]/.test(asSent)) return false;
  const folded = toNfkc(unescape(asSent));
  return (
    /\\/.test(folded) ||
    folded.split('/').length !== asSent.split('/').length ||
    dotSegments(folded) > dotSegments(asSent)
  );
}

/** Longer paths with oddities are not worth the time that all their readings take. */
const MAX_UNUSUAL_PATH_LENGTH = 1024;

/** Oddities multiply each other's readings. No client has need of a path with more than these, and each costs time. */
export const MAX_READINGS = 64;

/** What may make a server read a path in another way, also where clients have good reasons for it. */
const UNUSUAL = /[;\\]|%(?:[01]|2[035BF]|3[BF]|5C|7F|[89A-F])|%(?![0-9A-F]{2})|\.(?:\/|$)|\/\.|\/\/|.\/$/;

/** A step that some servers take, and others do not. */
type DecodingStep = (path: string) => readonly string[];

const STEPS: readonly DecodingStep[] = [
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
 * Every path that a server may take the target's for, beside the target's own, in the form of `path`; undefined when
 * there are too many to tell. Servers unescape once, twice or not, before or after they resolve dot segments; they merge
 * slashes, take backslashes for slashes, and leave out parameters, control characters, and dots and blanks at the end.
 * The time is bounded: every step is linear, and takes at most `MOST_READINGS` paths of at most `LONGEST_ODD_PATH`.
 */
export function otherReadings({ target, path }: Pick<Target, 'target' | 'path'>): readonly string[] | undefined {
  const asSent = normalizePath(pathOf(target));
  if (path === '*' || (!UNUSUAL.test(asSent) && asSent === path)) return [];
  if (asSent.length > MAX_UNUSUAL_PATH_LENGTH) return undefined;
  let paths: ReadonlySet<string> = new Set([asSent]);
  for (const step of STEPS) {
    paths = new Set([...paths].flatMap(step));
    if (paths.size > MAX_READINGS) return undefined;
  }
  const readings = new Set([...paths].map((reading) => normalizePath(maskDotSegments(reading === '' ? '/' : reading))));
  readings.delete(path);
  return [...readings];
}

/**
 * Whether some reading of the target could lie below this path, which can be told however many readings there are: they
 * leave out, unescape and move segments, but what they leave of one stands in one piece in the unescaped target.
 */
export function mayBeBelow({ target }: Pick<Target, 'target'>, below: string): boolean {
  const letters = alphanumericsOf(pathOf(target));
  return below.split('/').every((segment) => letters.includes(alphanumericsOf(segment)));
}

/**
 * Whether the target, by any reading of it, could climb above the root: at an origin whose URL has a path of its own, that
 * leads out of it.
 */
export function mayEscapeRoot({ target }: Pick<Target, 'target'>): boolean {
  const unescaped = fullyUnescaped(pathOf(target));
  // Some servers take what was escaped for the end of the path, others for a part of it.
  return [unescaped, unescaped.replace(/[\0?#].*/s, '')].some(escapesRoot);
}

function escapesRoot(unescaped: string): boolean {
  const path = unescaped.replace(/[\0-\x1f\x7f]/g, '').replaceAll('\\', '/');
  let depth = 0;
  return path.split('/').some((segment) => {
    const name = segment.replace(/;.*/s, '').trim();
    // An empty segment counts for nothing, because some servers merge slashes.
    if (name !== '' && name !== '.') depth += name === '..' ? -1 : 1;
    return depth < 0;
  });
}

function alphanumericsOf(path: string): string {
  let current = path;
  for (let round = 0; round < 5; round++) current = unescape(current).replace(/[\0-\x1f\x7f]/g, '');
  return toNfkc(current).replace(/[^A-Za-z0-9]/g, '');
}

/** Patterns match no dot segment, but to a server that does not resolve it, it is a segment like any other. */
function maskDotSegments(path: string): string {
  return path.replace(/\/\.{1,2}(?=\/|$)/g, '/-');
}

/** Dots and blanks at the end of segments left out, as file systems of Windows do. */
function trimSegmentEnds(path: string): string {
  return path
    .split('/')
    .map((segment) => withoutTrailing(segment, '. '))
    .join('/');
}

/** Escapes of every kind undone once, into bytes; with an overlong sequence taken for what it stands for. */
function unescape(path: string): string {
  return path
    .replace(/%u([0-9A-F]{4})/gi, (_, hex: string) => octetsOf(parseInt(hex, 16)))
    .replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)))
    .replace(/(?:[\xc0\xc1]|\xe0[\x80\x81]|\xf0\x80[\x80\x81])[\x80-\xbf]/g, decodeOverlong);
}

/**
 * The escaped octets that a `%uXXXX` stands for, because some servers read it as they do: one octet where that is enough, else
 * UTF-8.
 */
function octetsOf(code: number): string {
  const text = String.fromCharCode(code);
  return (code < 0x100 ? text : Buffer.from(text, 'utf8').toString('latin1')).replace(/[\s\S]/g, percentEncoded);
}

/** What an overlong UTF-8 sequence stands for: the last bit of its last byte but one, and six of its last. */
function decodeOverlong(sequence: string): string {
  const [high, low] = [sequence.charCodeAt(sequence.length - 2), sequence.charCodeAt(sequence.length - 1)];
  return String.fromCharCode(((high & 1) << 6) | (low & 0x3f));
}

function fullyUnescaped(path: string): string {
  let current = path;
  for (let round = 0; round < 4; round++) current = unescape(current);
  return toNfkc(current);
}

/** Text in its compatible form (NFKC), bytes in and out; what is no UTF-8 stays. */
function toNfkc(bytes: string): string {
  if (!/[\x80-\xff]/.test(bytes)) return bytes;
  const text = Buffer.from(bytes, 'latin1').toString('utf8');
  return text.includes('\ufffd') ? bytes : Buffer.from(text.normalize('NFKC'), 'utf8').toString('latin1');
}
