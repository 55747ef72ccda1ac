import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { DirectorySync, type SyncMode } from '../../src/fs/directory-sync.js';
import { useFileSystem } from '../../src/fs/files.js';
import { silentLog } from '../../src/observe/log.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import type { ChunkWriter } from '../../src/spool/spool.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { RecordFile } from '../../src/store/embedded/record-file.js';
import { newRecord } from '../../src/store/embedded/transitions.js';
import { HOUR, newId, newUpload } from '../contract/sample-upload.js';
import { MemoryDisk, memoryDisks } from '../support/memory-disk.js';

const UNAVAILABLE = { code: 'STORAGE_UNAVAILABLE', retryable: true };
const expiresAt = Date.now() + HOUR;
let disk: MemoryDisk;

beforeAll(() => useFileSystem(memoryDisks));
afterAll(() => useFileSystem());
beforeEach(() => {
  disk = new MemoryDisk();
});

/** Has the n-th sync of a directory from now on fail, once. */
function failSync(number: number): void {
  disk.fail(number, false, (operation) => (operation === 'fsync' ? 'EIO' : undefined));
}

async function openStore(sync: SyncMode = 'group'): Promise<EmbeddedStore> {
  return EmbeddedStore.open({ directory: disk.path, sync, log: silentLog() });
}

describe('a sync of a directory that fails drops the names of others, whose own sync is not believed then', () => {
  async function written(spool: LocalSpool, id: string, name: string): Promise<ChunkWriter> {
    const writer = await spool.create(id, name);
    await writer.write([Buffer.from('hello')]);
    return writer;
  }

  test.each([
    { which: "the upload's own directory", sameUpload: true, number: 1 },
    { which: 'that of all uploads', sameUpload: false, number: 2 },
  ])('of chunks, in $which', async ({ sameUpload, number }) => {
    const spool = new LocalSpool({ directory: disk.path, sync: 'group' });
    await spool.open();
    const id = newId();
    const first = await written(spool, id, 'chunk-1-0');
    const second = await written(spool, sameUpload ? id : newId(), 'chunk-2-0');
    failSync(number);
    await expect(second.sync()).rejects.toMatchObject(UNAVAILABLE);
    disk.heal();
    await expect(first.sync()).rejects.toMatchObject(UNAVAILABLE);
    await first.discard();
    await second.discard();
    const third = await written(spool, id, 'chunk-3-0');
    await third.sync();
    disk.crash('power-cut');
    expect(disk.files()).toEqual([`spool/${id}/chunk-3-0`]);
  });

  test('of records', async () => {
    const names = new DirectorySync('group');
    const directory = `${disk.path}/uploads`;
    await names.makeDirectory(directory);
    const file = new RecordFile(`${directory}/a.log`, names);
    const record = newRecord(newUpload());
    // The file is renamed, and only then another one's sync fails: ours begins after that.
    const sync = names.sync.bind(names);
    names.sync = async (path, since) => {
      names.sync = sync;
      failSync(1);
      await expect(names.sync(path)).rejects.toMatchObject({ code: 'EIO' });
      disk.heal();
      return names.sync(path, since);
    };
    await expect(file.rewrite(record)).rejects.toMatchObject(UNAVAILABLE);
    expect(file.isUncertain()).toBe(true);
    await file.makeCertain(record);
    expect(file.isUncertain()).toBe(false);
    disk.crash('power-cut');
    expect(disk.files()).toEqual(['uploads/a.log']);
  });

  test('and not of more directories than that one, however many have failed', async () => {
    const names = new DirectorySync('group');
    for (const name of ['sick', 'well']) await names.makeDirectory(`${disk.path}/${name}`);
    const since = names.failures;
    const fail = async (path: string): Promise<void> => {
      failSync(1);
      await expect(names.sync(path)).rejects.toMatchObject({ code: 'EIO' });
      disk.heal();
    };
    await fail(`${disk.path}/sick`);
    await expect(names.sync(`${disk.path}/sick`, since)).rejects.toMatchObject(UNAVAILABLE);
    await expect(names.sync(`${disk.path}/sick`, names.failures)).resolves.toBeUndefined();
    await expect(names.sync(`${disk.path}/well`, since)).resolves.toBeUndefined();
    // More than are remembered one by one: then none is believed from before.
    const missing = Array.from({ length: 1001 }, (_, number) => names.sync(`${disk.path}/${number}`));
    for (const { status } of await Promise.allSettled(missing)) expect(status).toBe('rejected');
    await expect(names.sync(`${disk.path}/sick`, since)).rejects.toMatchObject(UNAVAILABLE);
    await expect(names.sync(`${disk.path}/well`, names.failures)).resolves.toBeUndefined();
  });
});

test.each([1, 2, 3])(
  'directory number %i whose name cannot be made durable is not left to the next start',
  async (at) => {
    const path = `${disk.path}/a/b/c`;
    failSync(at);
    await expect(new DirectorySync('group').makeDirectory(path)).rejects.toMatchObject({ code: 'EIO' });
    disk.heal();
    disk.crash('kill');
    await new DirectorySync('group').makeDirectory(`${disk.path}/a/b/c`);
    const spool = new LocalSpool({ directory: `${disk.path}/a/b/c`, sync: 'group' });
    await spool.open();
    const id = newId();
    const writer = await spool.create(id, 'chunk-1-0');
    await writer.write([Buffer.from('hello')]);
    await writer.sync();
    disk.crash('power-cut');
    expect(disk.files()).toEqual([`a/b/c/spool/${id}/chunk-1-0`]);
  },
);

test.each(['uploads', 'spool'])(
  '%s that a start found empty is made anew, because its name may be gone',
  async (name) => {
    const trouble = (operation: string): string | undefined =>
      operation === 'fsync' || operation === 'rmdir' ? 'EIO' : undefined;
    disk.fail(1, true, trouble);
    await expect(new DirectorySync('group').makeDirectory(`${disk.path}/${name}`)).rejects.toMatchObject({
      code: 'EIO',
    });
    disk.heal();
    disk.crash('kill');
    const store = await openStore();
    const spool = new LocalSpool({ directory: disk.path, sync: 'group' });
    await spool.open();
    const id = newId();
    await store.create(newUpload({ id }));
    const writer = await spool.create(id, 'chunk-1-0');
    await writer.write([Buffer.from('hello')]);
    await writer.sync();
    await store.close();
    disk.crash('power-cut');
    expect(disk.files()).toEqual(expect.arrayContaining([`uploads/${id}.log`, `spool/${id}/chunk-1-0`]));
  },
);

test('an upload that was cancelled on a full disk, with a sync that failed once, stays away', async () => {
  const store = await openStore();
  const id = newId();
  await store.create(newUpload({ id }));
  let syncs = 0;
  disk.fail(1, true, (operation) => {
    if (operation === 'fsync') return ++syncs === 1 ? 'EIO' : undefined;
    return operation === 'write' ? 'ENOSPC' : undefined;
  });
  await expect(store.cancel(id)).rejects.toMatchObject(UNAVAILABLE);
  expect(await store.cancel(id)).toMatchObject({ phase: 'cancelled' });
  disk.heal();
  await store.close();
  disk.crash('power-cut');
  expect(disk.files()).not.toContain(`uploads/${id}.log`);
});

test.each([
  ['takes the record again', []],
  ['takes no record', ['open', 'write']],
  ['takes nothing', ['open', 'write', 'unlink']],
])(
  'an upload whose cancelling was never synced is not said to be gone before it is, on a disk that %s',
  async (_, sick) => {
    const store = await openStore();
    const id = newId();
    await store.create(newUpload({ id }));
    await store.close();
    const killed = await openStore('none');
    await killed.cancel(id);
    await killed.close();
    disk.crash('kill');
    const next = await openStore();
    disk.fail(1, true, (operation, flags = '') => {
      const isMet = operation === 'open' ? flags !== 'r' : true;
      return sick.includes(operation) && isMet ? 'EIO' : undefined;
    });
    const shown = await next.get(id).catch((fault: unknown) => fault);
    disk.heal();
    disk.crash('power-cut');
    await next.close();
    const last = await openStore();
    const found = await last.get(id);
    await last.close();
    if (sick.includes('unlink')) expect(shown).toMatchObject(UNAVAILABLE);
    else expect(found?.phase ?? 'cancelled').toBe('cancelled');
  },
);

test('a record whose name may be gone is not proved by writing its bytes again', async () => {
  const store = await openStore();
  const id = newId();
  await store.create(newUpload({ id }));
  await store.close();
  // A process that is killed before it has synced its last line.
  const killed = await openStore('none');
  await killed.commit(id, { token: 1, complete: {}, expiresAt });
  await killed.close();
  disk.crash('kill');
  const next = await openStore();
  failSync(1);
  await expect(next.get(id)).rejects.toMatchObject(UNAVAILABLE);
  // From now on no second file has room.
  disk.fail(1, true, (operation, flags) => (operation === 'open' && flags === 'w' ? 'ENOSPC' : undefined));
  await expect(next.get(id)).rejects.toMatchObject(UNAVAILABLE);
  disk.heal();
  expect(await next.get(id)).toMatchObject({ phase: 'complete' });
  await next.close();
  disk.crash('power-cut');
  const last = await openStore();
  expect(await last.get(id)).toMatchObject({ phase: 'complete' });
  await last.close();
});
