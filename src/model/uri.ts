/**
 * Resolves a reference (RFC 3986 §5.2) against `base`, a target in origin-form, to path, query and fragment. A
 * reference with a scheme, an authority or an absolute path does not depend on `base` and stays unchanged.
 */
export function resolveReference(base: string, reference: string): string {
  if (/^(?:[A-Za-z][A-Za-z0-9+.-]*:|\/)/.test(reference)) return reference;
  const [, path = '', query, fragment = ''] = /^([^?#]*)(\?[^#]*)?(#.*)?$/s.exec(reference) ?? [];
  const [, basePath = '/', baseQuery = ''] = /^([^?]*)(\?.*)?$/s.exec(base) ?? [];
  if (path === '') return pathOnly(basePath) + (query ?? baseQuery) + fragment;
  const resolved = removeDotSegments(basePath.slice(0, basePath.lastIndexOf('/') + 1) + path);
  return pathOnly(resolved) + (query ?? '') + fragment;
}

/**
 * Two leading slashes would make the first segment an authority (RFC 3986 §4.2); browsers read backslashes as slashes.
 */
function pathOnly(path: string): string {
  return /^[/\\][/\\]/.test(path) ? `/.${path}` : path;
}

/**
 * Turns a reference below `origin` (scheme, host, port and perhaps a path) into one below `publicUrl`; others stay
 * unchanged. A bare path is below `origin` only if `origin` has a path, which clients do not know. Schemes are not
 * compared: an origin may know from X-Forwarded-Proto that its clients use HTTPS.
 */
export function rebaseReference(reference: string, origin: string, publicUrl: string): string {
  const [, scheme, authority, rest = ''] = /^(?:(https?):)?\/\/([^/?#]*)(.*)/is.exec(reference) ?? [];
  const { host, pathname, protocol } = new URL(origin);
  const base = pathname.replace(/\/$/, '');
  if (authority === undefined) {
    const below = base !== '' && reference.startsWith('/') ? restBelow(base, reference) : undefined;
    return below === undefined ? reference : pathOf(publicUrl) + (/^\//.test(below) ? pathOnly(below) : `/${below}`);
  }
  const referenced = withoutDefaultPort(authority, scheme ?? protocol);
  const proxy = new URL(publicUrl);
  // An origin that got the client's Host uses the proxy's host name for itself; only its path distinguishes the two.
  const isProxy = base !== '' && referenced === withoutDefaultPort(proxy.host, proxy.protocol);
  const isOrigin = isProxy || referenced === withoutDefaultPort(host, protocol);
  const below = isOrigin ? restBelow(base, rest) : undefined;
  return below === undefined ? reference : publicUrl + below;
}

/** The part of a reference after the path `base`, with query and fragment; undefined if it is not below `base`. */
function restBelow(base: string, reference: string): string | undefined {
  const [path = ''] = /^[^?#]*/.exec(reference) ?? [];
  const end = reference.slice(path.length);
  const isPlain = base === '' || !/(?:^|\/)\.\.?(?:\/|$)/.test(path);
  const resolved = (isPlain ? path : removeDotSegments(path)) + end;
  const below = resolved.slice(base.length);
  return resolved.startsWith(base) && /^(?:[/?#]|$)/.test(below) ? below : undefined;
}

/** The path of an absolute URL with query and fragment; empty if it has none. */
export function pathOf(url: string): string {
  return /^[^:]+:\/\/[^/]*(.*)/s.exec(url)?.[1] ?? '';
}

function withoutDefaultPort(authority: string, scheme: string): string {
  return authority.toLowerCase().replace(scheme.toLowerCase().startsWith('https') ? /:443$/ : /:80$/, '');
}

/**
 * Normalizes escapes (RFC 3986 §6.2.2): unreserved characters unescaped, other escapes in capitals, and characters that
 * a path must not contain escaped. Bytes beyond ASCII are expected as Latin-1. Dot segments stay.
 */
export function normalizePath(path: string): string {
  return path
    .replace(/%([0-9A-Fa-f]{2})/g, (escape, hex: string) => {
      const character = String.fromCharCode(parseInt(hex, 16));
      return /[A-Za-z0-9._~-]/.test(character) ? character : escape.toUpperCase();
    })
    .replace(/[\0-\x20"<>`{}\x7f-\xff]/g, percentEncoded);
}

/** Percent-encodes one octet. */
export function percentEncoded(byte: string): string {
  return `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`;
}

/** Removes dot segments from a path that begins with a slash (RFC 3986 §5.2.4). */
export function removeDotSegments(path: string): string {
  const kept: string[] = [];
  const segments = path.split('/').slice(1);
  segments.forEach((segment, at) => {
    const isDot = segment === '.' || segment === '..';
    if (segment === '..') kept.pop();
    if (!isDot) kept.push(segment);
    else if (at === segments.length - 1) kept.push('');
  });
  return `/${kept.join('/')}`;
}

/**
 * Brings a path pattern into the form of `normalizePath`, characters beyond ASCII as escaped UTF-8 and wildcards
 * unchanged. `problem` says which pattern would be valid instead of one that can never match.
 */
export function normalizePattern(pattern: string): { readonly pattern: string } | { readonly problem: string } {
  const octets = Buffer.from(pattern, 'utf8').toString('latin1');
  const parts = octets.split(/([{}])/).map((part) => (/[{}]/.test(part) ? part : normalizePath(part)));
  const normal = parts.join('');
  if (/\[[^[\]]*%/.test(normal)) return { problem: 'one that has only ASCII letters and no escapes in [ ]' };
  if (normal.split('/').some((segment) => segment === '.' || segment === '..'))
    return {
      problem: `one without dot segments, which are resolved before it is matched: ${removeDotSegments(normal)}`,
    };
  return { pattern: normal };
}

/**
 * The text without any of these characters at its end. A pattern like `/[. ]+$/` would take quadratic time for long
 * runs that are not at the end, and clients choose the text.
 */
export function withoutTrailing(text: string, characters: string): string {
  let length = text.length;
  while (length > 0 && characters.includes(text[length - 1]!)) length--;
  return text.slice(0, length);
}
