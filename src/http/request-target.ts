export interface Target {
  /** In origin-form, or `*`. */
  readonly target: string;
  /** For matching only: dot segments resolved, escapes that mean nothing taken away. */
  readonly path: string;
  /** Of an absolute target. */
  readonly authority?: string;
}

/** The request target of RFC 9112 §3.2 in origin-form; undefined when it is malformed. */
export function readTarget(method: string, received: string): Target | undefined {
  // A fragment is not part of a target: routes would be matched without it and the origin would see it.
  if (received.includes('#')) return undefined;
  if (received === '*') return method === 'OPTIONS' ? { target: '*', path: '*' } : undefined;
  if (received.startsWith('/')) return { target: received, path: matchedPath(received) };
  const [, authority, rest] = /^https?:\/\/([^/?]+)(.*)$/is.exec(received) ?? [];
  if (authority === undefined || rest === undefined || authority.includes('@')) return undefined;
  if (rest === '' && method === 'OPTIONS') return { target: '*', path: '*', authority };
  const target = rest.startsWith('/') ? rest : `/${rest}`;
  return { target, path: matchedPath(target), authority };
}

/**
 * The pathname as the URL standard normalizes it, with escaped unreserved characters unescaped (RFC 3986 §6.2.2.2):
 * two spellings of one resource must find one route.
 */
function matchedPath(target: string): string {
  const plain = target
    .replace(/\?.*$/s, '')
    .replace(/%([0-9A-Fa-f]{2})/g, (escape, hex: string) => {
      const character = String.fromCharCode(parseInt(hex, 16));
      return /[A-Za-z0-9._~-]/.test(character) ? character : escape.toUpperCase();
    })
    // Bytes beyond ASCII come as Latin-1; the URL standard would take them for characters.
    .replace(/[\x80-\xff]/g, (byte) => `%${byte.charCodeAt(0).toString(16).toUpperCase()}`);
  // The host in front keeps a leading "//" from being taken for an authority.
  return new URL(`http://host${plain}`).pathname;
}
