import { readdir, rm, utimes } from 'node:fs/promises';
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

interface Told {
  readonly ready: number;
  readonly check: object | undefined;
  readonly list: { readonly uploads: number; readonly bytes: number } | undefined;
  readonly metrics: readonly (number | undefined)[];
}

/** What operators are told of uploads that are in the spool and not in Redis. */
async function toldBy({ operators }: TestApp): Promise<Told> {
  const ask = async (path: string) => {
    const answer = await operators.answer({ method: 'GET', path, query: new URLSearchParams(), headers: {} });
    return { status: answer.status, body: JSON.parse(answer.body!) as Record<string, unknown> };
  };
  const readiness = await ask('/readyz');
  const checks = readiness.body['checks'] as readonly { readonly name: string }[];
  const figures = await operators.figures();
  const figure = (what: string) => figures.find(({ name }) => name === `rufh_spool_unknown_${what}`)?.values[0]?.value;
  return {
    ready: readiness.status,
    check: checks.find(({ name }) => name === 'unknown uploads'),
    list: (await ask('/uploads')).body['unknownUploads'] as Told['list'],
    metrics: [figure('uploads'), figure('bytes')],
  };
}

const QUIET = { ready: 200, check: { name: 'unknown uploads', ok: true }, list: undefined, metrics: [0, 0] };

describe.each(Object.entries(SPOOLS))('%s that has bytes which Redis does not know', (_, settings) => {
  test.each<[how: string, lose: (app: TestApp) => Promise<unknown>, after: { prefix?: string }]>([
    ['emptied while nodes run', () => stage.redis.cli('flushall'), {}],
    ['emptied while none runs', () => stage.stopApps().then(() => stage.redis.cli('flushall')), {}],
    ['another prefix', () => stage.stopApps(), { prefix: 'other' }],
  ])('is told of as long as they are there, also after another start: %s', async (_how, lose, after) => {
    const spool = await settings();
    let app = await stage.start(spool);
    expect(await toldBy(app)).toEqual(QUIET);
    const lost = await stage.create(app);
    await lost.append(Buffer.from('half'), { offset: 0, complete: false });
    const id = lost.target.split('/').at(-1)!;
    await lose(app);
    if (stage.apps.length === 0) {
      if (spool.includes('shared')) await stage.forgetUse();
      app = await stage.start(spool, after);
    }
    const told: Told = {
      ready: 200,
      check: { name: 'unknown uploads', ok: false, problem: expect.stringContaining('1 uploads (4 bytes)') },
      list: expect.objectContaining({ uploads: 1, bytes: 4, problem: expect.stringContaining('correct it') }) as never,
      metrics: [1, 4],
    };
    await until(async () => (await toldBy(app)).list !== undefined, 'the bytes to be found');
    expect(await toldBy(app)).toEqual(told);
    await (await stage.create(app)).append(Buffer.from('new'), { offset: 0, complete: false });
    await stage.stopApps();

    app = await stage.start(spool, after);
    await until(async () => (await toldBy(app)).list !== undefined, 'the bytes to be found again');
    expect(await toldBy(app)).toEqual(told);
    await rm(stage.pathOf(id), { recursive: true });
    await until(async () => (await toldBy(app)).list === undefined, 'nothing to be told any more');
    expect(await toldBy(app)).toEqual(QUIET);
    await until(async () => !(await readdir(stage.pathOf('.'))).includes('.taken-over'), 'the note to be removed');
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
