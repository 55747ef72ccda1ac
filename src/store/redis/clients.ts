import { Cluster, type CommonRedisOptions, Redis, type RedisOptions } from 'ioredis';
import { isReadOnly, type RedisSettings, type RedisTls } from './errors.js';

export type RedisClient = Redis | Cluster;

export interface ClientOptions {
  /** A subscriber keeps what it should send until it is connected; whoever sends commands hears at once that it is not. */
  readonly role: 'commands' | 'subscriber';
  /** On a cluster: one subscription a server, each for its own slots. */
  readonly sharded?: boolean;
  /** Undefined: gives up after the first try. */
  readonly retryMs: () => number | undefined;
}

const CONNECT_MS = 2000;
/** A connection that is silent for so long after a command is broken, whatever the system thinks of it. */
const SILENT_MS = 3000;
const KEEP_ALIVE_MS = 5000;
/** A timer of the library that outlives connections which never came about. */
const DISCONNECT_MS = 100;

/** The library would subscribe by itself when it is connected again, and a refusal of that would end the process. */
const SUBSCRIBER = { enableOfflineQueue: true, maxRetriesPerRequest: null, autoResubscribe: false };

const COMMANDS = { enableOfflineQueue: false };

/** Makes a client that is not connected yet. Nothing is ever sent twice by itself: only our callers know what may be. */
export function makeClient(settings: RedisSettings, options: ClientOptions): RedisClient {
  if (settings.kind === 'cluster') return makeCluster(settings, options);
  const common = { ...commonOptions(settings), ...(options.role === 'subscriber' ? SUBSCRIBER : COMMANDS) };
  const retryStrategy = (): number | undefined => options.retryMs();
  if (settings.kind === 'sentinel')
    return inItsDatabase(new Redis({ ...common, ...sentinelOptions(settings, options), retryStrategy }));
  const [address] = settings.nodes;
  return inItsDatabase(new Redis({ ...common, ...address, db: settings.database ?? 0, retryStrategy }));
}

/** A connection whose `SELECT` was refused goes on in database 0, where our data would seem to be lost: it has to go. */
function inItsDatabase(client: Redis): Redis {
  client.on('error', (error: { readonly command?: { readonly name: string } }) => {
    if (error.command?.name === 'select') client.disconnect(true);
  });
  return client;
}

/** Whether it makes sense to send a command now: a cluster that is away would keep it, and do it some time later. */
export function isConnected(client: RedisClient): boolean {
  return client.status === 'ready';
}

function commonOptions({
  username,
  password,
  tls,
}: RedisSettings): CommonRedisOptions & Pick<RedisOptions, 'tls' | 'disconnectTimeout'> {
  return {
    username,
    password,
    tls: tls && tlsOptions(tls),
    // Both versions of the protocol do; the older one is understood by everything that calls itself Redis.
    protocol: 2,
    connectionName: 'rufh-proxy',
    disableClientInfo: true,
    lazyConnect: true,
    connectTimeout: CONNECT_MS,
    socketTimeout: SILENT_MS,
    keepAlive: KEEP_ALIVE_MS,
    disconnectTimeout: DISCONNECT_MS,
    // Asks for rights that a user may not have; a server that still loads says so to every command.
    enableReadyCheck: false,
    // A step whose connection breaks fails at once.
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    reconnectOnError: isReadOnly,
  };
}

function sentinelOptions(settings: RedisSettings, { retryMs }: ClientOptions): RedisOptions {
  const { nodes, masterName, sentinel, tls, database } = settings;
  return {
    sentinels: nodes.flatMap((node) => ('host' in node ? [node] : [])),
    name: masterName,
    sentinelUsername: sentinel?.username,
    sentinelPassword: sentinel?.password,
    sentinelTLS: tls && tlsOptions(tls),
    enableTLSForSentinelMode: tls !== undefined,
    sentinelCommandTimeout: CONNECT_MS,
    sentinelRetryStrategy: () => retryMs() ?? null,
    db: database ?? 0,
  };
}

function makeCluster(settings: RedisSettings, { sharded = false, retryMs }: ClientOptions): Cluster {
  const seeds = settings.nodes.flatMap((node) => ('host' in node ? [node] : []));
  return new Cluster(seeds, {
    redisOptions: commonOptions(settings),
    lazyConnect: true,
    // What one of its servers is asked waits until that one is connected; see `isConnected` for the whole.
    enableOfflineQueue: true,
    shardedSubscribers: sharded,
    clusterRetryStrategy: () => retryMs() ?? null,
    slotsRefreshTimeout: CONNECT_MS,
    retryDelayOnFailover: 0,
    retryDelayOnClusterDown: 0,
    // Names must stay names where certificates are compared with them.
    dnsLookup: (address, callback) => callback(null, address),
  });
}

function tlsOptions({ ca, cert, key, serverName }: RedisTls): NonNullable<RedisOptions['tls']> {
  return { ca, cert, key, servername: serverName };
}

/**
 * To be called before a command is given to the client: what is asked in one turn of the event loop travels together. With
 * many uploads at once the system calls for single commands were a fifth of all work.
 */
export function gatheredWrites(client: RedisClient): () => void {
  let isGathering = false;
  return () => {
    if (isGathering) return;
    isGathering = true;
    const streams = streamsOf(client);
    for (const stream of streams) stream.cork();
    setImmediate(() => {
      isGathering = false;
      for (const stream of streams) stream.uncork();
    });
  };
}

/** A server that is not connected has none. */
function streamsOf(client: RedisClient): Redis['stream'][] {
  const servers = client instanceof Cluster ? client.nodes() : [client];
  return servers.flatMap(({ stream }) => ((stream as typeof stream | undefined) ? [stream] : []));
}
