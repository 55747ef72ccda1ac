import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { startTestApp, type TestApp } from '../support/app.js';
import { type FakeOrigin, startFakeOrigin } from '../support/fake-origin.js';
import { openRequest } from '../support/open-request.js';
import { requestOnce } from '../support/raw-client.js';
import type { RedisServer } from '../support/redis-server.js';
import { startRedis } from '../support/redis-servers.js';
import {
  appendLines,
  clientDialect,
  createUpload,
  ResumableUpload,
  versionLines,
} from '../support/resumable-client.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

const DIALECT = clientDialect('10');

let redis: RedisServer;
let origin: FakeOrigin;
let apps: TestApp[];
let disks: TemporaryDirectory[];
let upload: ResumableUpload;

beforeEach(async () => {
  redis = await startRedis();
  origin = await startFakeOrigin({ status: 201, body: 'kept' });
  apps = [];
  disks = [await temporaryDirectory('rufh-disk-'), await temporaryDirectory('rufh-disk-')];
  const owner = await startNode(0);
  upload = await createUpload(DIALECT, (request) => requestOnce(owner.url, request), {
    method: 'POST',
    target: '/files',
  });
  await upload.append(Buffer.from('half'), { offset: 0, complete: false });
});

afterEach(async () => {
  await stopAll();
  await origin.close();
  await redis.stop();
  for (const disk of disks) await disk.remove();
});

async function startNode(disk: number, shared = false): Promise<TestApp> {
  const config = `store: { type: redis, url: "${redis.url}" }\nspool: { shared: ${shared} }\n`;
  const app = await startTestApp({ origin: origin.url, config, data: disks[disk]!.path });
  apps.push(app);
  return app;
}

async function stopAll(): Promise<void> {
  await Promise.all(apps.splice(0).map((app) => app.stop()));
}

async function askedAt(app: TestApp) {
  const head = await requestOnce(app.url, { method: 'HEAD', target: upload.target, headers: versionLines(DIALECT) });
  return [head.status, head.header('Retry-After')];
}

async function finishAt(app: TestApp): Promise<number> {
  const there = new ResumableUpload(DIALECT, (request) => requestOnce(app.url, request), upload.url);
  return (await there.finish(Buffer.from('half and half'))).status;
}

const errors = (app: TestApp) => app.log.filter(({ level }) => level === 'error').map(({ msg }) => msg);

test('a node without a way to the others keeps its hands off their uploads, and says once what to set', async () => {
  const other = await startNode(1);
  expect(await askedAt(other)).toEqual([503, '30']);
  const there = new ResumableUpload(DIALECT, (request) => requestOnce(other.url, request), upload.url);
  expect((await there.append(Buffer.from(' and half'), { offset: 4, complete: true })).status).toBe(503);
  const page = await requestOnce(other.url, { method: 'GET', target: `${upload.target}/status` });
  expect([page.status, page.header('Content-Type')]).toEqual([503, 'application/problem+json']);
  expect(errors(other)).toEqual([expect.stringMatching(/set `cluster` on every node/)]);
  expect(await finishAt(apps[0]!)).toBe(201);
  expect(origin.requests.map(({ body }) => body.toString())).toEqual(['half and half']);
});

test('a client that would take a 503 for the end loses its connection instead', async () => {
  const other = await startNode(1);
  const agent = ['User-Agent', 'App/1 CFNetwork/1494.0.7 Darwin/23.4.0'] as const;
  const headers = [...appendLines(DIALECT, { offset: 4, complete: true }), agent, ['Content-Length', '9'] as const];
  const request = await openRequest('HTTP/1.1', other.url, { method: 'PATCH', target: upload.target, headers });
  await request.givenUp();
});

test('a spool that is said to be shared by mistake loses nothing of what its node had', async () => {
  await stopAll();
  const mistaken = await startNode(0, true);
  expect(await askedAt(mistaken)).toEqual([503, '30']);
  expect(errors(mistaken)).toEqual([expect.stringMatching(/`spool.shared` is true on this one/)]);
  await stopAll();
  expect(await finishAt(await startNode(0))).toBe(201);
});
