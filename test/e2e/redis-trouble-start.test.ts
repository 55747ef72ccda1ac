import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { requestOnce } from '../support/client.js';
import { ProxyProcess } from '../support/proxy-process.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import { until, within } from '../support/temporary.js';

// Issue 4: Redis cannot be used when the proxy starts.
let redis: RedisServer;
let proxy: ProxyProcess | undefined;

beforeEach(async () => {
  proxy = undefined;
  redis = await startRedis({ settings: ['appendonly yes'] });
});
afterEach(async () => {
  await proxy?.stop();
  await redis.stop();
});

async function spawn(more = ''): Promise<ProxyProcess> {
  const config = `store: { type: redis, url: '${redis.url}'${more} }\nspool: { shared: true }\n`;
  return (proxy = await ProxyProcess.spawn({ origin: 'http://127.0.0.1:9', config }));
}

const TROUBLES: [string, () => Promise<unknown>, RegExp][] = [
  ['that does not run', () => redis.kill(), /does not answer \(ECONNREFUSED\): is it running/],
  ['that stands still', () => Promise.resolve(redis.pause()), /does not answer in time/],
  ['that is a read-only replica', () => redis.cli('replicaof', '127.0.0.1', '1'), /is a read-only replica/],
  ['that has no memory left', () => redis.cli('config', 'set', 'maxmemory', '1'), /has no memory left/],
];

test.each(TROUBLES)('a Redis %s is a clear error and the end', async (_, begin, says) => {
  await begin();
  const { lines, errors, exited } = await spawn();
  expect(await within(exited, 'the proxy to end')).toBe(1);
  expect(lines).toEqual([]);
  const told = errors.filter((line) => line.startsWith('rufh-proxy: '));
  expect(told).toEqual([expect.stringMatching(says)]);
  expect(told[0]).toContain(`127.0.0.1:${redis.port}`);
});

test.each(['1', '2'])(
  'with store.wait %s worker(s) begin when Redis has come, and listen only then',
  async (workers) => {
    await redis.kill();
    const config = `workers: ${workers}\nstore: { type: redis, url: '${redis.url}', wait: 1m }\nspool: { shared: true }\n`;
    const waiting = (proxy = await ProxyProcess.spawn({ origin: 'http://127.0.0.1:9', config }));
    await until(
      () => waiting.errors.some((line) => line.includes('waiting for the store: Redis at')),
      'it to wait',
      60_000,
    );
    expect([waiting.running, waiting.lines]).toEqual([true, []]);
    await redis.restart();
    await waiting.listening();
    expect(waiting.log[0]).toMatchObject({ msg: 'listening' });
    const answer = await requestOnce(waiting.url, {
      method: 'POST',
      target: '/',
      headers: [
        ['Upload-Draft-Interop-Version', '8'],
        ['Upload-Complete', '?0'],
      ],
      body: 'abc',
    });
    expect(answer.status).toBe(201);
  },
);
