import { readdir, readFile, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { startTestApp, type TestApp } from '../support/app.js';
import { type FakeOrigin, startFakeOrigin } from '../support/fake-origin.js';
import { requestOnce } from '../support/raw-client.js';
import type { RedisServer } from '../support/redis-server.js';
import { startRedis } from '../support/redis-servers.js';
import type { ResumableUpload } from '../support/resumable-client.js';
import { clientDialect, createUpload, versionLines } from '../support/resumable-client.js';
import { serverPort } from '../support/server-port.js';
import { temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';

// Issue 4: Redis that comes back empty.
const DIALECT = clientDialect('10');
const LONG_AGO = new Date(Date.now() - 2 * 3_600_000);

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

async function startOn(spool: string): Promise<TestApp> {
  const store = `store: { type: redis, url: "${redis.url}" }`;
  const app = await startTestApp({ origin: origin.url, config: `${store}\n${spool}\n`, data: disk.path });
  apps.push(app);
  return app;
}

function create(app: TestApp): Promise<ResumableUpload> {
  return createUpload(DIALECT, (request) => requestOnce(app.url, request), { method: 'POST', target: '/files' });
}

async function statusOf(app: TestApp, target: string): Promise<number> {
  return (await requestOnce(app.url, { method: 'HEAD', target, headers: versionLines(DIALECT) })).status;
}

async function isSpoolOfThisRedis(): Promise<boolean> {
  const noted = await readFile(join(disk.path, 'spool', '.store'), 'utf8');
  return noted.trim() === (await redis.cli('hget', '{rufh}:store', 'id'));
}

const SPOOLS: Readonly<Record<string, () => Promise<string>>> = {
  'a spool that all nodes share': () => Promise.resolve('spool: { shared: true }'),
  'a spool of one node': async () => {
    const internal = `127.0.0.1:${await serverPort()}`;
    return `cluster: { listen: "${internal}", advertise: "http://${internal}", secret: 0123456789abcdef }`;
  },
};

describe.each(Object.entries(SPOOLS))('%s, when Redis is emptied', (_, settings) => {
  test('is said with what prevents it, the uploads are unknown, and the next start goes well', async () => {
    const spool = await settings();
    const first = await startOn(spool);
    const lost = await create(first);
    expect((await lost.append(Buffer.from('half'), { offset: 0, complete: false })).status).toBeLessThan(300);
    await redis.cli('flushall');
    await until(isSpoolOfThisRedis, 'the spool to be known again');
    expect(first.log).toContainEqual(expect.objectContaining({ msg: expect.stringContaining('`appendonly yes`') }));
    expect(await statusOf(first, lost.target)).toBe(404);
    await stopAll();

    const second = await startOn(spool);
    expect(await statusOf(second, lost.target)).toBe(404);
    expect((await (await create(second)).finish(Buffer.from('whole'))).status).toBe(201);
  });
});

/** As if those that used the spool had been gone for a while. */
async function forgetUse(): Promise<void> {
  await utimes(join(disk.path, 'spool', '.in-use'), LONG_AGO, LONG_AGO);
}

test('several processes that share a spool can start at once on a Redis that has lost everything', async () => {
  const spool = 'spool: { shared: true }';
  await startOn(spool);
  await stopAll();
  await forgetUse();
  await redis.cli('flushall');
  const starting = await Promise.allSettled([startOn(spool), startOn(spool), startOn(spool)]);
  expect(starting.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'fulfilled']);
  for (const app of apps) expect((await (await create(app)).finish(Buffer.from('whole'))).status).toBe(201);
});

test('a start that was refused some of its rights does not take the spool from the next one', async () => {
  await redis.cli('acl', 'setuser', 'default', 'resetchannels');
  const spool = 'spool: { shared: true }';
  await expect(startOn(spool)).rejects.toThrow('does not let this user do what is needed');
  await redis.cli('acl', 'setuser', 'default', 'allchannels');
  expect((await (await create(await startOn(spool))).finish(Buffer.from('whole'))).status).toBe(201);
});

test('bytes of a Redis that comes back empty stay for an hour, so that a backup of it can be restored', async () => {
  const settings = 'spool: { shared: true }\nlimits: { max_age: 2s }';
  // Where uploads live on: what this one has is to be lost with Redis, not before.
  const first = await startOn('spool: { shared: true }');
  const lost = await create(first);
  await lost.append(Buffer.from('half'), { offset: 0, complete: false });
  await stopAll();
  await forgetUse();
  const files = join(disk.path, 'spool', lost.target.split('/').at(-1)!);
  for (const name of await readdir(files)) await utimes(join(files, name), LONG_AGO, LONG_AGO);
  await redis.cli('flushall');
  await create(await startOn(settings));
  await until(async () => (await redis.cli('keys', '*:u:*')) === '', 'rounds of the sweep');
  expect(await readdir(files)).toHaveLength(2);
  await utimes(join(disk.path, 'spool', '.store'), LONG_AGO, LONG_AGO);
  await until(async () => (await readdir(files).catch(() => [])).length === 0, 'the bytes to be removed', 20_000);
});
