import { existsSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import { connect, requestOnce } from '../support/client.js';
import { spooledBytes } from '../support/disk.js';
import { RedisServer } from '../support/redis-server.js';
import { clientDialect, createUpload, ResumableUpload } from '../support/resumable-client.js';
import { pinnedSettings, type SeenIn, settingsOf } from '../support/settings.js';
import {
  makeCertificate,
  serverPort,
  temporaryDirectory,
  type TemporaryDirectory,
  until,
} from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { storedIdOf } from '../support/stored-id.js';

const DIALECT = clientDialect('final');
const SECRET = 'the secret of the settings';
const ID_LENGTH = 43;

let directory: TemporaryDirectory;
let origin: TestOrigin;
/** Lets in one user alone, who may use what begins with `{rufh` alone. */
let redis: RedisServer;
/** Speaks TLS at another port, with clients that show a certificate, under a name that its address is not in. */
let secure: RedisServer;
let sentinel: RedisServer;
let tlsPort: number;
let apps: TestApp[] = [];
let disks = 0;

const file = (name: string): string => join(directory.path, name);

beforeAll(async () => {
  directory = await temporaryDirectory('rufh-settings-');
  const { cert, key } = makeCertificate();
  const files = {
    'cert.pem': cert,
    'key.pem': key,
    password: 'open sesame',
    'sentinel-password': 'guarded',
    secret: SECRET,
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(file(name), text, { mode: 0o600 });
  origin = await startTestOrigin();
  redis = await RedisServer.start({
    settings: ['user proxy on ">open sesame" ~{rufh* &{rufh* +@all', 'user default off'],
    cliArgs: ['--user', 'proxy', '--pass', 'open sesame', '--no-auth-warning'],
  });
  tlsPort = await serverPort();
  const tlsFiles = [
    `tls-cert-file ${file('cert.pem')}`,
    `tls-key-file ${file('key.pem')}`,
    `tls-ca-cert-file ${file('cert.pem')}`,
  ];
  secure = await RedisServer.start({ settings: ['bind 127.0.0.1 127.0.0.2', `tls-port ${tlsPort}`, ...tlsFiles] });
  sentinel = await RedisServer.start({
    isSentinel: true,
    settings: [
      `sentinel monitor own-master 127.0.0.1 ${secure.port} 1`,
      'user ops on >guarded ~* &* +@all',
      'user default off',
    ],
  });
});

afterEach(async () => {
  useFileSystem();
  await Promise.all(apps.map((app) => app.stop()));
  apps = [];
});

afterAll(async () => {
  await Promise.all([redis, secure, sentinel].map((server) => server.stop()));
  await origin.close();
  await directory.remove();
});

/** An app with these settings, on a data directory of its own unless they name one. */
async function start(config: string): Promise<TestApp> {
  const app = await startTestApp({ config: `origin: ${origin.url}\n${config}\n`, data: file(`data-${disks++}`) });
  apps.push(app);
  return app;
}

function create(app: TestApp, body = 'hello'): Promise<ResumableUpload> {
  return createUpload(DIALECT, (request) => requestOnce(app.url, request), { method: 'POST', target: '/x', body });
}

/** The upload as it is reached through another node. */
function at(app: TestApp, { url }: ResumableUpload): ResumableUpload {
  return new ResumableUpload(DIALECT, (request) => requestOnce(app.url, request), url);
}

const idOf = ({ url }: ResumableUpload): string => storedIdOf(url);

const store = (more: string): string =>
  `store: { type: redis, url: "redis://127.0.0.1:${redis.port}", username: proxy, ${more} }`;
const WITH_PASSWORD = 'password: open sesame';

/** The files of an upload that were synced before its client had the response; its body came in three pieces. */
async function syncedUnder(sync: string): Promise<string[]> {
  const app = await start(`spool: { sync: ${sync} }`);
  const synced: string[] = [];
  const noting = (fd: number): void => void synced.push(relative(app.data, readlinkSync(`/proc/self/fd/${fd}`)));
  useFileSystem({
    ...nodeFileSystem,
    fsync: (fd) => (noting(fd), nodeFileSystem.fsync(fd)),
    fdatasync: (fd) => (noting(fd), nodeFileSystem.fdatasync(fd)),
  });
  const client = await connect(app.url);
  await client.sendHead('POST', '/x', [
    ['Upload-Complete', '?0'],
    ['Content-Length', '3'],
  ]);
  const ids = (): string[] => readdirSync(join(app.data, 'spool')).filter((name) => name.length === ID_LENGTH);
  for (let sent = 1; sent <= 3; sent++) {
    await client.send(Buffer.from('x'));
    await until(async () => ids().length > 0 && (await spooledBytes(app.data, ids()[0]!)) === sent, 'the piece');
  }
  expect((await client.readFinal()).status).toBe(201);
  client.destroy();
  return synced.map((path) => path.replace(ids()[0]!, 'ID').replace(/chunk-.*/, 'CHUNK'));
}

describe('data and spool', () => {
  test('data', async () => {
    const app = await start(`data: ${file('elsewhere')}`);
    expect(existsSync(file(`elsewhere/uploads/${idOf(await create(app))}.log`))).toBe(true);
  });

  // There is no other type yet.
  test('spool.type', async () => {
    const app = await start('spool: { type: local }');
    expect(readdirSync(join(app.data, 'spool', idOf(await create(app)))).length).toBe(1);
  });

  test('spool.sync', async () => {
    expect(await syncedUnder('none')).toEqual([]);
    const acknowledged = expect.arrayContaining(['spool', 'spool/ID', 'spool/ID/CHUNK', 'uploads', 'uploads/ID.log']);
    expect(await syncedUnder('group')).toEqual(acknowledged);
    const always = await syncedUnder('always');
    expect(always).toEqual(acknowledged);
    expect(always.filter((path) => path === 'spool/ID/CHUNK').length).toBeGreaterThanOrEqual(3);
  });

  test('spool.shared', async () => {
    const config = `${store(`${WITH_PASSWORD}, prefix: rufh-shared`)}\nspool: { shared: true }\ndata: ${file('shared')}`;
    const [one, other] = [await start(config), await start(config)];
    const upload = await create(one);
    expect((await at(other, upload).append(' you', { offset: 5, complete: true })).status).toBe(200);
    expect(origin.requests.at(-1)!.body.toString()).toBe('hello you');
  });
});

/** The statuses of two creations, each of an upload of 100 bytes. */
async function statusesOfTwo(config: string): Promise<number[]> {
  const app = await start(config);
  const headers = [['Upload-Complete', '?0'] as const, ['Upload-Length', '100'] as const];
  const creation = { method: 'POST', target: '/x', headers, body: '' };
  return [(await requestOnce(app.url, creation)).status, (await requestOnce(app.url, creation)).status];
}

describe('the room of the spool', () => {
  test('spool.max_bytes', async () => {
    expect(await statusesOfTwo('spool: { max_bytes: 199 }')).toEqual([201, 507]);
  });

  test('spool.keep_free', async () => {
    // More than any disk has, and less.
    expect(await statusesOfTwo('spool: { keep_free: 1000TiB }')).toEqual([507, 507]);
    expect(await statusesOfTwo('spool: { keep_free: 0B }')).toEqual([201, 201]);
  });
});

const HISTORY: Readonly<Record<string, () => Promise<void>>> = {
  'history.keep': async () => {
    const [keeping, other] = [await start(''), await start('history: { keep: 0s }')];
    await create(other);
    await create(keeping);
    await until(() => existsSync(join(keeping.data, 'history')), 'a history');
    expect(existsSync(join(other.data, 'history'))).toBe(false);
  },
  'history.max_bytes': async () => {
    const app = await start('history: { max_bytes: 64KiB }');
    const directory = join(app.data, 'history');
    const firstFile = join(directory, 'stories-000000000001.jsonl');
    const isRotated = (): boolean => existsSync(directory) && !existsSync(firstFile);
    for (let made = 0; made < 1000 && !isRotated(); made++) await create(app);
    // A draft may have got its name meanwhile.
    const sizeOf = (name: string): number => statSync(join(directory, name), { throwIfNoEntry: false })?.size ?? 0;
    const sizes = readdirSync(directory).map(sizeOf);
    expect(sizes.length).toBeGreaterThan(1);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(64 * 1024);
  },
};

describe('the history', () => {
  test.each(Object.entries(HISTORY))('%s', (_, effect) => effect());
});

/** Keys in Redis that name the upload. */
const keysOf = async (prefix: string, upload: ResumableUpload): Promise<string[]> =>
  (await redis.cli('--scan', '--pattern', `{${prefix}*`)).split('\n').filter((key) => key.includes(idOf(upload)));

const STORE: Readonly<Record<string, () => Promise<void>>> = {
  'store.type': () => isInRedis('rufh'),
  'store.url': () => isInRedis('rufh'),
  'store.prefix': () => isInRedis('rufh-own', `${WITH_PASSWORD}, prefix: rufh-own`),
  'store.username': async () => {
    await start(store(WITH_PASSWORD));
    expect(await redis.cli('client', 'list')).toContain('user=proxy');
  },
  'store.password': () => isInRedis('rufh'),
  'store.password_file': () => isInRedis('rufh', `password_file: ${file('password')}`),
  'store.sentinel.master': () => isFoundBySentinel('password: guarded'),
  'store.sentinel.username': () => isFoundBySentinel('password: guarded'),
  'store.sentinel.password': () => isFoundBySentinel('password: guarded'),
  'store.sentinel.password_file': () => isFoundBySentinel(`password_file: ${file('sentinel-password')}`),
  'store.replicas': async () => {
    const app = await start(store(`${WITH_PASSWORD}, replicas: 1`));
    const headers = [['Upload-Complete', '?0'] as const];
    expect((await requestOnce(app.url, { method: 'POST', target: '/x', headers, body: '' })).status).toBe(503);
  },
};

async function isInRedis(prefix: string, more = WITH_PASSWORD): Promise<void> {
  const upload = await create(await start(store(more)));
  expect((await keysOf(prefix, upload)).length).toBeGreaterThan(0);
}

async function isFoundBySentinel(password: string): Promise<void> {
  const url = `redis://127.0.0.1:${sentinel.port}`;
  const watched = `sentinel: { master: own-master, username: ops, ${password} }`;
  const upload = await create(await start(`store: { type: redis, url: "${url}", ${watched} }`));
  expect(await secure.cli('--scan', '--pattern', '{rufh*')).toContain(idOf(upload));
}

describe('the store', () => {
  test.each(Object.entries(STORE))('%s', (_, effect) => effect());
});

/** Redis takes no client without a certificate that its authority signed, and its own does not name its address. */
const SECURE_STORE: readonly string[] = ['ca', 'cert', 'key', 'server_name'].map((name) => `store.tls.${name}`);

describe('the store over TLS', () => {
  test(SECURE_STORE.join(', '), async () => {
    const pem = (name: string): string => `"${file(`${name}.pem`)}"`;
    const tls = `tls: { ca: ${pem('cert')}, cert: ${pem('cert')}, key: ${pem('key')}, server_name: localhost }`;
    const url = `rediss://127.0.0.2:${tlsPort}`;
    const upload = await create(await start(`store: { type: redis, url: "${url}", ${tls} }`));
    expect(await secure.cli('--scan', '--pattern', '{rufh*')).toContain(idOf(upload));
  });
});

interface NodeSettings {
  readonly prefix: string;
  readonly secret?: string;
  readonly scheme?: 'http' | 'https';
  readonly more?: string;
}

/** A node with a disk of its own, and the port for the others. */
async function startNode({ prefix, secret = `"${SECRET}"`, scheme = 'http', more = '' }: NodeSettings) {
  const port = await serverPort();
  const config = `listen: 127.0.0.1:${port}, advertise: "${scheme}://localhost:${port}", ${secret}${more}`;
  const redisStore = `store: { type: redis, url: "redis://127.0.0.1:${secure.port}", prefix: ${prefix} }`;
  return { port, app: await start(`${redisStore}\ncluster: { ${config} }`) };
}

const CLUSTER: Readonly<Record<string, () => Promise<void>>> = {
  'cluster.listen': async () => {
    const { port } = await startNode({ prefix: 'listen', secret: `secret: ${SECRET}` });
    // A stranger is answered, but not let in.
    expect((await requestOnce(`http://127.0.0.1:${port}`, { method: 'GET', target: '/' })).status).toBe(403);
  },
  'cluster.advertise': async () => {
    const { port } = await startNode({ prefix: 'advertise', secret: `secret: ${SECRET}` });
    expect(await secure.cli('hgetall', '{advertise}:nodes')).toContain(`http://localhost:${port}`);
  },
  'cluster.secret': async () => {
    const owner = await startNode({ prefix: 'secret', secret: `secret: ${SECRET}` });
    const friend = await startNode({ prefix: 'secret', secret: `secret: ${SECRET}` });
    const stranger = await startNode({ prefix: 'secret', secret: `secret: another ${SECRET}` });
    const upload = await create(owner.app);
    expect((await at(friend.app, upload).retrieve()).status).toBe(204);
    expect((await at(stranger.app, upload).retrieve()).status).toBe(503);
  },
  'cluster.secret_file': async () => {
    const owner = await startNode({ prefix: 'file', secret: `secret: ${SECRET}` });
    const friend = await startNode({ prefix: 'file', secret: `secret_file: "${file('secret')}"` });
    expect((await at(friend.app, await create(owner.app)).retrieve()).status).toBe(204);
  },
};

describe('other nodes', () => {
  test.each(Object.entries(CLUSTER))('%s', (_, effect) => effect());
});

const CLUSTER_TLS: readonly string[] = ['ca', 'cert', 'key'].map((name) => `cluster.tls.${name}`);

describe('other nodes over TLS', () => {
  test(CLUSTER_TLS.join(', '), async () => {
    const pem = { cert: file('cert.pem'), key: file('key.pem'), ca: file('cert.pem') };
    const more = `, tls: ${JSON.stringify(pem)}`;
    const node = { prefix: 'tls', secret: `secret: ${SECRET}`, scheme: 'https', more } as const;
    const [owner, friend] = [await startNode(node), await startNode(node)];
    expect((await at(friend.app, await create(owner.app)).retrieve()).status).toBe(204);
    const stranger = connectTls({ port: owner.port, rejectUnauthorized: false });
    const end = await new Promise<string>((resolve) => {
      stranger
        .on('error', (error: NodeJS.ErrnoException) => resolve(String(error.code)))
        .on('end', () => resolve('end'));
    });
    expect(stranger.getPeerX509Certificate()?.toString()).toBe(readFileSync(pem.cert, 'utf8'));
    expect(end).toBe('ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED');
  });
});

/** Existing tests that show the effect of a setting. */
const SEEN: Readonly<Record<string, SeenIn>> = {
  'secrets.keep': {
    file: 'flow/secrets.test.ts',
    title: 'are those of the request that completes the upload',
  },
  'secrets.headers': {
    file: 'flow/secrets.test.ts',
    title: 'are those of the creation for a delivery after a restart',
  },
  'secrets.keys': {
    file: 'flow/secrets.test.ts',
    title: 'are under a key of the configuration, if it has one',
  },
  'secrets.keys_file': {
    file: 'flow/secrets.test.ts',
    title: 'are under a key of the configuration, if it has one',
  },
  'store.cluster': {
    file: 'e2e/redis-trouble-failover.test.ts',
    title: 'uploads outlive the master of %s: whole, never with an offset that shrinks, and delivered once',
  },
  'store.wait': {
    file: 'e2e/redis-trouble-start.test.ts',
    title: 'with store.wait %s worker(s) begin when Redis has come, and listen only then',
  },
  'cluster.owner_timeout': {
    file: 'flow/gone-nodes.test.ts',
    title: 'uploads of a node that stays away are unavailable for a while, then unknown, and nothing is left of them',
  },
  workers: {
    file: 'e2e/workers.test.ts',
    title: 'an upload goes on at another worker than it began, also when the first was killed',
  },
};

describe('rows', () => {
  const ofSpool = ['type', 'sync', 'shared', 'max_bytes', 'keep_free'].map((name) => `spool.${name}`);
  const together = [...SECURE_STORE, ...CLUSTER_TLS, 'data', ...ofSpool];
  const effects = Object.fromEntries(together.map((setting) => [setting, () => undefined]));
  const pinned = pinnedSettings([{ effects }, { effects: STORE }, { effects: HISTORY }, { effects: CLUSTER }], SEEN);

  test('every setting of the storage has one, and every row a setting', () => {
    expect(pinned.settings).toEqual(settingsOf('storage'));
  });

  test('the tests that rows name exist', () => {
    expect(pinned.missing).toEqual([]);
  });
});
