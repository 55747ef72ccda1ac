import { afterEach, describe, expect, test } from '@jest/globals';
import type { Lease, Leases } from '../../src/store/leases.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { within } from '../support/temporary.js';
import { commitOf, told } from './lease-holder.js';
import { newId, newUpload } from './sample-upload.js';

export interface LeasesUnderTest {
  readonly leases: Leases;
  /** The store whose fence knows the tokens. */
  readonly store: UploadStore;
  readonly dispose: () => Promise<void>;
}

/** Long enough never to pass in a test; a test that waits for it fails by its own time limit. */
const NEVER = 600_000;

/** What every kind of lease keeps to; run on each implementation with this same text. */
export function describeLeases(name: string, makeLeases: (graceMs: number) => Promise<LeasesUnderTest>): void {
  describe(`${name}: leases`, () => {
    let tested: LeasesUnderTest | undefined;

    async function open(graceMs = NEVER): Promise<LeasesUnderTest & { id: string }> {
      tested = await makeLeases(graceMs);
      const { id } = await tested.store.create(newUpload());
      return { ...tested, id };
    }

    afterEach(async () => {
      await tested?.dispose();
      tested = undefined;
    });

    test('each lease has a larger token than the one before it', async () => {
      const { leases, id } = await open();
      const tokens: number[] = [];
      for (let turn = 0; turn < 5; turn++) {
        const lease = await leases.take(id);
        expect(lease.signal.aborted).toBe(false);
        tokens.push(lease.token);
        await lease.release();
      }
      expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b));
    });

    test('the holder is asked to give back, and the next gets its turn when it does', async () => {
      const { leases, id } = await open();
      const first = await leases.take(id);
      const taking = leases.take(id);
      expect(await within(told(first), 'being asked')).toBe('taken-over');
      await first.release();
      const second = await within(taking, 'the second lease');
      expect(second.token).toBeGreaterThan(first.token);
      expect(second.signal.aborted).toBe(false);
      await second.release();
    });

    test('a holder that does not answer is passed over, and can change nothing any more', async () => {
      const { leases, store, id } = await open(20);
      const stalled = await leases.take(id);
      const next = await within(leases.take(id), 'the takeover');
      expect(await store.commit(id, commitOf(stalled, 5))).toBe('stale');
      expect(await store.commit(id, commitOf(next, 7))).toMatchObject({ offset: 7 });
      await stalled.release();
      const third = leases.take(id);
      expect(await within(told(next), 'being asked')).toBe('taken-over');
      await next.release();
      await (await third).release();
    });

    test('a lease alone fences older ones, before it has committed anything', async () => {
      const { leases, store, id } = await open();
      const old = await leases.take(id);
      await old.release();
      await (await leases.take(id)).release();
      expect(await store.commit(id, commitOf(old, 5))).toBe('stale');
      expect(await store.get(id)).toMatchObject({ offset: 0 });
    });

    test('a commit under way when the lease is taken is either counted before or not at all', async () => {
      const { leases, store, id } = await open(0);
      let offset = 0;
      let counted = 0;
      for (let turn = 0; turn < 50; turn++) {
        const old = await leases.take(id);
        const committing = store.commit(id, commitOf(old, 1, offset));
        if (turn % 3 === 0) await Promise.resolve();
        const next = await leases.take(id);
        offset = (await store.get(id))!.offset;
        if (typeof (await committing) === 'object') counted += 1;
        expect((await store.get(id))?.offset).toBe(offset);
        expect(offset).toBe(counted);
        await next.release();
      }
      expect(counted).toBeGreaterThan(0);
    });

    test('those who wait come in order, each asked as soon as another waits behind it', async () => {
      const { leases, id } = await open();
      const first = await leases.take(id);
      const order: number[] = [];
      const waiting = [1, 2, 3].map(async (place) => {
        const lease = await leases.take(id);
        order.push(place);
        expect(lease.signal.aborted).toBe(place < 3);
        await lease.release();
        return lease.token;
      });
      await first.release();
      const tokens = await within(Promise.all(waiting), 'all turns');
      expect(order).toEqual([1, 2, 3]);
      expect(tokens).toEqual([...tokens].sort((a, b) => a - b));
    });

    test('leases of different uploads do not know each other', async () => {
      const { leases, store, id } = await open();
      const other = (await store.create(newUpload())).id;
      const one = await leases.take(id);
      const two = await within(leases.take(other), 'a lease of another upload');
      expect(one.signal.aborted).toBe(false);
      await Promise.all([one.release(), two.release()]);
    });

    test('releasing twice lets in one only', async () => {
      const { leases, id } = await open();
      const first = await leases.take(id);
      await first.release();
      const second = await leases.take(id);
      await first.release();
      let third: Lease | undefined;
      const taking = leases.take(id).then((lease) => (third = lease));
      expect(await within(told(second), 'being asked')).toBe('taken-over');
      expect(third).toBeUndefined();
      await second.release();
      await (await taking).release();
    });

    test('an unknown upload has leases too, since only under one it is known to be unknown', async () => {
      const { leases } = await open();
      const id = newId();
      const one = await leases.take(id);
      await one.release();
      const two = await leases.take(id);
      expect(two.token).toBeGreaterThan(one.token);
      await two.release();
    });

    test('draining asks every holder, and those who come later at once', async () => {
      const { leases, store, id } = await open();
      const other = (await store.create(newUpload())).id;
      const held = await Promise.all([leases.take(id), leases.take(other)]);
      leases.drain();
      expect(held.map(({ signal }) => signal.reason as unknown)).toEqual(['draining', 'draining']);
      await Promise.all(held.map((lease) => lease.release()));
      const late = await within(leases.take(id), 'a lease while draining');
      expect(late.signal.reason).toBe('draining');
      expect(await store.commit(id, commitOf(late, 3))).toMatchObject({ offset: 3 });
      await late.release();
    });
  });
}
