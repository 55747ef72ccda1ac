import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import type { HeaderLine } from '../../src/model/headers.js';
import { uploadTag } from '../../src/observe/log.js';
import { spooledBytes } from '../support/disk.js';
import { comparable, FEWER_VARIANTS, FlowClient } from '../support/flow-client.js';
import { ReceivingHarness, StoreReach } from '../support/upload-harness.js';
import { startRedis } from '../support/redis-server.js';
import {
  clientDialect,
  completenessValue,
  createUpload,
  type ResumableUpload,
  versionLines,
} from '../support/resumable-client.js';
import { randomBytes, until } from '../support/temporary.js';
import { framed, startTestApp, type TestApp, TestProxy } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';
import { storedIdOf } from '../support/stored-id.js';

describe('ends', () => {
  let proxy: TestProxy;

  afterEach(async () => {
    await proxy.close();
  });

  async function begin(target: string, headers: readonly HeaderLine[] = []): Promise<ResumableUpload> {
    const send = (request: Parameters<TestProxy['send']>[1]) => proxy.send('HTTP/1.1', request);
    return createUpload(clientDialect('8'), send, { method: 'POST', target, headers, length: 6, body: 'abc' });
  }

  /** The lines about the end of an upload. */
  function endsOf({ target }: ResumableUpload): Record<string, unknown>[] {
    const tag = uploadTag(target.split('/').at(-1)!);
    return proxy.app.log.filter(({ msg, upload }) => upload === tag && String(msg).startsWith('upload ended'));
  }

  const FIELDS = { route: 'default', dialect: '8', size: 3, attempts: 0 };

  test('an upload whose time runs out says so in the log, once', async () => {
    proxy = await TestProxy.open({ config: 'limits: { max_age: 1s }' });
    const upload = await begin('/files/old');
    const [line] = await until(() => endsOf(upload).length > 0 && endsOf(upload), 'a line about its end');
    expect(line).toMatchObject({ ...FIELDS, level: 'info', msg: 'upload ended: expired', phase: 'expired' });
    expect(endsOf(upload)).toHaveLength(1);
  });

  test('an upload that its client cancels says so in the log, once', async () => {
    proxy = await TestProxy.open();
    const upload = await begin('/files/cancelled');
    expect((await upload.cancel()).status).toBe(204);
    expect(endsOf(upload)).toMatchObject([{ ...FIELDS, msg: 'upload ended: cancelled', phase: 'cancelled' }]);
  });

  test('an upload whose bytes are not those it announced says so in the log, once', async () => {
    proxy = await TestProxy.open();
    const upload = await begin('/files/other', [['Repr-Digest', `sha-256=:${Buffer.alloc(32).toString('base64')}:`]]);
    expect((await upload.append('def', { offset: 3, complete: true })).status).toBe(400);
    expect(endsOf(upload)).toMatchObject([{ ...FIELDS, size: 5, msg: 'upload ended: given up', phase: 'invalid' }]);
  });

  test('an upload that was answered says so in the log, once, also when its answer expires', async () => {
    proxy = await TestProxy.open({ config: 'delivery: { keep_answer: 1s }' });
    const upload = await begin('/files/answered');
    expect((await upload.append('def', { offset: 3, complete: true })).status).toBe(200);
    await until(async () => (await upload.retrieve()).status !== 204, 'its answer to expire');
    expect(endsOf(upload)).toMatchObject([{ phase: 'answered', msg: 'upload ended', status: 200, size: 6 }]);
  });

  const OTHER_DIGEST = ['Repr-Digest', `sha-256=:${Buffer.alloc(32).toString('base64')}:`] as const;

  type Way = (upload: ResumableUpload, target: string) => Promise<unknown>;

  const complete = (upload: ResumableUpload) => upload.append('def', { offset: 3, complete: true });
  const repeatEnd = (upload: ResumableUpload) => upload.append('', { offset: 6, complete: true });

  /** Each way an upload can end: by its target, how it comes to it, and as what it is counted. */
  const WAYS: Record<string, readonly [how: Way, phase: string]> = {
    '/answered': [complete, 'answered'],
    '/hung-up/then-answered': [(upload) => complete(upload).then(() => repeatEnd(upload)), 'answered'],
    '/hung-up/then-cancelled': [(upload) => complete(upload).then(() => upload.cancel()), 'cancelled'],
    '/hung-up/then-expired': [complete, 'undelivered'],
    '/hung-up/twice': [(upload) => complete(upload).then(() => repeatEnd(upload)), 'undelivered'],
    '/cancelled': [(upload) => upload.cancel(), 'cancelled'],
    '/cancelled/twice': [(upload) => Promise.all([upload.cancel(), upload.cancel()]), 'cancelled'],
    '/expired': [() => Promise.resolve(), 'expired'],
    '/invalid': [complete, 'invalid'],
  };

  /** The machine's disk, but the first removal of each file and directory fails. Gives the paths of those that did. */
  function refuseFirstRemovals(): ReadonlySet<string> {
    const refused = new Set<string>();
    const once = (remove: (path: string) => Promise<void>) => async (path: string) => {
      const isFirst = AN_UPLOADS.test(path) && !refused.has(path);
      if (!isFirst) return remove(path);
      refused.add(path);
      throw Object.assign(new Error(`EIO: i/o error, '${path}'`), { code: 'EIO', syscall: 'unlink' });
    };
    useFileSystem({
      ...nodeFileSystem,
      removeTree: once((path) => nodeFileSystem.removeTree(path)),
      unlink: once((path) => nodeFileSystem.unlink(path)),
      rmdir: once((path) => nodeFileSystem.rmdir(path)),
    });
    return refused;
  }

  const AN_UPLOADS = /\/[\w-]{43}(\.log|\/[^/]+)?$/;

  async function isNothingLeft(data: string): Promise<boolean> {
    const names = await Promise.all(
      [join(data, 'spool'), join(data, 'uploads')].map((path) => readdir(path).catch(() => [])),
    );
    return !names.flat().some((name) => /^[\w-]{43}/.test(name));
  }

  /** Only what is to expire does so soon: on a slow machine the others have the time they need. */
  const SHORT = ['/expired', '/hung-up/then-expired', '/hung-up/twice'].map(
    (path) => `  - match: { path: ${path} }\n    limits: { max_age: 2s }\n`,
  );

  const STORES = (['embedded', 'redis'] as const).flatMap((kind) => [
    { kind, disk: 'a healthy disk' } as const,
    { kind, disk: 'a disk that refuses each removal once' } as const,
  ]);

  test.each(STORES)('each end is told and counted once, with the $kind store, on $disk', async ({ kind, disk }) => {
    const isSick = disk !== 'a healthy disk';
    const redis = kind === 'redis' ? await startRedis() : undefined;
    const store = redis ? `store: { type: redis, url: "${redis.url}" }\nspool: { shared: true }\n` : '';
    let app: TestApp;
    const config = `${store}delivery: { keep_answer: 1s }\nroutes:\n${SHORT.join('')}  - match: { path: /** }`;
    proxy = await TestProxy.open({ config }, async (options) => (app = await startTestApp(options)));
    const refused = isSick ? refuseFirstRemovals() : new Set();
    try {
      const ended = Object.entries(WAYS).map(async ([target, [how, phase]]) => {
        const answers = target === '/hung-up/twice' ? Infinity : 1;
        proxy.answer(target, () =>
          target.startsWith('/hung-up') && proxy.requestsFor(target).length <= answers
            ? { hangUp: true }
            : { body: 'ok' },
        );
        const upload = await begin(target, target === '/invalid' ? [OTHER_DIGEST] : []);
        await how(upload, target);
        await until(async () => (await upload.retrieve()).status === 404, `nothing to be left of ${target}`);
        return { target, upload, wanted: [phase] };
      });
      const uploads = await Promise.all(ended);
      await until(() => isNothingLeft(proxy.app.data), 'every byte to be removed');
      const told = (): unknown[] =>
        uploads.map(({ target, upload }) => [target, endsOf(upload).map(({ phase }) => phase)]);
      await until(() => uploads.every(({ upload }) => endsOf(upload).length > 0), 'each end to be told');
      expect(told()).toEqual(uploads.map(({ target, wanted }) => [target, wanted]));
      expect(refused.size > 0).toBe(isSick);
      const figures = (await app!.operators.metricValues()).find(({ name }) => name === 'rufh_uploads_ended_total')!;
      const counted = Object.fromEntries(figures.values.map(({ labels, value }) => [String(labels['phase']), value]));
      expect(counted).toEqual({ answered: 2, cancelled: 3, undelivered: 2, expired: 1, invalid: 1 });
    } finally {
      useFileSystem();
      await redis?.stop();
    }
  });
});

describe('two cancellations at the same moment', () => {
  let harness: ReceivingHarness;
  beforeEach(async () => void (harness = await ReceivingHarness.open({ reach: new StoreReach() })));
  afterEach(() => harness.close());

  const endedCount = async (): Promise<number | undefined> =>
    (await harness.metrics.values()).find(({ name }) => name === 'rufh_uploads_ended_total')?.values[0]?.value;

  test('of an upload that is received: one ends it, and for the other it is unknown', async () => {
    const id = await harness.empty();
    const outcomes = await Promise.all([1, 2].map(() => harness.uploads.cancel({ kind: 'cancel', id })));
    expect(outcomes).toEqual([{ kind: 'cancelled' }, { kind: 'refused', refusal: { reason: 'unknown-upload' } }]);
    expect(await endedCount()).toBe(1);
  });

  test('of an upload that is complete: both end it, and it counts once', async () => {
    const id = await harness.empty();
    await harness.send(id, 'hello', { complete: true });
    const outcomes = await Promise.all([1, 2].map(() => harness.uploads.cancel({ kind: 'cancel', id })));
    expect(outcomes).toEqual([{ kind: 'cancelled' }, { kind: 'cancelled' }]);
    expect(await endedCount()).toBe(1);
  });
});

describe('cancellation', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open();
  });

  afterAll(async () => {
    await proxy.close();
  });

  const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };

  describe.each(FEWER_VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
    const client = (): FlowClient => new FlowClient(proxy, transport, interop);
    const target = `/cancel?seed=${seed}`;

    async function expectUnknown(upload: ResumableUpload): Promise<void> {
      const { expected, dialect } = client();
      const get = { method: 'GET', target: upload.target, headers: versionLines(dialect) };
      expect(comparable(await upload.retrieve())).toEqual(expected.unknownToHead());
      expect(comparable(await client().send(get))).toEqual(expected.unknown());
      expect(comparable(await upload.append('x', { offset: 0, complete: true }))).toEqual(expected.unknown());
      expect(comparable(await upload.cancel())).toEqual(expected.unknown());
    }

    test('a cancelled upload is gone with its bytes', async () => {
      const upload = await client().place({ target, length: undefined });
      await upload.append('some bytes', { offset: 0, complete: false });
      expect(comparable(await upload.cancel())).toEqual(client().expected.cancelled());
      await expectUnknown(upload);
      const id = storedIdOf(upload.target);
      expect(await spooledBytes(proxy.app.data, id)).toBe(0);
      expect(proxy.requestsFor(target)).toEqual([]);
    });

    test('an upload that is being fed can be cancelled: its request is given up without an answer', async () => {
      const upload = await client().place({ target, length: undefined });
      const eagerAppend = await client().append(upload, { offset: 0, complete: true, bytes: 1000 });
      await eagerAppend.send('the first part of it');
      const id = storedIdOf(upload.target);
      await until(async () => (await spooledBytes(proxy.app.data, id)) === 20, 'the first part to arrive');
      expect(comparable(await upload.cancel())).toEqual(client().expected.cancelled());
      await eagerAppend.givenUp();
      await expectUnknown(upload);
      expect(proxy.requestsFor(target)).toEqual([]);
    });

    test('an upload that was answered can be cancelled', async () => {
      const done = `${target}&done`;
      const upload = await client().place({ target: done, length: 3 });
      const answer = await upload.append('abc', { offset: 0, complete: true });
      expect(comparable(answer)).toEqual(client().expected.answered(OK, 3));
      expect(comparable(await upload.cancel())).toEqual(client().expected.cancelled());
      await expectUnknown(upload);
      expect(proxy.requestsFor(done)).toHaveLength(1);
    });

    test('addresses of no upload are unknown, whatever they look like, and never reach the origin', async () => {
      for (const path of ['', 'x', 'A'.repeat(32), 'A'.repeat(4000), '..%2f..%2fetc', '%00', `${'A'.repeat(32)}?x=1`])
        await expectUnknown(client().at(`${proxy.app.url}/.uploads/${path}`));
      expect(proxy.origin.requests.filter(({ target: asked }) => asked.startsWith('/.uploads'))).toEqual([]);
    });

    test('an append to a target instead of an upload is unknown too, from interop 6 on', async () => {
      const { expected, dialect } = client();
      const nowhere = client().at(`${proxy.app.url}/files/definitely-nonexistent-id?seed=${seed}`);
      const response = await nowhere.append('x', { offset: 0, complete: true });
      if (dialect.appendType === undefined) return expect(proxy.requestsFor(nowhere.target)).toHaveLength(1);
      expect(comparable(response)).toEqual(expected.unknown());
      expect(proxy.requestsFor(nowhere.target)).toEqual([]);
    });

    test('an upload does not understand POST and PUT', async () => {
      const upload = await client().place({ target, length: 3 });
      for (const method of ['POST', 'PUT']) {
        const request = { method, target: upload.target, headers: versionLines(client().dialect), body: 'abc' };
        const advice: HeaderLine[] = [['Allow', 'HEAD, GET, PATCH, DELETE, OPTIONS']];
        expect(comparable(await client().send(request))).toEqual(client().expected.refused({ status: 405, advice }));
      }
      expect(comparable(await upload.retrieve())).toEqual(
        client().expected.retrieved(0, { complete: false, length: 3 }),
      );
    });

    test('whoever asks for the offset must not state one', async () => {
      const { dialect, expected } = client();
      const upload = await client().place({ target, length: 3 });
      const refused = expected.refused({ status: 400, limits: true });
      for (const line of [
        ['Upload-Offset', '0'],
        ['Upload-Length', '3'],
        [dialect.completeness, completenessValue(dialect, true)],
      ] as const) {
        const headers = [...versionLines(dialect), line];
        const ask = (method: string) => client().send({ method, target: upload.target, headers });
        expect(comparable(await ask('GET'))).toEqual(refused);
        expect(comparable(await ask('HEAD'))).toEqual({ ...refused, body: '' });
      }
      const garbage = { method: 'HEAD', target: upload.target, headers: [...versionLines(dialect)] };
      const response = await client().send({ ...garbage, headers: [...garbage.headers, ['Upload-Offset', 'none']] });
      expect(comparable(response)).toEqual(expected.retrieved(0, { complete: false, length: 3 }));
    });

    test('a cancellation that states an offset is refused where the dialect forbids it', async () => {
      const { dialect, expected } = client();
      const upload = await client().place({ target, length: 3 });
      const headers: HeaderLine[] = [...versionLines(dialect), ['Upload-Offset', '0']];
      const response = await client().send({ method: 'DELETE', target: upload.target, headers });
      const isLenient = ['7', '8', '9'].includes(interop);
      expect(comparable(response)).toEqual(
        isLenient ? expected.cancelled() : expected.refused({ status: 400, limits: true }),
      );
    });

    test('GET tells the offset like HEAD', async () => {
      const upload = await client().place({ target, length: 3 });
      const get = { method: 'GET', target: upload.target, headers: versionLines(client().dialect) };
      expect(comparable(await client().send(get))).toEqual(
        client().expected.retrieved(0, { complete: false, length: 3 }),
      );
    });
  });
});

describe('clocks', () => {
  const SECOND = 1000;
  const DAY = 86_400 * SECOND;
  const BYTES = randomBytes(100_000);
  const { length } = BYTES;
  const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };

  let proxy: TestProxy;
  let stepMs: number;

  beforeEach(async () => {
    stepMs = 0;
    const { now } = Date;
    // Before the proxy starts: it takes the function.
    jest.spyOn(Date, 'now').mockImplementation(() => now() + stepMs);
    proxy = await TestProxy.open();
  });

  afterEach(async () => {
    await proxy.close();
    jest.restoreAllMocks();
  });

  /** Its Date is of the origin, whose clock was not set. */
  function expectOk(response: WireResponse): void {
    const { status, body } = response;
    expect([status, body.toString(), response.header('Upload-Complete')]).toEqual([200, 'ok', '?1']);
  }

  // Issue 8: a clock set forward by a day made every upload a 410, also one whose answer its client had not heard yet.
  test.each([20 * SECOND, -20 * SECOND, DAY, -DAY, 400 * DAY])(
    'a clock that is set by %s ms ends no upload, and no answer is forgotten',
    async (step) => {
      const client = new FlowClient(proxy, 'HTTP/1.1', '10');
      const { expected } = client;
      const begun = await client.place({ target: '/begun', length });
      await begun.append(BYTES.subarray(0, 40_000), { offset: 0, complete: false });
      const answered = await client.place({ target: '/answered', length });
      expect(comparable(await answered.append(BYTES, { offset: 0, complete: true }))).toEqual(
        expected.answered(OK, length),
      );
      stepMs = step;
      const seen = await begun.retrieve();
      expect([seen.status, seen.header('Upload-Offset')]).toEqual([204, '40000']);
      const again = await answered.append(Buffer.alloc(0), { offset: length, complete: true });
      expectOk(again);
      const rest = await begun.append(BYTES.subarray(40_000), { offset: 40_000, complete: true });
      expectOk(rest);
      expect(proxy.requestsFor('/answered')).toHaveLength(1);
      expect(proxy.requestsFor('/begun')).toHaveLength(1);
    },
  );
});
