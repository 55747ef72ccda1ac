/**
 * What a reference (RFC 3986 §5.2) means at `base`, a target in origin-form: its path, query and fragment. One that names a
 * scheme, an authority or a path of its own means the same everywhere on this server and stays as it is.
 */
export function resolveAt(base: string, reference: string): string {
  if (/^(?:[A-Za-z][A-Za-z0-9+.-]*:|\/)/.test(reference)) return reference;
  const [, path = '', query, fragment = ''] = /^([^?#]*)(\?[^#]*)?(#.*)?$/s.exec(reference) ?? [];
  const [, basePath = '/', baseQuery = ''] = /^([^?]*)(\?.*)?$/s.exec(base) ?? [];
  if (path === '') return pathOnly(basePath) + (query ?? baseQuery) + fragment;
  const resolved = withoutDotSegments(basePath.slice(0, basePath.lastIndexOf('/') + 1) + path);
  return pathOnly(resolved) + (query ?? '') + fragment;
}

/** Two slashes at its begin would make its first segment an authority (§4.2); browsers read a backslash as a slash. */
function pathOnly(path: string): string {
  return /^[/\\][/\\]/.test(path) ? `/.${path}` : path;
}

/** §5.2.4, for a path that begins with a slash. */
function withoutDotSegments(path: string): string {
  const segments = path.split('/').slice(1);
  const kept: string[] = [];
  segments.forEach((segment, at) => {
    const isDots = segment === '.' || segment === '..';
    if (segment === '..') kept.pop();
    if (!isDots) kept.push(segment);
    else if (at === segments.length - 1) kept.push('');
  });
  return `/${kept.join('/')}`;
}

/**
 * An absolute reference below `origin` (scheme, host, port and perhaps a path) as one below `publicUrl`; any other stays.
 * The scheme is not compared: an origin may have heard that its clients speak HTTPS.
 */
export function moved(reference: string, origin: string, publicUrl: string): string {
  const [, scheme, authority, rest = ''] = /^(?:(https?):)?\/\/([^/?#]*)(.*)/is.exec(reference) ?? [];
  if (authority === undefined) return reference;
  const { host, pathname, protocol } = new URL(origin);
  const base = pathname.replace(/\/$/, '');
  const isSame = withoutDefaultPort(authority, scheme ?? protocol) === withoutDefaultPort(host, protocol);
  const isBelow = rest.startsWith(base) && /^(?:[/?#]|$)/.test(rest.slice(base.length));
  return isSame && isBelow ? publicUrl + rest.slice(base.length) : reference;
}

function withoutDefaultPort(authority: string, scheme: string): string {
  return authority.toLowerCase().replace(scheme.toLowerCase().startsWith('https') ? /:443$/ : /:80$/, '');
}
