import { mkdir, readdir, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { TestApp } from '../support/app.js';
import { requestOnce } from '../support/raw-client.js';
import type { ResumableUpload } from '../support/resumable-client.js';
import { LONG_AGO, SpoolStage } from '../support/spool-stage.js';
import { until } from '../support/temporary.js';

// Issue 4: a node that looks at the wrong Redis, database or prefix does not take the others' spool.
const SHARED = 'spool: { shared: true }';

let stage: SpoolStage;
beforeEach(async () => void (stage = await SpoolStage.open()));
afterEach(() => stage.close());

async function begin(app: TestApp): Promise<ResumableUpload> {
  const upload = await stage.create(app);
  await upload.append(Buffer.from('half'), { offset: 0, complete: false });
  return upload;
}

/** Long ago, and as a node does it: whoever reads it meanwhile finds it whole. */
async function markAs(text: string): Promise<void> {
  await writeFile(stage.pathOf('.store-by-test'), text);
  await utimes(stage.pathOf('.store-by-test'), LONG_AGO, LONG_AGO);
  await rename(stage.pathOf('.store-by-test'), stage.pathOf('.store'));
}

describe('a start with a Redis that is empty, on a spool that running nodes use', () => {
  test.each([
    ['another prefix', { prefix: 'ruhf', database: 0 }],
    ['another database', { prefix: 'rufh', database: 3 }],
  ])('is refused, changes nothing and leaves nothing in Redis: %s', async (_, wrong) => {
    const app = await stage.start(SHARED);
    const upload = await begin(app);
    const before = await stage.mark();
    const refused = await stage.start(SHARED, wrong).catch((error: unknown) => (error as Error).message);
    expect(refused).toContain(`the spool in ${stage.data} is used right now by nodes of another store`);
    expect(refused).toContain(`database ${wrong.database}, store.prefix ${wrong.prefix}`);
    expect(refused).toContain('correct store.url (its address and database) or store.prefix');
    expect(refused).toContain(stage.pathOf('.store'));
    expect(await stage.mark()).toBe(before);
    expect(await stage.redis.cli('--scan', '--pattern', '{ruhf*')).toBe('');
    expect(await stage.redis.cli('-n', '3', 'dbsize')).toBe('0');
    expect(await upload.offset()).toBe(4);
    await stage.stopApps();
    await stage.start(SHARED);
  });
});

test('a Redis that has lost everything while no node ran is used without anybody asked', async () => {
  const lost = await begin(await stage.start(SHARED));
  await stage.stopApps();
  await stage.redis.cli('flushall');
  const app = await stage.start(SHARED);
  expect(app.log).toContainEqual(
    expect.objectContaining({ msg: expect.stringContaining('has no data, but the spool') }),
  );
  expect(app.log).toContainEqual(expect.objectContaining({ msg: expect.stringContaining('their uploads are lost') }));
  expect(await readdir(stage.pathOf(lost.target.split('/').at(-1)!))).not.toEqual([]);
  expect(await (await begin(app)).offset()).toBe(4);
});

describe.each([
  ['all nodes share', SHARED],
  ['one node has', ''],
])('a spool that %s', (_, config) => {
  test('that was taken over by mistake is given back as the refusal says', async () => {
    const upload = await begin(await stage.start(config));
    const own = await stage.mark();
    await stage.stopApps();
    if (config === SHARED) await stage.forgetUse();
    await stage.start(config, { prefix: 'ruhf' });
    expect(await stage.mark()).not.toBe(own);
    await stage.stopApps();
    const refused = await stage.start(config).catch((error: unknown) => (error as Error).message);
    expect(refused).toContain(`with \`echo ${own.trim()} > ${stage.pathOf('.store')}\``);
    await writeFile(stage.pathOf('.store'), own);
    const app = await stage.start(config);
    const sent = await requestOnce(app.url, {
      method: 'HEAD',
      target: upload.target,
      headers: [['Upload-Draft-Interop-Version', '8']],
    });
    expect(sent.status).toBe(204);
  });
});

test('a node notes its name a second time, also that of an earlier version, and keeps it with every start', async () => {
  const upload = await begin(await stage.start(''));
  await stage.stopApps();
  const path = join(stage.data, 'rufh-proxy.json');
  const mark = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  const name = await readFile(join(stage.data, 'node'), 'utf8');
  expect(mark['node']).toBe(name);
  await writeFile(path, JSON.stringify({ ...mark, node: undefined }));
  await stage.start('');
  await stage.stopApps();
  expect(JSON.parse(await readFile(path, 'utf8'))).toEqual(mark);
  await rm(join(stage.data, 'node'));
  await expect(stage.start('')).rejects.toThrow(`printf %s ${name} > `);
  await writeFile(join(stage.data, 'node'), name);
  const app = await stage.start('');
  const { status } = await requestOnce(app.url, {
    method: 'HEAD',
    target: upload.target,
    headers: [['Upload-Draft-Interop-Version', '8']],
  });
  expect(status).toBe(204);
});

test('a node whose spool was marked for another store says so once, and removes no orphans', async () => {
  const app = await stage.start(`${SHARED}\nlimits: { max_age: 2s }`);
  const orphan = 'A'.repeat(32);
  await mkdir(stage.pathOf(orphan));
  await writeFile(join(stage.pathOf(orphan), 'chunk-1'), 'bytes');
  await utimes(join(stage.pathOf(orphan), 'chunk-1'), LONG_AGO, LONG_AGO);
  const own = await stage.mark();
  await markAs('somebody-else\n');
  const said = () =>
    app.log.filter(({ level, msg }) => level === 'error' && String(msg).includes('belongs to another store now'));
  await until(() => said().length > 0, 'the log to say it', 30_000);
  expect(said()).toEqual([expect.objectContaining({ msg: expect.stringContaining(stage.pathOf('.store')) })]);
  expect(await readdir(stage.pathOf(orphan))).toEqual(['chunk-1']);
  await markAs(own);
  await until(
    async () => (await readdir(stage.pathOf(orphan)).catch(() => [])).length === 0,
    'orphans to be removed',
    80_000,
  );
  expect(said()).toHaveLength(1);
});
