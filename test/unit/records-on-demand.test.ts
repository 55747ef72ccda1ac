import { appendFile, readFile, rename, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { type FileSystem, nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import { PLAIN_DIALECT, type Phase, type Upload } from '../../src/model/upload.js';
import { createLog, uploadTag } from '../../src/observe/log.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import type { RecoveryDecision } from '../../src/store/upload-store.js';
import { answer, attempt, HOUR, newId, newUpload } from '../contract/sample-upload.js';
import { temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';

/** Decision 34: the record of an upload is read when it is needed. */
let directory: TemporaryDirectory;
let store: EmbeddedStore;
let logged: Record<string, unknown>[];
let lost: string[];
/** The ids of the uploads whose bytes were looked at. */
let checked: string[];
let decision: (id: string) => RecoveryDecision | Promise<RecoveryDecision>;
/** Opened record files since the last look, each by its id. */
let opened: string[];
let failing: { readonly id: string; readonly code: string } | undefined;

const expiresAt = Date.now() + HOUR;
const logOf = (id: string): string => join(directory.path, 'uploads', `${id}.log`);
const idIn = (path: string): string => /([A-Za-z0-9_-]{32})\.log$/.exec(path)?.[1] ?? '';

const watched: FileSystem = {
  ...nodeFileSystem,
  open: (path, flags, mode) => {
    const id = idIn(path);
    if (id !== '' && flags === 'r') opened.push(id);
    if (id === '' || flags !== 'r' || failing?.id !== id) return nodeFileSystem.open(path, flags, mode);
    const { code } = failing;
    return Promise.reject(Object.assign(new Error(`${code}: open '${path}'`), { code, syscall: 'open' }));
  },
};

async function open(maxCachedBytes?: number): Promise<EmbeddedStore> {
  const log = createLog({
    level: 'info',
    format: 'json',
    destination: { write: (line) => void logged.push(JSON.parse(line) as Record<string, unknown>) },
  });
  const onLoss = ({ id }: Upload): void => void lost.push(id);
  store = await EmbeddedStore.open({ directory: directory.path, sync: 'group', log, onLoss, maxCachedBytes });
  store.recoverWith(async ({ upload: { id } }) => {
    checked.push(id);
    return decision(id);
  });
  return store;
}

async function restart(maxCachedBytes?: number): Promise<void> {
  await store.close();
  await open(maxCachedBytes);
  checked = [];
  opened = [];
}

async function created(bytes = 5, more: Parameters<typeof newUpload>[0] = {}): Promise<string> {
  const { id } = await store.create(newUpload({ expiresAt, ...more }));
  if (bytes > 0) await store.commit(id, { token: 1, chunk: { name: 'chunk-1', start: 0, size: bytes }, expiresAt });
  return id;
}

async function whole(): Promise<string> {
  const id = await created();
  await store.commit(id, { token: 1, complete: {}, expiresAt });
  return id;
}

async function claimed(): Promise<string> {
  const id = await whole();
  await store.claimDelivery(id, 'w', Date.now() + HOUR);
  await store.beginAttempt(id, 'w', attempt(1));
  return id;
}

async function listed(): Promise<string[]> {
  const ids: string[] = [];
  for (let after: string | undefined, first = true; first || after !== undefined; first = false) {
    const page = await store.list(after, 7);
    ids.push(...page.uploads.map(({ id }) => id));
    after = page.next;
  }
  return ids;
}

beforeEach(async () => {
  directory = await temporaryDirectory();
  logged = [];
  lost = [];
  checked = [];
  opened = [];
  failing = undefined;
  decision = () => 'show';
  useFileSystem(watched);
  await open();
});
afterEach(async () => {
  await store.close();
  useFileSystem();
  await directory.remove();
});

const PHASES: readonly [phase: Phase, make: () => Promise<string>, needsBytes: boolean][] = [
  ['receiving', () => created(), true],
  ['complete', whole, true],
  ['delivering', claimed, true],
  [
    'undelivered',
    async () => {
      const id = await claimed();
      await store.giveUp(id, 'w', { reason: 'unreachable', problem: 'x' });
      return id;
    },
    true,
  ],
  [
    'answered',
    async () => {
      const id = await claimed();
      await store.recordAnswer(id, 'w', { answer: answer(2), body: Buffer.from('ok'), expiresAt });
      return id;
    },
    false,
  ],
  [
    'cancelled',
    async () => {
      const id = await created();
      await store.cancel(id);
      return id;
    },
    false,
  ],
  [
    'invalid',
    async () => {
      const id = await created();
      await store.invalidate(id, 1);
      return id;
    },
    false,
  ],
];

const USES: readonly [use: string, task: (id: string) => Promise<unknown>][] = [
  ['a request for its state', (id) => store.get(id)],
  ['a lease', (id) => store.nextToken(id)],
  ['an append', (id) => store.commit(id, { token: 2, expiresAt })],
  ['a cancellation', (id) => store.cancel(id)],
  ['a delivery', (id) => store.claimDelivery(id, 'other', Date.now() + HOUR)],
  ['a client that waits', (id) => store.waitUntilSettled(id, AbortSignal.timeout(50)).catch(() => undefined)],
  ['its chunks', (id) => store.chunks(id)],
  ['its answer', (id) => store.answerBody(id)],
  ['a list', listed],
  ['an operator', (id) => store.index.read(id)],
  ['the background', () => store.recoverRest()],
];

describe('an upload that the start finds', () => {
  test.each(PHASES)('is counted, found and due as before, without a second look at its record: %s', async (...row) => {
    const [phase, make] = row;
    const id = await make();
    const before = await store.totals();
    await restart();
    expect(await store.totals()).toEqual(before);
    expect(before.phases).toEqual({ [phase]: 1 });
    const isOver = phase === 'cancelled' || phase === 'invalid';
    expect(await store.expired(Date.now())).toEqual(isOver ? [id] : []);
    expect(await store.expired(expiresAt)).toEqual([id]);
    const isDue = phase === 'complete' || phase === 'delivering';
    expect(await store.dueDeliveries(Date.now())).toEqual(isDue ? [id] : []);
    expect([opened, checked]).toEqual([[], []]);
  });

  test.each(
    PHASES.flatMap(([phase, make, needs]) => USES.map(([use, task]) => [phase, use, make, needs, task] as const)),
  )('%s is compared with its bytes before %s', async (...row) => {
    const [, , make, needsBytes, task] = row;
    const id = await make();
    await restart();
    let isChecked = !needsBytes;
    let usedEarly = false;
    decision = async (): Promise<RecoveryDecision> => {
      await new Promise((resolve) => setImmediate(resolve));
      isChecked = true;
      return 'show';
    };
    const use = task(id).then(() => void (usedEarly = !isChecked));
    await use;
    expect(usedEarly).toBe(false);
    expect(checked).toEqual(needsBytes ? [id] : []);
    await Promise.all(USES.map(([, again]) => again(id)));
    expect(checked).toHaveLength(needsBytes ? 1 : 0);
  });

  test.each(USES)('and whose bytes are missing is given up before %s', async (use, task) => {
    const id = await created();
    const bytes = await readFile(logOf(id));
    await restart();
    decision = () => 'give-up';
    await task(id);
    if (use !== 'a cancellation') {
      expect(await store.get(id)).toMatchObject({ phase: 'invalid', lost: true });
      expect(await readFile(logOf(id))).toEqual(bytes);
      expect([await store.expired(Date.now()), await store.expired(expiresAt)]).toEqual([[], [id]]);
      expect(await store.commit(id, { token: Number.MAX_SAFE_INTEGER, expiresAt })).toBe('gone');
    } else expect(await store.get(id)).toMatchObject({ phase: 'cancelled' });
    expect(checked).toEqual([id]);
    // The record says nothing of it, so the next start looks again.
    await restart();
    decision = () => 'show';
    expect(await store.get(id)).toMatchObject({ phase: use === 'a cancellation' ? 'cancelled' : 'receiving' });
  });

  test.each(USES)('and that nobody can continue is removed before %s', async (_, task) => {
    const id = newId();
    await store.createUnlessKeyUsed({ ...newUpload({ id, dialect: PLAIN_DIALECT, expiresAt }), clientKey: 'a key' });
    await restart();
    expect(await store.idByClientKey('a key')).toBe(id);
    decision = () => 'remove';
    await task(id);
    expect([await store.get(id), await listed(), await store.totals()]).toEqual([
      undefined,
      [],
      { phases: {}, bytes: 0, reservedBytes: 0 },
    ]);
    expect(await store.idByClientKey('a key')).toBeUndefined();
    await expect(stat(logOf(id))).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test('and whose removal fails halfway is removed the next time', async () => {
    const id = await created(5, { dialect: PLAIN_DIALECT });
    await restart();
    decision = () => 'remove';
    useFileSystem({
      ...watched,
      fsync: () => Promise.reject(Object.assign(new Error('EIO'), { code: 'EIO', syscall: 'fsync' })),
    });
    await expect(store.get(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    await expect(stat(logOf(id))).rejects.toMatchObject({ code: 'ENOENT' });
    useFileSystem(watched);
    expect([await store.get(id), await store.setAsideRecords()]).toEqual([undefined, []]);
    expect(await store.totals()).toEqual({ phases: {}, bytes: 0, reservedBytes: 0 });
    await restart();
    expect(await listed()).toEqual([]);
  });

  test('is not shown while its bytes cannot be looked at, and keeps no other from being shown', async () => {
    const [id, other] = [await created(), await created()];
    await restart();
    decision = async (each): Promise<RecoveryDecision> => {
      if (each === id) await nodeFileSystem.readdir(join(directory.path, 'nowhere'));
      return 'show';
    };
    await store.recoverRest();
    await expect(store.get(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(await store.setAsideRecords()).toMatchObject([{ id, state: 'unreadable' }]);
    expect(logged).toEqual([expect.objectContaining({ level: 'error', upload: uploadTag(id) })]);
    expect([await listed(), await store.get(other)]).toMatchObject([[other], { offset: 5 }]);
    expect([await store.expired(expiresAt), await store.totals()]).toMatchObject([[other], { bytes: 10 }]);
    decision = () => 'show';
    expect(await store.get(id)).toMatchObject({ offset: 5 });
    expect([await store.setAsideRecords(), (await listed()).sort()]).toEqual([[], [id, other].sort()]);
  });

  test('with a torn line, which stays in memory from the start on, is compared all the same', async () => {
    const id = await created();
    await appendFile(logOf(id), 'torn');
    await restart();
    decision = () => 'give-up';
    expect(await store.get(id)).toMatchObject({ phase: 'invalid', lost: true });
    expect([checked, opened]).toEqual([[id], []]);
  });

  test('without a byte needs no comparison, unless the spool has a directory of it', async () => {
    const [id, spooled] = [await created(0), await created(0)];
    await restart();
    expect([store.noteSpooled(spooled), store.noteSpooled(newId())]).toEqual([true, false]);
    await store.recoverRest();
    expect(checked).toEqual([spooled]);
    expect(await store.get(id)).toMatchObject({ offset: 0 });
  });

  test('is read when a request comes, however many others the background has before it', async () => {
    const ids: string[] = [];
    for (let count = 0; count < 20; count++) ids.push(await created());
    await restart();
    let goOn: () => void = () => undefined;
    const first = new Promise<void>((resolve) => (goOn = resolve));
    decision = () => (checked.length === 1 ? first.then(() => 'show' as const) : 'show');
    const rest = store.recoverRest();
    await until(() => checked.length === 1, 'the background to begin');
    const last = ids.filter((id) => !checked.includes(id)).at(-1)!;
    expect(await store.get(last)).toMatchObject({ offset: 5 });
    expect(checked).toHaveLength(2);
    goOn();
    await rest;
    expect(checked.sort()).toEqual(ids.sort());
  });

  test('is left to the next start when the store is closed first', async () => {
    const ids = [await created(), await created(), await created()];
    await restart();
    decision = async (): Promise<RecoveryDecision> => {
      await new Promise((resolve) => setImmediate(resolve));
      return 'show';
    };
    const rest = store.recoverRest();
    await store.close();
    expect(await rest).toBe(false);
    expect(checked.length).toBeLessThan(ids.length);
    await open();
    await store.recoverRest();
    expect(new Set(checked)).toEqual(new Set(ids));
  });
});

describe('a record that is not in memory', () => {
  test('is read for each use, the others are not', async () => {
    const ids: string[] = [];
    for (let count = 0; count < 10; count++) ids.push(await created());
    await restart(4000);
    for (const id of ids) await store.get(id);
    opened = [];
    expect(await store.get(ids.at(-1)!)).toMatchObject({ offset: 5 });
    expect(opened).toEqual([]);
    expect(await store.get(ids[0]!)).toMatchObject({ offset: 5 });
    expect(opened).toEqual([ids[0]]);
  });

  test('stays certain: reading it again writes nothing', async () => {
    await store.close();
    await open(0);
    const id = await created();
    await store.get(id);
    const { ino, mtimeMs } = await stat(logOf(id));
    opened = [];
    for (let times = 0; times < 3; times++) expect(await store.get(id)).toMatchObject({ offset: 5 });
    expect(opened).toHaveLength(3);
    expect(await stat(logOf(id))).toMatchObject({ ino, mtimeMs });
  });

  test('leaves the token of a lease valid that no commit has used', async () => {
    await store.close();
    await open(0);
    const id = await created();
    const [older, newer] = [await store.nextToken(id), await store.nextToken(id)];
    expect(await store.commit(id, { token: older, expiresAt })).toBe('stale');
    expect(await store.commit(id, { token: newer, expiresAt })).toMatchObject({ offset: 5 });
  });

  test('does not lose a claim, nor the change that waits for its attempt', async () => {
    await store.close();
    await open(0);
    const id = await whole();
    await store.claimDelivery(id, 'w', Date.now() + HOUR);
    opened = [];
    expect(await store.dueDeliveries(Date.now())).toEqual([]);
    expect(await store.claimDelivery(id, 'other', Date.now() + HOUR)).toBeUndefined();
    expect(await store.beginAttempt(id, 'w', attempt(1))).toMatchObject({ phase: 'delivering' });
    // A worker must be able to record its result also when the disk fails to read.
    expect(opened).toEqual([]);
    const kept = { answer: answer(2), body: Buffer.from('ok'), expiresAt };
    const ended = attempt(1, { endedAt: 2, reached: 'answered' });
    expect(await store.recordAnswer(id, 'w', kept, ended)).toMatchObject({ phase: 'answered' });
    expect(await store.recordAnswer(id, 'w', kept, ended)).toMatchObject({ phase: 'answered' });
    expect(await store.answerBody(id)).toEqual(Buffer.from('ok'));
  });

  test('of a claimed delivery stays in memory also before its attempt', async () => {
    const id = await claimed();
    await store.giveUp(id, 'w', { reason: 'unreachable', problem: 'x' });
    await restart(0);
    await store.claimDelivery(id, 'w', Date.now() + HOUR);
    failing = { id, code: 'EIO' };
    expect(await store.renewClaim(id, 'w', Date.now() + HOUR)).toBe(true);
    expect(await store.postpone(id, 'w', 7)).toMatchObject({ phase: 'complete', dueAt: 7 });
    await expect(store.get(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  });

  test.each(['EIO', 'EMFILE', 'EACCES'])(
    'fails each step while the disk fails with %s, and loses nothing',
    async (code) => {
      await store.close();
      await open(0);
      const [id, other] = [await created(), await created()];
      const token = await store.nextToken(id);
      failing = { id, code };
      for (const [use, task] of USES)
        if (use !== 'a list' && use !== 'the background' && use !== 'a client that waits')
          await expect(task(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE', retryable: true });
      expect(await store.setAsideRecords()).toMatchObject([{ id, state: 'unreadable' }]);
      expect((await store.setAsideRecords())[0]!.reason).not.toContain(id);
      expect(logged).toEqual([expect.objectContaining({ code: 'STORAGE_UNAVAILABLE', upload: uploadTag(id) })]);
      expect([await listed(), await store.expired(expiresAt)]).toEqual([[other], [other]]);
      failing = undefined;
      expect(await store.commit(id, { token: token - 1, expiresAt })).toBe('stale');
      expect(await store.get(id)).toMatchObject({ phase: 'receiving', offset: 5 });
      expect(await store.setAsideRecords()).toEqual([]);
    },
  );

  test('and whose file is missing is unreadable, never unknown', async () => {
    await store.close();
    await open(0);
    const id = await created();
    await rename(logOf(id), join(directory.path, 'elsewhere'));
    await expect(store.get(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(await store.setAsideRecords()).toMatchObject([{ id, state: 'unreadable' }]);
    await rename(join(directory.path, 'elsewhere'), logOf(id));
    expect(await store.get(id)).toMatchObject({ offset: 5 });
  });

  const DAMAGES: readonly [what: string, damage: (bytes: Buffer) => Buffer][] = [
    ['has lost its last line', (bytes) => bytes.subarray(0, bytes.indexOf('\n') + 1)],
    ['has lost its last two lines', (bytes) => bytes.subarray(0, bytes.lastIndexOf('\n', -2) + 1)],
    ['has a line more', (bytes) => Buffer.concat([bytes, bytes.subarray(bytes.lastIndexOf('\n', -2) + 1)])],
    ['ends in its last line', (bytes) => bytes.subarray(0, -3)],
    ['has another byte in its last line', (bytes) => changed(bytes, bytes.lastIndexOf('size'))],
  ];

  const KNOWN: readonly [since: string, forget: () => Promise<void>][] = [
    ['of this process', () => Promise.resolve()],
    ['of the start', () => restart(0)],
  ];

  function changed(bytes: Buffer, at: number): Buffer {
    const other = Buffer.from(bytes);
    other[at]! ^= 1;
    return other;
  }

  describe.each(KNOWN)('%s', (_, forget) => {
    beforeEach(async () => {
      await store.close();
      await open(0);
    });

    test.each(DAMAGES)('and whose file %s is given up: no offset goes down', async (__, damage) => {
      const [id, other] = [await created(), await created()];
      await store.commit(id, { token: 1, chunk: { name: 'chunk-2', start: 5, size: 5 }, expiresAt: expiresAt + HOUR });
      await forget();
      const damaged = damage(await readFile(logOf(id)));
      await writeFile(logOf(id), damaged);
      expect(await store.get(id)).toMatchObject({ phase: 'invalid', lost: true, expiresAt: expiresAt + HOUR });
      expect([lost, checked.includes(id)]).toEqual([[id], false]);
      expect(logged).toEqual([expect.objectContaining({ level: 'error', upload: uploadTag(id) })]);
      expect(await store.commit(id, { token: 2, expiresAt })).toBe('gone');
      expect(await readFile(logOf(id))).toEqual(damaged);
      expect(await store.get(other)).toMatchObject({ offset: 5 });
    });

    test('and whose file is older than its attempt is not delivered again', async () => {
      const id = await whole();
      await store.claimDelivery(id, 'w', Date.now() + HOUR);
      const older = await readFile(logOf(id));
      await store.beginAttempt(id, 'w', attempt(1));
      await store.giveUp(id, 'w', { reason: 'unreachable', problem: 'x' });
      await forget();
      await writeFile(logOf(id), older);
      expect(await store.claimDelivery(id, 'other', Date.now() + HOUR)).toBeUndefined();
      expect(await store.get(id)).toMatchObject({ phase: 'invalid', lost: true });
    });

    test('and whose file is empty for a moment, or read in part, is unreadable as long', async () => {
      const id = await created();
      await forget();
      const bytes = await readFile(logOf(id));
      await truncate(logOf(id), 0);
      await expect(store.get(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      await writeFile(logOf(id), bytes);
      expect(await store.get(id)).toMatchObject({ offset: 5 });
      const most = bytes.indexOf('\n') + 1;
      useFileSystem({
        ...watched,
        read: (fd, into, at) => nodeFileSystem.read(fd, into.subarray(0, Math.max(0, most - at)), at),
      });
      await expect(store.get(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      useFileSystem(watched);
      expect(await store.get(id)).toMatchObject({ phase: 'receiving', offset: 5 });
      expect(await store.setAsideRecords()).toEqual([]);
    });

    test('and whose first line is damaged rejects the step that finds it, and is unknown from then on', async () => {
      const key = { clientKey: 'a key' };
      const { id } = (await store.createUnlessKeyUsed({ ...newUpload({ expiresAt }), ...key })) as Upload;
      await forget();
      await writeFile(logOf(id), changed(await readFile(logOf(id)), 20));
      await expect(store.get(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      expect([await store.get(id), await store.cancel(id)]).toEqual([undefined, 'gone']);
      await expect(store.chunks(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      expect(await store.setAsideRecords()).toMatchObject([{ id, state: 'damaged' }]);
      expect(logged).toEqual([expect.objectContaining({ level: 'error', upload: uploadTag(id) })]);
      expect(await store.createUnlessKeyUsed({ ...newUpload({ expiresAt }), ...key })).toMatchObject({ offset: 0 });
    });

    test.each(['the last line', 'the first line'])('and that ends by damage in %s wakes the client', async (where) => {
      const id = await whole();
      await forget();
      const ended = store.waitUntilSettled(id, AbortSignal.timeout(20_000));
      // The wait begins after a step, and this one comes after it.
      await store.get(id);
      const bytes = await readFile(logOf(id));
      await writeFile(
        logOf(id),
        where === 'the first line' ? changed(bytes, 20) : bytes.subarray(0, bytes.indexOf('\n') + 1),
      );
      await store.get(id).catch(() => undefined);
      const woken = where === 'the first line' ? undefined : { phase: 'invalid', lost: true };
      expect([await ended]).toMatchObject([woken]);
    });

    test.each(['missing', 'empty'])('and whose file is %s for good goes once its upload has expired', async (what) => {
      const soon = { ...newUpload({ expiresAt: Date.now() - 1 }), clientKey: 'a key' };
      const [upload, id] = [(await store.createUnlessKeyUsed(soon)) as Upload, await created()];
      await forget();
      for (const each of [upload.id, id])
        await (what === 'empty' ? truncate(logOf(each), 0) : rename(logOf(each), `${logOf(each)}.away`));
      await rename(join(directory.path, 'uploads'), join(directory.path, 'away'));
      await expect(store.get(upload.id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      expect(await store.idByClientKey('a key')).toBe(upload.id);
      await rename(join(directory.path, 'away'), join(directory.path, 'uploads'));
      expect(await store.get(upload.id)).toBeUndefined();
      await expect(store.get(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      expect([await store.idByClientKey('a key'), await store.totals()]).toMatchObject([undefined, { bytes: 5 }]);
      expect(await store.setAsideRecords()).toMatchObject([{ id, state: 'unreadable' }]);
    });
  });
});
