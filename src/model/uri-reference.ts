import { resolveDots } from './path-form.js';

/**
 * What a reference (RFC 3986 §5.2) means at `base`, a target in origin-form: its path, query and fragment. One that names a
 * scheme, an authority or a path of its own means the same everywhere on this server and stays as it is.
 */
export function resolveAt(base: string, reference: string): string {
  if (/^(?:[A-Za-z][A-Za-z0-9+.-]*:|\/)/.test(reference)) return reference;
  const [, path = '', query, fragment = ''] = /^([^?#]*)(\?[^#]*)?(#.*)?$/s.exec(reference) ?? [];
  const [, basePath = '/', baseQuery = ''] = /^([^?]*)(\?.*)?$/s.exec(base) ?? [];
  if (path === '') return pathOnly(basePath) + (query ?? baseQuery) + fragment;
  const resolved = resolveDots(basePath.slice(0, basePath.lastIndexOf('/') + 1) + path);
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
export function moved(reference: string, origin: string, publicUrl: string): string {
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
  const resolved = (isPlain ? path : resolveDots(path)) + end;
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
