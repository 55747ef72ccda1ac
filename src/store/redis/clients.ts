import { Cluster, type CommonRedisOptions, Redis, type RedisOptions } from 'ioredis';
import { isReadOnly, type RedisSettings, type RedisTls } from './errors.js';

export type RedisClient = Redis | Cluster;

export interface ClientOptions {
  /** A subscriber queues commands until it is connected; a `commands` client rejects them immediately. */
  readonly role: 'commands' | 'subscriber';
  /** On a cluster: one subscription per server, each for the server's own slots. */
  readonly sharded?: boolean;
  /** The pause before the next attempt to connect; undefined gives up. */
  readonly retryMs: () => number | undefined;
}

const CONNECT_MS = 2000;
/** A connection without a reply for this long after a command is broken, whatever the system reports. */
const SILENT_MS = 3000;
const KEEP_ALIVE_MS = 5000;
/** The library keeps this timer even for connections that were never established. */
const DISCONNECT_MS = 100;

/**
 * Without `autoResubscribe: false` the library subscribes again by itself after a reconnect, and a refusal would end
 * the process.
 */
const SUBSCRIBER = { enableOfflineQueue: true, maxRetriesPerRequest: null, autoResubscribe: false };

const COMMANDS = { enableOfflineQueue: false };

/**
 * Makes a client that is not connected yet. It never sends a command twice by itself, because only the caller knows
 * what may be repeated.
 */
export function makeClient(settings: RedisSettings, options: ClientOptions): RedisClient {
  if (settings.kind === 'cluster') return makeCluster(settings, options);
  const common = { ...commonOptions(settings), ...(options.role === 'subscriber' ? SUBSCRIBER : COMMANDS) };
  const retryStrategy = (): number | undefined => options.retryMs();
  if (settings.kind === 'sentinel')
    return inItsDatabase(new Redis({ ...common, ...sentinelOptions(settings, options), retryStrategy }));
  const [address] = settings.nodes;
  return inItsDatabase(new Redis({ ...common, ...address, db: settings.database ?? 0, retryStrategy }));
}

/**
 * Reconnects when `SELECT` was refused: the connection would continue in database 0, where our data would seem lost.
 */
function inItsDatabase(client: Redis): Redis {
  client.on('error', (error: { readonly command?: { readonly name: string } }) => {
    if (error.command?.name === 'select') client.disconnect(true);
  });
  return client;
}

/** Whether a command can be sent now. An unavailable cluster would queue it and run it later. */
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
    // Both protocol versions work; everything compatible with Redis understands the older one.
    protocol: 2,
    connectionName: 'rufh-proxy',
    disableClientInfo: true,
    lazyConnect: true,
    connectTimeout: CONNECT_MS,
    socketTimeout: SILENT_MS,
    keepAlive: KEEP_ALIVE_MS,
    disconnectTimeout: DISCONNECT_MS,
    // The ready check needs permissions that a user may lack; a loading server says so in reply to every command.
    enableReadyCheck: false,
    // A step fails immediately when its connection breaks.
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
    // Commands for one server wait until it is connected; `isConnected` checks the cluster as a whole.
    enableOfflineQueue: true,
    shardedSubscribers: sharded,
    clusterRetryStrategy: () => retryMs() ?? null,
    slotsRefreshTimeout: CONNECT_MS,
    retryDelayOnFailover: 0,
    retryDelayOnClusterDown: 0,
    // Host names must not be resolved here, because certificates are checked against them.
    dnsLookup: (address, callback) => callback(null, address),
  });
}

function tlsOptions({ ca, cert, key, serverName }: RedisTls): NonNullable<RedisOptions['tls']> {
  return { ca, cert, key, servername: serverName };
}

/**
 * Returns a function to call before each command: it sends all commands of one turn of the event loop together. With
 * many concurrent uploads, system calls for single commands were a fifth of all work.
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

/** The open streams of a client; a server without a connection has none. */
function streamsOf(client: RedisClient): Redis['stream'][] {
  const servers = client instanceof Cluster ? client.nodes() : [client];
  return servers.flatMap(({ stream }) => ((stream as typeof stream | undefined) ? [stream] : []));
}
