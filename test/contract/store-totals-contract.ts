import { describe, expect, test } from '@jest/globals';
import type { Totals } from '../../src/store/upload-store.js';
import type { StoreUnderTest } from './store-contract.js';
import { answer, attempt, HOUR, newUpload } from './sample-upload.js';

const later = Date.now() + HOUR;

/** The part of the store's contract that is about how much there is. */
export function describeTotals(current: () => StoreUnderTest): void {
  async function received(size: number, ends = false): Promise<string> {
    const { store } = current();
    const { id } = await store.create(newUpload());
    const chunk = { name: 'chunk-1', start: 0, size };
    await store.commit(id, { token: 1, chunk, expiresAt: later, ...(ends && { complete: {} }) });
    return id;
  }

  async function totals(): Promise<Omit<Totals, 'reservedBytes'>> {
    const { phases, bytes } = await current().store.totals();
    const some = Object.entries(phases).filter(([, count]) => count !== 0);
    return { phases: Object.fromEntries(some), bytes };
  }

  describe('totals', () => {
    test('of nothing are nothing', async () => {
      expect(await totals()).toEqual({ phases: {}, bytes: 0 });
    });

    test('follow each upload through its phases, and its bytes as long as they are needed', async () => {
      const { store } = current();
      const id = await received(7);
      const other = await received(100, true);
      expect(await totals()).toEqual({ phases: { receiving: 1, complete: 1 }, bytes: 107 });
      await store.claimDelivery(other, 'a', later);
      expect(await totals()).toEqual({ phases: { receiving: 1, delivering: 1 }, bytes: 107 });
      await store.giveUp(other, 'a', { reason: 'unreachable', problem: 'x' });
      expect(await totals()).toEqual({ phases: { receiving: 1, undelivered: 1 }, bytes: 107 });
      await store.claimDelivery(other, 'a', later);
      await store.recordAnswer(other, 'a', { answer: answer(0), expiresAt: later });
      expect(await totals()).toEqual({ phases: { receiving: 1, answered: 1 }, bytes: 7 });
      await store.cancel(id);
      expect(await totals()).toEqual({ phases: { cancelled: 1, answered: 1 }, bytes: 0 });
    });

    test('forget what is removed, in whatever phase, and know the rest after a restart', async () => {
      const { store, reopen } = current();
      const gone = [await received(5), await received(6, true)];
      await received(9);
      for (const id of gone) await store.remove(id);
      await store.remove(gone[0]!);
      expect(await totals()).toEqual({ phases: { receiving: 1 }, bytes: 9 });
      expect(await (await reopen()).totals()).toMatchObject({ bytes: 9 });
    });

    test('count an upload that was answered early as answered, without its bytes', async () => {
      const { store } = current();
      const id = await received(5);
      const early = attempt(1, { inPart: true });
      await store.beginEagerAttempt(id, early);
      await store.recordEarlyAnswer(
        id,
        { ...early, endedAt: 5, reached: 'answered' },
        { answer: answer(0), expiresAt: later },
      );
      expect(await totals()).toEqual({ phases: { answered: 1 }, bytes: 0 });
    });
  });
}
