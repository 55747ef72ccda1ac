import { beforeEach, describe, expect, test } from '@jest/globals';
import type { Upload } from '../../src/model/upload.js';
import { everyUpload, type UploadStore } from '../../src/store/upload-store.js';
import { type Capacity, isNoRoom, type NoRoom, roomOf } from '../../src/store/usage.js';
import type { StoreUnderTest } from './store-contract.js';
import { answer, attempt, HOUR, newUpload } from './sample-upload.js';

const later = Date.now() + HOUR;
const KIB = 1024;

/** The part of the store's contract that is about the room that uploads take. */
export function describeRoom(current: () => StoreUnderTest): void {
  /** The same records in a store of a new process. */
  let reopened: UploadStore | undefined;
  beforeEach(() => (reopened = undefined));
  const newest = (): UploadStore => reopened ?? current().store;

  async function created(over: Parameters<typeof newUpload>[0], capacity: Capacity = {}): Promise<Upload | string> {
    const result = await newest().create(newUpload(over), capacity);
    return isNoRoom(result) ? result.exceeds : result;
  }

  async function receiving(length?: number, over = {}): Promise<string> {
    return ((await created({ length, ...over })) as Upload).id;
  }

  function grow(id: string, size: number, more: object = {}): ReturnType<UploadStore['commit']> {
    const chunk = { name: 'chunk-1', start: 0, size };
    return current().store.commit(id, { token: 1, chunk, expiresAt: later, ...more });
  }

  const reserved = async (): Promise<number> => (await newest().totals()).reservedBytes;

  /** The room that all uploads take: the rest of a limit is just enough for another one. */
  async function expectTaken(bytes: number): Promise<void> {
    const limit = 2 ** 40;
    const all = { bytes: limit };
    expect(await created({ length: limit - bytes + 1 }, { all })).toBe('all-bytes');
    const rest = await created({ length: limit - bytes }, { all });
    expect(rest).toMatchObject({ length: limit - bytes });
    await newest().remove((rest as Upload).id);
  }

  describe('room', () => {
    test('is taken by a creation only if there is enough, and nothing is created without', async () => {
      const { store } = current();
      await receiving(100);
      expect(await created({ length: 101 }, { all: { bytes: 200 } })).toBe('all-bytes');
      expect((await store.totals()).phases).toEqual({ receiving: 1 });
      expect(await created({ length: 100 }, { all: { bytes: 200 } })).toMatchObject({ phase: 'receiving' });
      expect(await created({ length: 1 }, { all: { bytes: 200 } })).toBe('all-bytes');
      expect(await created({ length: 0 }, { all: { bytes: 200 } })).toMatchObject({ phase: 'receiving' });
    });

    test('counts by client and by route, and an upload without a client counts for none', async () => {
      const photos = { route: 'photos', client: 'alice', length: 10 };
      await receiving(10, photos);
      expect(await created(photos, { client: { uploads: 1 } })).toBe('client-uploads');
      expect(await created(photos, { client: { bytes: 19 } })).toBe('client-bytes');
      expect(await created({ ...photos, client: 'bob' }, { client: { uploads: 1 } })).toBeInstanceOf(Object);
      expect(await created({ ...photos, client: 'carol' }, { route: { uploads: 2 } })).toBe('route-uploads');
      expect(await created({ ...photos, client: 'carol' }, { route: { bytes: 29 } })).toBe('route-bytes');
      expect(
        await created({ ...photos, route: 'films' }, { route: { uploads: 1 }, all: { uploads: 9 } }),
      ).toBeInstanceOf(Object);
      const nobody = { route: 'music', length: 10 };
      await receiving(10, nobody);
      expect(await created(nobody, { client: { uploads: 1, bytes: 1 } })).toBeInstanceOf(Object);
    });

    test('a client’s key that is used is found before the room is looked at', async () => {
      const { store } = current();
      const first = { ...newUpload({ length: 10 }), clientKey: 'a key' };
      const capacity = { all: { uploads: 1 } };
      expect(await store.createUnlessKeyUsed(first, undefined, capacity)).toMatchObject({ id: first.id });
      const other = { ...newUpload({ length: 10 }), clientKey: 'another' };
      expect(await store.createUnlessKeyUsed(other, undefined, capacity)).toEqual({ exceeds: 'all-uploads' });
      expect(await store.idByClientKey('another')).toBeUndefined();
    });

    test('is kept for what may still come, and no longer', async () => {
      const { store } = current();
      const id = await receiving(100);
      expect(await reserved()).toBe(100);
      await grow(id, 60);
      expect(await reserved()).toBe(40);
      expect(await created({ length: 61 }, { unwrittenBytes: 100 })).toBe('unwritten-bytes');
      await grow(id, 100, { complete: {} });
      expect(await reserved()).toBe(0);
      await expectTaken(100);
      await store.claimDelivery(id, 'a', later);
      await store.giveUp(id, 'a', { reason: 'unreachable', problem: 'x' });
      await expectTaken(100);
      await store.claimDelivery(id, 'a', later);
      await store.recordAnswer(id, 'a', { answer: answer(0), expiresAt: later });
      await expectTaken(0);
    });

    test.each<[string, (store: UploadStore, id: string) => Promise<unknown>]>([
      ['cancelled', (store, id) => store.cancel(id)],
      ['cancelled twice', async (store, id) => [await store.cancel(id), await store.cancel(id)]],
      ['removed', (store, id) => store.remove(id)],
      ['removed twice', async (store, id) => [await store.remove(id), await store.remove(id)]],
      ['cancelled and removed', async (store, id) => [await store.cancel(id), await store.remove(id)]],
      ['given up', (store, id) => store.invalidate(id, 5)],
      ['lost', (store, id) => store.invalidate(id, 5, 'lost')],
      [
        'answered early',
        async (store, id) => {
          const early = attempt(1, { inPart: true });
          await store.beginEagerAttempt(id, early);
          const kept = { answer: answer(0), expiresAt: later };
          await store.recordEarlyAnswer(id, { ...early, endedAt: 5, reached: 'answered' }, kept);
        },
      ],
    ])('is free again when the upload is %s', async (_, end) => {
      const { store } = current();
      const id = await receiving(1000, { client: 'alice' });
      await grow(id, 60);
      await end(store, id);
      expect(await reserved()).toBe(0);
      await expectTaken(0);
      expect(await created({ client: 'alice', length: 1 }, { client: { uploads: 1 } })).toBeInstanceOf(Object);
    });

    test('is taken step by step by an upload without a length, before its bytes count', async () => {
      const id = await receiving();
      expect(await reserved()).toBe(64 * KIB);
      await grow(id, 64 * KIB - 1, { capacity: { all: { bytes: 1 } } });
      const tooSmall = { capacity: { all: { bytes: 127 * KIB } } };
      await expect(grow(id, 64 * KIB, tooSmall)).rejects.toMatchObject({ code: 'STORAGE_FULL' });
      expect((await current().store.get(id))!.offset).toBe(64 * KIB - 1);
      await grow(id, 64 * KIB, { capacity: { all: { bytes: 128 * KIB } } });
      expect(await reserved()).toBe(64 * KIB);
      await grow(id, 64 * KIB + 7, { complete: {}, capacity: { all: { bytes: 1 } } });
      expect(await reserved()).toBe(0);
      await expectTaken(64 * KIB + 7);
    });

    test('is taken for a length that is stated late, or it is not recorded', async () => {
      const id = await receiving();
      const commit = { token: 1, length: 100 * KIB, expiresAt: later };
      const { store } = current();
      await expect(store.commit(id, { ...commit, capacity: { unwrittenBytes: 99 * KIB } })).rejects.toMatchObject({
        code: 'STORAGE_FULL',
      });
      expect((await store.get(id))!.length).toBeUndefined();
      await store.commit(id, { ...commit, capacity: { unwrittenBytes: 100 * KIB } });
      expect(await reserved()).toBe(100 * KIB);
    });

    test('is what the records say, also after a restart', async () => {
      const ids = await Promise.all([receiving(100, { client: 'alice' }), receiving(), receiving(50), receiving(0)]);
      await grow(ids[0], 60);
      await grow(ids[1], 70 * KIB);
      await grow(ids[2], 50, { complete: {} });
      reopened = await current().reopen();
      let room = 0;
      for await (const upload of everyUpload(reopened)) room += roomOf(upload);
      expect(room).toBe(100 + 128 * KIB + 50);
      expect(await reserved()).toBe(40 + 58 * KIB);
      await expectTaken(room);
      expect(await created({ client: 'alice', length: 1 }, { client: { bytes: 100 } })).toBe('client-bytes');
    });
  });
}

/** The part that a store keeps to if it counts the room of all uploads in one place. */
export function describeLastRoom(name: string, makeStore: () => Promise<StoreUnderTest>): void {
  test(`${name}: the last room is taken by one of several simultaneous creations`, async () => {
    const { store, dispose } = await makeStore();
    const create = (capacity: Capacity): Promise<Upload | NoRoom> => store.create(newUpload({ length: 10 }), capacity);
    const refusedOf8 = async (capacity: Capacity): Promise<number> =>
      (await Promise.all(Array.from({ length: 8 }, () => create(capacity)))).filter(isNoRoom).length;
    try {
      expect(await refusedOf8({ all: { uploads: 3, bytes: 1000 } })).toBe(5);
      expect(await refusedOf8({ all: { bytes: 70 } })).toBe(4);
      expect(await refusedOf8({ unwrittenBytes: 80 })).toBe(7);
    } finally {
      await dispose();
    }
  });
}
