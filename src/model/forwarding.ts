import {
  asksForMethod,
  fieldKey,
  type FieldRules,
  FORWARDED_IDENTITY,
  namesOtherTarget,
  originFields,
} from './client-fields.js';
import { formatHop, receivedHops, type ForwardedHop } from './forwarded.js';
import { fieldValue, type HeaderLine, type Headers } from './headers.js';

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
export function hasPassed(headers: Headers, via: string): boolean {
  const elements = headers.filter(([name]) => name.toLowerCase() === 'via').flatMap(([, value]) => value.split(','));
  const names = elements.map((element) => element.trim().split(/[ \t]+/)[1]);
  return names.some((name) => name?.toLowerCase() === via.toLowerCase());
}

const OURS = new Set(['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto']);

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
  if (OURS.has(key)) return true;
  if (!facts.peerIsTrusted) return isSaidByProxies(key) || tellsAddress(key);
  if (OF_ANY_CLIENT.test(key)) return plainAddress(value.trim()) !== plainAddress(facts.clientAddress ?? '');
  const isKept = OF_TRUSTED_PROXIES.test(key) || FORWARDED_IDENTITY.test(key);
  return OF_PROXIES.test(key) && !namesOtherTarget(key) && !isKept;
}

/** Certificates of clients too: Envoy and Traefik set these names, and an application that reads them is behind such a front. */
const OF_TRUSTED_PROXIES = /^x-forwarded-(?:port|prefix|client-cert|tls-client-cert(?:-info)?)$/;

/** Names by which applications are told the client's address; each of them is believed by some. */
const OF_ANY_CLIENT =
  /^(?:x-)?(?:real-ip|client-ip|cluster-client-ip|remote-(?:ip|addr)|(?:wl-)?proxy-client-ip|proxyuser-ip)$/;

/** The same for names that belong to one service in front: theirs is the client that no chain of ours reaches. */
const OF_A_SERVICE =
  /^(?:true-client-ip|cf-connecting-ip(?:v6)?|fastly-client-ip|x-azure-(?:clientip|socketip)|x-appengine-user-ip|x-envoy-(?:external-address|internal))$/;

/** What else proxies say of a connection by names that no client has need of. */
const OF_THE_CONNECTION = /^(?:x-forwarded|forwarded-for|front-end-https|x-url-scheme|x-arr-ssl)$/;

function tellsAddress(key: string): boolean {
  return OF_ANY_CLIENT.test(key) || OF_A_SERVICE.test(key) || OF_THE_CONNECTION.test(key);
}

/** Whether proxies say by this name, in the form of `fieldKey`, where and how a request came to them. */
export function isSaidByProxies(key: string): boolean {
  return OF_PROXIES.test(key) || namesOtherTarget(key);
}

/** Whether a field is about the hops that a request has come by, so that not everybody's word counts. */
export function tellsOfHops(name: string): boolean {
  const key = fieldKey(name);
  return OURS.has(key) || isSaidByProxies(key) || tellsAddress(key);
}

/** `X-Script-Name`: the part of the path that a proxy took off; applications take it off once more. */
const OF_PROXIES = /^x-(?:(?:forwarded|original|rewrite)-|real-ip$|script-name$)/;

/**
 * Trailers of a request as an origin may get them: what a client may say in fields, and nothing that is for the head alone
 * (RFC 9110 §6.5.1), which are credentials, what hops say, and another method or place. Some servers add trailers to the fields of the head.
 */
export function originTrailers(trailers: Headers, route: FieldRules): HeaderLine[] {
  const never = new Set([...NEVER_BEHIND_A_BODY, ...(route.delivery?.credentials ?? []).map(fieldKey)]);
  return originFields(trailers, route).filter(
    ([name, value]) =>
      !never.has(fieldKey(name)) &&
      !asksForMethod(fieldKey(name)) &&
      !isReplaced([name, value], { peerIsTrusted: false }),
  );
}

const NEVER_BEHIND_A_BODY: ReadonlySet<string> = new Set([
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
