/** One header line as it stood on the wire. */
export type HeaderLine = readonly [name: string, value: string];

/** Header lines in their original order and case, duplicates kept: what an end-to-end relay must not lose. */
export type Headers = readonly HeaderLine[];

/** Fields that belong to one connection only and are never relayed (RFC 9110 §7.6.1). */
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

/** All lines of one field joined with ", " (RFC 9110 §5.3); undefined when there is none. */
export function fieldValue(headers: Headers, name: string): string | undefined {
  const wanted = name.toLowerCase();
  const values = headers.filter(([line]) => line.toLowerCase() === wanted).map(([, value]) => value);
  return values.length === 0 ? undefined : values.join(', ');
}

/** The lines whose lower-case name is not in `names`. */
export function withoutFields(headers: Headers, names: ReadonlySet<string>): HeaderLine[] {
  return headers.filter(([name]) => !names.has(name.toLowerCase()));
}

/** The end-to-end lines: without hop-by-hop fields and without those that `Connection` names (RFC 9110 §7.6.1). */
export function endToEnd(headers: Headers): HeaderLine[] {
  const named = (fieldValue(headers, 'connection') ?? '').split(',').map((token) => token.trim().toLowerCase());
  return withoutFields(headers, new Set([...HOP_BY_HOP, ...named]));
}

/** Node's flat `[name, value, name, value …]` as lines. */
export function fromRawHeaders(raw: readonly string[]): HeaderLine[] {
  const lines: HeaderLine[] = [];
  for (let at = 0; at + 1 < raw.length; at += 2) lines.push([raw[at]!, raw[at + 1]!]);
  return lines;
}
