import { readdir, rm, utimes } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import { requestOnce } from '../support/client.js';
import { DiskProxies, LONG_AGO } from '../support/disk-proxies.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import {
  appendLines,
  clientDialect,
  createUpload,
  type ResumableUpload,
  versionLines,
} from '../support/resumable-client.js';
import { serverPort, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { storedIdOf } from '../support/stored-id.js';

describe('flushed', () => {
  // Issue 4: Redis that comes back empty.
  const DIALECT = clientDialect('10');

  let redis: RedisServer;
  let proxies: DiskProxies;
  beforeAll(async () => void (redis = await startRedis()));
  afterAll(() => redis.stop());
  beforeEach(async () => void (proxies = await DiskProxies.open(redis)));
  afterEach(async () => {
    useFileSystem();
    await proxies.close();
  });

  async function statusOf(app: TestApp, target: string): Promise<number> {
    return (await requestOnce(app.url, { method: 'HEAD', target, headers: versionLines(DIALECT) })).status;
  }

  async function isSpoolOfThisRedis(): Promise<boolean> {
    return (await proxies.mark()).trim() === (await proxies.redis.cli('hget', '{rufh}:store', 'id'));
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
      const first = await proxies.start(spool);
      const lost = await proxies.create(first);
      expect((await lost.append(Buffer.from('half'), { offset: 0, complete: false })).status).toBeLessThan(300);
      await proxies.redis.cli('flushall');
      await until(isSpoolOfThisRedis, 'the spool to be known again');
      expect(first.log).toContainEqual(expect.objectContaining({ msg: expect.stringContaining('`appendonly yes`') }));
      expect(await statusOf(first, lost.target)).toBe(404);
      await proxies.stopApps();

      const second = await proxies.start(spool);
      expect(await statusOf(second, lost.target)).toBe(404);
      expect((await (await proxies.create(second)).finish(Buffer.from('whole'))).status).toBe(201);
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
      const answer = await operators.respond({ method: 'GET', path, query: new URLSearchParams(), headers: {} });
      return { status: answer.status, body: JSON.parse(answer.body!) as Record<string, unknown> };
    };
    const readiness = await ask('/readyz');
    const checks = readiness.body['checks'] as readonly { readonly name: string }[];
    const figures = await operators.metricValues();
    const figure = (what: string) =>
      figures.find(({ name }) => name === `rufh_spool_unknown_${what}`)?.values[0]?.value;
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
      ['emptied while nodes run', () => proxies.redis.cli('flushall'), {}],
      ['emptied while none runs', () => proxies.stopApps().then(() => proxies.redis.cli('flushall')), {}],
      ['another prefix', () => proxies.stopApps(), { prefix: 'other' }],
    ])('is told of as long as they are there, also after another start: %s', async (_how, lose, after) => {
      const spool = await settings();
      let app = await proxies.start(spool);
      expect(await toldBy(app)).toEqual(QUIET);
      const lost = await proxies.create(app);
      await lost.append(Buffer.from('half'), { offset: 0, complete: false });
      const id = storedIdOf(lost.target);
      await lose(app);
      if (proxies.apps.length === 0) {
        if (spool.includes('shared')) await proxies.forgetUse();
        app = await proxies.start(spool, after);
      }
      const told: Told = {
        ready: 200,
        check: { name: 'unknown uploads', ok: false, problem: expect.stringContaining('1 uploads (4 bytes)') },
        list: expect.objectContaining({
          uploads: 1,
          bytes: 4,
          problem: expect.stringContaining('correct it'),
        }) as never,
        metrics: [1, 4],
      };
      await until(async () => (await toldBy(app)).list !== undefined, 'the bytes to be found');
      expect(await toldBy(app)).toEqual(told);
      await (await proxies.create(app)).append(Buffer.from('new'), { offset: 0, complete: false });
      await proxies.stopApps();

      app = await proxies.start(spool, after);
      await until(async () => (await toldBy(app)).list !== undefined, 'the bytes to be found again');
      expect(await toldBy(app)).toEqual(told);
      await rm(proxies.pathOf(id), { recursive: true });
      await until(async () => (await toldBy(app)).list === undefined, 'nothing to be told any more');
      expect(await toldBy(app)).toEqual(QUIET);
      await until(async () => !(await readdir(proxies.pathOf('.'))).includes('.taken-over'), 'the note to be removed');
    });
  });

  /** The disk fails to open files of these names for writing, with this code. */
  function failAt(name: RegExp, code: string, times: number): void {
    let left = times;
    const open: typeof nodeFileSystem.open = (path, flags, mode) =>
      flags.startsWith('w') && name.test(path) && left-- > 0
        ? Promise.reject(Object.assign(new Error(code), { code, syscall: 'open' }))
        : nodeFileSystem.open(path, flags, mode);
    useFileSystem({ ...nodeFileSystem, open });
  }

  describe.each(Object.entries(SPOOLS))('%s, when Redis came back empty and the disk fails', (_, settings) => {
    /** An upload of a Redis that is emptied then. */
    async function loseOne(spool: string): Promise<ResumableUpload> {
      const lost = await proxies.create(await proxies.start(spool));
      await lost.append(Buffer.from('half'), { offset: 0, complete: false });
      return lost;
    }

    test('a start that failed with the mark on its way leaves the takeover to the next one', async () => {
      const spool = await settings();
      await loseOne(spool);
      for (const name of [/\.taken-over/, /\.store-/, /rufh-proxy\.json-/]) {
        await proxies.stopApps();
        await proxies.forgetUse();
        await proxies.redis.cli('flushall');
        failAt(name, 'EIO', 1);
        await expect(proxies.start(spool)).rejects.toThrow('EIO');
        useFileSystem();
        const app = await proxies.start(spool);
        expect(await isSpoolOfThisRedis()).toBe(true);
        await until(async () => (await toldBy(app)).list?.uploads === 1, 'the upload to be told of');
        expect(await proxies.redis.cli('hkeys', '{rufh}:store')).not.toContain('unmarked');
      }
    });

    test('a start without room for the mark serves, says so, and marks the spool when there is room', async () => {
      const spool = await settings();
      await loseOne(spool);
      await proxies.stopApps();
      await proxies.forgetUse();
      await proxies.redis.cli('flushall');
      const noRoom = () => failAt(/\.taken-over|\.store-|rufh-proxy\.json-/, 'ENOSPC', Infinity);
      noRoom();
      for (const times of [1, 2]) {
        const app = await proxies.start(spool);
        expect(app.log).toContainEqual(expect.objectContaining({ code: 'STORAGE_FULL', level: 'error' }));
        expect((await (await proxies.create(app)).finish(Buffer.from('whole'))).status).toBe(201);
        expect(await isSpoolOfThisRedis()).toBe(false);
        if (times === 1) await proxies.stopApps();
        await proxies.forgetUse();
      }
      useFileSystem();
      await until(isSpoolOfThisRedis, 'the spool to be marked');
      await until(async () => (await toldBy(proxies.apps[0]!)).list?.uploads === 1, 'the upload to be told of');
    });

    test('nodes that run without room for the mark can be started again', async () => {
      const spool = await settings();
      await loseOne(spool);
      failAt(/\.taken-over|\.store-|rufh-proxy\.json-/, 'ENOSPC', Infinity);
      const before = await proxies.redis.cli('hget', '{rufh}:store', 'id');
      await proxies.redis.cli('flushall');
      await until(
        async () => !['', before].includes(await proxies.redis.cli('hget', '{rufh}:store', 'id')),
        'the loss to be noticed',
      );
      await proxies.stopApps();
      await proxies.forgetUse();
      useFileSystem();
      const app = await proxies.start(spool);
      expect(await isSpoolOfThisRedis()).toBe(true);
      await until(async () => (await toldBy(app)).list?.uploads === 1, 'the upload to be told of');
    });

    test('an upload in the middle of its body is told of, whenever its bytes were written', async () => {
      const spool = await settings();
      const { target } = await loseOne(spool);
      const id = storedIdOf(target);
      const app = proxies.apps[0]!;
      const lines = appendLines(DIALECT, { offset: 4, complete: false });
      const body = request(`${app.url}${target}`, { method: 'PATCH', headers: Object.fromEntries(lines) });
      const ended = new Promise<void>((resolve) => {
        body.on('response', (response) => response.resume().on('end', resolve));
        body.on('error', () => resolve());
      });
      const sending = setInterval(() => body.write(Buffer.alloc(3000)), 20);
      const chunks = async () => (await readdir(proxies.pathOf(id))).filter((name) => name.startsWith('chunk'));
      await until(async () => (await chunks()).length === 2, 'more bytes in the spool');
      await proxies.redis.cli('flushall');
      await until(isSpoolOfThisRedis, 'the spool to be known again');
      await ended;
      clearInterval(sending);
      const tomorrow = new Date(Date.now() + 86_400_000);
      expect(await chunks()).not.toEqual([]);
      for (const name of await chunks()) await utimes(join(proxies.pathOf(id), name), tomorrow, tomorrow);
      await until(async () => (await toldBy(app)).list?.uploads === 1, 'the upload to be told of');
    });
  });

  test('several processes that share a spool can start at once on a Redis that has lost everything', async () => {
    const spool = 'spool: { shared: true }';
    await proxies.start(spool);
    await proxies.stopApps();
    await proxies.forgetUse();
    await proxies.redis.cli('flushall');
    const starting = await Promise.allSettled([proxies.start(spool), proxies.start(spool), proxies.start(spool)]);
    expect(starting.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'fulfilled']);
    for (const app of proxies.apps)
      expect((await (await proxies.create(app)).finish(Buffer.from('whole'))).status).toBe(201);
  });

  test('a start that was refused some of its rights does not take the spool from the next one', async () => {
    await proxies.redis.cli('acl', 'setuser', 'default', 'resetchannels');
    const spool = 'spool: { shared: true }';
    await expect(proxies.start(spool)).rejects.toThrow('denies this user a permission');
    await proxies.redis.cli('acl', 'setuser', 'default', 'allchannels');
    expect((await (await proxies.create(await proxies.start(spool))).finish(Buffer.from('whole'))).status).toBe(201);
  });

  test('bytes of a Redis that comes back empty stay for an hour, so that a backup of it can be restored', async () => {
    const settings = 'spool: { shared: true }\nlimits: { max_age: 2s }';
    // Where uploads live on: what this one has is to be lost with Redis, not before.
    const first = await proxies.start('spool: { shared: true }');
    const lost = await proxies.create(first);
    await lost.append(Buffer.from('half'), { offset: 0, complete: false });
    await proxies.stopApps();
    await proxies.forgetUse();
    const files = proxies.pathOf(storedIdOf(lost.target));
    for (const name of await readdir(files)) await utimes(join(files, name), LONG_AGO, LONG_AGO);
    await proxies.redis.cli('flushall');
    await proxies.create(await proxies.start(settings));
    await until(async () => (await proxies.redis.cli('keys', '*:u:*')) === '', 'rounds of the sweep');
    expect(await readdir(files)).toHaveLength(2);
    await utimes(proxies.pathOf('.store'), LONG_AGO, LONG_AGO);
    await until(async () => (await readdir(files).catch(() => [])).length === 0, 'the bytes to be removed', 20_000);
  });
});

describe('full', () => {
  // Issue 4: a Redis without memory. What ends an upload is what makes room again.
  const DIALECT = clientDialect('10');

  let redis: RedisServer;
  let origin: TestOrigin;
  let app: TestApp;

  beforeEach(async () => {
    redis = await startRedis();
    origin = await startTestOrigin({ status: 201 });
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
});
