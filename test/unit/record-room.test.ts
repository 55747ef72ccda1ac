import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { type FileSystem, useFileSystem } from '../../src/fs/files.js';
import { silentLog } from '../../src/observe/log.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { answer, attempt, HOUR, newUpload } from '../contract/sample-upload.js';
import { MemoryDisk, memoryDisks, type Operation } from '../support/memory-disk.js';

const expiresAt = Date.now() + HOUR;
const ended = attempt(1, { endedAt: 9, reached: 'answered', status: 201 });
const kept = { answer: answer(2), body: Buffer.from('ok'), expiresAt };
const why = { reason: 'outcome-unknown', problem: 'it broke off' } as const;

let disk: MemoryDisk;
let store: EmbeddedStore;

/** Writes and syncs since the last look. */
let counts: Record<string, number> = {};
const counted = (operation: keyof FileSystem): void => void (counts[operation] = (counts[operation] ?? 0) + 1);
const counting: FileSystem = {
  ...memoryDisks,
  write: (...call) => (counted('write'), memoryDisks.write(...call)),
  fdatasync: (...call) => (counted('fdatasync'), memoryDisks.fdatasync(...call)),
  fsync: (...call) => (counted('fsync'), memoryDisks.fsync(...call)),
};

beforeAll(() => useFileSystem(counting));
afterAll(() => useFileSystem());
beforeEach(async () => {
  disk = new MemoryDisk();
  store = await open();
});
afterEach(async () => {
  await store.close();
  expect(disk.descriptors).toBe(0);
  disk.forget();
});

function open(): Promise<EmbeddedStore> {
  return EmbeddedStore.open({ directory: disk.path, sync: 'group', log: silentLog() });
}

async function crash(how: 'kill' | 'power-cut'): Promise<void> {
  const old = store;
  disk.crash(how);
  disk.heal();
  await old.close();
  store = await open();
}

async function complete(): Promise<string> {
  const { id } = await store.create(newUpload());
  await store.commit(id, { token: 1, chunk: { name: 'chunk-1', start: 0, size: 5 }, complete: {}, expiresAt });
  return id;
}

/** An upload with an attempt under way, whose record is open. */
async function attempted(): Promise<string> {
  const id = await complete();
  await store.claimDelivery(id, 'w', expiresAt);
  await store.beginAttempt(id, 'w', attempt(1));
  expect(disk.descriptors).toBe(1);
  return id;
}

async function attemptedEarly(): Promise<string> {
  const { id } = await store.create(newUpload());
  await store.beginEarlyAttempt(id, attempt(1, { inPart: true }));
  expect(disk.descriptors).toBe(1);
  return id;
}

function fileOf(id: string): string {
  return `${disk.path}/uploads/${id}.log`;
}

test('a delivery costs one write and one sync of its record a step, room or not', async () => {
  const each = async (step: Promise<unknown>): Promise<Record<string, number>> => {
    counts = {};
    await step;
    return counts;
  };
  const { id } = await store.create(newUpload());
  const chunk = { name: 'chunk-1', start: 0, size: 5 };
  const once = { write: 1, fdatasync: 1 };
  expect(await each(store.commit(id, { token: 1, chunk, complete: {}, expiresAt }))).toEqual(once);
  const before = disk.contents(`uploads/${id}.log`).length;
  expect(await each(store.claimDelivery(id, 'w', expiresAt))).toEqual(once);
  expect(await each(store.beginAttempt(id, 'w', attempt(1)))).toEqual(once);
  const nowhere = { ...kept, answer: answer(0, { in: 'nowhere' }) };
  expect(await each(store.recordAnswer(id, 'w', nowhere, ended))).toEqual(once);
  expect(disk.contents(`uploads/${id}.log`).length).toBe(before);
});

describe('no record stays open', () => {
  test.each<[string, (id: string) => Promise<unknown>]>([
    ['answered', (id) => store.recordAnswer(id, 'w', kept, ended)],
    ['answered, its end forgotten', (id) => store.recordAnswer(id, 'w', kept)],
    ['ended without an answer', (id) => store.endAttempt(id, 'w', { ...ended, reached: 'sent' })],
    ['given up', (id) => store.giveUp(id, 'w', why)],
    [
      'postponed after its end',
      async (id) => {
        await store.endAttempt(id, 'w', { ...ended, reached: 'never-sent' });
        await store.postpone(id, 'w', 7);
      },
    ],
    [
      'parked',
      async (id) => {
        await store.endAttempt(id, 'w', ended);
        await store.giveUp(id, 'w', { reason: 'unauthorized', status: 401, problem: 'the origin answered 401' });
      },
    ],
    ['cancelled', (id) => store.cancel(id)],
    ['removed', (id) => store.remove(id)],
    ['lost', (id) => store.markLost(id)],
    ['found without its bytes', (id) => store.giveUpLost(id)],
    ['ended by the stop of the store', () => store.close()],
    [
      'cancelled on a full disk',
      async (id) => {
        disk.fail(1, true, (operation, flags) => (operation === 'write' || flags === 'w' ? 'ENOSPC' : undefined));
        await store.cancel(id);
      },
    ],
    [
      'answered after a sync that failed',
      async (id) => {
        disk.fail(1, false, (operation) => (operation === 'fdatasync' ? 'EIO' : undefined));
        await store.recordAnswer(id, 'w', { ...kept, answer: answer(0, { in: 'nowhere' }) }, ended);
      },
    ],
    [
      'answered after its record was removed',
      async (id) => {
        await memoryDisks.unlink(fileOf(id));
        await store.recordAnswer(id, 'w', kept, ended);
      },
    ],
  ])('of an attempt that is %s', async (_, end) => {
    await end(await attempted());
    expect(disk.descriptors).toBe(0);
  });

  test.each<[string, (id: string) => Promise<unknown>]>([
    ['answered', (id) => store.recordEarlyAnswer(id, ended, kept)],
    ['ended', (id) => store.endEarlyAttempt(id, { ...ended, reached: 'sent-in-part' })],
    ['invalid', (id) => store.invalidate(id, 1)],
    ['cancelled', (id) => store.cancel(id)],
    ['removed', (id) => store.remove(id)],
  ])('of an early attempt that is %s', async (_, end) => {
    await end(await attemptedEarly());
    expect(disk.descriptors).toBe(0);
  });

  test('of a claim that another worker takes over, once that one is through', async () => {
    const id = await complete();
    await store.claimDelivery(id, 'w', 0);
    await store.beginAttempt(id, 'w', attempt(1));
    await store.claimDelivery(id, 'v', expiresAt);
    await store.beginAttempt(id, 'v', attempt(2));
    expect(disk.descriptors).toBe(1);
    await store.giveUp(id, 'v', why);
    expect(disk.descriptors).toBe(0);
  });
});

describe('an answer is not written to a file that nobody will find', () => {
  test.each<[string, (path: string) => Promise<void>]>([
    ['removed', (path) => memoryDisks.unlink(path)],
    ['moved away', (path) => memoryDisks.rename(path, `${disk.path}/elsewhere`)],
    [
      'replaced by a copy',
      async (path) => {
        const bytes = disk.contents(path.split('/').slice(3).join('/'));
        const fd = await memoryDisks.open(`${path}.copy`, 'w');
        await memoryDisks.write(fd, bytes, 0);
        await memoryDisks.close(fd);
        await memoryDisks.rename(`${path}.copy`, path);
      },
    ],
  ])('its record was %s', async (_, change) => {
    const id = await attempted();
    await change(fileOf(id));
    await store.recordAnswer(id, 'w', kept, ended);
    await crash('power-cut');
    expect(await store.get(id)).toMatchObject({ phase: 'answered', answer: { status: 201 } });
  });

  test('its record was written anew with the attempt', async () => {
    const id = await complete();
    await store.claimDelivery(id, 'w', expiresAt);
    disk.fail(1, false, (operation) => (operation === 'fdatasync' ? 'EIO' : undefined));
    await store.beginAttempt(id, 'w', attempt(1));
    expect(disk.failures).toBe(1);
    disk.fail(1, true, (operation) => (operation === 'open' ? 'EMFILE' : undefined));
    await store.recordAnswer(id, 'w', kept, ended);
    await crash('power-cut');
    expect(await store.get(id)).toMatchObject({ phase: 'answered' });
  });
});

describe('nothing can be opened from the answer on', () => {
  test.each([
    ['EMFILE', attempted, 'w'],
    ['EACCES', attempted, 'w'],
    ['ENFILE', attemptedEarly, undefined],
    ['EMFILE', attemptedEarly, undefined],
  ])('%s: it is recorded all the same', async (code, begin, worker) => {
    const id = await begin();
    disk.fail(1, true, (operation: Operation) => (operation === 'open' ? code : undefined));
    const recorded = worker ? store.recordAnswer(id, worker, kept, ended) : store.recordEarlyAnswer(id, ended, kept);
    expect(await recorded).toMatchObject({ phase: 'answered' });
    await crash('kill');
    expect(await store.get(id)).toMatchObject({ phase: 'answered', answer: { status: 201 } });
    expect(Buffer.from((await store.answerBody(id))!).toString()).toBe('ok');
  });
});
