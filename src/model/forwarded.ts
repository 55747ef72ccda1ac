import { fieldValue, type Headers } from './headers.js';
import { withoutEnd } from './without-end.js';

/** What one proxy said of the hop before it: one element of `Forwarded` (RFC 7239 §4), or one place in the X-Forwarded lists. */
export interface ForwardedHop {
  /** Node identifier without brackets and port: an address, `unknown`, or an obfuscated name. */
  readonly for?: string;
  readonly proto?: string;
  readonly host?: string;
  /** Of `X-Forwarded-Port`: the port that the client used. */
  readonly port?: string;
}

/**
 * The hops a peer tells of, the client's first. Only one family of fields is believed, never a mixture: most proxies
 * write X-Forwarded-* alone and let a `Forwarded` that the client made up pass.
 */
export function receivedHops(headers: Headers): ForwardedHop[] {
  const nodes = listOf(headers, 'x-forwarded-for').map(withoutPort);
  const protos = listOf(headers, 'x-forwarded-proto');
  const hosts = listOf(headers, 'x-forwarded-host');
  const ports = listOf(headers, 'x-forwarded-port');
  const forwarded = fieldValue(headers, 'forwarded');
  if (nodes.length === 0 && forwarded !== undefined) return parseForwarded(forwarded) ?? [];
  if (nodes.length === 0 && protos.length + hosts.length + ports.length > 0)
    return [{ proto: protos.at(-1), host: hosts.at(-1), port: ports.at(-1) }];
  return nodes.map((node, at) => ({
    for: node,
    proto: aligned(protos, nodes, at),
    host: aligned(hosts, nodes, at),
    port: aligned(ports, nodes, at),
  }));
}

const PREFIX = /^(?:\/(?!\.{1,2}(?:\/|$))[A-Za-z0-9._~!$&'()*+;=:@-]+)+$/;

/**
 * The part of the path that proxies took off before they passed the request on (`X-Forwarded-Prefix`), the outermost one's
 * first. Empty when there is none, or one that is no plain path.
 */
export function receivedPrefix(headers: Headers): string {
  const prefix = listOf(headers, 'x-forwarded-prefix')
    .map((part) => withoutEnd(part, '/'))
    .join('');
  return PREFIX.test(prefix) ? prefix : '';
}

/** The hops of a `Forwarded` value; undefined when it breaks the grammar, because half of a list would shift the hops. */
export function parseForwarded(value: string): ForwardedHop[] | undefined {
  const hops: Record<string, string>[] = [];
  for (const element of splitOutsideQuotes(value, ',')) {
    if (element.trim() === '') continue;
    const parameters = parseElement(element);
    if (!parameters) return undefined;
    hops.push(parameters);
  }
  return hops.map(({ for: node, proto, host }) => ({ for: node && withoutPort(node), proto, host }));
}

/** One element as it is sent; values that are no token are quoted (RFC 7239 §4). */
export function formatHop(hop: ForwardedHop): string {
  const pairs: [string, string | undefined][] = [
    ['for', hop.for === undefined || hop.for === '' ? 'unknown' : bracketed(hop.for)],
    ['host', hop.host],
    ['proto', hop.proto],
  ];
  return pairs.flatMap(([name, value]) => (value ? [`${name}=${quoted(value)}`] : [])).join(';');
}

const PAIR = /^\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)|"((?:[^"\\]|\\.)*)")\s*$/;

function parseElement(element: string): Record<string, string> | undefined {
  const parameters = new Map<string, string>();
  for (const pair of splitOutsideQuotes(element, ';')) {
    if (pair.trim() === '') continue;
    const match = PAIR.exec(pair);
    const name = match?.[1]?.toLowerCase();
    if (!match || name === undefined || parameters.has(name)) return undefined;
    parameters.set(name, match[2] ?? match[3]!.replace(/\\(.)/g, '$1'));
  }
  return Object.fromEntries(parameters);
}

function splitOutsideQuotes(text: string, separator: string): string[] {
  const parts: string[] = [];
  let from = 0;
  let inQuotes = false;
  for (let at = 0; at < text.length; at++) {
    if (inQuotes && text[at] === '\\') at++;
    else if (text[at] === '"') inQuotes = !inQuotes;
    else if (!inQuotes && text[at] === separator) {
      parts.push(text.slice(from, at));
      from = at + 1;
    }
  }
  return [...parts, text.slice(from)];
}

function listOf(headers: Headers, name: string): string[] {
  return (fieldValue(headers, name) ?? '')
    .split(',')
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '');
}

/** Proxies either add to each list or overwrite it with one value: then the value of the nearest proxy counts. */
function aligned(values: readonly string[], nodes: readonly string[], at: number): string | undefined {
  return values.length === nodes.length ? values[at] : values.at(-1);
}

/** `192.0.2.1:80` → `192.0.2.1`, `[2001:db8::1]:80` → `2001:db8::1`; a bare IPv6 address stays. */
function withoutPort(node: string): string {
  const inBrackets = /^\[([^\]]*)\]/.exec(node);
  if (inBrackets) return unmapped(inBrackets[1]!);
  return node.split(':').length === 2 ? node.slice(0, node.indexOf(':')) : unmapped(node);
}

/**
 * An IPv4 address that a proxy with a dual-stack socket tells as an IPv6 one (`::ffff:192.0.2.1`, in any spelling: RFC 4291
 * §2.5.5.2) as what it is: lists of allowed addresses know it by no other name.
 */
function unmapped(node: string): string {
  const url = `http://[${node}]`;
  if (!node.includes(':') || !URL.canParse(url)) return node;
  const [, high, low] = /^\[::ffff:([0-9a-f]+):([0-9a-f]+)\]$/.exec(new URL(url).hostname) ?? [];
  if (high === undefined || low === undefined) return node;
  return [high, low].flatMap((part) => [parseInt(part, 16) >> 8, parseInt(part, 16) & 255]).join('.');
}

function bracketed(node: string): string {
  return node.includes(':') ? `[${node}]` : node;
}

function quoted(value: string): string {
  if (/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(value)) return value;
  return `"${value.replace(/["\\]/g, '\\$&')}"`;
}
