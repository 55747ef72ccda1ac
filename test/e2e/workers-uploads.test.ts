import { afterEach, describe, expect, test } from '@jest/globals';
import { openRequest, type OpenRequest, requestOnce } from '../support/client.js';
import { untilSpooled } from '../support/disk.js';
import { type ProxyProcess, startProxy, workerPids } from '../support/proxy-process.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import { appendLines, clientDialect, createUpload, type ResumableUpload } from '../support/resumable-client.js';
import { SlowUpload } from '../support/rolling-restart.js';
import { randomBytes, sha256, until, within } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import type { WireRequest, WireResponse } from '../support/wire.js';

// Issue 4: `workers`, with the store that they share.
const DIALECT = clientDialect('8');
const BYTES = randomBytes(60_000);
const { length } = BYTES;

let redis: RedisServer;
let origin: TestOrigin;
let proxy: ProxyProcess;
const opened: OpenRequest[] = [];

async function start({ shared = true } = {}): Promise<void> {
  redis = await startRedis({ settings: ['appendonly yes', 'appendfsync always'] });
  origin = await startTestOrigin({ headers: [['X-Origin', 'yes']], status: 201 });
  const config = `workers: 2\nstore: { type: redis, url: "${redis.url}" }\nspool: { shared: ${shared} }\n`;
  proxy = await startProxy({ origin: origin.url, config });
}
afterEach(async () => {
  await Promise.all(opened.splice(0).map((request) => request.close()));
  await proxy.stop();
  await origin.close();
  await redis.stop();
});

const send = (request: WireRequest): Promise<WireResponse> => requestOnce(proxy.url, request);

const place = (target: string, body: Uint8Array = Buffer.alloc(0)): Promise<ResumableUpload> =>
  createUpload(DIALECT, send, { method: 'POST', target, body });

/** Connections that were given to a worker before its end was known end with it. */
const isServed = async (target: string): Promise<boolean> => {
  const answer = await send({ method: 'GET', target }).catch(() => undefined);
  return answer?.status === 201;
};

/** The last append of an upload, of which some bytes are sent and on the disk. */
async function feed(upload: ResumableUpload, count: number): Promise<OpenRequest> {
  const headers = [...appendLines(DIALECT, { offset: 0, complete: true }), ['Content-Length', `${length}`] as const];
  const request = await openRequest('HTTP/1.1', proxy.url, { method: 'PATCH', target: upload.target, headers });
  opened.push(request);
  await request.send(BYTES.subarray(0, count));
  await untilSpooled(proxy.data, upload.url, count);
  return request;
}

/** Who has ended such requests. */
const workersOf = (kind: string): unknown[] =>
  proxy.log.filter((line) => line['msg'] === 'request' && line['kind'] === kind).map(({ worker }) => worker);

async function ask(path: string, method = 'GET'): Promise<{ status: number; body: string }> {
  // On a connection of its own: one that was kept could be gone just when it is used again.
  const { status, body } = await requestOnce(proxy.adminUrl, { method, target: path });
  return { status, body: body.toString() };
}

describe.each([
  ['a shared spool', true],
  ['a spool of their own', false],
])('two workers with %s', (_, shared) => {
  test('take over from each other what is under way', async () => {
    await start({ shared });
    const upload = await place('/files');
    const first = await feed(upload, 20_000);
    // Connections go to the workers in turn: one of these two is not at the same one.
    await Promise.all([1, 2].map(async () => expect(await upload.offset()).toBe(20_000)));
    await first.givenUp();
    expect((await upload.finish(BYTES)).status).toBe(201);
    expect(origin.requests).toMatchObject([{ size: length, sha256: sha256(BYTES) }]);
    // A worker that is slow to say that it has got a connection is left out once.
    await until(
      async () => (await upload.retrieve()).status === 204 && new Set(workersOf('retrieve')).size === 2,
      'both to have answered',
    );
  });

  test('lose nothing when one is killed: the other serves, another follows, all uploads end', async () => {
    await start({ shared });
    const uploads = Array.from({ length: 8 }, (_, at) => {
      const bytes = randomBytes(150_000, at + 1);
      return { bytes, client: new SlowUpload({ url: proxy.url, name: `slow-${at}`, bytes, bytesPerSecond: 50_000 }) };
    });
    const ends = new AbortController();
    const all = Promise.all(uploads.map(({ client }) => client.run(ends.signal)));
    all.catch(() => undefined);
    try {
      await until(() => uploads.every(({ client }) => client.isUnderWay), 'all to be under way', 20_000);
      process.kill(workerPids(proxy, 1)[0]!, 'SIGKILL');
      await until(() => isServed('/other'), 'the other to serve');
      expect((await within(all, 'all uploads to end', 40_000)).map(({ status }) => status)).toEqual(
        uploads.map(() => 201),
      );
    } finally {
      ends.abort(new Error('it is over'));
    }
    await until(() => workerPids(proxy, 1).length === 2, 'another worker', 20_000);
    const whole = origin.requests.filter(({ target }) => target !== '/other');
    expect(whole.map((request) => request.sha256).sort()).toEqual(uploads.map(({ bytes }) => sha256(bytes)).sort());
    expect(uploads.map(({ client }) => client.creations)).toEqual(uploads.map(() => 1));
    expect(uploads.some(({ client }) => client.resumptions > 0)).toBe(true);
  });

  test('stop gently at the first signal: what came is kept, and goes on after the next start', async () => {
    await start({ shared });
    const uploads = [await place('/a'), await place('/b')];
    const running = [await feed(uploads[0]!, 20_000), await feed(uploads[1]!, 30_000)];
    expect(await proxy.kill('SIGTERM')).toBe(0);
    for (const request of running) await request.givenUp();
    const stopped = proxy.log.filter(({ msg }) => msg === 'worker stopped').map(({ worker }) => worker);
    expect(stopped.sort()).toEqual([1, 2]);
    expect(proxy.log.at(-1)).toMatchObject({ msg: 'stopped' });
    proxy = await proxy.restart();
    expect([await uploads[0]!.offset(), await uploads[1]!.offset()]).toEqual([20_000, 30_000]);
    for (const upload of uploads) expect((await upload.finish(BYTES)).status).toBe(201);
    expect(origin.requests.map((request) => request.sha256)).toEqual([sha256(BYTES), sha256(BYTES)]);
  });
});

test('what both workers count is added up, what both see of the store is not', async () => {
  await start();
  const uploads = [await place('/a', BYTES), await place('/b', BYTES), await place('/c', BYTES)];
  expect((await uploads[0]!.append(Buffer.alloc(0), { offset: length, complete: true })).status).toBe(201);
  const expected = [
    `rufh_received_bytes_total ${3 * length}`,
    'rufh_uploads_created_total{dialect="8"} 3',
    'rufh_uploads{phase="receiving"} 2',
    'rufh_uploads{phase="answered"} 1',
  ];
  let shown = '';
  const missing = () => expected.filter((line) => !shown.split('\n').includes(line));
  // A worker that stands still for a moment keeps nobody waiting: its figures of before are shown.
  await until(
    async () => {
      shown = (await ask('/metrics')).body;
      return missing().length === 0;
    },
    () => `${missing().join(', ')} in\n${shown}`,
  );
});

test('a drain that an operator begins is for both workers, and what is under way goes on', async () => {
  await start();
  const upload = await place('/files', BYTES.subarray(0, 10_000));
  expect((await ask('/drain', 'POST')).status).toBe(202);
  const { status, body } = await ask('/readyz');
  expect(status).toBe(503);
  for (const worker of [1, 2]) expect(body).toContain(`"worker ${worker}","ok":false,"problem":"draining: `);
  for (let count = 0; count < 3; count++) await expect(place('/new')).rejects.toThrow('answered with 503');
  expect((await upload.finish(BYTES)).status).toBe(201);
  expect(origin.requests).toMatchObject([{ target: '/files', sha256: sha256(BYTES) }]);
  const refusing = () => proxy.log.filter((line) => line['kind'] === 'create' && line['status'] === 503);
  await until(async () => {
    await expect(place('/new')).rejects.toThrow('answered with 503');
    return new Set(refusing().map(({ worker }) => worker)).size === 2;
  }, 'both to have refused');
});
