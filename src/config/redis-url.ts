import { isNull, scalar } from './scalars.js';

/** Where a Redis server, or a Sentinel, is, and what its URL says beside that. */
export interface RedisUrl {
  readonly at:
    | { readonly kind: 'tcp'; readonly host: string; readonly port?: number }
    | { readonly kind: 'unix'; readonly path: string };
  readonly isTls: boolean;
  readonly username?: string;
  readonly password?: string;
  readonly database?: number;
}

const WORDS =
  'a URL such as redis://127.0.0.1:6379/0, rediss://user:password@redis.example.com:6379 (TLS) or ' +
  'unix:///run/redis.sock?db=0; special letters of a password are percent-encoded';
const GRAMMAR = { type: 'string', pattern: '^(rediss?|redis\\+unix|unix)://.+$' };

/** The URL of a server. */
export function redisUrl() {
  return scalar({ read: readRedisUrl, allowed: WORDS, json: GRAMMAR, unit: 'URL' });
}

export function redisUrlOrNull() {
  return scalar({
    read: (found) => (isNull(found) ? null : readRedisUrl(found)),
    allowed: `${WORDS}; or a list of them`,
    json: { ...GRAMMAR, type: ['string', 'null'] },
    unit: 'URL',
  });
}

/** Undefined when it is none. */
function readRedisUrl(found: unknown): RedisUrl | undefined {
  if (typeof found !== 'string' || !URL.canParse(found)) return undefined;
  const url = new URL(found);
  if (url.hash) return undefined;
  switch (url.protocol) {
    case 'redis:':
    case 'rediss:':
      return overTcp(url);
    case 'redis+unix:':
    case 'unix:':
      return onSocket(url);
  }
  return undefined;
}

function overTcp(url: URL): RedisUrl | undefined {
  const database = databaseOf(url.pathname.replace(/^\//, ''));
  const [username, password] = [decoded(url.username), decoded(url.password)];
  const port = url.port === '' ? undefined : Number(url.port);
  const isBroken = [database, username, password].includes(undefined) || port === 0;
  if (isBroken || url.hostname === '' || url.search) return undefined;
  return {
    at: { kind: 'tcp', host: url.hostname.replace(/^\[(.*)\]$/, '$1'), ...(port === undefined ? {} : { port }) },
    isTls: url.protocol === 'rediss:',
    ...(username ? { username } : {}),
    ...(password ? { password } : {}),
    ...(database === '' ? {} : { database: Number(database) }),
  };
}

/** With a host, its first directory would be missing: two slashes were written in place of three. */
function onSocket(url: URL): RedisUrl | undefined {
  const path = decoded(url.pathname);
  const database = databaseOf(url.searchParams.get('db') ?? '');
  const others = [...url.searchParams.keys()].filter((name) => name !== 'db');
  if (url.host || !path || path === '/' || database === undefined || others.length > 0) return undefined;
  return { at: { kind: 'unix', path }, isTls: false, ...(database === '' ? {} : { database: Number(database) }) };
}

/** Empty: none was named. */
function databaseOf(text: string): string | undefined {
  return /^\d{0,5}$/.test(text) ? text : undefined;
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    // A percent sign that begins no letter: it had to be written as %25.
    return undefined;
  }
}
