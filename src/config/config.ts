import { hostname as systemHostname, networkInterfaces } from 'node:os';
import { namesReservedBy } from '../model/client-fields.js';
import type { Route } from '../model/route.js';
import { type AdminConfig, adminCrossChecks, isLoopbackAddress, MODE_NEEDS_UNIX_SOCKET, toAdmin } from './admin.js';
import { type ClusterConfig, clusterCrossChecks, toCluster, toWorkers } from './cluster.js';
import { corsCrossChecks } from './cors.js';
import type { SettingIssue, SettingPath } from './errors.js';
import { DEFAULT_ROUTE, toDefaultRoute, withoutNulls, type RouteConfig, routeCrossChecks, toRoute } from './route.js';
import { type SecretsConfig, secretsCrossChecks, toSecrets } from './record-secrets.js';
import type { Settings } from './schema.js';
import { tlsFileErrors } from './secrets.js';
import { type StoreConfig, storeCrossChecks, toStore } from './store.js';
import { type Address, formatAddress, listOf } from './values.js';

/** The complete, validated configuration. */
export interface Config {
  readonly listeners: readonly ListenerConfig[];
  /** Undefined: no admin listener. */
  readonly admin?: AdminConfig;
  /** Absolute directory of the embedded store and the local spool. */
  readonly data: string;
  readonly store: StoreConfig;
  readonly spool: SpoolConfig;
  readonly secrets: SecretsConfig;
  readonly history: HistoryConfig;
  /** Undefined: the spool is shared, or this is the only node. */
  readonly cluster?: ClusterConfig;
  /** Number of processes that share the listeners. */
  readonly workers: number;
  readonly uploads: UploadsConfig;
  readonly interimResponses: 'auto' | 'always' | 'never';
  readonly trustedProxies: readonly TrustedProxy[];
  /** A request body that sends nothing for this long is ended. */
  readonly idleTimeoutMs: number;
  /** Longest time for the head of a request, and for a TLS handshake. */
  readonly headTimeoutMs: number;
  readonly minRate: MinRateConfig;
  readonly connections: ConnectionsConfig;
  /** Largest header section of a request. */
  readonly maxHeadBytes: number;
  readonly admission: AdmissionConfig;
  /** `Alt-Svc` for clients; replaces the one of the origin. */
  readonly altSvc?: string;
  readonly http2: Http2Config;
  readonly stop: { readonly graceMs: number };
  readonly log: LogConfig;
  /** Applies when no route matches: the top-level `origin`, `limits` and `delivery`. Resumable if there are no routes. */
  readonly defaultRoute: Route;
  readonly routes: readonly RouteConfig[];
}

interface ListenerConfig {
  readonly address: Address;
  readonly tls?: ListenerTls;
  readonly http2: boolean;
  /** A connection without a request is closed after this time. */
  readonly keepAliveMs?: number;
  /** Permissions of the file of a Unix socket. */
  readonly mode?: number;
}

/** How a listener serves HTTPS. The paths are absolute, of PEM files. */
export interface ListenerTls {
  readonly cert: string;
  readonly key: string;
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3';
  /** The CAs of client certificates; undefined: clients need none. */
  readonly clientCa?: string;
}

interface SpoolConfig {
  readonly type: 'local';
  /** All nodes use the same directory. */
  readonly shared: boolean;
  readonly sync: 'always' | 'group' | 'none';
  /** Undefined: the smaller one of 1 GiB and 5 %. */
  readonly keepFree?: { readonly bytes: number } | { readonly share: number };
}

/** How long the stories of uploads are kept, and in how many bytes. */
export interface HistoryConfig {
  /** 0: nothing is kept. */
  readonly keepMs: number;
  readonly maxBytes: number;
}

/** The limits of uploads that are not answered yet, in all and of one client. Undefined: no limit. */
interface AdmissionConfig {
  readonly all: { readonly uploads?: number; readonly bytes?: number };
  readonly client: { readonly uploads?: number; readonly bytes?: number };
  readonly rate?: { readonly perSecond: number; readonly burst: number };
}

/** `request` and `response` are in bytes per second; undefined: no limit. */
interface MinRateConfig {
  readonly request?: number;
  readonly response?: number;
  readonly windowMs: number;
}

/** Undefined: derived from the number of file descriptors that the process may open. */
interface ConnectionsConfig {
  readonly total?: number;
  readonly perAddress?: number;
}

interface UploadsConfig {
  /** Begins and ends with a slash. */
  readonly path: string;
  /** Without a trailing slash. */
  readonly publicUrl?: string;
  readonly rfc104: boolean;
}

interface TrustedProxy {
  /** An address range, or `unix` for peers on a Unix socket. */
  readonly cidr: string;
  readonly relaysInterim: boolean;
  readonly connectionPerClient: boolean;
}

interface Http2Config {
  readonly streamWindowBytes: number;
  readonly sessionWindowBytes: number;
  readonly maxStreams: number;
}

interface LogConfig {
  readonly level: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';
  /** `auto`: pretty on a terminal, else json. */
  readonly format: 'auto' | 'json' | 'pretty';
}

/** Converts validated settings to the configuration that the rest of the program uses. */
export function toConfig(settings: Settings): Config {
  const { uploads, http2 } = settings;
  const admin = toAdmin(settings.admin);
  const cluster = toCluster(settings.cluster);
  const routes = (settings.routes ?? []).map((route) => toRoute(route, settings));
  const defaultRoute = toDefaultRoute(settings);
  const reservedNames = namesReservedBy([defaultRoute, ...routes.map(({ route }) => route)]);
  const withReserved = (route: Route): Route => (reservedNames ? { ...route, reservedNames } : route);
  return {
    listeners: listOf(settings.listen).map(toListener),
    ...(admin ? { admin } : {}),
    data: settings.data,
    store: toStore(settings.store),
    spool: toSpool(settings.spool),
    secrets: toSecrets(settings.secrets),
    history: { keepMs: settings.history.keep, maxBytes: settings.history.max_bytes },
    ...(cluster ? { cluster } : {}),
    workers: toWorkers(settings.workers),
    uploads: { path: uploads.path, rfc104: uploads.rfc104, ...withoutNulls({ publicUrl: uploads.public_url }) },
    interimResponses: settings.interim_responses,
    trustedProxies: settings.trusted_proxies.map((proxy) =>
      typeof proxy === 'string'
        ? { cidr: proxy, relaysInterim: false, connectionPerClient: false }
        : {
            cidr: proxy.cidr,
            relaysInterim: proxy.relays_interim,
            connectionPerClient: proxy.connection_per_client,
          },
    ),
    idleTimeoutMs: settings.limits.idle_timeout,
    headTimeoutMs: settings.limits.head_timeout,
    minRate: toMinRate(settings.limits.min_rate),
    connections: toConnections(settings.limits.connections),
    maxHeadBytes: settings.limits.max_head,
    admission: toAdmission(settings),
    ...withoutNulls({ altSvc: settings.alt_svc }),
    http2: {
      streamWindowBytes: http2.stream_window,
      sessionWindowBytes: http2.session_window,
      maxStreams: http2.max_streams,
    },
    stop: { graceMs: settings.stop.grace },
    log: settings.log,
    defaultRoute: withReserved(defaultRoute),
    routes: routes.map((route) => ({ ...route, route: withReserved(route.route) })),
  };
}

type ListenSetting = Extract<Settings['listen'], readonly unknown[]>[number];
type TlsSetting = Extract<ListenSetting, { readonly http2: boolean }>['tls'];

function toListener(setting: ListenSetting): ListenerConfig {
  if ('kind' in setting) return { address: setting, http2: true };
  const { keep_alive: keepAliveMs, tls, ...listener } = setting;
  return { ...listener, ...withoutNulls({ keepAliveMs }), ...(tls && { tls: toListenerTls(tls) }) };
}

function toListenerTls({ cert, key, min_version, client_ca }: NonNullable<TlsSetting>): ListenerTls {
  return { cert, key, minVersion: min_version, ...withoutNulls({ clientCa: client_ca }) };
}

function toMinRate({ request, response, window }: Settings['limits']['min_rate']): MinRateConfig {
  return { ...withoutNulls({ request, response }), windowMs: window };
}

function toConnections({ total, per_address }: Settings['limits']['connections']): ConnectionsConfig {
  return withoutNulls({ total, perAddress: per_address });
}

function toSpool({ type, shared, sync, keep_free: keepFree }: Settings['spool']): SpoolConfig {
  return { type, shared, sync, ...withoutNulls({ keepFree }) };
}

function toAdmission({ spool, limits: { uploads } }: Settings): AdmissionConfig {
  const { total, per_client: perClient, bytes_per_client: bytesPerClient, rate, burst } = uploads;
  return {
    all: withoutNulls({ uploads: total, bytes: spool.max_bytes }),
    client: withoutNulls({ uploads: perClient, bytes: bytesPerClient }),
    ...(rate !== null && { rate: { perSecond: rate, burst } }),
  };
}

/** Finds errors that involve several settings or this machine. Reads the files that the settings name, and changes nothing. */
export function crossChecks(config: Config, settings: Settings): SettingIssue[] {
  return [
    ...duplicateAddresses(config),
    ...socketErrors(config),
    ...config.listeners.flatMap(({ tls }, index) => listenerTlsErrors(['listen', index, 'tls'], tls)),
    ...adminCrossChecks(settings.admin),
    ...storeCrossChecks(settings),
    ...secretsCrossChecks(settings),
    ...clusterCrossChecks(settings),
    ...routeCrossChecks([], config.defaultRoute),
    ...config.routes.flatMap(({ route }, index) => routeCrossChecks(['routes', index], route)),
    ...loopingUrls(config),
    ...duplicateRouteNames(config),
    ...corsCrossChecks(settings),
    ...http2Windows(config),
  ];
}

function listenerTlsErrors(path: SettingPath, tls: ListenerTls | undefined): SettingIssue[] {
  if (!tls) return [];
  const ofClients = tlsFileErrors(path, { ca: tls.clientCa }).map(({ problem }) => ({
    path: [...path, 'client_ca'],
    problem,
  }));
  return [...tlsFileErrors(path, { cert: tls.cert, key: tls.key }), ...ofClients];
}

/** Every address that this configuration listens on, with the path of its setting. */
function allListeners({
  listeners,
  admin,
  cluster,
}: Config): { readonly address: Address; readonly path: SettingPath }[] {
  return [
    ...listeners.map(({ address }, index) => ({ address, path: ['listen', index] })),
    ...(admin ? [{ address: admin.address, path: ['admin', 'address'] }] : []),
    ...(cluster ? [{ address: cluster.listen, path: ['cluster', 'listen'] }] : []),
  ];
}

function duplicateAddresses(config: Config): SettingIssue[] {
  const listeners = allListeners(config);
  return listeners.flatMap(({ address, path }, index) => {
    const other = listeners.slice(0, index).find((earlier) => collide(earlier.address, address));
    if (!other) return [];
    const prefix = SEPARATE_LISTENER[String(path[0])] ?? '';
    return [
      {
        path,
        relatedPath: other.path,
        problem: `${prefix}${formatAddress(other.address)} is already used by another listener`,
      },
    ];
  });
}

const SEPARATE_LISTENER: Readonly<Record<string, string>> = {
  admin: 'the admin listener needs its own address; ',
  cluster: 'the cluster listener needs its own address; ',
};

/** The system silently truncates a longer path, so the socket would be created elsewhere. */
const MAX_SOCKET_PATH_BYTES = 107;

function socketErrors(config: Config): SettingIssue[] {
  const tooLong = allListeners(config).filter(
    ({ address }) => address.kind === 'unix' && Buffer.byteLength(address.path) > MAX_SOCKET_PATH_BYTES,
  );
  const modeWithoutSocket = config.listeners.flatMap(({ address, mode }, index) =>
    mode !== undefined && address.kind === 'tcp'
      ? [{ path: ['listen', index, 'mode'], problem: MODE_NEEDS_UNIX_SOCKET }]
      : [],
  );
  const problem = `the path of a Unix socket can be at most ${MAX_SOCKET_PATH_BYTES} bytes long; choose a shorter one`;
  return [...tooLong.map(({ path }) => ({ path, problem })), ...modeWithoutSocket];
}

/** Whether two listeners would use the same address. A wildcard host uses the port on every host of its family. */
function collide(a: Address, b: Address): boolean {
  if (a.kind === 'unix' || b.kind === 'unix')
    return a.kind === b.kind && 'path' in a && 'path' in b && a.path === b.path;
  if (a.port !== b.port || a.port === 0) return false;
  const hosts = [a.host, b.host];
  return (
    a.host === b.host ||
    hosts.includes('::') ||
    (hosts.includes('0.0.0.0') && !hosts.some((host) => host.includes(':')))
  );
}

/**
 * Finds URLs that point back to this proxy: their requests would loop. Names that need a DNS lookup are
 * detected only at run time, when a request comes back.
 */
function loopingUrls(config: Config): SettingIssue[] {
  const { defaultRoute, routes } = config;
  const listeners = allListeners(config);
  const defaultUrls = outgoingUrls(defaultRoute);
  const routeUrls = routes.flatMap(({ route }, index) =>
    outgoingUrls(route).map(({ path, url }) => ({ path: ['routes', index, ...path], url })),
  );
  // An inherited URL is reported once, at its own setting.
  const urls = [
    ...defaultUrls,
    ...routeUrls.filter(({ url }) => !defaultUrls.some((inherited) => inherited.url === url)),
  ];
  return urls.flatMap(({ path, url }) => {
    const listener = listeners.find(({ address }) => reachesListener(new URL(url), address));
    if (!listener) return [];
    const instead = path.at(-1) === 'origin' ? 'the application behind it' : 'the service to ask';
    const problem = `points back to this proxy, which listens on ${formatAddress(listener.address)}; use the address of ${instead}`;
    return [{ path, relatedPath: listener.path, problem }];
  });
}

/** The URLs to which a route sends requests. */
function outgoingUrls({ origin, authorize, delivery }: Route): { readonly path: SettingPath; readonly url: string }[] {
  const { forwardAuth } = authorize;
  const { gate } = delivery;
  return [
    { path: ['origin'], url: origin },
    ...(forwardAuth ? [{ path: ['authorize', 'forward_auth', 'url'], url: forwardAuth.url }] : []),
    ...(gate?.kind === 'http' ? [{ path: ['delivery', 'gate', 'http'], url: gate.url }] : []),
  ];
}

function reachesListener({ hostname, port, protocol }: URL, address: Address): boolean {
  if (address.kind === 'unix') return false;
  const host = normalizedHost(hostname);
  const listenHost = normalizedHost(address.host);
  if (address.port !== Number(port || (protocol === 'https:' ? 443 : 80))) return false;
  const isWildcard = listenHost === '0.0.0.0' || listenHost === '::';
  return isWildcard ? isThisMachine(host) : addressesOf(host).some((known) => addressesOf(listenHost).includes(known));
}

/** A host without brackets and trailing dot, spelled as the URL parser does; an IPv4-mapped IPv6 address becomes IPv4. */
function normalizedHost(host: string): string {
  const bracketed = host.includes(':') && !host.startsWith('[') ? `[${host}]` : host;
  const parsedHost = URL.canParse(`http://${bracketed}`) ? new URL(`http://${bracketed}`).hostname : bracketed;
  const bare = parsedHost
    .replace(/^\[|\]$/g, '')
    .replace(/\.$/, '')
    .toLowerCase();
  const mapped = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(bare);
  if (!mapped) return bare;
  const [high, low] = [parseInt(mapped[1]!, 16), parseInt(mapped[2]!, 16)];
  return [high >> 8, high & 255, low >> 8, low & 255].join('.');
}

/** The addresses of a host, as far as they are known without a DNS lookup. */
function addressesOf(host: string): readonly string[] {
  if (host === 'localhost' || host.endsWith('.localhost')) return ['127.0.0.1', '::1'];
  if (host === '0.0.0.0') return ['127.0.0.1'];
  return host === '::' ? ['127.0.0.1', '::1'] : [host];
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host.endsWith('.localhost') || isLoopbackAddress(host);
}

/** Whether a host is this machine. A connection to 0.0.0.0 or :: reaches it too. */
function isThisMachine(host: string): boolean {
  const addresses = Object.values(networkInterfaces()).flatMap(
    (interfaceAddresses) => interfaceAddresses?.map(({ address }) => address) ?? [],
  );
  const isOwnName = host === systemHostname().toLowerCase();
  return isLoopback(host) || host === '0.0.0.0' || host === '::' || isOwnName || addresses.includes(host);
}

/** Names must be unique, because uploads store the name of their route. */
function duplicateRouteNames({ routes }: Config): SettingIssue[] {
  return routes.flatMap(({ route }, index) => {
    const path = ['routes', index];
    if (route.name === DEFAULT_ROUTE) {
      return [
        {
          path: [...path, 'name'],
          problem: `"${DEFAULT_ROUTE}" is reserved for requests that no route matches; choose another name`,
        },
      ];
    }
    const first = routes.findIndex((other) => other.route.name === route.name);
    if (first === index) return [];
    return [{ path, problem: `has the same name as routes[${first}], "${route.name}"; give it a unique \`name\`` }];
  });
}

function http2Windows({ http2 }: Config): SettingIssue[] {
  if (http2.streamWindowBytes <= http2.sessionWindowBytes) return [];
  const problem = `is ${http2.sessionWindowBytes}, which is less than stream_window (${http2.streamWindowBytes})`;
  return [{ path: ['http2', 'session_window'], problem }];
}
