import { readdir, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from '@jest/globals';
import { spooledBytes, untilSpooled } from '../support/disk.js';
import { RedisTrouble } from '../support/redis-trouble.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import { storedIdOf } from '../support/stored-id.js';

// Issue 4: Redis comes back with less than it had confirmed.
const BYTES = randomBytes(30_000);
/** Longer ago than any writer could have been merely slow. */
const LONG_AGO = new Date(Date.now() - 7_200_000);

const EMPTY = /came back empty.*`appendonly yes`/;

let setup: RedisTrouble;
afterEach(() => setup.close());

const idOf = ({ target }: { readonly target: string }): string => storedIdOf(target);

async function age(id: string): Promise<void> {
  const directory = join(setup.proxy.data, 'spool', id);
  for (const name of await readdir(directory)) await utimes(join(directory, name), LONG_AGO, LONG_AGO);
}

test('a Redis that comes back empty knows no upload: 404, the files stay for now, and the log says what prevents it', async () => {
  // The sweep comes four times as often as the shortest time that anything is kept.
  setup = await RedisTrouble.open({ redis: ['appendonly no'], config: 'delivery: { keep_answer: 1s }\n' });
  const idle = await setup.upload('/lost', BYTES.subarray(0, 10_000));
  const upload = await setup.upload('/running', Buffer.alloc(0));
  const running = await setup.beginEnd(upload, 0, BYTES.length);
  await running.send(BYTES.subarray(0, 10_000));
  await untilSpooled(setup.proxy.data, upload.url, 10_000);
  await setup.redis.kill();
  await age(idOf(idle));
  await setup.redis.restart();
  await until(async () => (await idle.retrieve()).status !== 503, 'Redis to be used again');
  // Whoever was sending is not told that it succeeded.
  await running.send(BYTES.subarray(10_000));
  const answer = await running.readFinal().catch(() => ({ status: 'cut' }));
  await running.close();
  expect(['cut', 404, 410, 503]).toContain(answer.status);
  for (const lost of [idle, upload]) {
    expect((await lost.retrieve()).status).toBe(404);
    expect((await lost.append(Buffer.alloc(1), { offset: 10_000, complete: false })).status).toBe(404);
  }
  await until(
    () => setup.proxy.log.some(({ level, msg }) => level === 'error' && EMPTY.test(String(msg))),
    'the log to say what prevents it',
  );
  await setup.untilReady();
  expect(await spooledBytes(setup.proxy.data, idOf(idle))).toBeGreaterThanOrEqual(10_000);
  const next = await setup.upload('/next', BYTES.subarray(0, 10_000));
  expect((await next.finish(BYTES)).status).toBe(200);
  expect(setup.origin.requests).toMatchObject([{ target: '/next', sha256: sha256(BYTES) }]);
});

test('an upload that a restored Redis knows with less than was promised is unknown; one that it knows whole goes on', async () => {
  setup = await RedisTrouble.open({ redis: ['appendonly no'] });
  const [forgotten, known, ended] = [
    await setup.upload('/forgotten', BYTES.subarray(0, 10_000)),
    await setup.upload('/known', BYTES.subarray(0, 10_000)),
    await setup.upload('/ended', BYTES.subarray(0, 10_000)),
  ];
  await setup.redis.cli('save');
  expect((await forgotten.append(BYTES.subarray(10_000, 20_000), { offset: 10_000, complete: false })).status).toBe(
    204,
  );
  expect((await ended.finish(BYTES)).status).toBe(200);
  await setup.redis.kill();
  await setup.redis.restart();
  await until(async () => (await known.retrieve()).status !== 503, 'Redis to be used again');
  for (const lost of [forgotten, ended]) {
    const shown = await lost.retrieve();
    expect([404, 410]).toContain(shown.status);
    expect(shown.header('Upload-Offset')).toBeUndefined();
    const refused = await lost.append('x', { offset: 10_000, complete: false });
    expect([404, 410]).toContain(refused.status);
    expect(refused.header('Upload-Offset')).toBeUndefined();
  }
  expect(await known.offset()).toBe(10_000);
  expect((await known.finish(BYTES)).status).toBe(200);
  expect(setup.origin.requests.map(({ target }) => target)).toEqual(['/ended', '/known']);
});
