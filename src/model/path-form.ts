/**
 * RFC 3986 §6.2.2, without dot segments: escaped unreserved characters unescaped, other escapes in capitals, and what has
 * to be escaped escaped. Bytes beyond ASCII come as Latin-1.
 */
export function normalForm(path: string): string {
  return path
    .replace(/%([0-9A-Fa-f]{2})/g, (escape, hex: string) => {
      const character = String.fromCharCode(parseInt(hex, 16));
      return /[A-Za-z0-9._~-]/.test(character) ? character : escape.toUpperCase();
    })
    .replace(/[\0-\x20"<>`{}\x7f-\xff]/g, escaped);
}

/** One octet as a percent-encoded one. */
export function escaped(byte: string): string {
  return `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`;
}

/** RFC 3986 §5.2.4, for a path that begins with a slash. */
export function resolveDots(path: string): string {
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
export function patternForm(pattern: string): { readonly pattern: string } | { readonly problem: string } {
  const octets = Buffer.from(pattern, 'utf8').toString('latin1');
  const parts = octets.split(/([{}])/).map((part) => (/[{}]/.test(part) ? part : normalForm(part)));
  const normal = parts.join('');
  if (/\[[^[\]]*%/.test(normal)) return { problem: 'one that has only ASCII letters and no escapes in [ ]' };
  if (normal.split('/').some((segment) => segment === '.' || segment === '..'))
    return { problem: `one without dot segments, which are resolved before it is matched: ${resolveDots(normal)}` };
  return { pattern: normal };
}
