import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import type { Chunk, Upload } from '../../src/model/upload.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { HOUR, newId, newUpload } from './sample-upload.js';
import { describeAskingAgain } from './store-again-contract.js';
import { describeDeliveries } from './store-deliveries-contract.js';
import { describeToldClients } from './store-informed-contract.js';
import { describeEagerAttempts } from './store-eager-contract.js';
import { describeRoom } from './store-room-contract.js';
import { describeTotals } from './store-totals-contract.js';

export interface StoreUnderTest {
  readonly store: UploadStore;
  /** The same records in a store of a new process, as after a crash. */
  readonly reopen: () => Promise<UploadStore>;
  /** The claims of deliveries are known to more than one process, and outlive the one that holds them. */
  readonly claimsAreShared: boolean;
  readonly dispose: () => Promise<void>;
}

/** What every store keeps to; run on each implementation with this same text. */
export function describeStore(name: string, makeStore: () => Promise<StoreUnderTest>): void {
  describe(`${name}: a store`, () => {
    let tested: StoreUnderTest;
    let store: UploadStore;

    beforeEach(async () => {
      tested = await makeStore();
      ({ store } = tested);
    });
    afterEach(() => tested.dispose());

    const expiresAt = Date.now() + 2 * HOUR;

    async function open(over: Parameters<typeof newUpload>[0] = {}): Promise<Upload> {
      return store.create(newUpload(over));
    }

    async function grow(id: string, token: number, start: number, size: number): Promise<Upload | 'stale' | 'gone'> {
      return store.commit(id, { token, chunk: { name: `chunk-${token}`, start, size }, expiresAt });
    }

    test('a new upload is empty, is receiving, and has all it was created with', async () => {
      const made = newUpload({ length: 7, reprDigests: [{ algorithm: 'sha-256', value: 'ab' }] });
      const expected = { ...made, phase: 'receiving', offset: 0, attempts: [], attemptCount: 0 };
      expect(await store.create(made)).toEqual(expected);
      expect(await store.get(made.id)).toEqual(expected);
      expect(await store.chunks(made.id)).toEqual([]);
      expect(await (await tested.reopen()).get(made.id)).toEqual(expected);
    });

    test('an id can be created once only, also by two at the same time', async () => {
      const made = newUpload();
      const both = await Promise.allSettled([store.create(made), store.create({ ...made, route: 'other' })]);
      expect(both.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
      await expect(store.create(made)).rejects.toMatchObject({ name: 'Fault', code: 'CONTRACT_BROKEN' });
      expect((await store.get(made.id))?.route).toBe('files');
    });

    test('a client key is given to one upload, also of six at the same time, until another takes its place', async () => {
      const clientKey = newId();
      const made = Array.from({ length: 6 }, () => ({ ...newUpload(), clientKey }));
      const outcomes = await Promise.all(made.map((upload) => store.createUnlessKeyUsed(upload)));
      const first = outcomes.find((outcome): outcome is Upload => typeof outcome !== 'string')!;
      expect(outcomes.filter((outcome) => outcome !== first)).toEqual(Array(5).fill(first.id));
      expect((await store.list(undefined, 10)).uploads.map(({ id }) => id)).toEqual([first.id]);
      expect(await store.idByClientKey(clientKey)).toBe(first.id);
      const second = { ...newUpload({ createdAt: first.createdAt + 1 }), clientKey };
      expect(await store.createUnlessKeyUsed(second, newId())).toBe(first.id);
      expect(await store.createUnlessKeyUsed(second, first.id)).toMatchObject({ id: second.id });
      await store.remove(first.id, clientKey);
      const later = await tested.reopen();
      expect(await later.idByClientKey(clientKey)).toBe(second.id);
      await later.remove(second.id, clientKey);
      expect(await later.idByClientKey(clientKey)).toBeUndefined();
    });

    test('what is no id is refused', async () => {
      for (const id of [
        '',
        'short',
        '../../../../etc/passwd',
        'a/aaaaaaaaaaaaaaaaaaa',
        `${newId()}.log`,
        'ä'.repeat(24),
      ])
        await expect(store.create(newUpload({ id }))).rejects.toMatchObject({ code: 'CONTRACT_BROKEN' });
      expect((await store.list(undefined, 10)).uploads).toEqual([]);
    });

    test('unknown uploads are gone for every verb', async () => {
      const id = newId();
      expect(await store.get(id)).toBeUndefined();
      expect(await store.chunks(id)).toEqual([]);
      expect(await grow(id, 1, 0, 5)).toBe('gone');
      expect(await store.invalidate(id, 1)).toBe('gone');
      expect(await store.cancel(id)).toBe('gone');
      await expect(store.remove(id)).resolves.toBeUndefined();
    });

    test('the chunk of one lease grows commit by commit, and the offset with it', async () => {
      const { id } = await open();
      for (const size of [1, 5, 5, 4096]) expect(await grow(id, 3, 0, size)).toMatchObject({ offset: size, expiresAt });
      expect(await store.chunks(id)).toEqual([{ name: 'chunk-3', start: 0, size: 4096 }]);
    });

    test('a chunk keeps the checksum that came with its size, until the next commit', async () => {
      const { id } = await open();
      const commit = (token: number, chunk: Chunk) => store.commit(id, { token, chunk, expiresAt });
      const first = { name: 'chunk-3-0', start: 0, size: 5, crc: 0xffffffff };
      await commit(3, first);
      expect(await store.chunks(id)).toEqual([first]);
      const grown = { ...first, size: 9, crc: 0 };
      await commit(3, grown);
      const second = { name: 'chunk-4-9', start: 9, size: 1, crc: 1 };
      await commit(4, second);
      expect(await store.chunks(id)).toEqual([grown, second]);
      expect(await (await tested.reopen()).chunks(id)).toEqual([grown, second]);
    });

    test('an upload whose bytes are lost is invalid and says so, in every phase that needs them', async () => {
      const receiving = await open();
      expect(await store.markLost(receiving.id)).toBe('gone');
      expect(await store.invalidate(receiving.id, 1, 'lost')).toMatchObject({ phase: 'invalid', lost: true });
      const other = await open();
      expect(await store.invalidate(other.id, 1)).not.toHaveProperty('lost');
      const whole = await open();
      await store.commit(whole.id, { token: 1, complete: {}, expiresAt });
      const claimed = await open();
      await store.commit(claimed.id, { token: 1, complete: {}, expiresAt });
      await store.claimDelivery(claimed.id, 'w', Date.now() + 60_000);
      for (const { id } of [whole, claimed]) {
        expect(await store.markLost(id)).toMatchObject({ phase: 'invalid', lost: true });
        expect(await store.markLost(id)).toMatchObject({ phase: 'invalid', lost: true });
        expect(await store.get(id)).toMatchObject({ phase: 'invalid', lost: true });
        expect(await store.expired(Date.now())).toContain(id);
      }
      expect(await store.markLost(newId())).toBe('gone');
    });

    test('a new lease goes on in a new chunk at the offset', async () => {
      const { id } = await open();
      await grow(id, 1, 0, 10);
      await grow(id, 2, 10, 5);
      const chunks = [
        { name: 'chunk-1', start: 0, size: 10 },
        { name: 'chunk-2', start: 10, size: 5 },
      ];
      expect(await store.chunks(id)).toEqual(chunks);
      const reopened = await tested.reopen();
      expect(await reopened.chunks(id)).toEqual(chunks);
      expect(await reopened.get(id)).toMatchObject({ offset: 15, phase: 'receiving' });
    });

    test('a commit with an older token is stale, whatever it says, also after a restart', async () => {
      const { id } = await open();
      await grow(id, 5, 0, 10);
      expect(await grow(id, 4, 10, 5)).toBe('stale');
      expect(await store.invalidate(id, 4)).toBe('stale');
      const reopened = await tested.reopen();
      expect(await reopened.commit(id, { token: 4, complete: {}, expiresAt })).toBe('stale');
      expect(await reopened.get(id)).toMatchObject({ offset: 10, phase: 'receiving' });
    });

    test('of two commits at once the newer lease is not disturbed by the older', async () => {
      const { id } = await open();
      const results = await Promise.all([grow(id, 2, 0, 10), grow(id, 1, 0, 99)]);
      expect(results).toEqual([expect.objectContaining({ offset: 10 }), 'stale']);
    });

    test('a chunk that does not begin at the offset, shrinks or exceeds the length changes nothing', async () => {
      const { id } = await open({ length: 20 });
      await grow(id, 1, 0, 10);
      const known = await store.get(id);
      for (const [token, start, size] of [
        [2, 9, 5],
        [2, 11, 5],
        [1, 0, 9],
        [1, 1, 10],
        [2, 10, 11],
        [2, 10, -1],
        [2, 10, 0.5],
      ] as const)
        await expect(grow(id, token, start, size)).rejects.toMatchObject({ code: 'CONTRACT_BROKEN' });
      expect(await store.get(id)).toEqual(known);
      expect(await store.chunks(id)).toHaveLength(1);
    });

    test('the length is fixed once', async () => {
      const { id } = await open();
      expect(await store.commit(id, { token: 1, length: 8, expiresAt })).toMatchObject({ length: 8, offset: 0 });
      expect(await store.commit(id, { token: 1, length: 8, expiresAt })).toMatchObject({ length: 8 });
      await expect(store.commit(id, { token: 1, length: 9, expiresAt })).rejects.toMatchObject({
        code: 'CONTRACT_BROKEN',
      });
      expect((await store.get(id))?.length).toBe(8);
    });

    test('digests are taken when the creation brought none', async () => {
      const first = [{ algorithm: 'sha-256', value: 'aa' }] as const;
      const { id } = await open();
      expect(await store.commit(id, { token: 1, reprDigests: first, expiresAt })).toMatchObject({ reprDigests: first });
      const second = [{ algorithm: 'sha-256', value: 'bb' }] as const;
      expect(await store.commit(id, { token: 1, reprDigests: second, expiresAt })).toMatchObject({
        reprDigests: first,
      });
    });

    test('completion fixes the length at the offset and ends receiving', async () => {
      const { id } = await open();
      const chunk = { name: 'chunk-1', start: 0, size: 3 };
      const trailers: HeaderLine[] = [['X-Sum', '\x80\x9f\xff']];
      const complete = { heldBack: { lastByte: 255 }, trailers };
      const expected = { phase: 'complete', offset: 3, length: 3, heldBack: { lastByte: 255 }, trailers };
      expect(await store.commit(id, { token: 1, chunk, complete, expiresAt })).toMatchObject(expected);
      expect(await grow(id, 2, 3, 1)).toBe('gone');
      expect(await store.invalidate(id, 2)).toBe('gone');
      expect(await (await tested.reopen()).get(id)).toMatchObject(expected);
    });

    test('an empty upload can be completed, one with missing bytes cannot', async () => {
      const empty = await open();
      expect(await store.commit(empty.id, { token: 1, complete: {}, expiresAt })).toMatchObject({
        phase: 'complete',
        length: 0,
      });
      const short = await open({ length: 5 });
      await expect(store.commit(short.id, { token: 1, complete: {}, expiresAt })).rejects.toMatchObject({
        code: 'CONTRACT_BROKEN',
      });
      expect((await store.get(short.id))?.phase).toBe('receiving');
    });

    test('cancelled and invalid uploads take no bytes and wait to be removed', async () => {
      const cancelled = await open();
      const invalid = await open();
      expect(await store.cancel(cancelled.id)).toMatchObject({ phase: 'cancelled' });
      expect(await store.cancel(cancelled.id)).toMatchObject({ phase: 'cancelled' });
      expect(await store.invalidate(invalid.id, 1)).toMatchObject({ phase: 'invalid' });
      for (const { id } of [cancelled, invalid]) expect(await grow(id, 9, 0, 1)).toBe('gone');
      const reopened = await tested.reopen();
      expect([...(await reopened.expired(0))].sort()).toEqual([cancelled.id, invalid.id].sort());
    });

    test('an upload is expired from its time on, and each commit moves it', async () => {
      const { id } = await open({ expiresAt: 5000 });
      expect(await store.expired(4999)).toEqual([]);
      expect(await store.expired(5000)).toEqual([id]);
      await store.commit(id, { token: 1, expiresAt: 9000 });
      expect(await store.expired(8999)).toEqual([]);
    });

    test('of several who remove an upload one hears in which phase it was, and the others that it is unknown', async () => {
      const [open1, open2] = [await open(), await open()];
      await store.cancel(open2.id);
      for (const [id, phase] of [
        [open1.id, 'receiving'],
        [open2.id, 'cancelled'],
      ] as const) {
        const removed = await Promise.all([store.remove(id), store.remove(id), store.remove(id)]);
        expect(removed.filter((one) => one !== undefined)).toEqual([phase]);
      }
    });

    test('a removed upload is forgotten, also after a restart', async () => {
      const { id } = await open();
      await grow(id, 1, 0, 10);
      await store.remove(id);
      await store.remove(id);
      expect(await store.get(id)).toBeUndefined();
      expect(await grow(id, 2, 10, 1)).toBe('gone');
      expect(await (await tested.reopen()).get(id)).toBeUndefined();
    });

    test('listing pages through everything once, also while uploads come and go', async () => {
      const ids = (await Promise.all(Array.from({ length: 23 }, () => open()))).map(({ id }) => id);
      const seen: string[] = [];
      for (let after: string | undefined, first = true; first || after !== undefined; first = false) {
        const page = await store.list(after, 5);
        seen.push(...page.uploads.map(({ id }) => id));
        if (page.next !== undefined && seen.length === 10) await store.remove(seen.at(-1)!);
        after = page.next;
      }
      expect(seen.sort()).toEqual(ids.sort());
      expect(await store.list(undefined, 50)).toMatchObject({ uploads: { length: 22 } });
    });

    test('a thousand commits of many uploads at once are all kept', async () => {
      const ids = (await Promise.all(Array.from({ length: 50 }, () => open()))).map(({ id }) => id);
      const commits = ids.flatMap((id) => Array.from({ length: 20 }, (_, step) => grow(id, 1, 0, (step + 1) * 100)));
      await Promise.all(commits);
      const reopened = await tested.reopen();
      for (const id of ids) expect(await reopened.get(id)).toMatchObject({ offset: 2000 });
    });

    describeDeliveries(() => tested);
    describeToldClients(() => tested);
    describeEagerAttempts(() => tested);
    describeAskingAgain(() => tested);
    describeTotals(() => tested);
    describeRoom(() => tested);
  });
}
