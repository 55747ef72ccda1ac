import { mkdir, readdir, readFile, rename, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { startTestApp, type TestApp } from '../support/app.js';
import { type FakeOrigin, startFakeOrigin } from '../support/fake-origin.js';
import { requestOnce } from '../support/raw-client.js';
import type { RedisServer } from '../support/redis-server.js';
import { startRedis } from '../support/redis-servers.js';
import { clientDialect, createUpload, type ResumableUpload } from '../support/resumable-client.js';
import { temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';

// Issue 4: a node that looks at the wrong Redis, database or prefix does not take the others' spool.
const DIALECT = clientDialect('10');
const LONG_AGO = new Date(Date.now() - 2 * 3_600_000);
const SHARED = 'spool: { shared: true }';

let redis: RedisServer;
let origin: FakeOrigin;
let disk: TemporaryDirectory;
const apps: TestApp[] = [];

beforeEach(async () => {
  redis = await startRedis();
  origin = await startFakeOrigin({ status: 201, body: 'kept' });
  disk = await temporaryDirectory('rufh-disk-');
});

afterEach(async () => {
  await stopAll();
  await origin.close();
  await redis.stop();
  await disk.remove();
});

async function stopAll(): Promise<void> {
  await Promise.all(apps.splice(0).map((app) => app.stop()));
}

async function startOn(config: string, { database = 0, prefix = 'rufh' } = {}): Promise<TestApp> {
  const store = `store: { type: redis, url: "${redis.url.replace(/\/\d+$/, '')}/${database}", prefix: ${prefix} }`;
  const app = await startTestApp({ origin: origin.url, config: `${store}\n${config}\n`, data: disk.path });
  apps.push(app);
  return app;
}

async function begin(app: TestApp): Promise<ResumableUpload> {
  const send: Parameters<typeof createUpload>[1] = (request) => requestOnce(app.url, request);
  const upload = await createUpload(DIALECT, send, { method: 'POST', target: '/files' });
  await upload.append(Buffer.from('half'), { offset: 0, complete: false });
  return upload;
}

const fileOf = (name: string): string => join(disk.path, 'spool', name);
const mark = (): Promise<string> => readFile(fileOf('.store'), 'utf8');

/** Long ago, and as a node does it: whoever reads it meanwhile finds it whole. */
async function markAs(text: string): Promise<void> {
  await writeFile(fileOf('.store-by-test'), text);
  await utimes(fileOf('.store-by-test'), LONG_AGO, LONG_AGO);
  await rename(fileOf('.store-by-test'), fileOf('.store'));
}

describe('a start with a Redis that is empty, on a spool that running nodes use', () => {
  test.each([
    ['another prefix', { prefix: 'ruhf', database: 0 }],
    ['another database', { prefix: 'rufh', database: 3 }],
  ])('is refused, changes nothing and leaves nothing in Redis: %s', async (_, wrong) => {
    const app = await startOn(SHARED);
    const upload = await begin(app);
    const before = await mark();
    const refused = await startOn(SHARED, wrong).catch((error: unknown) => (error as Error).message);
    expect(refused).toContain(`the spool in ${disk.path} is used right now by nodes of another store`);
    expect(refused).toContain(`database ${wrong.database}, store.prefix ${wrong.prefix}`);
    expect(refused).toContain('correct store.url (its address and database) or store.prefix');
    expect(refused).toContain(fileOf('.store'));
    expect(await mark()).toBe(before);
    expect(await redis.cli('--scan', '--pattern', '{ruhf*')).toBe('');
    expect(await redis.cli('-n', '3', 'dbsize')).toBe('0');
    expect(await upload.offset()).toBe(4);
    await stopAll();
    await startOn(SHARED);
  });
});

test('a Redis that has lost everything while no node ran is used without anybody asked', async () => {
  const lost = await begin(await startOn(SHARED));
  await stopAll();
  await redis.cli('flushall');
  const app = await startOn(SHARED);
  expect(app.log).toContainEqual(
    expect.objectContaining({ msg: expect.stringContaining('has no data, but the spool') }),
  );
  expect(app.log).toContainEqual(expect.objectContaining({ msg: expect.stringContaining('their uploads are lost') }));
  expect(await readdir(fileOf(lost.target.split('/').at(-1)!))).not.toEqual([]);
  expect(await (await begin(app)).offset()).toBe(4);
});

describe.each([
  ['all nodes share', SHARED],
  ['one node has', ''],
])('a spool that %s', (_, config) => {
  test('that was taken over by mistake is given back as the refusal says', async () => {
    const upload = await begin(await startOn(config));
    const own = await mark();
    await stopAll();
    if (config === SHARED) await utimes(fileOf('.in-use'), LONG_AGO, LONG_AGO);
    await startOn(config, { prefix: 'ruhf' });
    expect(await mark()).not.toBe(own);
    await stopAll();
    const refused = await startOn(config).catch((error: unknown) => (error as Error).message);
    expect(refused).toContain(`with \`echo ${own.trim()} > ${fileOf('.store')}\``);
    await writeFile(fileOf('.store'), own);
    const app = await startOn(config);
    const sent = await requestOnce(app.url, {
      method: 'HEAD',
      target: upload.target,
      headers: [['Upload-Draft-Interop-Version', '8']],
    });
    expect(sent.status).toBe(204);
  });
});

test('a node whose spool was marked for another store says so once, and removes no orphans', async () => {
  const app = await startOn(`${SHARED}\nlimits: { max_age: 2s }`);
  const orphan = 'A'.repeat(32);
  await mkdir(fileOf(orphan));
  await writeFile(join(fileOf(orphan), 'chunk-1'), 'bytes');
  await utimes(join(fileOf(orphan), 'chunk-1'), LONG_AGO, LONG_AGO);
  const own = await mark();
  await markAs('somebody-else\n');
  const said = () =>
    app.log.filter(({ level, msg }) => level === 'error' && String(msg).includes('belongs to another store now'));
  await until(() => said().length > 0, 'the log to say it', 30_000);
  expect(said()).toEqual([expect.objectContaining({ msg: expect.stringContaining(fileOf('.store')) })]);
  expect(await readdir(fileOf(orphan))).toEqual(['chunk-1']);
  await markAs(own);
  await until(
    async () => (await readdir(fileOf(orphan)).catch(() => [])).length === 0,
    'orphans to be removed',
    80_000,
  );
  expect(said()).toHaveLength(1);
});
