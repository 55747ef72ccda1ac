import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { requestOnce } from '../support/client.js';
import { type ProxyProcess, startProxy, workerPids } from '../support/proxy-process.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import { until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

// Issue 4: `workers`, with the store that they share.
let redis: RedisServer;
let origin: TestOrigin;
let proxy: ProxyProcess;
beforeEach(async () => {
  redis = await startRedis({ settings: ['appendonly yes'] });
  origin = await startTestOrigin();
  const config = `workers: 2\nstore: { type: redis, url: "${redis.url}" }\nspool: { shared: true }\n`;
  proxy = await startProxy({ origin: origin.url, config });
});
afterEach(async () => {
  await proxy.stop();
  await origin.close();
  await redis.stop();
});

const VERSION = ['Upload-Draft-Interop-Version', '8'] as const;

test('an upload goes on at another worker than it began, also when the first was killed', async () => {
  const created = await requestOnce(proxy.url, {
    method: 'POST',
    target: '/files',
    headers: [VERSION, ['Upload-Complete', '?0'], ['Content-Length', '3']],
    body: 'abc',
  });
  expect(created.status).toBe(201);
  const target = new URL(created.header('location')!).pathname;
  // Connections go to the workers in turn: these two are not at the same one.
  for (let count = 0; count < 2; count++) {
    const asked = await requestOnce(proxy.url, { method: 'HEAD', target, headers: [VERSION] });
    expect([asked.status, asked.header('upload-offset')]).toEqual([204, '3']);
  }
  process.kill(workerPids(proxy, 1)[0]!, 'SIGKILL');
  await until(() => proxy.log.some(({ msg }) => msg === 'worker exited; starting another'), 'its end to be noticed');
  const ended = await requestOnce(proxy.url, {
    method: 'PATCH',
    target,
    headers: [
      VERSION,
      ['Upload-Complete', '?1'],
      ['Upload-Offset', '3'],
      ['Content-Type', 'application/partial-upload'],
      ['Content-Length', '3'],
    ],
    body: 'def',
  });
  expect([ended.status, ended.body.toString()]).toEqual([200, 'ok']);
  expect(origin.requests.map(({ body }) => body.toString())).toEqual(['abcdef']);
  expect(await proxy.kill('SIGTERM')).toBe(0);
});
