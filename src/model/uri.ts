/**
 * What a reference (RFC 3986 §5.2) means at `base`, a target in origin-form: its path, query and fragment. One that names a
 * scheme, an authority or a path of its own means the same everywhere on this server and stays as it is.
 */
export function resolveReference(base: string, reference: string): string {
  if (/^(?:[A-Za-z][A-Za-z0-9+.-]*:|\/)/.test(reference)) return reference;
  const [, path = '', query, fragment = ''] = /^([^?#]*)(\?[^#]*)?(#.*)?$/s.exec(reference) ?? [];
  const [, basePath = '/', baseQuery = ''] = /^([^?]*)(\?.*)?$/s.exec(base) ?? [];
  if (path === '') return pathOnly(basePath) + (query ?? baseQuery) + fragment;
  const resolved = removeDotSegments(basePath.slice(0, basePath.lastIndexOf('/') + 1) + path);
  return pathOnly(resolved) + (query ?? '') + fragment;
}

/** Two slashes at its begin would make its first segment an authority (§4.2); browsers read a backslash as a slash. */
function pathOnly(path: string): string {
  return /^[/\\][/\\]/.test(path) ? `/.${path}` : path;
}

/**
 * A reference below `origin` (scheme, host, port and perhaps a path) as one below `publicUrl`; any other stays. A path alone
 * is below it where the origin has a path, which our clients do not know. The scheme is not compared: an origin may have
 * heard that its clients speak HTTPS.
 */
export function rebaseReference(reference: string, origin: string, publicUrl: string): string {
  const [, scheme, authority, rest = ''] = /^(?:(https?):)?\/\/([^/?#]*)(.*)/is.exec(reference) ?? [];
  const { host, pathname, protocol } = new URL(origin);
  const base = pathname.replace(/\/$/, '');
  if (authority === undefined) {
    const below = base !== '' && reference.startsWith('/') ? restBelow(base, reference) : undefined;
    return below === undefined ? reference : pathOf(publicUrl) + (/^\//.test(below) ? pathOnly(below) : `/${below}`);
  }
  const named = withoutDefaultPort(authority, scheme ?? protocol);
  const ours = new URL(publicUrl);
  // An origin that is told our host says it; only its path tells that it means itself.
  const isOurs = base !== '' && named === withoutDefaultPort(ours.host, ours.protocol);
  const isSame = isOurs || named === withoutDefaultPort(host, protocol);
  const below = isSame ? restBelow(base, rest) : undefined;
  return below === undefined ? reference : publicUrl + below;
}

/** What follows `base`, the path of an origin, in a path with its query and fragment. Dot segments may lead out of it. */
function restBelow(base: string, reference: string): string | undefined {
  const [path = ''] = /^[^?#]*/.exec(reference) ?? [];
  const end = reference.slice(path.length);
  const isPlain = base === '' || !/(?:^|\/)\.\.?(?:\/|$)/.test(path);
  const resolved = (isPlain ? path : removeDotSegments(path)) + end;
  const below = resolved.slice(base.length);
  return resolved.startsWith(base) && /^(?:[/?#]|$)/.test(below) ? below : undefined;
}

/** The path of a URL, if it has one. */
export function pathOf(url: string): string {
  return /^[^:]+:\/\/[^/]*(.*)/s.exec(url)?.[1] ?? '';
}

function withoutDefaultPort(authority: string, scheme: string): string {
  return authority.toLowerCase().replace(scheme.toLowerCase().startsWith('https') ? /:443$/ : /:80$/, '');
}

/**
 * RFC 3986 §6.2.2, without dot segments: escaped unreserved characters unescaped, other escapes in capitals, and what has
 * to be escaped escaped. Bytes beyond ASCII come as Latin-1.
 */
export function normalizePath(path: string): string {
  return path
    .replace(/%([0-9A-Fa-f]{2})/g, (escape, hex: string) => {
      const character = String.fromCharCode(parseInt(hex, 16));
      return /[A-Za-z0-9._~-]/.test(character) ? character : escape.toUpperCase();
    })
    .replace(/[\0-\x20"<>`{}\x7f-\xff]/g, percentEncoded);
}

/** One octet as a percent-encoded one. */
export function percentEncoded(byte: string): string {
  return `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`;
}

/** RFC 3986 §5.2.4, for a path that begins with a slash. */
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
 * A path pattern in the form that paths are matched in, its letters beyond ASCII as escaped UTF-8; or the reason why it would
 * never match. Braces and other signs of patterns stay.
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
 * The text without a run of these characters at its end. A pattern like `/[. ]+$/` would do the same, but looks at a run
 * that is not at the end once from each of its characters: the square of its length, for a client to choose.
 */
export function withoutTrailing(text: string, characters: string): string {
  let length = text.length;
  while (length > 0 && characters.includes(text[length - 1]!)) length--;
  return text.slice(0, length);
}
