import { reservedNamesOf } from '../model/client-fields.js';
import type { Route } from '../model/route.js';
import { type AdminConfig, toAdmin } from './admin-settings.js';
import { type ClusterConfig, toCluster, toWorkers } from './cluster-config.js';
import { defaultRoute, defined, type RouteConfig, toRoute, toSeconds } from './route-config.js';
import { type Address, listOf } from './scalars.js';
import type { Settings } from './schema.js';
import { type StoreConfig, toStore } from './store-config.js';

/** What the proxy runs with: checked, complete, every number with its unit in its name. */
export interface Config {
  readonly listeners: readonly ListenerConfig[];
  /** Undefined: no admin listener. */
  readonly admin?: AdminConfig;
  /** Absolute directory of the embedded store and the local spool. */
  readonly data: string;
  readonly store: StoreConfig;
  readonly spool: SpoolConfig;
  /** Undefined: the spool is shared, or this is the only node. */
  readonly cluster?: ClusterConfig;
  /** How many processes share the listeners. */
  readonly workers: number;
  readonly uploads: UploadsConfig;
  readonly interimResponses: 'auto' | 'always' | 'never';
  readonly trustedProxies: readonly TrustedProxy[];
  /** A request body that sends nothing for this long is ended. */
  readonly idleTimeoutMs: number;
  /** A request's head, and a TLS handshake, may take this long. */
  readonly headTimeoutMs: number;
  readonly minRate: MinRateConfig;
  readonly connections: ConnectionsConfig;
  /** Offered to clients in place of what origins say. */
  readonly altSvc?: string;
  readonly cors: CorsConfig;
  readonly http2: Http2Config;
  readonly stop: { readonly graceMs: number };
  readonly log: LogConfig;
  /** What holds where no route matches: the top `origin`, `limits` and `delivery`. Resumable when there are no routes. */
  readonly defaultRoute: Route;
  readonly routes: readonly RouteConfig[];
}

export interface ListenerConfig {
  readonly address: Address;
  /** Absolute paths of PEM files. */
  readonly tls?: { readonly cert: string; readonly key: string };
  readonly http2: boolean;
  /** A connection without a request is closed after this time. */
  readonly keepAliveMs?: number;
  /** Rights of a Unix socket's file. */
  readonly mode?: number;
}

export interface SpoolConfig {
  readonly type: 'local';
  /** Every node sees the same bytes. */
  readonly shared: boolean;
  readonly sync: 'always' | 'group' | 'none';
}

/** Bytes a second; undefined: no limit. */
export interface MinRateConfig {
  readonly request?: number;
  readonly response?: number;
  readonly windowMs: number;
}

/** Undefined: by what the process may open. */
export interface ConnectionsConfig {
  readonly total?: number;
  readonly perAddress?: number;
}

export interface UploadsConfig {
  /** Begins and ends with a slash. */
  readonly path: string;
  /** Without a trailing slash. */
  readonly publicUrl?: string;
  readonly rfc104: boolean;
}

export interface TrustedProxy {
  /** An address range, or `unix` for peers on a Unix socket. */
  readonly cidr: string;
  readonly relaysInterim: boolean;
  readonly connectionPerClient: boolean;
}

export interface CorsConfig {
  /** Empty: CORS is left to the origin. `*` stands for all. */
  readonly allowOrigins: readonly string[];
  readonly allowCredentials: boolean;
  readonly maxAgeSeconds: number;
}

export interface Http2Config {
  readonly streamWindowBytes: number;
  readonly sessionWindowBytes: number;
  readonly maxStreams: number;
}

export interface LogConfig {
  readonly level: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';
  /** `auto`: pretty on a terminal, else json. */
  readonly format: 'auto' | 'json' | 'pretty';
}

type ListenSetting = Extract<Settings['listen'], readonly unknown[]>[number];

function toListener(setting: ListenSetting): ListenerConfig {
  if ('kind' in setting) return { address: setting, http2: true };
  const { keep_alive: keepAliveMs, ...listener } = setting;
  return { ...listener, ...defined({ keepAliveMs }) };
}

/** Checked settings as the rest of the program knows them. */
export function toConfig(settings: Settings): Config {
  const { uploads, cors, http2 } = settings;
  const admin = toAdmin(settings.admin);
  const cluster = toCluster(settings.cluster);
  const routes = (settings.routes ?? []).map((route) => toRoute(route, settings));
  const fallback = defaultRoute(settings);
  const reservedNames = reservedNamesOf([fallback, ...routes.map(({ route }) => route)]);
  const withReserved = (route: Route): Route => (reservedNames ? { ...route, reservedNames } : route);
  return {
    listeners: listOf(settings.listen).map(toListener),
    ...(admin ? { admin } : {}),
    data: settings.data,
    store: toStore(settings.store),
    spool: settings.spool,
    ...(cluster ? { cluster } : {}),
    workers: toWorkers(settings.workers),
    uploads: { path: uploads.path, rfc104: uploads.rfc104, ...defined({ publicUrl: uploads.public_url }) },
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
    ...defined({ altSvc: settings.alt_svc }),
    cors: {
      allowOrigins: cors.allow_origins,
      allowCredentials: cors.allow_credentials,
      maxAgeSeconds: toSeconds(cors.max_age),
    },
    http2: {
      streamWindowBytes: http2.stream_window,
      sessionWindowBytes: http2.session_window,
      maxStreams: http2.max_streams,
    },
    stop: { graceMs: settings.stop.grace },
    log: settings.log,
    defaultRoute: withReserved(fallback),
    routes: routes.map((one) => ({ ...one, route: withReserved(one.route) })),
  };
}

function toMinRate({ request, response, window }: Settings['limits']['min_rate']): MinRateConfig {
  return { ...defined({ request, response }), windowMs: window };
}

function toConnections({ total, per_address }: Settings['limits']['connections']): ConnectionsConfig {
  return defined({ total, perAddress: per_address });
}
