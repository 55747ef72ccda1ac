import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from '@jest/globals';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import type { HeaderLine } from '../../src/model/headers.js';
import { uploadTag } from '../../src/observe/log.js';
import { startTestApp, type TestApp } from '../support/app.js';
import { startRedis } from '../support/redis-servers.js';
import { clientDialect, createUpload, type ResumableUpload } from '../support/resumable-client.js';
import { Stage } from '../support/stage.js';
import { until } from '../support/temporary.js';

let stage: Stage;

afterEach(async () => {
  await stage.close();
});

async function begin(target: string, headers: readonly HeaderLine[] = []): Promise<ResumableUpload> {
  const send = (request: Parameters<Stage['send']>[1]) => stage.send('HTTP/1.1', request);
  return createUpload(clientDialect('8'), send, { method: 'POST', target, headers, length: 6, body: 'abc' });
}

/** The lines about the end of an upload. */
function endsOf({ target }: ResumableUpload): Record<string, unknown>[] {
  const tag = uploadTag(target.split('/').at(-1)!);
  return stage.app.log.filter(({ msg, upload }) => upload === tag && String(msg).startsWith('upload ended'));
}

const FIELDS = { route: 'default', dialect: '8', size: 3, attempts: 0 };

test('an upload whose time runs out says so in the log, once', async () => {
  stage = await Stage.open({ config: 'limits: { max_age: 1s }' });
  const upload = await begin('/files/old');
  const [line] = await until(() => endsOf(upload).length > 0 && endsOf(upload), 'a line about its end');
  expect(line).toMatchObject({ ...FIELDS, level: 'info', msg: 'upload ended: expired', phase: 'expired' });
  expect(endsOf(upload)).toHaveLength(1);
});

test('an upload that its client cancels says so in the log, once', async () => {
  stage = await Stage.open();
  const upload = await begin('/files/cancelled');
  expect((await upload.cancel()).status).toBe(204);
  expect(endsOf(upload)).toMatchObject([{ ...FIELDS, msg: 'upload ended: cancelled', phase: 'cancelled' }]);
});

test('an upload whose bytes are not those it announced says so in the log, once', async () => {
  stage = await Stage.open();
  const upload = await begin('/files/other', [['Repr-Digest', `sha-256=:${Buffer.alloc(32).toString('base64')}:`]]);
  expect((await upload.append('def', { offset: 3, complete: true })).status).toBe(400);
  expect(endsOf(upload)).toMatchObject([{ ...FIELDS, size: 5, msg: 'upload ended: given up', phase: 'invalid' }]);
});

test('an upload that was answered says so in the log, once, also when its answer expires', async () => {
  stage = await Stage.open({ config: 'delivery: { keep_answer: 1s }' });
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

const AN_UPLOADS = /\/[\w-]{32}(\.log|\/[^/]+)?$/;

async function isNothingLeft(data: string): Promise<boolean> {
  const names = await Promise.all(
    [join(data, 'spool'), join(data, 'uploads')].map((path) => readdir(path).catch(() => [])),
  );
  return !names.flat().some((name) => /^[\w-]{32}/.test(name));
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
  stage = await Stage.open({ config }, async (options) => (app = await startTestApp(options)));
  const refused = isSick ? refuseFirstRemovals() : new Set();
  try {
    const ended = Object.entries(WAYS).map(async ([target, [how, phase]]) => {
      const answers = target === '/hung-up/twice' ? Infinity : 1;
      stage.answer(target, () =>
        target.startsWith('/hung-up') && stage.requestsFor(target).length <= answers
          ? { hangUp: true }
          : { body: 'ok' },
      );
      const upload = await begin(target, target === '/invalid' ? [OTHER_DIGEST] : []);
      await how(upload, target);
      await until(async () => (await upload.retrieve()).status === 404, `nothing to be left of ${target}`);
      return { target, upload, wanted: [phase] };
    });
    const uploads = await Promise.all(ended);
    await until(() => isNothingLeft(stage.app.data), 'every byte to be removed');
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
