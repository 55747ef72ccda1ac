import {
  chmod,
  chown,
  cp,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  unlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { requestOnce } from '../support/client.js';
import { DiskProxies, LONG_AGO } from '../support/disk-proxies.js';
import { pictureOf } from '../support/disk.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import { clientDialect, type ResumableUpload, versionLines } from '../support/resumable-client.js';
import { until } from '../support/temporary.js';
import type { TestApp } from '../support/test-proxy.js';
import { storedIdOf } from '../support/stored-id.js';

let redis: RedisServer;
beforeAll(async () => void (redis = await startRedis()));
afterAll(() => redis.stop());

describe('wrong directories', () => {
  // Issue 8: a start on a directory that is not its own is refused with the reason, and changes nothing.
  let proxies: DiskProxies;
  beforeEach(async () => void (proxies = await DiskProxies.open(redis)));
  afterEach(() => proxies.close());

  const SHARED = 'spool: { shared: true }';

  const STARTS = {
    // A history is written a moment later, and changes the directory.
    embedded: () => proxies.startEmbedded('history: { keep: 0s }'),
    shared: () => proxies.start(SHARED),
    local: () => proxies.start(''),
    'shared, other prefix': () => proxies.start(SHARED, { prefix: 'ruhf' }),
    'local, other prefix': () => proxies.start('', { prefix: 'ruhf' }),
    'shared, other database': () => proxies.start(SHARED, { database: 3 }),
  } as const;

  type Start = keyof typeof STARTS;

  async function begin(start: Start): Promise<{ app: TestApp; upload: ResumableUpload }> {
    const app = await STARTS[start]();
    const upload = await proxies.create(app);
    await upload.append(Buffer.from('half'), { offset: 0, complete: false });
    return { app, upload };
  }

  async function offsetIn(app: TestApp, { target }: ResumableUpload): Promise<string | undefined> {
    const sent = await requestOnce(app.url, { method: 'HEAD', target, headers: versionLines(clientDialect('10')) });
    return sent.header('upload-offset');
  }

  async function refusalOf(start: Start): Promise<string> {
    const before = await pictureOf(proxies.data);
    const outcome = await STARTS[start]().then(
      () => 'it was served',
      (error: unknown) => (error as Error).message,
    );
    expect(await pictureOf(proxies.data)).toEqual(before);
    return outcome;
  }

  const inData = (...names: string[]): string => join(proxies.data, ...names);

  /** As a version before the marks left it. */
  async function forgetMarks(of: Start): Promise<void> {
    await rm(inData('rufh-proxy.json'));
    if (of === 'embedded') for (const half of ['uploads', 'spool']) await rm(inData(half, '.store'));
  }

  async function nameOfUpload(): Promise<string> {
    return (await readdir(inData('spool'))).find((name) => !name.startsWith('.'))!;
  }

  describe.each<[of: Start, marks: string, starts: Start[], reason: string]>([
    ['shared', 'present', ['embedded'], 'belongs to nodes with Redis, and this start has the embedded store'],
    ['local', 'present', ['embedded'], 'belongs to nodes with Redis'],
    ['shared', 'of an earlier version', ['embedded'], 'belongs to nodes with Redis'],
    ['local', 'of an earlier version', ['embedded'], 'belongs to nodes with Redis'],
    ['embedded', 'present', ['shared', 'local', 'shared, other prefix'], 'belongs to the embedded store'],
    ['embedded', 'of an earlier version', ['shared', 'local'], 'belongs to the embedded store'],
  ])('a directory of the store "%s", marks %s', (of, marks, starts, reason) => {
    test.each(['running', 'stopped'])('%s: is not for another kind of store', async (state) => {
      const { app, upload } = await begin(of);
      if (marks !== 'present') await forgetMarks(of);
      if (state === 'stopped') await proxies.stopApps();
      for (const start of starts) expect(await refusalOf(start)).toContain(reason);
      expect(await offsetIn(state === 'running' ? app : await STARTS[of](), upload)).toBe('4');
    });
  });

  test.each<[of: Start, other: Start]>([
    ['shared', 'shared, other prefix'],
    ['shared', 'shared, other database'],
    ['local', 'local, other prefix'],
  ])('a directory of the store "%s" is not for "%s", which has data of its own', async (of, other) => {
    const { data } = proxies;
    await proxies.useDirectory('other', () => begin(other));
    await proxies.stopApps();
    const { app, upload } = await begin(of);
    if (of === 'local') await proxies.stopApps();
    expect(await refusalOf(other)).toContain(data);
    expect(await offsetIn(of === 'local' ? await STARTS[of]() : app, upload)).toBe('4');
  });

  test.each<Start>(['embedded', 'shared', 'local'])('an earlier version’s directory is adopted: %s', async (of) => {
    const { upload } = await begin(of);
    await proxies.stopApps();
    await forgetMarks(of);
    const app = await STARTS[of]();
    expect(await offsetIn(app, upload)).toBe('4');
    const mark = JSON.parse(await readFile(inData('rufh-proxy.json'), 'utf8')) as object;
    const id = (await proxies.mark()).trim();
    const node = of === 'local' ? { node: await readFile(inData('node'), 'utf8') } : {};
    expect(mark).toEqual({ format: 1, store: of === 'embedded' ? 'embedded' : 'redis', id, complete: true, ...node });
    await proxies.stopApps();
    expect(await offsetIn(await STARTS[of](), upload)).toBe('4');
  });

  interface Damage {
    readonly name: string;
    readonly of: readonly Start[];
    readonly damage: () => Promise<unknown>;
    readonly reason: string;
  }

  const away = (...names: string[]) =>
    rename(inData(...names), join(proxies.data, '..', `${names.join('-')}-away-${Date.now()}`));

  const DAMAGES: readonly Damage[] = [
    {
      name: 'a newer format',
      of: ['embedded', 'shared', 'local'],
      damage: async () => {
        const text = await readFile(inData('rufh-proxy.json'), 'utf8');
        await writeFile(inData('rufh-proxy.json'), text.replace('"format":1', '"format":2'));
      },
      reason: 'was written in format 2 by a newer version of this program',
    },
    {
      name: 'half a mark',
      of: ['embedded', 'shared', 'local'],
      damage: () => writeFile(inData('rufh-proxy.json'), '{"format":1,"sto'),
      reason: 'does not say what the directory is: restore it from a backup',
    },
    { name: 'no spool', of: ['embedded', 'shared', 'local'], damage: () => away('spool'), reason: '/spool is missing' },
    { name: 'no records', of: ['embedded'], damage: () => away('uploads'), reason: '/uploads is missing' },
    {
      name: 'an empty place in place of its spool',
      of: ['embedded', 'shared', 'local'],
      damage: async () => {
        await away('spool');
        await mkdir(inData('spool'), { mode: 0o700 });
      },
      reason: 'it has no .store',
    },
    {
      name: 'the spool of another directory',
      of: ['embedded'],
      damage: () => writeFile(inData('spool', '.store'), 'somebody-else\n'),
      reason: 'belongs to another data directory',
    },
    {
      name: 'bytes without any mark',
      of: ['embedded', 'shared', 'local'],
      damage: async () => {
        for (const name of await readdir(proxies.data)) if (name !== 'spool') await away(name);
        await rm(inData('spool', '.store'));
      },
      reason: 'bytes of uploads in spool, but nothing that identifies their store',
    },
    {
      name: 'records without any mark and spool',
      of: ['embedded'],
      damage: async () => {
        await forgetMarks('embedded');
        await away('spool');
      },
      reason: 'has records in uploads, but no spool',
    },
    {
      name: 'a link in place of its spool',
      of: ['embedded', 'shared', 'local'],
      damage: async () => {
        await cp(inData('spool'), join(proxies.data, '..', 'elsewhere'), { recursive: true });
        await away('spool');
        await symlink('../elsewhere', inData('spool'));
      },
      reason: 'holds a symbolic link',
    },
    {
      name: 'a link in place of a chunk',
      of: ['embedded', 'local'],
      damage: async () => {
        const chunk = inData('spool', await nameOfUpload(), 'chunk-link');
        await symlink('/etc/passwd', chunk);
      },
      reason: 'holds a symbolic link',
    },
    {
      name: 'a link among its records',
      of: ['embedded'],
      damage: () => symlink('/etc/passwd', inData('uploads', `${'A'.repeat(32)}.log`)),
      reason: 'holds a symbolic link',
    },
    ...['.', 'spool'].map((name) => ({
      name: `rights for every user (${name})`,
      of: ['embedded', 'shared', 'local'] as const,
      damage: () => chmod(inData(name), 0o777),
      reason: 'can be written by every user: chmod o-w',
    })),
    {
      name: 'rights for its group',
      of: ['embedded', 'local'],
      damage: () => chmod(proxies.data, 0o770),
      reason: 'can be written by its group: chmod g-w',
    },
    // Only root may give files away, as tests in containers run.
    ...(process.getuid?.() === 0 ? [anotherOwner()] : []),
  ];

  function anotherOwner(): Damage {
    return {
      name: 'another owner',
      of: ['embedded', 'local'],
      damage: () => chown(proxies.data, 12_345, 12_345),
      reason: 'belongs to the user 12345, and this process runs as 0',
    };
  }

  describe.each(DAMAGES)('a directory with $name is refused, and stays as it is', ({ of, damage, reason }) => {
    test.each([...of])('%s', async (start) => {
      await begin(start);
      await proxies.stopApps();
      await damage();
      expect(await refusalOf(start)).toContain(reason);
    });
  });

  describe('a directory with files of somebody else', () => {
    test.each<Start>(['embedded', 'shared', 'local'])(
      'is refused while nothing of ours is in it: %s',
      async (start) => {
        await mkdir(inData('.git'));
        await writeFile(inData('letter.txt'), 'dear');
        const reason = await refusalOf(start);
        expect(reason).toMatch(
          /is not empty \((\.git, letter\.txt|letter\.txt, \.git)\) and contains nothing of this program/,
        );
        expect(reason).toContain(`--data ${proxies.data}/`);
      },
    );

    test.each<Start>(['embedded', 'local'])('is served once it is ours, and they stay: %s', async (start) => {
      await mkdir(inData('lost+found'));
      const { upload } = await begin(start);
      await writeFile(inData('letter.txt'), 'dear');
      await mkdir(inData('spool', 'lost+found'));
      await proxies.stopApps();
      expect(await offsetIn(await STARTS[start](), upload)).toBe('4');
      expect(await readFile(inData('letter.txt'), 'utf8')).toBe('dear');
      expect(await readdir(inData('spool'))).toContain('lost+found');
    });
  });

  test.each<Start>(['embedded', 'shared', 'local'])('a data directory may be reached by a link: %s', async (start) => {
    const { upload } = await begin(start);
    await proxies.stopApps();
    const place = `${proxies.data}-place`;
    await rename(proxies.data, place);
    await symlink(place, proxies.data);
    expect(await offsetIn(await STARTS[start](), upload)).toBe('4');
    await proxies.stopApps();
    await unlink(proxies.data);
    await rename(place, proxies.data);
  });

  test('a first start that was killed between its marks is finished by the next one', async () => {
    const { upload } = await begin('embedded');
    await proxies.stopApps();
    const mark = await readFile(inData('rufh-proxy.json'), 'utf8');
    for (const lost of [['uploads', 'spool'], ['spool'], []]) {
      await writeFile(inData('rufh-proxy.json'), mark.replace('true', 'false'));
      for (const half of lost) await rm(inData(half, '.store'));
      expect(await offsetIn(await STARTS.embedded(), upload)).toBe('4');
      await proxies.stopApps();
      expect(await readFile(inData('rufh-proxy.json'), 'utf8')).toBe(mark);
    }
  });

  test('starts of both kinds at once on a new directory: one kind has it, and the other is refused', async () => {
    const starts = await Promise.allSettled([STARTS.embedded(), STARTS.shared(), STARTS.shared()]);
    const { store } = JSON.parse(await readFile(inData('rufh-proxy.json'), 'utf8')) as { store: string };
    const served = starts.map(({ status }) => status === 'fulfilled');
    expect(served).toEqual(store === 'embedded' ? [true, false, false] : [false, true, true]);
  });

  test('files of an upload that nobody knows survive a start', async () => {
    await begin('embedded');
    await proxies.stopApps();
    const orphan = inData('spool', 'B'.repeat(32));
    await mkdir(orphan);
    await writeFile(join(orphan, 'chunk-1'), 'bytes');
    await STARTS.embedded();
    expect(await readdir(orphan)).toEqual(['chunk-1']);
  });
});

describe('spools of another store', () => {
  // Issue 4: a node that looks at the wrong Redis, database or prefix does not take the others' spool.
  const SHARED = 'spool: { shared: true }';

  let proxies: DiskProxies;
  beforeEach(async () => void (proxies = await DiskProxies.open(redis)));
  afterEach(() => proxies.close());

  async function begin(app: TestApp): Promise<ResumableUpload> {
    const upload = await proxies.create(app);
    await upload.append(Buffer.from('half'), { offset: 0, complete: false });
    return upload;
  }

  /** Long ago, and as a node does it: whoever reads it meanwhile finds it whole. */
  async function markAs(text: string): Promise<void> {
    await writeFile(proxies.pathOf('.store-by-test'), text);
    await utimes(proxies.pathOf('.store-by-test'), LONG_AGO, LONG_AGO);
    await rename(proxies.pathOf('.store-by-test'), proxies.pathOf('.store'));
  }

  describe('a start with a Redis that is empty, on a spool that running nodes use', () => {
    test.each([
      ['another prefix', { prefix: 'ruhf', database: 0 }],
      ['another database', { prefix: 'rufh', database: 3 }],
    ])('is refused, changes nothing and leaves nothing in Redis: %s', async (_, wrong) => {
      const app = await proxies.start(SHARED);
      const upload = await begin(app);
      const before = await proxies.mark();
      const refused = await proxies.start(SHARED, wrong).catch((error: unknown) => (error as Error).message);
      expect(refused).toContain(`the spool in ${proxies.data} is used right now by nodes of another store`);
      expect(refused).toContain(`database ${wrong.database}, store.prefix ${wrong.prefix}`);
      expect(refused).toContain('correct store.url (its address and database) or store.prefix');
      expect(refused).toContain(proxies.pathOf('.store'));
      expect(await proxies.mark()).toBe(before);
      expect(await proxies.redis.cli('--scan', '--pattern', '{ruhf*')).toBe('');
      expect(await proxies.redis.cli('-n', '3', 'dbsize')).toBe('0');
      expect(await upload.offset()).toBe(4);
      await proxies.stopApps();
      await proxies.start(SHARED);
    });
  });

  test('a Redis that has lost everything while no node ran is used without anybody asked', async () => {
    const lost = await begin(await proxies.start(SHARED));
    await proxies.stopApps();
    await proxies.redis.cli('flushall');
    const app = await proxies.start(SHARED);
    expect(app.log).toContainEqual(
      expect.objectContaining({ msg: expect.stringContaining('has no data, but the spool') }),
    );
    expect(app.log).toContainEqual(expect.objectContaining({ msg: expect.stringContaining('their uploads are lost') }));
    expect(await readdir(proxies.pathOf(storedIdOf(lost.target)))).not.toEqual([]);
    expect(await (await begin(app)).offset()).toBe(4);
  });

  describe.each([
    ['all nodes share', SHARED],
    ['one node has', ''],
  ])('a spool that %s', (_, config) => {
    test('that was taken over by mistake is given back as the refusal says', async () => {
      const upload = await begin(await proxies.start(config));
      const own = await proxies.mark();
      await proxies.stopApps();
      if (config === SHARED) await proxies.forgetUse();
      await proxies.start(config, { prefix: 'ruhf' });
      expect(await proxies.mark()).not.toBe(own);
      await proxies.stopApps();
      const refused = await proxies.start(config).catch((error: unknown) => (error as Error).message);
      expect(refused).toContain(`with \`echo ${own.trim()} > ${proxies.pathOf('.store')}\``);
      await writeFile(proxies.pathOf('.store'), own);
      const app = await proxies.start(config);
      const sent = await requestOnce(app.url, {
        method: 'HEAD',
        target: upload.target,
        headers: [['Upload-Draft-Interop-Version', '8']],
      });
      expect(sent.status).toBe(204);
    });
  });

  test('a node notes its name a second time, also that of an earlier version, and keeps it with every start', async () => {
    const upload = await begin(await proxies.start(''));
    await proxies.stopApps();
    const path = join(proxies.data, 'rufh-proxy.json');
    const mark = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
    const name = await readFile(join(proxies.data, 'node'), 'utf8');
    expect(mark['node']).toBe(name);
    await writeFile(path, JSON.stringify({ ...mark, node: undefined }));
    await proxies.start('');
    await proxies.stopApps();
    expect(JSON.parse(await readFile(path, 'utf8'))).toEqual(mark);
    await rm(join(proxies.data, 'node'));
    await expect(proxies.start('')).rejects.toThrow(`printf %s ${name} > `);
    await writeFile(join(proxies.data, 'node'), name);
    const app = await proxies.start('');
    const { status } = await requestOnce(app.url, {
      method: 'HEAD',
      target: upload.target,
      headers: [['Upload-Draft-Interop-Version', '8']],
    });
    expect(status).toBe(204);
  });

  test('a node whose spool was marked for another store says so once, and removes no orphans', async () => {
    const app = await proxies.start(`${SHARED}\nlimits: { max_age: 2s }`);
    const orphan = 'A'.repeat(32);
    await mkdir(proxies.pathOf(orphan));
    await writeFile(join(proxies.pathOf(orphan), 'chunk-1'), 'bytes');
    await utimes(join(proxies.pathOf(orphan), 'chunk-1'), LONG_AGO, LONG_AGO);
    const own = await proxies.mark();
    await markAs('somebody-else\n');
    const said = () =>
      app.log.filter(({ level, msg }) => level === 'error' && String(msg).includes('belongs to another store now'));
    await until(() => said().length > 0, 'the log to say it', 30_000);
    expect(said()).toEqual([expect.objectContaining({ msg: expect.stringContaining(proxies.pathOf('.store')) })]);
    expect(await readdir(proxies.pathOf(orphan))).toEqual(['chunk-1']);
    await markAs(own);
    await until(
      async () => (await readdir(proxies.pathOf(orphan)).catch(() => [])).length === 0,
      'orphans to be removed',
      80_000,
    );
    expect(said()).toHaveLength(1);
  });
});
