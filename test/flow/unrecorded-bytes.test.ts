import { readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { startTestApp, type TestApp } from '../support/app.js';
import { versionLines } from '../support/resumable-client.js';
import { Stage } from '../support/stage.js';
import { StageClient } from '../support/stage-client.js';

// Issue 8: a backup that was copied in part has bytes whose records have not come yet.
let app: TestApp;
let stage: Stage;

beforeEach(async () => {
  stage = await Stage.open({}, async (options) => (app = await startTestApp(options)));
});
afterEach(() => stage.close());

async function told() {
  const ask = async (path: string) => {
    const answer = await app.operators.respond({ method: 'GET', path, query: new URLSearchParams(), headers: {} });
    return { status: answer.status, body: JSON.parse(answer.body!) as Record<string, unknown> };
  };
  const readiness = await ask('/readyz');
  const figures = await app.operators.metricValues();
  const figure = (what: string) => figures.find(({ name }) => name === `rufh_spool_unknown_${what}`)?.values[0]?.value;
  return {
    ready: readiness.status,
    check: (readiness.body['checks'] as { name: string }[]).find(({ name }) => name === 'unknown uploads'),
    list: (await ask('/uploads')).body['unknownUploads'],
    metrics: [figure('uploads'), figure('bytes')],
    logged: app.log.filter(({ msg }) => String(msg).includes('have no record in uploads')).length,
  };
}

const QUIET = { ready: 200, check: { name: 'unknown uploads', ok: true }, list: undefined, metrics: [0, 0], logged: 0 };

test.each([
  ['all records', 2],
  ['one record', 1],
])('a start without %s tells of the bytes, keeps them, and is quiet once the records are there', async (_, missing) => {
  const client = new StageClient(stage, 'HTTP/1.1', '10');
  const uploads = [
    await client.place({ target: '/a', length: 10 }),
    await client.place({ target: '/b', length: 10 }),
    await client.place({ target: '/without-bytes', length: 10 }),
  ];
  for (const upload of uploads.slice(0, 2)) await upload.append(Buffer.from('hello'), { offset: 0, complete: false });
  const { data } = stage.app;
  const statusOf = async ({ target }: { target: string }) =>
    (await client.send({ method: 'HEAD', target, headers: versionLines(client.dialect) })).status;
  await stage.restart();
  expect(await told()).toEqual(QUIET);
  await stage.app.stop();
  const logs = uploads.slice(0, missing).map(({ target }) => `${target.split('/').at(-1)!}.log`);
  for (const log of logs) await rename(join(data, 'uploads', log), join(data, '..', log));
  for (let starts = 0; starts < 2; starts++) {
    await stage.restart();
    expect(await told()).toEqual({
      ready: 200,
      check: { name: 'unknown uploads', ok: false, problem: expect.stringContaining('copy the whole directory') },
      list: expect.objectContaining({ uploads: missing, bytes: 5 * missing }),
      metrics: [missing, 5 * missing],
      logged: 1,
    });
    expect(await Promise.all(uploads.map(statusOf))).toEqual([404, missing === 2 ? 404 : 204, 204]);
    await stage.app.stop();
  }
  for (const log of logs) await rename(join(data, '..', log), join(data, 'uploads', log));
  await stage.restart();
  expect(await told()).toEqual(QUIET);
  expect(await Promise.all(uploads.map(statusOf))).toEqual([204, 204, 204]);
  expect((await readdir(join(data, 'spool'))).filter((name) => !name.startsWith('.'))).toHaveLength(2);
});
