import {
  isMethodOverrideField,
  fieldKey,
  type FieldRules,
  FORWARDED_IDENTITY_FIELD,
  isTargetOverrideField,
  originFields,
} from './client-fields.js';
import { fieldValue, type HeaderLine, type Headers } from './headers.js';
import { withoutTrailing } from './uri.js';

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
    .map((part) => withoutTrailing(part, '/'))
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
function formatHop(hop: ForwardedHop): string {
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

/** What the origin is told of the hop before us. A `StoredRequest` and a request head with its connection both have it. */
export interface ForwardingFacts {
  /** As the socket shows it; empty for a Unix socket. */
  readonly peerAddress: string;
  readonly peerIsTrusted: boolean;
  /** The original client, as far as trusted proxies tell of it. */
  readonly clientAddress?: string;
  readonly scheme: string;
  readonly authority: string;
  /** Of the request as we received it. */
  readonly httpVersion: string;
}

/**
 * The same lines with Forwarded (RFC 7239), X-Forwarded-For, -Host and -Proto, and Via (RFC 9110 §7.6.3) at their end.
 * A trusted peer's account is extended; anybody else's is replaced, or a client could choose the address the origin sees.
 * `via`: the name by which this proxy knows itself again.
 */
export function withForwarding(headers: Headers, facts: ForwardingFacts, via = PRODUCT): HeaderLine[] {
  const peer = plainAddress(facts.peerAddress);
  const hops = facts.peerIsTrusted ? receivedHops(headers) : [];
  const nodes = [...hops.flatMap((hop) => hop.for ?? []), ...(peer === '' ? [] : [peer])];
  const lines: HeaderLine[] = headers.filter((line) => !isReplaced(line, facts));
  lines.push(['Forwarded', forwardedValue(headers, hops, peer, facts)]);
  if (nodes.length > 0) lines.push(['X-Forwarded-For', nodes.join(', ')]);
  if (facts.authority !== '') lines.push(['X-Forwarded-Host', facts.authority]);
  lines.push(['X-Forwarded-Proto', facts.scheme], ['Via', `${facts.httpVersion} ${via}`]);
  return lines;
}

const PRODUCT = 'rufh-proxy';

/** A name for one running proxy: a request with it in `Via` was sent by this proxy before. */
export function viaName(unique: string): string {
  return `${PRODUCT}-${unique}`;
}

/**
 * RFC 9110 §7.6.3: the request has come through the proxy of this name already, so that it would go round for ever. The
 * second word of each element is the name; a comment may follow.
 */
export function isForwardingLoop(headers: Headers, via: string): boolean {
  const elements = headers.filter(([name]) => name.toLowerCase() === 'via').flatMap(([, value]) => value.split(','));
  const names = elements.map((element) => element.trim().split(/[ \t]+/)[1]);
  return names.some((name) => name?.toLowerCase() === via.toLowerCase());
}

const FORWARDING_FIELDS = new Set(['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto']);

/**
 * Fields like X-Forwarded-Port, X-Real-IP or X-Original-URL are a proxy's word as well: only a trusted one's is passed on.
 * Of those that it may not know, and so pass on from its client, none is: it keeps `OF_TRUSTED_PROXIES`, the names of users, and an address of the
 * client where that is the one which it tells of.
 */
function isReplaced(
  [name, value]: HeaderLine,
  facts: Pick<ForwardingFacts, 'peerIsTrusted' | 'clientAddress'>,
): boolean {
  const key = fieldKey(name);
  if (FORWARDING_FIELDS.has(key)) return true;
  if (!facts.peerIsTrusted) return isProxyField(key) || isConnectionField(key);
  if (CLIENT_ADDRESS_FIELD.test(key)) return plainAddress(value.trim()) !== plainAddress(facts.clientAddress ?? '');
  const isKept = TRUSTED_PROXY_FIELD.test(key) || FORWARDED_IDENTITY_FIELD.test(key);
  return PROXY_FIELD.test(key) && !isTargetOverrideField(key) && !isKept;
}

/** Certificates of clients too: Envoy and Traefik set these names, and an application that reads them is behind such a front. */
const TRUSTED_PROXY_FIELD = /^x-forwarded-(?:port|prefix|client-cert|tls-client-cert(?:-info)?)$/;

/** Names by which applications are told the client's address; each of them is believed by some. */
const CLIENT_ADDRESS_FIELD =
  /^(?:x-)?(?:real-ip|client-ip|cluster-client-ip|remote-(?:ip|addr)|(?:wl-)?proxy-client-ip|proxyuser-ip)$/;

/** The same for names that belong to one service in front: theirs is the client that no chain of ours reaches. */
const SERVICE_ADDRESS_FIELD =
  /^(?:true-client-ip|cf-connecting-ip(?:v6)?|fastly-client-ip|x-azure-(?:clientip|socketip)|x-appengine-user-ip|x-envoy-(?:external-address|internal))$/;

/** What else proxies say of a connection by names that no client has need of. */
const SCHEME_OR_ADDRESS_FIELD = /^(?:x-forwarded|forwarded-for|front-end-https|x-url-scheme|x-arr-ssl)$/;

function isConnectionField(key: string): boolean {
  return CLIENT_ADDRESS_FIELD.test(key) || SERVICE_ADDRESS_FIELD.test(key) || SCHEME_OR_ADDRESS_FIELD.test(key);
}

/** Whether proxies say by this name, in the form of `fieldKey`, where and how a request came to them. */
export function isProxyField(key: string): boolean {
  return PROXY_FIELD.test(key) || isTargetOverrideField(key);
}

/** Whether a field is about the hops that a request has come by, so that not everybody's word counts. */
export function isHopField(name: string): boolean {
  const key = fieldKey(name);
  return FORWARDING_FIELDS.has(key) || isProxyField(key) || isConnectionField(key);
}

/** `X-Script-Name`: the part of the path that a proxy took off; applications take it off once more. */
const PROXY_FIELD = /^x-(?:(?:forwarded|original|rewrite)-|real-ip$|script-name$)/;

/**
 * Trailers of a request as an origin may get them: what a client may say in fields, and nothing that is for the head alone
 * (RFC 9110 §6.5.1), which are credentials, what hops say, and another method or place. Some servers add trailers to the fields of the head.
 */
export function originTrailers(trailers: Headers, route: FieldRules): HeaderLine[] {
  const never = new Set([...FORBIDDEN_REQUEST_TRAILERS, ...(route.delivery?.credentials ?? []).map(fieldKey)]);
  return originFields(trailers, route).filter(
    ([name, value]) =>
      !never.has(fieldKey(name)) &&
      !isMethodOverrideField(fieldKey(name)) &&
      !isReplaced([name, value], { peerIsTrusted: false }),
  );
}

const FORBIDDEN_REQUEST_TRAILERS: ReadonlySet<string> = new Set([
  'authorization',
  'cookie',
  // Another target than the one that routes are found by, as another method is.
  'destination',
  'idempotency-key',
  'via',
]);

/** With hops before the peer, host and proto stand in their elements already and ours only names the peer. */
function forwardedValue(headers: Headers, hops: readonly ForwardedHop[], peer: string, facts: ForwardingFacts): string {
  if (hops.length === 0) return formatHop({ for: peer, host: facts.authority, proto: facts.scheme });
  // RFC 7239 §7.4: an X-Forwarded-For chain is carried over, so that both fields tell the same story.
  const told = fieldValue(headers, 'x-forwarded-for') ? undefined : fieldValue(headers, 'forwarded');
  return [told ?? hops.map(formatHop).join(', '), formatHop({ for: peer })].join(', ');
}

/** An IPv4 address in IPv6 clothes as IPv4, and no zone, which means nothing on another machine. */
function plainAddress(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, '').split('%', 1)[0]!;
}
