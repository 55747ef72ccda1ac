import { isToken } from './grammar.js';
import {
  isMethodOverrideField,
  fieldKey,
  type FieldRules,
  FORWARDED_IDENTITY_FIELD,
  isTargetOverrideField,
  originFields,
} from './client-fields.js';
import { fieldValue, type HeaderLine, type Headers } from './headers.js';
import { remembered } from './remembered.js';
import { withoutTrailing } from './uri.js';

/**
 * One hop as the next proxy describes it: an element of `Forwarded` (RFC 7239 §4), or a position in X-Forwarded lists.
 */
export interface ForwardedHop {
  /** Node identifier without brackets and port: an address, `unknown`, or an obfuscated name. */
  readonly for?: string;
  readonly proto?: string;
  readonly host?: string;
  /** The port that the client used, from `X-Forwarded-Port`. */
  readonly port?: string;
}

/**
 * The hops that a peer reports, the client's first. X-Forwarded-For takes precedence and the two families are never
 * mixed: most proxies set only X-Forwarded-* and relay a `Forwarded` that the client made up.
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
 * The path prefix that proxies removed (`X-Forwarded-Prefix`), the outermost proxy's part first. Empty when there is
 * none or it is not a plain path.
 */
export function receivedPrefix(headers: Headers): string {
  const prefix = listOf(headers, 'x-forwarded-prefix')
    .map((part) => withoutTrailing(part, '/'))
    .join('');
  return PREFIX.test(prefix) ? prefix : '';
}

/** The hops of a `Forwarded` value; undefined if it breaks the grammar, because a partial list would shift the hops. */
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

/** One element of `Forwarded`; values that are not tokens are quoted (RFC 7239 §4). */
function formatHop(hop: ForwardedHop): string {
  const node = hop.for === undefined || hop.for === '' ? 'unknown' : bracketed(hop.for);
  const host = hop.host ? `;host=${quoted(hop.host)}` : '';
  const proto = hop.proto ? `;proto=${quoted(hop.proto)}` : '';
  return `for=${quoted(node)}${host}${proto}`;
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

/**
 * The value for the hop at `at`: proxies either extend each list, or overwrite it with one value, which then applies to
 * all.
 */
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
 * Turns an IPv4-mapped IPv6 address (`::ffff:192.0.2.1` in any spelling, RFC 4291 §2.5.5.2) into IPv4. Proxies with
 * dual-stack sockets report such addresses, but address lists contain the IPv4 form.
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
  if (isToken(value)) return value;
  return `"${value.replace(/["\\]/g, '\\$&')}"`;
}

/** Facts about the previous hop for the origin, from a `StoredRequest` or a request head with its connection. */
export interface ForwardingFacts {
  /** The address of the socket's peer; empty for a Unix socket. */
  readonly peerAddress: string;
  readonly peerIsTrusted: boolean;
  /** The original client, as far as trusted proxies report it. */
  readonly clientAddress?: string;
  readonly scheme: string;
  readonly authority: string;
  /** The version of the request that this proxy received. */
  readonly httpVersion: string;
}

/**
 * Appends Forwarded (RFC 7239), X-Forwarded-For, -Host and -Proto, and Via (RFC 9110 §7.6.3) to the lines. The fields
 * of a trusted peer are extended, those of any other peer replaced; otherwise a client could choose the address the
 * origin sees. `via` is the name of this proxy from `viaName`.
 */
export function withForwarding(headers: Headers, facts: ForwardingFacts, via = PRODUCT): HeaderLine[] {
  const peer = plainAddress(facts.peerAddress);
  const hops = facts.peerIsTrusted ? receivedHops(headers) : [];
  const nodes = hops.flatMap((hop) => hop.for ?? []);
  if (peer !== '') nodes.push(peer);
  const lines: HeaderLine[] = headers.filter(
    facts.peerIsTrusted ? (line) => !isReplaced(line, facts) : ([name]) => !isReplacedOfAnyone(name),
  );
  lines.push(['Forwarded', forwardedValue(headers, hops, peer, facts)]);
  if (nodes.length > 0) lines.push(['X-Forwarded-For', nodes.join(', ')]);
  if (facts.authority !== '') lines.push(['X-Forwarded-Host', facts.authority]);
  lines.push(['X-Forwarded-Proto', facts.scheme], ['Via', `${facts.httpVersion} ${via}`]);
  return lines;
}

const PRODUCT = 'rufh-proxy';

/** The name of one running proxy in `Via`, by which it recognizes its own requests. */
export function viaName(unique: string): string {
  return `${PRODUCT}-${unique}`;
}

/**
 * RFC 9110 §7.6.3: the request already came through the proxy `via` and would loop forever. The second word of each
 * element is the proxy's name; a comment may follow.
 */
export function isForwardingLoop(headers: Headers, via: string): boolean {
  const received = fieldValue(headers, 'via');
  if (received === undefined) return false;
  const elements = received.split(',');
  const names = elements.map((element) => element.trim().split(/[ \t]+/)[1]);
  return names.some((name) => name?.toLowerCase() === via.toLowerCase());
}

const FORWARDING_FIELDS = new Set(['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto']);

/**
 * Whether a field is dropped or replaced before the origin gets it. Fields like X-Forwarded-Port or X-Real-IP pass only
 * from a trusted proxy, and only if it sets them itself rather than relaying its client's: `TRUSTED_PROXY_FIELD`, the
 * names of users, and a client address that equals the one it reports.
 */
function isReplaced(
  [name, value]: HeaderLine,
  facts: Pick<ForwardingFacts, 'peerIsTrusted' | 'clientAddress'>,
): boolean {
  const key = fieldKey(name);
  if (FORWARDING_FIELDS.has(key)) return true;
  if (!facts.peerIsTrusted) return describesHop(key);
  if (CLIENT_ADDRESS_FIELD.test(key)) return plainAddress(value.trim()) !== plainAddress(facts.clientAddress ?? '');
  const isKept = TRUSTED_PROXY_FIELD.test(key) || FORWARDED_IDENTITY_FIELD.test(key);
  return PROXY_FIELD.test(key) && !isTargetOverrideField(key) && !isKept;
}

/** `isReplaced` for a peer that is not trusted. */
const isReplacedOfAnyone = remembered((name) => isReplaced([name, ''], { peerIsTrusted: false }));

/** Fields that trusted proxies set themselves, among them the client certificates of Envoy and Traefik. */
const TRUSTED_PROXY_FIELD = /^x-forwarded-(?:port|prefix|client-cert|tls-client-cert(?:-info)?)$/;

/** Names of the client's address; some applications trust each of them. */
const CLIENT_ADDRESS_FIELD =
  /^(?:x-)?(?:real-ip|client-ip|cluster-client-ip|remote-(?:ip|addr)|(?:wl-)?proxy-client-ip|proxyuser-ip)$/;

/**
 * Names of the client's address that a CDN or cloud service sets; its client may differ from the one in
 * X-Forwarded-For.
 */
const SERVICE_ADDRESS_FIELD =
  /^(?:true-client-ip|cf-connecting-ip(?:v6)?|fastly-client-ip|x-azure-(?:clientip|socketip)|x-appengine-user-ip|x-envoy-(?:external-address|internal))$/;

/** Other names with which proxies describe a connection, and which no client needs. */
const SCHEME_OR_ADDRESS_FIELD = /^(?:x-forwarded|forwarded-for|front-end-https|x-url-scheme|x-arr-ssl)$/;

const describesHop = remembered((key) => isProxyField(key) || isConnectionField(key));

function isConnectionField(key: string): boolean {
  return CLIENT_ADDRESS_FIELD.test(key) || SERVICE_ADDRESS_FIELD.test(key) || SCHEME_OR_ADDRESS_FIELD.test(key);
}

/**
 * Names with which proxies describe the request as it reached them; `X-Script-Name` is a path prefix that they removed.
 */
const PROXY_FIELD = /^x-(?:(?:forwarded|original|rewrite)-|real-ip$|script-name$)/;

/** Whether proxies use the name with this key (`fieldKey`) to describe where and how a request reached them. */
export function isProxyField(key: string): boolean {
  return PROXY_FIELD.test(key) || isTargetOverrideField(key);
}

/** Whether a field describes the hops of a request, so that only trusted peers may set it. */
export function isHopField(name: string): boolean {
  const key = fieldKey(name);
  return FORWARDING_FIELDS.has(key) || isProxyField(key) || isConnectionField(key);
}

/**
 * The request trailers that the origin may get. Some servers merge trailers into the head, so credentials, hop fields
 * and overrides of method or target are removed (RFC 9110 §6.5.1), as are fields that the route does not accept from
 * clients.
 */
export function originTrailers(trailers: Headers, route: FieldRules): HeaderLine[] {
  const forbidden = new Set([...FORBIDDEN_REQUEST_TRAILERS, ...(route.delivery?.credentials ?? []).map(fieldKey)]);
  return originFields(trailers, route).filter(
    ([name, value]) =>
      !forbidden.has(fieldKey(name)) &&
      !isMethodOverrideField(fieldKey(name)) &&
      !isReplaced([name, value], { peerIsTrusted: false }),
  );
}

const FORBIDDEN_REQUEST_TRAILERS: ReadonlySet<string> = new Set([
  'authorization',
  'cookie',
  // WebDAV: a second target, which no route was looked up for.
  'destination',
  'idempotency-key',
  'via',
]);

/** The elements of earlier hops already carry host and proto, so the peer's element then only has its address. */
function forwardedValue(headers: Headers, hops: readonly ForwardedHop[], peer: string, facts: ForwardingFacts): string {
  if (hops.length === 0) return formatHop({ for: peer, host: facts.authority, proto: facts.scheme });
  // RFC 7239 §7.4: an X-Forwarded-For chain is converted, so that both fields agree.
  const received = fieldValue(headers, 'x-forwarded-for') ? undefined : fieldValue(headers, 'forwarded');
  return [received ?? hops.map(formatHop).join(', '), formatHop({ for: peer })].join(', ');
}

/** The address without an IPv6 zone, which means nothing on another machine, and an IPv4-mapped one as IPv4. */
const plainAddress = remembered((address) => address.replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, '').split('%', 1)[0]!);
