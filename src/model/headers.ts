/**
 * One header line as on the wire. Each code unit of the value is one octet (RFC 9110 §5.5); values are never decoded.
 */
export type HeaderLine = readonly [name: string, value: string];

/** Header lines in their original order and case, duplicates included, so that a relay loses nothing. */
export type Headers = readonly HeaderLine[];

/** Fields of one connection, which are never relayed (RFC 9110 §7.6.1). */
const HOP_BY_HOP = new Set([
  'connection',
  'proxy-connection',
  'keep-alive',
  'transfer-encoding',
  'te',
  'trailer',
  'upgrade',
  'proxy-authenticate',
  'proxy-authorization',
  'http2-settings',
]);

/** All lines of one field joined with ", " (RFC 9110 §5.3); undefined if there is none. */
export function fieldValue(headers: Headers, name: string): string | undefined {
  const wanted = name.toLowerCase();
  let joined: string | undefined;
  for (const [line, value] of headers) {
    if (line.length !== wanted.length || line.toLowerCase() !== wanted) continue;
    joined = joined === undefined ? value : `${joined}, ${value}`;
  }
  return joined;
}

/** The lines that pass the test; the same list if all of them do, because most requests lose no line in most steps. */
export function linesThat(pass: (line: HeaderLine) => boolean, headers: Headers): Headers {
  return headers.every(pass) ? headers : headers.filter(pass);
}

/** The lines whose lower-case name is not in `names`. */
export function withoutFields(headers: Headers, names: ReadonlySet<string>): HeaderLine[] {
  return headers.filter(([name]) => !names.has(name.toLowerCase()));
}

/** The end-to-end lines: without hop-by-hop fields and without those that `Connection` names (RFC 9110 §7.6.1). */
export function endToEnd(headers: Headers): HeaderLine[] {
  return withoutFields(headers, connectionFields(headers));
}

/** The lower-case names of the fields that concern only this connection. */
function connectionFields(headers: Headers): ReadonlySet<string> {
  const value = fieldValue(headers, 'connection');
  if (value === undefined || /^keep-alive$/i.test(value)) return HOP_BY_HOP;
  return new Set([...HOP_BY_HOP, ...value.split(',').map((token) => token.trim().toLowerCase())]);
}

/** The lines that a gateway forwards: `Trailer` only if the new framing can carry trailers. */
export function forwardableHeaders(headers: Headers, withTrailers: boolean): Headers {
  const dropped = connectionFields(headers);
  return linesThat(([name]) => {
    const field = name.toLowerCase();
    return !dropped.has(field) || (withTrailers && field === 'trailer');
  }, headers);
}

/**
 * The trailers that a gateway forwards: no fields for framing, routing or the format of the content (RFC 9110 §6.5.1).
 */
export function forwardableTrailers(trailers: Headers): HeaderLine[] {
  return endToEnd(trailers).filter(([name]) => !NEVER_IN_TRAILERS.has(name.toLowerCase()));
}

/**
 * The lines with `Trailer` (RFC 9110 §6.6.2) reduced to the trailers that `filter` keeps, so that no recipient waits
 * for a removed one.
 */
export function withAnnouncedTrailers(headers: Headers, filter: (trailers: Headers) => Headers): Headers {
  if (fieldValue(headers, 'trailer') === undefined) return headers;
  return headers.flatMap(([name, value]): HeaderLine[] => {
    if (name.toLowerCase() !== 'trailer') return [[name, value]];
    const announced = value.split(',').map((field): HeaderLine => [field.trim(), '']);
    const kept = filter(announced).map(([field]) => field);
    if (kept.length === announced.length) return [[name, value]];
    return kept.length === 0 ? [] : [[name, kept.join(', ')]];
  });
}

/**
 * The lines without the fields of upload protocols: in an origin's response they refer to none of this proxy's uploads.
 */
export function withoutUploadFields(headers: Headers): Headers {
  const others = (lines: Headers): HeaderLine[] => lines.filter(([name]) => !/^(?:upload|tus)-/i.test(name));
  return withAnnouncedTrailers(others(headers), others);
}

const NEVER_IN_TRAILERS = new Set(['content-length', 'content-encoding', 'content-type', 'content-range', 'host']);

/** Converts Node's flat `[name, value, name, value …]`. */
export function fromRawHeaders(raw: readonly string[]): HeaderLine[] {
  const lines: HeaderLine[] = [];
  for (let at = 0; at + 1 < raw.length; at += 2) lines.push([raw[at]!, raw[at + 1]!]);
  return lines;
}
