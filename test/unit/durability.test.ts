import fs from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { ChunkWriter } from '../../src/spool/spool.js';
import { answer, attempt, HOUR, newId, newUpload } from '../contract/sample-upload.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

type Done = (error: Error | null) => void;

/** Paths, relative to the data directory, in the order in which the system was asked to make them durable. */
let synced: string[] = [];
let failing: RegExp | undefined;
let directory: TemporaryDirectory;

// Before the rooms are loaded, since they take hold of these functions then.
for (const name of ['fsync', 'fdatasync'] as const) {
  const real = fs[name];
  const recorded = (fd: number, done: Done): void => {
    const path = relative(directory.path, fs.readlinkSync(`/proc/self/fd/${fd}`));
    synced.push(path.replace(/[A-Za-z0-9_-]{32}/, 'ID'));
    const error = Object.assign(new Error('EIO: i/o error'), { code: 'EIO', syscall: name });
    if (failing?.test(path)) queueMicrotask(() => done(error));
    else real(fd, done);
  };
  Object.assign(fs, { [name]: recorded });
}
const { EmbeddedStore } = await import('../../src/store/embedded/embedded-store.js');
const { LocalSpool } = await import('../../src/spool/local-spool.js');
const { recover } = await import('../../src/uploads/recovery.js');
const { UnreadableBytes, UnrecordedBytes } = await import('../../src/uploads/unknown-bytes.js');
const { Metrics } = await import('../../src/observe/metrics.js');
const { DirectorySync } = await import('../../src/fs/directory-sync.js');
const { silentLog } = await import('../../src/observe/log.js');

type Store = Awaited<ReturnType<typeof EmbeddedStore.open>>;

const id = newId();
const expiresAt = Date.now() + HOUR;
const chunk = { name: 'chunk-1', start: 0, size: 5 };
const open = (sync: 'always' | 'group' | 'none'): Promise<Store> =>
  EmbeddedStore.open({ directory: directory.path, sync, log: silentLog() });

async function recovered(store: Store, spool: InstanceType<typeof LocalSpool>): Promise<void> {
  const told = { log: silentLog(), metrics: new Metrics(), clock: Date.now };
  const unreadable = new UnreadableBytes({ spool, ...told });
  await recover({ store, spool, unreadable, unrecorded: new UnrecordedBytes(told), ...told });
  await store.recoverRest();
}

async function written(spool: InstanceType<typeof LocalSpool>, name: string, of = id): Promise<ChunkWriter> {
  const writer = await spool.create(of, name);
  await writer.write([Buffer.from('hello')]);
  return writer;
}

/** What was made durable until the promise was fulfilled. */
async function during(task: Promise<unknown>): Promise<string[]> {
  await task;
  return synced.splice(0).sort();
}

beforeEach(async () => {
  directory = await temporaryDirectory();
  synced = [];
});
afterEach(async () => {
  failing = undefined;
  await directory.remove();
});

describe.each(['always', 'group'] as const)('what is acknowledged under sync: %s survives a power cut', (sync) => {
  test('in the store', async () => {
    const store = await open(sync);
    expect(synced).toEqual(expect.arrayContaining(['', 'last-start.json.tmp']));
    synced = [];
    expect(await during(store.create(newUpload({ id })))).toEqual(['uploads', 'uploads/ID.log.tmp']);
    expect(await during(store.commit(id, { token: 1, chunk, complete: {}, expiresAt }))).toEqual(['uploads/ID.log']);
    // A claim means nothing to the next process: it is written with the attempt.
    expect(await during(store.claimDelivery(id, 'w', Infinity))).toEqual([]);
    expect(await during(store.beginAttempt(id, 'w', attempt(1)))).toEqual(['uploads/ID.log']);
    const ended = attempt(1, { endedAt: 1_700_000_000_500, reached: 'answered', status: 201 });
    const short = { answer: answer(2), body: Buffer.from('ok'), expiresAt };
    expect(await during(store.recordAnswer(id, 'w', short, ended))).toEqual(['uploads/ID.log']);
    expect(await during(store.remove(id))).toEqual(['uploads']);
    await store.create(newUpload({ id }));
    await store.commit(id, { token: 1, chunk, complete: {}, expiresAt });
    await store.claimDelivery(id, 'w', Infinity);
    synced = [];
    const long = { answer: answer(1025), body: Buffer.alloc(1025, 'x'), expiresAt };
    expect(await during(store.recordAnswer(id, 'w', long))).toEqual(['uploads', 'uploads/ID.answer', 'uploads/ID.log']);
    expect(await during(store.remove(id))).toEqual(['uploads']);
    await store.close();
  });

  test('in the spool', async () => {
    const spool = new LocalSpool({ directory: directory.path, sync });
    expect(await during(spool.open())).toEqual(['']);
    const writer = await spool.create(id, 'chunk-1');
    expect(await during(writer.write([Buffer.from('hello')]))).toEqual([]);
    expect(await during(writer.sync())).toEqual(['spool', 'spool/ID', 'spool/ID/chunk-1']);
    expect(await during(writer.sync())).toEqual([]);
    await writer.write([Buffer.from('more')]);
    expect(await during(writer.sync())).toEqual(['spool/ID/chunk-1']);
    await writer.close();
    expect(await during(spool.size(id, 'chunk-1'))).toEqual(['spool', 'spool/ID', 'spool/ID/chunk-1']);
  });
});

test('under sync: none nothing waits for the disk', async () => {
  const store = await open('none');
  const spool = new LocalSpool({ directory: directory.path, sync: 'none' });
  await spool.open();
  await store.create(newUpload({ id }));
  await store.commit(id, { token: 1, chunk, expiresAt });
  const writer = await spool.create(id, 'chunk-1');
  await writer.write([Buffer.from('hello')]);
  await writer.sync();
  await writer.close();
  expect(await spool.size(id, 'chunk-1')).toBe(5);
  await store.close();
  expect(synced).toEqual([]);
});

describe('what a start finds', () => {
  async function found(sync: 'group' | 'none'): Promise<Store> {
    const before = await open('group');
    await before.create(newUpload({ id }));
    await before.create(newUpload({ id: other }));
    await before.close();
    synced = [];
    return open(sync);
  }

  const other = newId();

  test('is written anew before it is first shown, and not before, since its last line may never have been synced', async () => {
    const store = await found('group');
    expect(synced).toContain('uploads');
    expect(synced.join()).not.toContain('.log');
    synced = [];
    expect((await store.list(undefined, 9)).uploads).toHaveLength(2);
    expect(synced).toEqual([]);
    expect(await during(store.get(id))).toEqual(['uploads', 'uploads/ID.log.tmp']);
    expect(await during(store.get(id))).toEqual([]);
    expect(await during(store.commit(id, { token: 1, chunk, expiresAt }))).toEqual(['uploads/ID.log']);
    // One that is changed first is written once, with the change.
    expect(await during(store.commit(other, { token: 1, chunk, expiresAt }))).toEqual([
      'uploads',
      'uploads/ID.log.tmp',
    ]);
    await store.close();
  });

  test('is not shown while that fails', async () => {
    const store = await found('group');
    failing = /\.log/;
    await expect(store.get(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE', retryable: true });
    await expect(store.claimDelivery(id, 'w', Infinity)).resolves.toBeUndefined();
    failing = undefined;
    expect(await store.get(id)).toMatchObject({ offset: 0 });
    await store.close();
  });

  test('is what it looks like where nothing has to survive a power cut', async () => {
    const store = await found('none');
    expect(await store.get(id)).toMatchObject({ offset: 0 });
    expect(synced).toEqual([]);
    await store.close();
  });
});

describe('when the disk fails to make something durable', () => {
  test('a record goes on in a new file, since the old one can no longer be trusted', async () => {
    const store = await open('group');
    await store.create(newUpload({ id }));
    failing = /\.log$/;
    synced = [];
    expect(await store.commit(id, { token: 1, chunk, expiresAt })).toMatchObject({ offset: 5 });
    expect(synced).toEqual(['uploads/ID.log', 'uploads/ID.log.tmp', 'uploads']);
    await store.close();
  });

  test('a verb that found no way changes nothing, and the next one is whole', async () => {
    const store = await open('group');
    await store.create(newUpload({ id }));
    failing = /\.log|uploads$/;
    const commit = (): Promise<unknown> => store.commit(id, { token: 1, chunk, expiresAt });
    const unavailable = { code: 'STORAGE_UNAVAILABLE' };
    await expect(commit()).rejects.toMatchObject(unavailable);
    expect(await store.chunks(id)).toEqual([]);
    // Nobody knows which line a power cut leaves: until that is certain again, nothing is shown and nothing is changed.
    await expect(store.get(id)).rejects.toMatchObject(unavailable);
    await expect(store.waitUntilSettled(id, new AbortController().signal)).rejects.toMatchObject(unavailable);
    await expect(store.commit(id, { token: 1, expiresAt })).rejects.toMatchObject(unavailable);
    failing = undefined;
    expect(await store.get(id)).toMatchObject({ offset: 0 });
    expect(await commit()).toMatchObject({ offset: 5 });
    await store.close();
    const reopened = await open('group');
    expect(await reopened.get(id)).toMatchObject({ offset: 5 });
    await reopened.close();
  });

  test('a creation whose name is not durable is none', async () => {
    const store = await open('group');
    failing = /uploads$/;
    await expect(store.create(newUpload({ id }))).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(await readdir(join(directory.path, 'uploads'))).toEqual([]);
    // Its file may be there again after a power cut: the sweep makes sure that it is not.
    await expect(store.get(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    expect(await store.expired(0)).toEqual([id]);
    failing = undefined;
    expect(await store.get(id)).toMatchObject({ phase: 'cancelled' });
    synced = [];
    expect(await during(store.remove(id))).toEqual(['uploads']);
    expect(await store.get(id)).toBeUndefined();
    await store.close();
  });

  test('a chunk counts no more, since a later success would prove nothing', async () => {
    const spool = new LocalSpool({ directory: directory.path, sync: 'group' });
    await spool.open();
    const writer = await spool.create(id, 'chunk-1');
    await writer.write([Buffer.from('hello')]);
    failing = /chunk-1$/;
    await expect(writer.sync()).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    failing = undefined;
    await expect(writer.sync()).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    await expect(writer.write([Buffer.from('more')])).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    await writer.close();
  });

  test.each(['spool/ID/chunk', 'spool/ID', 'spool'])(
    'of %s: a start counts what was committed before it',
    async (which) => {
      const pattern = { 'spool/ID/chunk': /chunk-2-5$/, 'spool/ID': /spool\/[^/]+$/, spool: /^spool$/ }[which];
      const store = await open('group');
      const spool = new LocalSpool({ directory: directory.path, sync: 'group' });
      await spool.open();
      await store.create(newUpload({ id }));
      const first = await written(spool, 'chunk-1-0');
      await first.sync();
      const committed = { name: 'chunk-1-0', start: 0, size: 5 };
      await store.commit(id, { token: 1, chunk: committed, expiresAt });
      const second = await written(spool, 'chunk-2-5');
      failing = pattern;
      await expect(second.sync()).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      failing = undefined;
      await expect(second.sync()).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      await first.write([Buffer.from('tail')]);
      await Promise.all([first.close(), second.close(), store.close()]);
      const next = await open('group');
      await recovered(next, spool);
      expect(await next.get(id)).toMatchObject({ phase: 'receiving', offset: 5 });
      expect(await next.chunks(id)).toEqual([committed]);
      expect(await readdir(join(directory.path, 'spool', id))).toEqual(['chunk-1-0']);
      await next.close();
    },
  );

  test('a note of what was promised whose name is not durable is made anew', async () => {
    const spool = new LocalSpool({ directory: directory.path, sync: 'group' });
    await spool.open();
    failing = /^spool$/;
    await expect(spool.noteAcknowledged(id, 5)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    failing = undefined;
    expect(await during(spool.noteAcknowledged(id, 5))).toEqual(expect.arrayContaining(['spool', 'spool/ID']));
    expect(await spool.acknowledgedOffset(id)).toBe(5);
  });

  test('a number that was promised is written and synced anew, and is not found before', async () => {
    const spool = new LocalSpool({ directory: directory.path, sync: 'group' });
    await spool.open();
    await spool.noteAcknowledged(id, 5);
    for (const number of [6, 7]) {
      failing = /promised$/;
      await expect(spool.noteAcknowledged(id, number)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      failing = undefined;
      expect(await spool.acknowledgedOffset(id)).toBe(number - 1);
      synced = [];
      expect(await during(spool.noteAcknowledged(id, number))).toEqual(['spool/ID/promised']);
      expect(await spool.acknowledgedOffset(id)).toBe(number);
    }
  });

  test.each([5, 4, 9])(
    'a number that is found is written and synced once more before %i relies on it, and once',
    async (number) => {
      const before = new LocalSpool({ directory: directory.path, sync: 'group' });
      await before.open();
      for (const noted of [3, 5]) await before.noteAcknowledged(id, noted);
      const after = new LocalSpool({ directory: directory.path, sync: 'group' });
      failing = /promised$/;
      await expect(after.noteAcknowledged(id, number)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      failing = undefined;
      expect(await after.acknowledgedOffset(id)).toBe(5);
      synced = [];
      const proof = await during(after.noteAcknowledged(id, number));
      expect(new Set(proof)).toEqual(new Set(['spool', 'spool/ID', 'spool/ID/promised']));
      expect(proof.filter((path) => path.endsWith('promised'))).toHaveLength(number > 5 ? 2 : 1);
      synced = [];
      expect(await during(after.noteAcknowledged(id, number))).toEqual([]);
      expect(await after.acknowledgedOffset(id)).toBe(Math.max(number, 5));
    },
  );

  test('a directory is synced in vain for all who wait for it: the next sync would succeed without their names', async () => {
    const names = new DirectorySync('group');
    failing = /^$/;
    const first = names.sync(directory.path);
    const [second, third] = [names.sync(directory.path), names.sync(directory.path)];
    await expect(first).rejects.toMatchObject({ code: 'EIO' });
    failing = undefined;
    await expect(second).rejects.toMatchObject({ code: 'EIO' });
    await expect(third).rejects.toMatchObject({ code: 'EIO' });
    synced = [];
    expect(await during(names.sync(directory.path))).toEqual(['']);
  });

  test('a record whose chunks do not join is given up, whatever its numbers say', async () => {
    for (const { name, chunk } of [
      { name: 'chunk-1-0', chunk: { name: 'chunk-1-0', start: 0, size: 6 } },
      { name: 'chunk-1-1', chunk: { name: 'chunk-1-1', start: 0, size: 5 } },
    ]) {
      const store = await open('group');
      const spool = new LocalSpool({ directory: directory.path, sync: 'group' });
      await spool.open();
      const other = newId();
      await store.create(newUpload({ id: other }));
      await (await written(spool, name, other)).close();
      await store.commit(other, { token: 1, chunk, expiresAt });
      await recovered(store, spool);
      expect(await store.get(other)).toMatchObject({ phase: 'invalid' });
      await store.close();
    }
  });
});
