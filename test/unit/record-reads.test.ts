import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { type FileSystem, nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import { Fault } from '../../src/model/fault.js';
import { silentLog } from '../../src/observe/log.js';
import { EmbeddedStore, type EmbeddedStoreOptions } from '../../src/store/embedded/embedded-store.js';
import { HOUR, newUpload } from '../contract/sample-upload.js';
import { temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';

/** Decision 34: how often the records of uploads are read, and what a disk that fails then changes. */
let directory: TemporaryDirectory;
let store: EmbeddedStore;
/** How often a record was opened for reading. */
let reads: number;
/** The next reads fail with this code. */
let failing: { readonly code: string; times: number };

const expiresAt = Date.now() + HOUR;

function systemError(code: string, syscall: string): Promise<never> {
  return Promise.reject(Object.assign(new Error(code), { code, syscall }));
}

const disk: FileSystem = {
  ...nodeFileSystem,
  open: (path, flags, mode) => {
    const isRead = flags === 'r' && path.endsWith('.log');
    if (isRead) reads++;
    if (isRead && failing.times-- > 0) return systemError(failing.code, 'open');
    return nodeFileSystem.open(path, flags, mode);
  },
};

async function open(options: Partial<EmbeddedStoreOptions> = {}): Promise<void> {
  store = await EmbeddedStore.open({ directory: directory.path, sync: 'group', log: silentLog(), ...options });
  reads = 0;
}

async function created(headBytes = 0, bytes = 5): Promise<string> {
  const { request, ...more } = newUpload({ expiresAt });
  const headers = [...request.headers, ['cookie', 'x'.repeat(headBytes)] as const];
  const { id } = await store.create({ ...more, request: { ...request, headers } });
  if (bytes > 0) await store.commit(id, { token: 1, chunk: { name: 'chunk-1', start: 0, size: bytes }, expiresAt });
  return id;
}

beforeEach(async () => {
  directory = await temporaryDirectory();
  failing = { code: 'EIO', times: 0 };
  useFileSystem(disk);
});
afterEach(async () => {
  await store.close();
  useFileSystem();
  await directory.remove();
});

test.each(['EIO', 'EMFILE'])('a record whose read fails once or twice with %s is not unreadable', async (code) => {
  await open({ maxCachedBytes: 0 });
  const id = await created();
  failing = { code, times: 2 };
  expect(await store.get(id)).toMatchObject({ offset: 5 });
  expect(await store.setAsideRecords()).toEqual([]);
});

test('unreadable records are tried again 16 at a time, and no second time before all have been tried', async () => {
  await open();
  const ids: string[] = [];
  while (ids.length < 40) ids.push(await created());
  await store.close();
  await open({ retryMs: 1 });
  let hanging = new Map<string, () => void>();
  let most = 0;
  store.recoverWith(async ({ upload }) => {
    await new Promise<void>((resolve) => {
      hanging.set(upload.id, resolve);
      most = Math.max(most, hanging.size);
    });
    throw new Fault('STORAGE_UNAVAILABLE', 'EIO', true);
  });
  const goOn = (): void => {
    const released = hanging;
    hanging = new Map();
    for (const release of released.values()) release();
  };
  const reading = Promise.allSettled(ids.map((id) => store.get(id)));
  await until(() => hanging.size === 40, 'all to be read for the first time');
  most = 0;
  goOn();
  await reading;
  const tried: string[] = [];
  for (const count of [16, 16, 8]) {
    await until(() => hanging.size === count, 'the disk to hang');
    tried.push(...hanging.keys());
    if (count === 16) goOn();
  }
  expect(tried.sort()).toEqual([...ids].sort());
  const closed = store.close();
  goOn();
  await closed;
  expect([most, hanging.size]).toEqual([16, 0]);
});

test('many uploads in use stay in memory, whatever the size of their heads', async () => {
  await open();
  const ids: string[] = [];
  for (let count = 0; count < 400; count++) ids.push(await created(24_000, 0));
  for (let round = 0; round < 2; round++)
    for (const id of ids)
      await store.commit(id, { token: round + 1, chunk: { name: `c-${round}`, start: round, size: 1 }, expiresAt });
  expect(reads).toBe(0);
});
