import { readdir, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { TestApp } from '../support/app.js';
import { requestOnce } from '../support/raw-client.js';
import { clientDialect, versionLines } from '../support/resumable-client.js';
import { serverPort } from '../support/server-port.js';
import { LONG_AGO, SpoolStage } from '../support/spool-stage.js';
import { until } from '../support/temporary.js';

// Issue 4: Redis that comes back empty.
const DIALECT = clientDialect('10');

let stage: SpoolStage;
beforeEach(async () => void (stage = await SpoolStage.open()));
afterEach(() => stage.close());

async function statusOf(app: TestApp, target: string): Promise<number> {
  return (await requestOnce(app.url, { method: 'HEAD', target, headers: versionLines(DIALECT) })).status;
}

async function isSpoolOfThisRedis(): Promise<boolean> {
  return (await stage.mark()).trim() === (await stage.redis.cli('hget', '{rufh}:store', 'id'));
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
    const first = await stage.start(spool);
    const lost = await stage.create(first);
    expect((await lost.append(Buffer.from('half'), { offset: 0, complete: false })).status).toBeLessThan(300);
    await stage.redis.cli('flushall');
    await until(isSpoolOfThisRedis, 'the spool to be known again');
    expect(first.log).toContainEqual(expect.objectContaining({ msg: expect.stringContaining('`appendonly yes`') }));
    expect(await statusOf(first, lost.target)).toBe(404);
    await stage.stopApps();

    const second = await stage.start(spool);
    expect(await statusOf(second, lost.target)).toBe(404);
    expect((await (await stage.create(second)).finish(Buffer.from('whole'))).status).toBe(201);
  });
});

test('several processes that share a spool can start at once on a Redis that has lost everything', async () => {
  const spool = 'spool: { shared: true }';
  await stage.start(spool);
  await stage.stopApps();
  await stage.forgetUse();
  await stage.redis.cli('flushall');
  const starting = await Promise.allSettled([stage.start(spool), stage.start(spool), stage.start(spool)]);
  expect(starting.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'fulfilled']);
  for (const app of stage.apps) expect((await (await stage.create(app)).finish(Buffer.from('whole'))).status).toBe(201);
});

test('a start that was refused some of its rights does not take the spool from the next one', async () => {
  await stage.redis.cli('acl', 'setuser', 'default', 'resetchannels');
  const spool = 'spool: { shared: true }';
  await expect(stage.start(spool)).rejects.toThrow('does not let this user do what is needed');
  await stage.redis.cli('acl', 'setuser', 'default', 'allchannels');
  expect((await (await stage.create(await stage.start(spool))).finish(Buffer.from('whole'))).status).toBe(201);
});

test('bytes of a Redis that comes back empty stay for an hour, so that a backup of it can be restored', async () => {
  const settings = 'spool: { shared: true }\nlimits: { max_age: 2s }';
  // Where uploads live on: what this one has is to be lost with Redis, not before.
  const first = await stage.start('spool: { shared: true }');
  const lost = await stage.create(first);
  await lost.append(Buffer.from('half'), { offset: 0, complete: false });
  await stage.stopApps();
  await stage.forgetUse();
  const files = stage.pathOf(lost.target.split('/').at(-1)!);
  for (const name of await readdir(files)) await utimes(join(files, name), LONG_AGO, LONG_AGO);
  await stage.redis.cli('flushall');
  await stage.create(await stage.start(settings));
  await until(async () => (await stage.redis.cli('keys', '*:u:*')) === '', 'rounds of the sweep');
  expect(await readdir(files)).toHaveLength(2);
  await utimes(stage.pathOf('.store'), LONG_AGO, LONG_AGO);
  await until(async () => (await readdir(files).catch(() => [])).length === 0, 'the bytes to be removed', 20_000);
});
