import type { SettingIssue, SettingPath } from './errors.js';
import type { Settings } from './schema.js';
import { resolveSecret, secretFileErrors, tlsFileErrors } from './secrets.js';
import { type RedisUrl, store as storeSchema } from './store-schema.js';
import { listOf } from './values.js';

type StoreSettings = Settings['store'];

/** The configuration of the store, which keeps the state of uploads. */
export type StoreConfig = { readonly type: 'embedded' } | RedisConfig;

/** The configuration of a store in Redis. */
export interface RedisConfig {
  readonly type: 'redis';
  /** The role of `nodes`: the server, Sentinels, or some nodes of a Cluster. */
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
  /** TLS to Redis and Sentinels; an empty group trusts the CAs that Node trusts. */
  readonly tls?: RedisTls;
  readonly prefix: string;
  /** Number of replicas that must confirm a durable change. */
  readonly replicas: number;
  /** Longest time that startup waits for Redis; 0: not at all. */
  readonly waitMs: number;
}

/** Absolute paths of PEM files. */
interface RedisTls {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly serverName?: string;
}

const REDIS_PORT = 6379;
const SENTINEL_PORT = 26379;

/** The configuration of the store. */
export function toStore(store: StoreSettings): StoreConfig {
  if (store.type === 'embedded') return { type: 'embedded' };
  const urls = urlsOf(store);
  const firstAddress = urls[0]?.address;
  return {
    type: 'redis',
    ...serverConfig(store, urls),
    ...(firstAddress?.kind === 'unix' ? { socketPath: firstAddress.path } : {}),
    ...credentials(store, urls),
    database: urls.find(({ database }) => database !== undefined)?.database ?? 0,
    ...toTls(store, urls),
    prefix: store.prefix,
    replicas: store.replicas,
    waitMs: store.wait,
  };
}

/** The URLs as a list, empty if none is set. */
function urlsOf({ url }: StoreSettings): readonly RedisUrl[] {
  return url === null ? [] : listOf(url);
}

function serverConfig({ cluster, sentinel }: StoreSettings, urls: readonly RedisUrl[]) {
  const defaultPort = sentinel ? SENTINEL_PORT : REDIS_PORT;
  return {
    kind: sentinel ? ('sentinel' as const) : cluster ? ('cluster' as const) : ('single' as const),
    nodes: urls.flatMap(({ address }) =>
      address.kind === 'tcp' ? [{ host: address.host, port: address.port ?? defaultPort }] : [],
    ),
    ...(sentinel ? { masterName: sentinel.master } : {}),
  };
}

/** Separate settings override the URL. Credentials in a URL belong to Redis, not to its Sentinels. */
function credentials({ username, password, password_file: file, sentinel }: StoreSettings, urls: readonly RedisUrl[]) {
  const urlWithPassword = urls.find((url) => url.password !== undefined);
  return withoutUndefined({
    username: username ?? urlWithPassword?.username,
    password: resolveSecret(password, file) ?? urlWithPassword?.password,
    sentinelUsername: sentinel?.username ?? undefined,
    sentinelPassword: sentinel ? resolveSecret(sentinel.password, sentinel.password_file) : undefined,
  });
}

function toTls({ tls }: StoreSettings, urls: readonly RedisUrl[]): { tls?: RedisTls } {
  if (!tls && !urls.some(({ isTls }) => isTls)) return {};
  return { tls: withoutUndefined({ ca: tls?.ca, cert: tls?.cert, key: tls?.key, serverName: tls?.server_name }) };
}

function withoutUndefined<T extends Record<string, string | undefined>>(entries: T): { [K in keyof T]?: string } {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: string;
  };
}

/** Finds the settings in `store` that contradict each other. Reads the files that they name. */
export function storeCrossChecks({ store }: Settings): SettingIssue[] {
  const issues = store.type === 'embedded' ? redisSettingsWithEmbedded(store) : redisErrors(store);
  return issues.map(({ path, problem }) => ({ path: ['store', ...path], problem }));
}

/** Finds settings that the embedded store would ignore. Defaults are accepted, as in the example file. */
function redisSettingsWithEmbedded(store: StoreSettings): SettingIssue[] {
  const defaults = storeSchema.parse({});
  const names = Object.keys(defaults) as (keyof StoreSettings)[];
  return names
    .filter((name) => store[name] !== defaults[name])
    .map((name) => ({
      path: [name],
      problem: 'applies to Redis, but the store is embedded; set "type: redis", or remove it',
    }));
}

function redisErrors(store: StoreSettings): SettingIssue[] {
  const { username, password, password_file: file, sentinel, tls } = store;
  const all = urlsOf(store);
  const inUrl = { username: all.some((url) => url.username), password: all.some((url) => url.password) };
  const lacksPassword = (username !== null || inUrl.username) && password === null && file === null && !inUrl.password;
  return [
    ...serverErrors(store),
    ...urlErrors(store),
    ...(lacksPassword ? [{ path: [username === null ? 'url' : 'username'], problem: NO_PASSWORD }] : []),
    ...secretFileErrors('password', password, file),
    ...(sentinel ? sentinelErrors(sentinel) : []),
    ...(tls ? tlsFileErrors(['tls'], tls) : []),
  ];
}

const NO_PASSWORD = 'also needs a password: set `password_file` or `password`';

/** Checks that the number and type of the URLs match `cluster` and `sentinel`. */
function serverErrors({ url, cluster, sentinel, tls }: StoreSettings): SettingIssue[] {
  const count = Array.isArray(url) ? url.length : url === null ? 0 : 1;
  const isSingleServer = !cluster && sentinel === null;
  const hasSocket = [url].flat().some((each) => each?.address.kind === 'unix');
  const tooManyServers = `has ${count} servers; set "cluster: true" or "sentinel" to say what they are, or keep one`;
  const rules: [SettingPath, boolean, string][] = [
    [['url'], count === 0, 'is missing; set it to the address of Redis, such as redis://127.0.0.1:6379'],
    [['url'], count > 1 && isSingleServer, tooManyServers],
    [['url'], hasSocket && !isSingleServer, 'contains a socket, which reaches one server only; use hosts and ports'],
    [['tls'], hasSocket && tls !== null, 'cannot be used with a socket; remove it'],
    [
      ['sentinel'],
      cluster && sentinel !== null,
      'cannot be combined with "cluster: true"; the URLs are either Sentinels or nodes of a Cluster',
    ],
  ];
  return rules.flatMap(([path, isBroken, problem]) => (isBroken ? [{ path, problem }] : []));
}

/** Finds URLs that contradict each other; credentials, database and TLS apply to all of them. */
function urlErrors(store: StoreSettings): SettingIssue[] {
  const all = urlsOf(store);
  return all.flatMap((url, index) => {
    const path = Array.isArray(store.url) ? ['url', index] : ['url'];
    const conflicting = (['username', 'password', 'database'] as const).filter((part) =>
      contradictsEarlier(all, url, part),
    );
    const isInvalidDatabase = store.cluster && (url.database ?? 0) > 0;
    return [
      ...conflicting.map((part) => ({
        path,
        problem: `has a different ${part} from an earlier URL; specify it only once`,
      })),
      ...(url.isTls === all[0]!.isTls ? [] : [{ path, problem: MIXED_SCHEMES }]),
      ...(isInvalidDatabase
        ? [{ path, problem: `selects database ${url.database!}, but a Redis Cluster has only database 0` }]
        : []),
    ];
  });
}

const MIXED_SCHEMES = 'has a different scheme from url[0]; use TLS (rediss://) for all URLs or for none';

function contradictsEarlier(
  all: readonly RedisUrl[],
  url: RedisUrl,
  part: 'username' | 'password' | 'database',
): boolean {
  const first = all.find((each) => each[part] !== undefined)?.[part];
  return url[part] !== undefined && url[part] !== first;
}

function sentinelErrors({ username, password, password_file: file }: NonNullable<StoreSettings['sentinel']>) {
  const lacksPassword = username !== null && password === null && file === null;
  const issues = [
    ...(lacksPassword ? [{ path: ['username'], problem: NO_PASSWORD }] : []),
    ...secretFileErrors('password', password, file),
  ];
  return issues.map(({ path, problem }) => ({ path: ['sentinel', ...path], problem }));
}
