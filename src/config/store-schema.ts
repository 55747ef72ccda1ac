import * as z from 'zod';
import { pathOrNull, secretOrNull, textOrNull } from './secrets.js';
import { boolean, duration, integer, isNull, oneOf, path, valueType, text } from './values.js';

/** The parsed URL of a Redis server or Sentinel. */
export interface RedisUrl {
  readonly address:
    | { readonly kind: 'tcp'; readonly host: string; readonly port?: number }
    | { readonly kind: 'unix'; readonly path: string };
  readonly isTls: boolean;
  readonly username?: string;
  readonly password?: string;
  readonly database?: number;
}

const REDIS_URL_ALLOWED =
  'a URL such as redis://127.0.0.1:6379/0, rediss://user:password@redis.example.com:6379 (TLS) or ' +
  'unix:///run/redis.sock?db=0; special characters in a password must be percent-encoded';
const REDIS_URL_JSON = { type: 'string', pattern: '^(rediss?|redis\\+unix|unix)://.+$' };

function redisUrl() {
  return valueType({ read: readRedisUrl, allowed: REDIS_URL_ALLOWED, json: REDIS_URL_JSON, unit: 'URL' });
}

function redisUrlOrNull() {
  return valueType({
    read: (found) => (isNull(found) ? null : readRedisUrl(found)),
    allowed: `${REDIS_URL_ALLOWED}; or a list of them`,
    json: { ...REDIS_URL_JSON, type: ['string', 'null'] },
    unit: 'URL',
  });
}

/** Parses the URL of a Redis server; undefined if it is not valid. */
function readRedisUrl(found: unknown): RedisUrl | undefined {
  if (typeof found !== 'string' || !URL.canParse(found)) return undefined;
  const url = new URL(found);
  if (url.hash) return undefined;
  switch (url.protocol) {
    case 'redis:':
    case 'rediss:':
      return tcpUrl(url);
    case 'redis+unix:':
    case 'unix:':
      return socketUrl(url);
  }
  return undefined;
}

function tcpUrl(url: URL): RedisUrl | undefined {
  const database = databaseOf(url.pathname.replace(/^\//, ''));
  const [username, password] = [decoded(url.username), decoded(url.password)];
  const port = url.port === '' ? undefined : Number(url.port);
  const isBroken = [database, username, password].includes(undefined) || port === 0;
  if (isBroken || url.hostname === '' || url.search) return undefined;
  return {
    address: { kind: 'tcp', host: url.hostname.replace(/^\[(.*)\]$/, '$1'), ...(port === undefined ? {} : { port }) },
    isTls: url.protocol === 'rediss:',
    ...(username ? { username } : {}),
    ...(password ? { password } : {}),
    ...(database === '' ? {} : { database: Number(database) }),
  };
}

/**
 * Parses the URL of a socket. With two slashes instead of three, the first directory would be read as a host and lost.
 */
function socketUrl(url: URL): RedisUrl | undefined {
  const path = decoded(url.pathname);
  const database = databaseOf(url.searchParams.get('db') ?? '');
  const others = [...url.searchParams.keys()].filter((name) => name !== 'db');
  if (url.host || !path || path === '/' || database === undefined || others.length > 0) return undefined;
  return { address: { kind: 'unix', path }, isTls: false, ...(database === '' ? {} : { database: Number(database) }) };
}

/** The database as digits; empty if not given, undefined if invalid. */
function databaseOf(text: string): string | undefined {
  return /^\d{0,5}$/.test(text) ? text : undefined;
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    // A bare percent sign, which must be written as %25.
    return undefined;
  }
}

const ANY_NAME = { pattern: /^[^\s\0]+$/, allowed: 'a name without spaces' };

const sentinel = z.strictObject({
  master: text(ANY_NAME).describe('Name of the master, as the Sentinels know it.'),
  username: textOrNull(ANY_NAME).prefault(null).describe('ACL user of the Sentinels themselves. `null`: none.'),
  password: secretOrNull().prefault(null).describe('Password of the Sentinels themselves. `null`: none.'),
  password_file: pathOrNull().prefault(null).describe('File with that password, instead of `password`.'),
});

const tls = z.strictObject({
  ca: path().optional().describe('File with the CAs trusted to sign the certificate of the server (PEM).'),
  cert: path().optional().describe('File with the client certificate, for servers that require one (PEM).'),
  key: path().optional().describe('File with the private key of `cert` (PEM).'),
  server_name: text(ANY_NAME)
    .optional()
    .describe('Expected name in the certificate, if it is not the host of the URL.'),
});

/** `store`: the settings below `type` belong to Redis. */
export const store = z
  .strictObject({
    type: oneOf(['embedded', 'redis'])
      .prefault('embedded')
      .describe(
        '`embedded`: records as files under `data`, for one process. `redis`: in Redis 6 or later, or Valkey, for as ' +
          'many nodes and workers as you like; the settings below apply to it.',
      ),
    url: z
      .union([redisUrlOrNull(), z.array(redisUrl()).min(1, 'at least one URL')])
      .prefault(null)
      .describe(
        'Where Redis is: `redis://host:port/database`, `rediss://…` for TLS, `unix:///path?db=0` for a socket; a user and ' +
          'password may precede the host. A list: some nodes of a Cluster, or the Sentinels.',
      ),
    cluster: boolean()
      .prefault(false)
      .describe('The URLs are nodes of a Redis Cluster; the other nodes are discovered.'),
    sentinel: sentinel
      .nullable()
      .prefault(null)
      .describe('The URLs are Sentinels, which know the current master: a group as below. `null`: no Sentinels.'),
    username: textOrNull(ANY_NAME).prefault(null).describe('ACL user; overrides the one in `url`.'),
    password: secretOrNull()
      .prefault(null)
      .describe('Password; overrides the one in `url`. Prefer `password_file`, or a variable such as `${PASSWORD}`.'),
    password_file: pathOrNull().prefault(null).describe('File with the password, instead of `password`.'),
    tls: tls
      .nullable()
      .prefault(null)
      .describe('TLS to Redis and to Sentinels: a group as below. `null`: only if the URL begins with `rediss:`.'),
    prefix: text({
      pattern: /^[A-Za-z0-9._-]{1,64}$/,
      allowed: 'a name of up to 64 letters, digits, dots, dashes and underscores',
    })
      .prefault('rufh')
      .describe(
        'Proxies with the same prefix share all uploads. Every key and channel begins with `{` and the prefix, so an ACL allows ' +
          '`~{rufh*` and `&{rufh*`.',
      ),
    replicas: integer({ min: 0, max: 100 })
      .prefault(0)
      .describe(
        'Number of replicas that must confirm a change before it is acknowledged to the client; if fewer do in time, the client gets ' +
          '503. 0: the master alone decides, and a failover may lose the latest changes.',
      ),
    wait: duration()
      .prefault('0s')
      .describe('How long startup waits for Redis to become reachable. `0s`: startup fails if Redis is unreachable.'),
  })
  .prefault({})
  .describe('Where the state of uploads is kept.');
