import { listOf } from './scalars.js';
import type { RedisUrl } from './redis-url.js';
import type { Settings } from './schema.js';
import { secretOf } from './secret.js';

type StoreSettings = Settings['store'];

/** Where the state of uploads is kept. */
export type StoreConfig = { readonly type: 'embedded' } | RedisConfig;

/** How Redis is reached and what is asked of it. */
export interface RedisConfig {
  readonly type: 'redis';
  /** What `nodes` are: the server, Sentinels that know the master, or some nodes of a Cluster. */
  readonly kind: 'single' | 'sentinel' | 'cluster';
  /** Empty with a `socketPath`. */
  readonly nodes: readonly { readonly host: string; readonly port: number }[];
  readonly socketPath?: string;
  readonly masterName?: string;
  readonly username?: string;
  readonly password?: string;
  readonly sentinelUsername?: string;
  readonly sentinelPassword?: string;
  readonly database: number;
  /** TLS, to Sentinels as well; an empty group trusts what Node trusts. */
  readonly tls?: RedisTls;
  readonly prefix: string;
  /** How many replicas have to confirm a durable change. */
  readonly replicas: number;
  /** How long a start waits for Redis; 0: not at all. */
  readonly waitMs: number;
}

/** Absolute paths of PEM files. */
export interface RedisTls {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly serverName?: string;
}

const REDIS_PORT = 6379;
const SENTINEL_PORT = 26379;

export function toStore(store: StoreSettings): StoreConfig {
  if (store.type === 'embedded') return { type: 'embedded' };
  const urls = urlsOf(store);
  const first = urls[0]?.at;
  return {
    type: 'redis',
    ...serverConfig(store, urls),
    ...(first?.kind === 'unix' ? { socketPath: first.path } : {}),
    ...credentials(store, urls),
    database: urls.find(({ database }) => database !== undefined)?.database ?? 0,
    ...toTls(store, urls),
    prefix: store.prefix,
    replicas: store.replicas,
    waitMs: store.wait,
  };
}

/** The URLs as they were given, one or many; none where there are none. */
export function urlsOf({ url }: StoreSettings): readonly RedisUrl[] {
  return url === null ? [] : listOf(url);
}

function serverConfig({ cluster, sentinel }: StoreSettings, urls: readonly RedisUrl[]) {
  const usual = sentinel ? SENTINEL_PORT : REDIS_PORT;
  return {
    kind: sentinel ? ('sentinel' as const) : cluster ? ('cluster' as const) : ('single' as const),
    nodes: urls.flatMap(({ at }) => (at.kind === 'tcp' ? [{ host: at.host, port: at.port ?? usual }] : [])),
    ...(sentinel ? { masterName: sentinel.master } : {}),
  };
}

/** Settings of their own come before what a URL says; a URL's belong to Redis, not to its Sentinels. */
function credentials({ username, password, password_file: file, sentinel }: StoreSettings, urls: readonly RedisUrl[]) {
  const inUrl = urls.find((url) => url.password !== undefined);
  return present({
    username: username ?? inUrl?.username,
    password: secretOf(password, file) ?? inUrl?.password,
    sentinelUsername: sentinel?.username ?? undefined,
    sentinelPassword: sentinel ? secretOf(sentinel.password, sentinel.password_file) : undefined,
  });
}

function toTls({ tls }: StoreSettings, urls: readonly RedisUrl[]): { tls?: RedisTls } {
  if (!tls && !urls.some(({ isTls }) => isTls)) return {};
  return { tls: present({ ca: tls?.ca, cert: tls?.cert, key: tls?.key, serverName: tls?.server_name }) };
}

function present<T extends Record<string, string | undefined>>(entries: T): { [K in keyof T]?: string } {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: string;
  };
}
