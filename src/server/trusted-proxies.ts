import ipaddr from 'ipaddr.js';
import { type ForwardedHop, receivedHops, receivedPrefix } from '../model/forwarded.js';
import type { Headers } from '../model/headers.js';
import { remembered } from '../model/remembered.js';
import type { ConnectionFacts } from '../model/request-head.js';
import type { Peer } from './exchange.js';

/** A proxy in front of this one whose forwarding fields are believed. */
export interface TrustedProxy {
  /** An address or address range; `unix` for peers on a Unix socket, which have no address. */
  readonly cidr: string;
  /** It relays 1xx responses while the request body is still arriving. */
  readonly relaysInterim: boolean;
  /** It opens a connection here for each of its clients and closes it with the client's. */
  readonly connectionPerClient?: boolean;
}

/**
 * The source of a request, as far as it can be trusted. `scheme` and `authority` are missing if no trusted proxy adds
 * to what the connection shows.
 */
export interface Provenance {
  readonly scheme?: 'http' | 'https';
  readonly authority?: string;
  /** As in `RequestHead`; only for a request relayed by another node. */
  readonly base?: string;
  /** The port that the client used, where the authority does not contain it. */
  readonly port?: string;
  /** The path prefix that trusted proxies have removed. */
  readonly prefix?: string;
  readonly connection: ConnectionFacts;
}

/** Fields that proxies add and clients do not send. */
const FORWARDING_FIELDS: ReadonlySet<string> = new Set([
  'via',
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  'x-real-ip',
]);

interface ProxyRange {
  readonly range: [ipaddr.IPv4 | ipaddr.IPv6, number];
  readonly proxy: TrustedProxy;
}

/** Decides which forwarding fields to believe: those of the configured proxies. */
export class TrustedProxies {
  private readonly ranges: readonly ProxyRange[];
  private readonly unix: TrustedProxy | undefined;

  constructor(proxies: readonly TrustedProxy[]) {
    this.unix = proxies.find(({ cidr }) => cidr === 'unix');
    this.ranges = proxies
      .filter(({ cidr }) => cidr !== 'unix')
      .map((proxy) => ({ range: parseRange(proxy.cidr), proxy }))
      // When several ranges contain an address, the narrowest one applies.
      .sort((a, b) => b.range[1] - a.range[1]);
  }

  /** The client's address, scheme and authority, as far as the chain of trusted proxies reaches. */
  provenanceOf(peer: Peer, headers: Headers): Provenance {
    const proxy = peer.isDisconnected ? undefined : this.find(peer.address);
    if (!proxy) return { connection: untrustedPeerFacts(peer, headers) };
    const hops = receivedHops(headers);
    const walk = this.walkHops(hops, peer.address, proxy);
    const trustedHops = hops.slice(walk.firstTrusted);
    return {
      scheme: trustedHops
        .map(({ proto }) => proto?.toLowerCase())
        .find((proto) => proto === 'http' || proto === 'https'),
      authority: trustedHops.map(({ host }) => host).find((host) => host !== undefined && isAuthority(host)),
      port: trustedHops.map(({ port }) => port).find((port) => port !== undefined && /^[1-9]\d{0,4}$/.test(port)),
      prefix: receivedPrefix(headers),
      connection: {
        peerAddress: peer.address,
        encrypted: peer.encrypted,
        clientAddress: walk.client,
        peerIsTrusted: true,
        relaysInterim: walk.relaysInterim,
        isClientsOwn: walk.isClientsOwn,
      },
    };
  }

  /** Whether the address belongs to a trusted proxy. */
  trusts(address: string): boolean {
    return this.find(address) !== undefined;
  }

  /**
   * Follows the hops from the nearest to the farthest as long as a trusted proxy reported each; the client could have
   * invented those further left. A property holds for the chain only if every proxy in it has it.
   */
  private walkHops(hops: readonly ForwardedHop[], peer: string, nearest: TrustedProxy) {
    let client = peer;
    let relaysInterim = nearest.relaysInterim;
    let isClientsOwn = nearest.connectionPerClient === true;
    let firstTrusted = hops.length;
    while (firstTrusted > 0) {
      const node = hops[--firstTrusted]!.for;
      if (node === undefined || !ipaddr.isValid(node)) break;
      client = node;
      const proxy = this.find(node);
      if (!proxy) break;
      relaysInterim &&= proxy.relaysInterim;
      isClientsOwn &&= proxy.connectionPerClient === true;
    }
    return { client, relaysInterim, isClientsOwn, firstTrusted };
  }

  private find(address: string): TrustedProxy | undefined {
    if (address === '') return this.unix;
    if (this.ranges.length === 0) return undefined;
    if (!ipaddr.isValid(address)) return undefined;
    // A dual-stack socket shows an IPv4 peer as ::ffff:a.b.c.d.
    const plain = ipaddr.process(address);
    return this.ranges.find(({ range: [start, bits] }) => plain.kind() === start.kind() && plain.match(start, bits))
      ?.proxy;
  }
}

/**
 * The facts about a peer that is no trusted proxy. Direct clients do not send Via or X-Forwarded-For, so a peer that
 * does is an undeclared proxy, which may fail on an unexpected 1xx response.
 */
function untrustedPeerFacts({ address, encrypted }: Peer, headers: Headers): ConnectionFacts {
  const isProxy = headers.some(([name]) => FORWARDING_FIELDS.has(name.toLowerCase()));
  return {
    peerAddress: address,
    encrypted,
    clientAddress: address,
    peerIsTrusted: false,
    relaysInterim: !isProxy,
    isClientsOwn: !isProxy,
  };
}

/**
 * Whether the text is a host with an optional port (RFC 9110 §7.2), without the rare characters that would need
 * escaping in a Location.
 */
export const isAuthority = remembered((text) =>
  /^(?:(?:[A-Za-z0-9._~!$&'*+-]|%[0-9A-Fa-f]{2})+|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?$/.test(text),
);

/** An address counts as a range of one. IPv4-mapped IPv6 ranges become IPv4, as peer addresses do. */
function parseRange(cidr: string): [ipaddr.IPv4 | ipaddr.IPv6, number] {
  const range = cidr.includes('/') ? cidr : `${cidr}/${ipaddr.parse(cidr).kind() === 'ipv4' ? 32 : 128}`;
  const [start, bits] = ipaddr.parseCIDR(range);
  if (start.kind() === 'ipv6' && (start as ipaddr.IPv6).isIPv4MappedAddress() && bits >= 96) {
    return [(start as ipaddr.IPv6).toIPv4Address(), bits - 96];
  }
  return [start, bits];
}
