import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { startTestApp, type TestApp } from '../support/app.js';
import { type FakeOrigin, startFakeOrigin } from '../support/fake-origin.js';
import { requestOnce } from '../support/raw-client.js';
import type { RedisServer } from '../support/redis-server.js';
import { startRedis } from '../support/redis-servers.js';
import { clientDialect, createUpload, type ResumableUpload, versionLines } from '../support/resumable-client.js';
import { until } from '../support/temporary.js';

// Issue 4: a Redis without memory. What ends an upload is what makes room again.
const DIALECT = clientDialect('10');

let redis: RedisServer;
let origin: FakeOrigin;
let app: TestApp;

beforeEach(async () => {
  redis = await startRedis();
  origin = await startFakeOrigin({ status: 201 });
  const settings = `store: { type: redis, url: "${redis.url}" }\nspool: { shared: true }\nlimits: { max_age: 10s }\n`;
  app = await startTestApp({ origin: origin.url, config: settings });
});

afterEach(async () => {
  await app.stop();
  await origin.close();
  await redis.stop();
});

async function begun(): Promise<ResumableUpload> {
  const upload = await createUpload(DIALECT, (request) => requestOnce(app.url, request), {
    method: 'POST',
    target: '/files',
  });
  expect((await upload.append(Buffer.from('half'), { offset: 0, complete: false })).status).toBeLessThan(300);
  return upload;
}

async function statusOf(method: string, { target }: ResumableUpload): Promise<number> {
  return (await requestOnce(app.url, { method, target, headers: versionLines(DIALECT) })).status;
}

test('unfinished uploads can be cancelled, and those that are over go', async () => {
  const [cancelled, over] = [await begun(), await begun()];
  await redis.cli('config', 'set', 'maxmemory', '1');
  expect(await statusOf('HEAD', over)).toBe(503);
  expect(await statusOf('DELETE', cancelled)).toBe(204);
  await until(async () => (await redis.cli('keys', '*:u:*')) === '', 'the records of both to be gone', 60_000);
});
