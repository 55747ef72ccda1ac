/** A server, by name and port or by the path of its socket. */
export type RedisAddress = { readonly host: string; readonly port: number } | { readonly path: string };

/** Contents of files, not their names. */
export interface RedisTls {
  readonly ca?: string | Buffer;
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  /** What the server's certificate must name, when it is not the host we connect to. */
  readonly serverName?: string;
}

export interface RedisCredentials {
  readonly username?: string;
  readonly password?: string;
}

/** All that is needed to find and enter Redis. */
export interface RedisSettings extends RedisCredentials {
  readonly kind: 'single' | 'sentinel' | 'cluster';
  /** The server; or seeds of the cluster; or the sentinels. Never empty; a socket path only for `single`. */
  readonly nodes: readonly RedisAddress[];
  /** For `sentinel`: what the sentinels call the set of servers. */
  readonly masterName?: string;
  /** For `sentinel`: how the sentinels themselves are entered. */
  readonly sentinel?: RedisCredentials;
  /** Always 0 in a cluster. */
  readonly database?: number;
  readonly tls?: RedisTls;
  /** Begins every key and channel; two installations with different ones do not see each other. */
  readonly prefix: string;
  /** How many replicas must have a change before it counts. */
  readonly replicas?: number;
  /** How long the start may wait for Redis; 0: one try. */
  readonly waitMs?: number;
}

/** For people: where Redis should be. Never says a password. */
export function describeAddresses({ kind, nodes, masterName }: RedisSettings): string {
  const where = nodes.map((node) => ('path' in node ? node.path : `${node.host}:${node.port}`)).join(', ');
  if (kind === 'single') return `Redis at ${where}`;
  return kind === 'cluster'
    ? `the Redis Cluster at ${where}`
    : `the Redis master '${masterName}' of the sentinels at ${where}`;
}
