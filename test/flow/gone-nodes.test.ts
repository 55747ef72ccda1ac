import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { requestOnce } from '../support/client.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import { clientDialect, createUpload, ResumableUpload, versionLines } from '../support/resumable-client.js';
import { serverPort, temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { storedIdOf } from '../support/stored-id.js';

const DIALECT = clientDialect('10');

let redis: RedisServer;
let origin: TestOrigin;
let apps: TestApp[] = [];
let disks: TemporaryDirectory[] = [];

beforeEach(async () => {
  redis = await startRedis();
  origin = await startTestOrigin({ status: 201, body: 'kept' });
});

afterEach(async () => {
  await Promise.all(apps.map((app) => app.stop()));
  apps = [];
  await origin.close();
  await redis.stop();
  await Promise.all(disks.map((disk) => disk.remove()));
  disks = [];
});

async function disk(): Promise<string> {
  const made = await temporaryDirectory('rufh-disk-');
  disks.push(made);
  return made.path;
}

async function startNode(data?: string): Promise<TestApp> {
  const internal = `127.0.0.1:${await serverPort()}`;
  const config = `
store: { type: redis, url: "${redis.url}" }
cluster: { listen: "${internal}", advertise: "http://${internal}", secret: 0123456789abcdef, owner_timeout: 10s }
`;
  const app = await startTestApp({ origin: origin.url, config, data: data ?? (await disk()) });
  apps.push(app);
  return app;
}

async function stopNode(app: TestApp): Promise<void> {
  apps = apps.filter((one) => one !== app);
  await app.stop();
}

/** Of an upload whose target is the same at every node. */
async function ask(app: TestApp, method: string, target: string): Promise<number> {
  return (await requestOnce(app.url, { method, target, headers: versionLines(DIALECT) })).status;
}

function create(app: TestApp): Promise<ResumableUpload> {
  return createUpload(DIALECT, (request) => requestOnce(app.url, request), { method: 'POST', target: '/files' });
}

test('uploads of a node that stays away are unavailable for a while, then unknown, and nothing is left of them', async () => {
  const [one, two] = [await startNode(), await startNode()];
  const unfinished = await create(one);
  const answered = await create(one);
  expect((await answered.finish(Buffer.from('whole'))).status).toBe(201);
  expect(await ask(two, 'HEAD', unfinished.target)).toBe(204);
  await stopNode(one);
  expect(await ask(two, 'HEAD', unfinished.target)).toBe(503);
  await until(async () => (await ask(two, 'HEAD', unfinished.target)) === 404, 'the upload to be given up', 60_000);
  await until(
    () => two.log.some(({ msg }) => msg === 'a node is lost, and its uploads have ended'),
    'the node to be forgotten',
  );
  expect(two.log).toContainEqual(
    expect.objectContaining({ msg: 'a node is lost, and its uploads have ended', uploads: 1 }),
  );
  expect(await redis.cli('--raw', 'keys', '*:u:*')).not.toContain(storedIdOf(unfinished.target));
  // A short answer needs no bytes of the node that is gone.
  expect(await ask(two, 'HEAD', answered.target)).toBe(204);
});

test('a node that comes back in time has all its uploads, wherever its listener is now', async () => {
  const [one, two] = [await startNode(), await startNode()];
  const upload = await create(two);
  expect((await upload.append(Buffer.from('half'), { offset: 0, complete: false })).status).toBe(
    DIALECT.appendedStatus,
  );
  await stopNode(two);
  expect(await ask(one, 'HEAD', upload.target)).toBe(503);
  await startNode(two.data);
  const seenFromOne = new ResumableUpload(DIALECT, (request) => requestOnce(one.url, request), upload.url);
  await until(async () => (await ask(one, 'HEAD', upload.target)) === 204, 'the upload to be back');
  expect((await seenFromOne.finish(Buffer.from('half and half'))).status).toBe(201);
  expect(origin.requests.map(({ body }) => body.toString())).toEqual(['half and half']);
});
