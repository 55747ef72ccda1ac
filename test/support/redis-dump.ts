import { Redis } from 'ioredis';

/** Text as it is; bytes that are no UTF-8 in base64. */
type Value = string | { readonly base64: string };

/** One key with all that it holds, in commands that every Redis has. */
export interface DumpedKey {
  readonly key: string;
  readonly type: 'string' | 'hash' | 'list' | 'set' | 'zset';
  /** Of a hash names and values in turn, of a sorted set members and scores. */
  readonly values: readonly Value[];
  /** How long it had left; missing where it stays. */
  readonly ttlMs?: number;
}

/** Keys that are forgotten sooner are not there any more when somebody starts with old data. */
const LEAST_TTL_MS = 24 * 3_600_000;

/** All keys whose names begin with this, in the order of their names, but those that are forgotten within a day. */
export async function dumpRedis(url: string, prefix: string): Promise<DumpedKey[]> {
  return withClient(url, async (client) => {
    const names = (await client.keys('*')).filter((name) => name.startsWith(prefix)).sort();
    const dumped: DumpedKey[] = [];
    for (const key of names) {
      const ttlMs = await client.pttl(key);
      if (ttlMs === -1 || ttlMs > LEAST_TTL_MS)
        dumped.push({ key, ...(await contentOf(client, key)), ...(ttlMs === -1 ? {} : { ttlMs }) });
    }
    return dumped;
  });
}

/** Puts the keys into a Redis; what is forgotten some day has all its time again. */
export async function loadRedis(url: string, keys: readonly DumpedKey[]): Promise<void> {
  await withClient(url, async (client) => {
    for (const { key, type, values, ttlMs } of keys) {
      await client.call(...FILL[type](key, values.map(bytesOf)));
      if (ttlMs !== undefined) await client.pexpire(key, ttlMs);
    }
  });
}

type Command = [string, ...(string | Buffer)[]];

const FILL: Readonly<Record<DumpedKey['type'], (key: string, values: Buffer[]) => Command>> = {
  string: (key, values) => ['SET', key, ...values],
  hash: (key, values) => ['HSET', key, ...values],
  list: (key, values) => ['RPUSH', key, ...values],
  set: (key, values) => ['SADD', key, ...values],
  zset: (key, values) => ['ZADD', key, ...values.map((_, at) => values[at ^ 1]!)],
};

async function contentOf(client: Redis, key: string): Promise<Pick<DumpedKey, 'type' | 'values'>> {
  const type = (await client.type(key)) as DumpedKey['type'];
  return { type, values: (await READ[type](client, key)).map(valueOf) };
}

const READ: Readonly<Record<DumpedKey['type'], (client: Redis, key: string) => Promise<Buffer[]>>> = {
  string: async (client, key) => [(await client.getBuffer(key))!],
  hash: async (client, key) =>
    Object.entries(await client.hgetallBuffer(key)).flatMap(([name, value]) => [Buffer.from(name), value]),
  list: (client, key) => client.lrangeBuffer(key, 0, -1),
  set: (client, key) => client.smembersBuffer(key),
  zset: async (client, key) => (await client.zrangeBuffer(key, '0', '-1', 'WITHSCORES')).flat(),
};

function valueOf(bytes: Buffer): Value {
  const text = bytes.toString();
  return Buffer.from(text).equals(bytes) ? text : { base64: bytes.toString('base64') };
}

function bytesOf(value: Value): Buffer {
  return typeof value === 'string' ? Buffer.from(value) : Buffer.from(value.base64, 'base64');
}

async function withClient<T>(url: string, use: (client: Redis) => Promise<T>): Promise<T> {
  const client = new Redis(url);
  try {
    return await use(client);
  } finally {
    client.disconnect();
  }
}
