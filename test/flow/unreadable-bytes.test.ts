import { mkdir, readdir, readFile, rename, unlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { endLostUploads } from '../../src/cluster/lost-nodes.js';
import { type FileSystem, nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import { Fault } from '../../src/model/fault.js';
import { createLog, uploadTag } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { EmbeddedLeases } from '../../src/store/embedded/embedded-leases.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { Cleanup } from '../../src/uploads/cleanup.js';
import { recoverNode } from '../../src/uploads/recovery.js';
import { UnreadableBytes } from '../../src/uploads/unknown-bytes.js';
import { openRequest } from '../support/client.js';
import { FlowClient } from '../support/flow-client.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import { clientDialect, completenessValue, versionLines } from '../support/resumable-client.js';
import { until } from '../support/temporary.js';
import { startTestApp, type TestApp, TestProxy } from '../support/test-proxy.js';
import { ReceivingHarness, StoreReach } from '../support/upload-harness.js';
import { storedIdOf } from '../support/stored-id.js';

describe('unreadable', () => {
  const HOUR = 3_600_000;

  afterEach(() => useFileSystem());

  /** The machine's disk, but for these operations on paths with this in them. */
  function sicken(part: string, operations: readonly (keyof FileSystem)[], code: string): void {
    const failing = (operation: keyof FileSystem) => {
      return (path: string, ...rest: unknown[]): unknown => {
        if (path.includes(part)) {
          const message = `${code}: i/o error, ${operation} '${path}'`;
          const error = Object.assign(new Error(message), { code, syscall: operation });
          if (operation.endsWith('Sync')) throw error;
          return Promise.reject(error);
        }
        return (nodeFileSystem[operation] as (...args: unknown[]) => unknown)(path, ...rest);
      };
    };
    const sick = Object.fromEntries(operations.map((operation) => [operation, failing(operation)]));
    useFileSystem({ ...nodeFileSystem, ...sick });
  }

  describe.each(['embedded', 'redis'] as const)('a start with the %s store', (kind) => {
    let redis: RedisServer | undefined;
    let proxy: TestProxy;

    beforeAll(async () => {
      if (kind === 'redis') redis = await startRedis();
    });
    afterEach(() => proxy.close());
    afterAll(() => redis?.stop());

    test.each([
      ['readdir', 'EIO', true],
      ['readdir', 'EACCES', true],
      ['readdir', 'EMFILE', true],
      ['lstat', 'EIO', true],
      // To look for links, and to remove what is empty.
      ['readdirEntries', 'EACCES', false],
      ['rmdir', 'EIO', false],
    ] as const)(
      'is not stopped by a directory of one upload that fails in %s with %s, and removes nothing of it',
      async (operation, code, isTold) => {
        const prefix = `${operation}-${code}`;
        const config = redis && `store: { type: redis, url: "${redis.url}", prefix: "${prefix}" }`;
        const timings = { unreadableRetryMs: 50 };
        let app: TestApp | undefined;
        proxy = await TestProxy.open(
          { config },
          async (options) => (app = await startTestApp({ ...options, timings })),
        );
        const client = new FlowClient(proxy, 'HTTP/1.1', '10');
        const [sick, well] = [
          await client.place({ target: '/a', length: 10 }),
          await client.place({ target: '/b', length: 10 }),
        ];
        for (const upload of [sick, well]) await upload.append(Buffer.from('hello'), { offset: 0, complete: false });
        const id = storedIdOf(sick.target);
        const directory = join(proxy.app.data, 'spool', id);
        await proxy.app.stop();
        await writeFile(join(directory, 'chunk-2000000000-5'), 'not committed');
        const before = (await readdir(directory)).sort();
        sicken(id, [operation], code);
        await proxy.restart();
        const rest = await well.append(Buffer.from('world'), { offset: 5, complete: true });
        expect([rest.status, rest.header(client.dialect.completeness)]).toEqual([
          200,
          completenessValue(client.dialect, true),
        ]);
        if (isTold) await until(async () => (await toldBy(app!)).setAside.length > 0, 'the upload to be looked after');
        const { setAside, checks, count } = await toldBy(app!);
        const problem: unknown = expect.stringContaining(code);
        expect(setAside).toEqual(
          isTold ? [expect.objectContaining({ tag: uploadTag(id), phase: 'unreadable', problem })] : [],
        );
        const counted: unknown = expect.stringContaining('1 cannot be read');
        const records = { name: 'records', ok: false, problem: counted };
        expect(checks).toContainEqual(isTold ? records : { name: 'records', ok: true });
        expect(count).toBe(isTold ? 1 : 0);
        const told = app!.log.filter(({ upload, level }) => upload === uploadTag(id) && level === 'error');
        expect(told).toHaveLength(isTold ? 1 : 0);
        if (isTold) expect((await readdir(directory)).sort()).toEqual(before);
        useFileSystem();
        await until(async () => (await toldBy(app!)).setAside.length === 0, 'the disk to be asked again');
        expect((await readdir(directory)).filter((name) => name.startsWith('chunk'))).toHaveLength(1);
        const whole = await sick.append(Buffer.from('world'), { offset: 5, complete: true });
        expect(whole.status).toBe(200);
        expect((await proxy.requestFor('/a')).body.toString()).toBe('helloworld');
      },
    );
  });

  async function toldBy({ operators }: TestApp) {
    const ask = async (path: string): Promise<unknown> => {
      const answer = await operators.respond({ method: 'GET', path, query: new URLSearchParams(), headers: {} });
      return JSON.parse(answer.body!);
    };
    const { setAside = [] } = (await ask('/uploads')) as { setAside?: object[] };
    const { checks } = (await ask('/readyz')) as { checks: object[] };
    const figure = (await operators.metricValues()).find(({ name }) => name === 'rufh_uploads_unreadable');
    return { setAside, checks, count: figure?.values[0]?.value };
  }

  describe('one upload whose files fail', () => {
    let harness: ReceivingHarness;
    let logged: string[];

    afterEach(() => harness.close());

    function deps() {
      const { spool, store } = harness;
      const log = createLog({
        level: 'info',
        format: 'json',
        destination: { write: (line) => void logged.push(line) },
      });
      const told = { log, metrics: new Metrics(), clock: Date.now };
      return {
        ...told,
        store,
        spool,
        leases: new EmbeddedLeases(store),
        unreadable: new UnreadableBytes({ spool, ...told }),
      };
    }

    /** An upload with 5 committed bytes, and a file that no record counts, from long ago. */
    async function uploaded(): Promise<string> {
      const id = await harness.empty({ node: 'here' });
      await harness.send(id, 'hello');
      const path = join(harness.path, 'spool', id, 'chunk-2000000000-5');
      await writeFile(path, 'not committed');
      await utimes(path, new Date(Date.now() - 2 * HOUR), new Date(Date.now() - 2 * HOUR));
      return id;
    }

    const filesOf = async (id: string): Promise<string[]> => (await readdir(join(harness.path, 'spool', id))).sort();

    const WAYS = {
      'the recovery of one of many nodes': () => recoverNode(deps(), 'here'),
      'the sweep': () => new Cleanup({ ...deps(), node: 'here', everyMs: 60_000, orphanAgeMs: -1 }).runOnce(),
    };

    test.each(
      Object.keys(WAYS).flatMap((way) =>
        (['readdir', 'lstat', 'unlink'] as const).flatMap((operation) =>
          ['EIO', 'EACCES', 'EMFILE'].map((code) => [way as keyof typeof WAYS, operation, code] as const),
        ),
      ),
    )('keeps %s from nothing else, and is told, when %s fails with %s', async (way, operation, code) => {
      logged = [];
      harness = await ReceivingHarness.open({ reach: new StoreReach({ mayForget: true }), node: 'here' });
      const ids = [await uploaded(), await uploaded(), await uploaded()].sort();
      const sick = ids[1]!;
      const before = await filesOf(sick);
      sicken(sick, [operation], code);
      await WAYS[way]();
      useFileSystem();
      expect(await filesOf(sick)).toEqual(before);
      for (const well of [ids[0]!, ids[2]!]) expect(await filesOf(well)).toHaveLength(2);
      expect(await Promise.all(ids.map((id) => harness.offset(id)))).toEqual([5, 5, 5]);
      const errors = logged.map((line) => JSON.parse(line) as Record<string, unknown>);
      expect(errors).toEqual([expect.objectContaining({ level: 'error', upload: uploadTag(sick) })]);
      expect(JSON.stringify(errors)).not.toContain(sick);
    });

    test('is not given up for a chunk that cannot be opened, only for one that is not there', async () => {
      logged = [];
      harness = await ReceivingHarness.open({ reach: new StoreReach({ mayForget: true }), node: 'here' });
      const id = await uploaded();
      const chunk = (await filesOf(id)).find((name) => name.startsWith('chunk-1'))!;
      const path = join(harness.path, 'spool', id, chunk);
      const bytes = await readFile(path);
      await writeFile(path, 'hel');
      sicken(id, ['open'], 'EIO');
      await recoverNode(deps(), 'here');
      useFileSystem();
      expect(await harness.store.get(id)).toMatchObject({ phase: 'receiving', offset: 5 });
      await writeFile(path, bytes);
      await recoverNode(deps(), 'here');
      expect(await harness.head(id)).toMatchObject({ kind: 'retrieved', upload: { offset: 5 } });
    });

    test('is tried again until it can be looked after, then as at a start', async () => {
      logged = [];
      harness = await ReceivingHarness.open({ reach: new StoreReach({ mayForget: true }), node: 'here' });
      const { unreadable, ...rest } = deps();
      const id = await uploaded();
      sicken(id, ['readdir'], 'EIO');
      await recoverNode({ ...rest, unreadable }, 'here');
      await recoverNode({ ...rest, unreadable }, 'here');
      expect(unreadable.list()).toMatchObject([{ id, state: 'unreadable' }]);
      const looked: string[][] = [];
      const lookAfter = (_: string, files: readonly { name: string }[]): Promise<void> => {
        looked.push(files.map(({ name }) => name));
        return Promise.resolve();
      };
      await unreadable.retry(lookAfter);
      expect([looked, unreadable.list().length]).toEqual([[], 1]);
      useFileSystem();
      await unreadable.retry(lookAfter);
      expect([looked.length, unreadable.list().length]).toEqual([1, 0]);
      expect(logged.map((line) => (JSON.parse(line) as { level: string }).level)).toEqual(['error', 'info']);
    });

    test('is only listed again when that is found later: somebody may be sending to it', async () => {
      logged = [];
      harness = await ReceivingHarness.open({ reach: new StoreReach({ mayForget: true }), node: 'here' });
      const { unreadable, ...rest } = deps();
      const id = await uploaded();
      sicken(id, ['readdir'], 'EMFILE');
      await new Cleanup({ ...rest, unreadable, node: 'here', everyMs: 60_000, orphanAgeMs: -1 }).runOnce();
      const lookAfter = () => Promise.reject(new Error('it is looked after'));
      await unreadable.retry(lookAfter);
      expect(unreadable.list()).toMatchObject([{ id, state: 'unreadable' }]);
      useFileSystem();
      await unreadable.retry(lookAfter);
      expect(unreadable.list()).toEqual([]);
    });

    test('of a node that is gone keeps none of the others, and the node is not taken for forgotten', async () => {
      logged = [];
      harness = await ReceivingHarness.open({ reach: new StoreReach({ mayForget: true }), node: 'gone' });
      const ids: string[] = [];
      for (let count = 0; count < 3; count++) {
        ids.push(await harness.empty({ node: 'gone' }));
        await harness.send(ids.at(-1)!, 'hello');
      }
      const stubborn = Object.create(harness.store) as UploadStore;
      stubborn.remove = (id) =>
        id === ids[1]
          ? Promise.reject(new Fault('STORAGE_UNAVAILABLE', 'a record cannot be removed', true))
          : harness.store.remove(id);
      const gone = { node: 'gone', isStillLost: () => Promise.resolve(true), successor: 'here' };
      const { metrics, ...others } = deps();
      await expect(endLostUploads({ ...others, ...gone, metrics, store: stubborn })).rejects.toMatchObject({
        name: 'Fault',
      });
      expect(await Promise.all(ids.map((id) => harness.offset(id)))).toEqual([undefined, 5, undefined]);
      await endLostUploads({ ...others, ...gone, metrics, store: harness.store });
      expect(await harness.offset(ids[1]!)).toBeUndefined();
      const figures = await metrics.values();
      const figure = (name: string) => figures.find((one) => one.name === name)?.values[0]?.value;
      expect([figure('rufh_bytes_lost_total'), figure('rufh_uploads_ended_total')]).toEqual([3, 3]);
    });
  });

  describe('a record that can be read some time after the start', () => {
    const DAMAGES: readonly [
      what: string,
      damage: (paths: Record<'record' | 'chunk', string>) => Promise<unknown>,
      status: number,
    ][] = [
      ['with bytes that nobody counts', () => Promise.resolve(), 204],
      ['whose bytes are gone', ({ chunk }) => unlink(chunk), 410],
      ['without a readable beginning', ({ record }) => writeFile(record, 'nothing'), 404],
    ];

    test.each(
      DAMAGES.flatMap(([what, damage, status]) =>
        [50, HOUR].map((unreadableRetryMs) => [what, unreadableRetryMs, damage, status] as const),
      ),
    )('is brought together with its bytes before anybody sees it: %s, looked at every %d ms', async (...row) => {
      const [, unreadableRetryMs, damage, status] = row;
      let app: TestApp | undefined;
      const timings = { unreadableRetryMs };
      const proxy = await TestProxy.open({}, async (options) => (app = await startTestApp({ ...options, timings })));
      const client = new FlowClient(proxy, 'HTTP/1.1', '10');
      const upload = await client.place({ target: '/a', length: 10 });
      await upload.append(Buffer.from('hello'), { offset: 0, complete: false });
      const id = storedIdOf(upload.target);
      const { data } = proxy.app;
      const directory = join(data, 'spool', id);
      const record = join(data, 'uploads', `${id}.log`);
      await proxy.app.stop();
      await damage({ record, chunk: join(directory, (await readdir(directory))[0]!) });
      const stray = 'chunk-2000000000-5';
      await writeFile(join(directory, stray), 'not committed');
      sicken(`${id}.log`, ['open', 'openSync'], 'EIO');
      await proxy.restart();
      expect((await toldBy(app!)).setAside).toMatchObject([{ phase: 'unreadable' }]);
      expect(await readdir(directory)).toContain(stray);
      useFileSystem();
      const isReadByItself = unreadableRetryMs < HOUR;
      if (isReadByItself && status === 204)
        await until(async () => !(await readdir(directory)).includes(stray), 'the bytes to be looked at');
      const records = (): Promise<string[]> => readdir(join(data, 'uploads'));
      if (isReadByItself && status === 404)
        await until(async () => (await records()).includes(`${id}.damaged`), 'the record to be kept');
      const head = { method: 'HEAD', target: upload.target, headers: versionLines(client.dialect) };
      expect((await client.send(head)).status).toBe(status);
      // What is damaged stays for people to look at.
      expect((await readdir(directory)).includes(stray)).toBe(status !== 204);
      await proxy.close();
    });
  });

  test('a record is not shown as long as its bytes cannot be looked at', async () => {
    let app: TestApp | undefined;
    const timings = { unreadableRetryMs: 50 };
    const proxy = await TestProxy.open({}, async (options) => (app = await startTestApp({ ...options, timings })));
    const client = new FlowClient(proxy, 'HTTP/1.1', '10');
    const upload = await client.place({ target: '/a', length: 10 });
    await upload.append(Buffer.from('hello'), { offset: 0, complete: false });
    const id = storedIdOf(upload.target);
    await proxy.app.stop();
    sicken(`${id}.log`, ['open', 'openSync'], 'EIO');
    await proxy.restart();
    sicken(join('spool', id), ['readdir'], 'EIO');
    const head = { method: 'HEAD', target: upload.target, headers: versionLines(client.dialect) };
    expect((await client.send(head)).status).toBe(503);
    expect((await toldBy(app!)).setAside).toMatchObject([{ tag: uploadTag(id), phase: 'unreadable' }]);
    useFileSystem();
    expect((await client.send(head)).status).toBe(204);
    await until(async () => (await toldBy(app!)).setAside.length === 0, 'nothing to be unreadable');
    await proxy.close();
  });

  describe('a listing that fails once in the sweep', () => {
    test.each(['plain', 'resumable'])('ends no %s request that is under way', async (kind) => {
      let app: TestApp | undefined;
      const timings = { unreadableRetryMs: 20 };
      const config = 'plain_bodies: spool\nlimits: { max_age: 2s }';
      const proxy = await TestProxy.open(
        { config },
        async (options) => (app = await startTestApp({ ...options, timings })),
      );
      const lines = kind === 'plain' ? [] : [...versionLines(clientDialect('10')), ['Upload-Complete', '?1'] as const];
      const head = { method: 'POST', target: '/a', headers: [...lines, ['Content-Type', 'text/plain'] as const] };
      const request = await openRequest('HTTP/1.1', proxy.app.url, head);
      let failures = 0;
      useFileSystem({
        ...nodeFileSystem,
        readdir: (path) =>
          /spool\/[\w-]{43}$/.test(path) && failures++ === 0
            ? Promise.reject(Object.assign(new Error('EMFILE'), { code: 'EMFILE', syscall: 'scandir' }))
            : nodeFileSystem.readdir(path),
      });
      const isAgain = () => app!.log.some(({ msg }) => msg === 'the bytes of an upload can be read again');
      await until(async () => {
        await request.send('x');
        return isAgain();
      }, 'the sweep to fail, and the disk to be asked again');
      await request.send('x');
      await request.end();
      expect((await request.readFinal()).status).toBe(200);
      expect(app!.log.filter(({ msg }) => String(msg).includes('broke off'))).toEqual([]);
      await request.close();
      await proxy.close();
    });
  });

  test('an empty directory that cannot be removed keeps nobody from starting', async () => {
    const proxy = await TestProxy.open();
    const empty = join(proxy.app.data, 'spool', 'e'.repeat(32));
    await proxy.app.stop();
    await mkdir(empty);
    sicken(empty, ['rmdir'], 'EIO');
    await proxy.restart();
    expect((await proxy.send('HTTP/1.1', { method: 'GET', target: '/' })).status).toBe(200);
    await proxy.close();
  });
});

describe('without a record', () => {
  // Issue 8: a backup that was copied in part has bytes whose records have not come yet.
  let app: TestApp;
  let proxy: TestProxy;

  beforeEach(async () => {
    proxy = await TestProxy.open({}, async (options) => (app = await startTestApp(options)));
  });
  afterEach(() => proxy.close());

  async function told() {
    const ask = async (path: string) => {
      const answer = await app.operators.respond({ method: 'GET', path, query: new URLSearchParams(), headers: {} });
      return { status: answer.status, body: JSON.parse(answer.body!) as Record<string, unknown> };
    };
    const readiness = await ask('/readyz');
    const figures = await app.operators.metricValues();
    const figure = (what: string) =>
      figures.find(({ name }) => name === `rufh_spool_unknown_${what}`)?.values[0]?.value;
    return {
      ready: readiness.status,
      check: (readiness.body['checks'] as { name: string }[]).find(({ name }) => name === 'unknown uploads'),
      list: (await ask('/uploads')).body['unknownUploads'],
      metrics: [figure('uploads'), figure('bytes')],
      logged: app.log.filter(({ msg }) => String(msg).includes('have no record in uploads')).length,
    };
  }

  const QUIET = {
    ready: 200,
    check: { name: 'unknown uploads', ok: true },
    list: undefined,
    metrics: [0, 0],
    logged: 0,
  };

  test.each([
    ['all records', 2],
    ['one record', 1],
  ])(
    'a start without %s tells of the bytes, keeps them, and is quiet once the records are there',
    async (_, missing) => {
      const client = new FlowClient(proxy, 'HTTP/1.1', '10');
      const uploads = [
        await client.place({ target: '/a', length: 10 }),
        await client.place({ target: '/b', length: 10 }),
        await client.place({ target: '/without-bytes', length: 10 }),
      ];
      for (const upload of uploads.slice(0, 2))
        await upload.append(Buffer.from('hello'), { offset: 0, complete: false });
      const { data } = proxy.app;
      const statusOf = async ({ target }: { target: string }) =>
        (await client.send({ method: 'HEAD', target, headers: versionLines(client.dialect) })).status;
      await proxy.restart();
      expect(await told()).toEqual(QUIET);
      await proxy.app.stop();
      const logs = uploads.slice(0, missing).map(({ target }) => `${storedIdOf(target)}.log`);
      for (const log of logs) await rename(join(data, 'uploads', log), join(data, '..', log));
      for (let starts = 0; starts < 2; starts++) {
        await proxy.restart();
        expect(await told()).toEqual({
          ready: 200,
          check: { name: 'unknown uploads', ok: false, problem: expect.stringContaining('copy the whole directory') },
          list: expect.objectContaining({ uploads: missing, bytes: 5 * missing }),
          metrics: [missing, 5 * missing],
          logged: 1,
        });
        expect(await Promise.all(uploads.map(statusOf))).toEqual([404, missing === 2 ? 404 : 204, 204]);
        await proxy.app.stop();
      }
      for (const log of logs) await rename(join(data, '..', log), join(data, 'uploads', log));
      await proxy.restart();
      expect(await told()).toEqual(QUIET);
      expect(await Promise.all(uploads.map(statusOf))).toEqual([204, 204, 204]);
      expect((await readdir(join(data, 'spool'))).filter((name) => !name.startsWith('.'))).toHaveLength(2);
    },
  );
});
