import { mkdir, readdir, readFile, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { Redis } from 'ioredis';

/** What a repository does not keep of a directory. */
export interface OldDirectory {
  readonly empty: readonly string[];
  /** When its last process ended. */
  readonly endedAt: number;
}

/** Larger files are kept in fewer bytes, under a name that says so. */
const LARGE = 64 * 1024;
const PACKED = '.gz';

/** Copies a data directory into the repository; the name of this machine is nobody's business. Gives what gets lost there. */
export async function keepDirectory(from: string, to: string): Promise<readonly string[]> {
  const empty: string[] = [];
  await eachEntry(from, async (name, entry) => {
    if (entry === 'directory') await mkdir(join(to, name), { recursive: true });
    else if (entry === 'empty') empty.push(name);
    else {
      const bytes = withHost(name, await readFile(join(from, name)), 'old-machine');
      if (bytes.length <= LARGE) await writeFile(join(to, name), bytes);
      else await writeFile(join(to, name + PACKED), gzipSync(bytes));
    }
  });
  return empty;
}

/**
 * Makes the directory again as its last process left it, with three things that a repository cannot keep:
 *
 * - Rights. Others may be able to write to a checkout, and a start refuses such a directory. This program makes it 0700 and 0600.
 * - Times. A file that was checked out is as young as its copy; each gets the time at which the process ended.
 * - The machine of a lock. The lock of a killed process is taken over at once where it is of this machine from before its last
 *   boot; where it is of another machine, its heartbeat is watched for five seconds. `directory-lock.test.ts` tests both; here
 *   its `host` becomes this machine, its last beat is long ago, and everything else in it stays.
 */
export async function restoreDirectory(from: string, to: string, { empty, endedAt }: OldDirectory): Promise<void> {
  await mkdir(to, { mode: 0o700 });
  for (const name of empty) await mkdir(join(to, name), { recursive: true, mode: 0o700 });
  await eachEntry(from, async (name, entry) => {
    if (entry === 'file') await restoreFile(from, to, name, endedAt);
    else await mkdir(join(to, name), { recursive: true, mode: 0o700 });
  });
}

async function restoreFile(from: string, to: string, name: string, endedAt: number): Promise<void> {
  const isPacked = name.endsWith(PACKED);
  const path = join(to, isPacked ? name.slice(0, -PACKED.length) : name);
  const bytes = await readFile(join(from, name));
  await writeFile(path, withHost(name, isPacked ? gunzipSync(bytes) : bytes, hostname()), { mode: 0o600 });
  const time = name === 'lock' ? 0 : endedAt / 1000;
  await utimes(path, time, time);
}

function withHost(name: string, bytes: Buffer, host: string): Buffer {
  if (name !== 'lock') return bytes;
  return Buffer.from(`${JSON.stringify({ ...(JSON.parse(bytes.toString()) as object), host })}\n`);
}

type Kind = 'file' | 'directory' | 'empty';

/** Every name below a directory, the outer ones first. */
async function eachEntry(root: string, take: (name: string, kind: Kind) => Promise<void>, below = ''): Promise<void> {
  for (const entry of await readdir(join(root, below), { withFileTypes: true })) {
    const name = join(below, entry.name);
    if (!entry.isDirectory()) await take(name, 'file');
    else {
      const isEmpty = (await readdir(join(root, name))).length === 0;
      await take(name, isEmpty ? 'empty' : 'directory');
      if (!isEmpty) await eachEntry(root, take, name);
    }
  }
}

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
