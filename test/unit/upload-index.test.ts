import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { respondToUploads, type UploadsApi } from '../../src/admin/uploads-api.js';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import { silentLog } from '../../src/observe/log.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { HOUR, newUpload } from '../contract/sample-upload.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

let directory: TemporaryDirectory;
let store: EmbeddedStore;
/** Paths of the files that were opened for reading since the last look. */
let opened: string[];

const expiresAt = Date.now() + HOUR;

async function open(): Promise<void> {
  store = await EmbeddedStore.open({ directory: directory.path, sync: 'none', log: silentLog() });
}

async function restart(): Promise<void> {
  await store.close();
  await open();
  opened = [];
}

async function created(bytes = 5, more: Parameters<typeof newUpload>[0] = {}): Promise<string> {
  const { id } = await store.create(newUpload({ expiresAt, ...more }));
  if (bytes > 0) await store.commit(id, { token: 1, chunk: { name: 'chunk-1', start: 0, size: bytes }, expiresAt });
  return id;
}

beforeEach(async () => {
  directory = await temporaryDirectory();
  opened = [];
  useFileSystem({
    ...nodeFileSystem,
    open: (path, flags, mode) => {
      if (flags === 'r') opened.push(path);
      return nodeFileSystem.open(path, flags, mode);
    },
  });
  await open();
});
afterEach(async () => {
  await store.close();
  useFileSystem();
  await directory.remove();
});

describe('uploads are found by their rows', () => {
  const byAge = async (options?: Parameters<EmbeddedStore['index']['newestFirst']>[0]): Promise<number[]> => {
    const times: number[] = [];
    for await (const { createdAt } of store.index.newestFirst(options)) times.push(createdAt);
    return times;
  };

  test('the newest first, from any time on, in one phase, while uploads come and go', async () => {
    const ids = new Map<number, string>();
    for (const createdAt of [5, 3, 9, 1, 7]) ids.set(createdAt, await created(5, { createdAt }));
    expect(await byAge()).toEqual([9, 7, 5, 3, 1]);
    for (const createdAt of [8, 2, 10]) ids.set(createdAt, await created(5, { createdAt }));
    for (const createdAt of [9, 1]) await store.remove(ids.get(createdAt)!);
    expect(await byAge()).toEqual([10, 8, 7, 5, 3, 2]);
    expect(await byAge({ createdUpTo: 7 })).toEqual([7, 5, 3, 2]);
    await store.cancel(ids.get(5)!);
    expect(await byAge({ phase: 'receiving', createdUpTo: 8 })).toEqual([8, 7, 3, 2]);
    for (const createdAt of [10, 8, 7, 5]) await store.remove(ids.get(createdAt)!);
    ids.set(5, await created(5, { createdAt: 5, id: ids.get(5)! }));
    expect(await byAge()).toEqual([5, 3, 2]);
    await restart();
    expect(await byAge()).toEqual([5, 3, 2]);
  });

  test('a page reads only the records on it', async () => {
    for (let count = 0; count < 60; count++) await created(0, { createdAt: count });
    await restart();
    const { uploads, next } = await store.list(undefined, 10);
    expect(uploads.map(({ createdAt }) => createdAt)).toEqual([59, 58, 57, 56, 55, 54, 53, 52, 51, 50]);
    expect(opened).toHaveLength(10);
    expect((await store.list(next, 10)).uploads[0]).toMatchObject({ createdAt: 49 });
    expect(opened).toHaveLength(20);
  });

  describe('by the admin listener', () => {
    async function ask(path: string, query: Record<string, string> = {}, hasIndex = true): Promise<AskedPage> {
      const { index } = store;
      const list = store.list.bind(store);
      const uploads: UploadsApi['store'] = {
        list,
        setAsideRecords: () => store.setAsideRecords(),
        ...(hasIndex && { index }),
      };
      const api = { store: uploads, log: silentLog() } as unknown as UploadsApi;
      const request = { method: 'GET', path, query: new URLSearchParams(query), headers: {} };
      return JSON.parse((await respondToUploads(api, request)).body!) as AskedPage;
    }

    interface AskedPage {
      readonly uploads: readonly { readonly tag: string }[];
      readonly next?: string;
    }

    async function pages(query: Record<string, string>, hasIndex: boolean): Promise<string[][]> {
      const found: string[][] = [];
      for (let next: string | undefined, first = true; first || next !== undefined; first = false) {
        const page = await ask('/uploads', { ...query, ...(next !== undefined && { after: next }) }, hasIndex);
        found.push(page.uploads.map(({ tag }) => tag));
        next = page.next;
      }
      return found;
    }

    test.each([
      ['all', {}],
      ['of one phase', { phase: 'receiving' }],
      ['found by what they were created for', { find: '/files' }],
    ])('page by page in the same order as by reading all of them: %s', async (_, query: Record<string, string>) => {
      // Many of them in the same millisecond.
      const times = [5, 5, 5, 5, 5, 5, 5, 5, 3, 9, 9, 1, 7, 7, 7, 2, 2, 8];
      const ids: string[] = [];
      for (const createdAt of times) ids.push(await created(0, { createdAt }));
      for (const id of ids.slice(3, 6)) await store.cancel(id);
      for (const limit of ['1', '2', '5', '17', '18', '19']) {
        const found = await pages({ ...query, limit }, true);
        expect(found).toEqual(await pages({ ...query, limit }, false));
        expect(new Set(found.flat()).size).toBe(query['phase'] === undefined ? 18 : 15);
      }
    });

    test('without reading the records that are not shown', async () => {
      for (let count = 0; count < 100; count++) await created(0, { createdAt: count });
      await restart();
      const { uploads } = await ask('/uploads', { limit: '10' });
      expect(uploads).toHaveLength(10);
      // The first one behind the page shows that it is full, and some are read ahead.
      expect(opened.length).toBeLessThan(30);
      opened = [];
      expect(await ask(`/uploads/${uploads[3]!.tag}`)).toMatchObject({ tag: uploads[3]!.tag });
      expect(opened).toHaveLength(1);
    });
  });

  test('the keys of clients find their uploads after a start, the newest one of two', async () => {
    const [first, second] = [newUpload({ createdAt: 1 }), newUpload({ createdAt: 2 })];
    await store.createUnlessKeyUsed({ ...first, clientKey: 'a key' });
    await store.createUnlessKeyUsed({ ...second, clientKey: 'a key' }, first.id);
    await restart();
    expect(await store.idByClientKey('a key')).toBe(second.id);
    expect(await store.createUnlessKeyUsed({ ...newUpload(), clientKey: 'a key' })).toBe(second.id);
    expect(opened).toEqual([]);
    await store.remove(second.id);
    expect(await store.idByClientKey('a key')).toBeUndefined();
  });
});
