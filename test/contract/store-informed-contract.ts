import { describe, expect, test } from '@jest/globals';
import type { Upload } from '../../src/model/upload.js';
import type { StoreUnderTest } from './store-contract.js';
import { answer, attempt, HOUR, newUpload } from './sample-upload.js';

/** The part of the store's contract that is about what a client was told of an unknown outcome. */
export function describeToldClients(current: () => StoreUnderTest): void {
  const later = Date.now() + HOUR;

  async function claimed(): Promise<string> {
    const { store } = current();
    const { id } = await store.create(newUpload());
    const chunk = { name: 'chunk-1', start: 0, size: 5 };
    await store.commit(id, { token: 1, chunk, complete: {}, expiresAt: later });
    expect(await store.claimDelivery(id, 'a', later)).toMatchObject({ phase: 'delivering' });
    return id;
  }

  describe('the note that a client was told of an unknown outcome', () => {
    const why = { reason: 'outcome-unknown', problem: 'the connection broke' } as const;

    /** Given up after one attempt. */
    async function unknown(): Promise<string> {
      const { store } = current();
      const id = await claimed();
      await store.beginAttempt(id, 'a', attempt(1));
      await store.endAttempt(id, 'a', attempt(1, { endedAt: 7, reached: 'sent' }));
      await store.giveUp(id, 'a', why);
      return id;
    }

    test('is made of the end it is about, by whoever told it, and is still there after a restart', async () => {
      const { store, reopen } = current();
      const id = await unknown();
      const before = await store.get(id);
      const noted = { ...before, undelivered: { ...why, clientKnows: true } };
      expect(await store.recordClientInformed(id, 1, why)).toEqual(noted);
      expect(await store.recordClientInformed(id, 1, { ...why, clientKnows: true })).toEqual(noted);
      expect(await (await reopen()).get(id)).toEqual(noted);
    });

    test('is taken back when a client asks again, and can be made once more', async () => {
      const { store, reopen } = current();
      const id = await unknown();
      await store.recordClientInformed(id, 1, why);
      const before = await store.get(id);
      const asked = { ...before, undelivered: { ...why, hasAskedAgain: true } as const };
      expect(await store.recordClientAskedAgain(id, 1, why)).toBe('stale');
      expect(await store.recordClientAskedAgain(id, 1, before!.undelivered!)).toEqual(asked);
      const reopened = await reopen();
      expect(await reopened.get(id)).toEqual(asked);
      expect(await reopened.recordClientInformed(id, 1, why)).toBe('stale');
      const again = { ...before, undelivered: { ...why, hasAskedAgain: true, clientKnows: true } };
      expect(await reopened.recordClientInformed(id, 1, asked.undelivered)).toEqual(again);
    });

    test('goes with the next claim', async () => {
      const { store } = current();
      const id = await unknown();
      await store.recordClientInformed(id, 1, why);
      const taken = await store.claimDelivery(id, 'b', later);
      expect(taken).toMatchObject({ phase: 'delivering' });
      expect(taken).not.toHaveProperty('undelivered');
      expect((await store.giveUp(id, 'b', why)) as Upload).toMatchObject({ undelivered: why });
      expect((await store.get(id))!.undelivered).toEqual(why);
    });

    test.each<[string, (id: string) => Promise<unknown>]>([
      ['it is claimed again', (id) => current().store.claimDelivery(id, 'b', later)],
      [
        'a newer attempt has come to nothing as well',
        async (id) => {
          const { store } = current();
          await store.claimDelivery(id, 'b', later);
          await store.beginAttempt(id, 'b', attempt(2));
          await store.endAttempt(id, 'b', attempt(2, { endedAt: 9, reached: 'sent' }));
          await store.giveUp(id, 'b', why);
        },
      ],
      [
        'it was given up for another reason',
        async (id) => {
          await current().store.claimDelivery(id, 'b', later);
          await current().store.giveUp(id, 'b', { reason: 'quarantined', problem: 'by the gate' });
        },
      ],
      [
        'it was answered',
        (id) =>
          current().store.recordAnswer(
            id,
            'a',
            { answer: answer(0), expiresAt: later },
            attempt(1, { endedAt: 7, reached: 'answered' }),
          ),
      ],
      [
        'it is waiting again',
        async (id) => {
          await current().store.claimDelivery(id, 'b', later);
          await current().store.postpone(id, 'b', 5);
        },
      ],
      ['it was cancelled', (id) => current().store.cancel(id)],
      ['it was removed', (id) => current().store.remove(id)],
    ])('comes too late when meanwhile %s', async (_, meanwhile) => {
      const { store } = current();
      const id = await unknown();
      await meanwhile(id);
      const before = await store.get(id);
      expect(await store.recordClientInformed(id, 1, why)).toBe('stale');
      expect(await store.get(id)).toEqual(before);
    });

    test('needs an attempt, and one that was made', async () => {
      const { store } = current();
      const id = await claimed();
      await store.giveUp(id, 'a', why);
      expect(await store.recordClientInformed(id, 1, why)).toBe('stale');
      expect(await store.recordClientInformed('unknown-unknown-unknown', 1, why)).toBe('stale');
      expect(await store.recordClientInformed(await unknown(), 2, why)).toBe('stale');
    });
  });
}
