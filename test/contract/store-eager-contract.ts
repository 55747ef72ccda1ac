import { describe, expect, test } from '@jest/globals';
import type { Attempt, Upload } from '../../src/model/upload.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import type { StoreUnderTest } from './store-contract.js';
import { answer, attempt, HOUR, newUpload } from './sample-upload.js';

/** The part of the store's contract that is about an attempt that begins before the upload is whole. */
export function describeEagerAttempts(current: () => StoreUnderTest): void {
  const later = Date.now() + HOUR;
  const early: Attempt = attempt(1, { inPart: true });
  const lost: Attempt = { ...early, endedAt: 5, reached: 'sent-in-part', problem: 'ECONNRESET' };
  const refused: Attempt = { ...early, endedAt: 5, reached: 'answered', status: 413 };

  async function begun(): Promise<string> {
    const { store } = current();
    const { id } = await store.create(newUpload());
    expect(await store.beginEagerAttempt(id, early)).toMatchObject({ phase: 'receiving', attempts: [early] });
    return id;
  }

  function complete(store: UploadStore, id: string): Promise<Upload | 'stale' | 'gone'> {
    const chunk = { name: 'chunk-1', start: 0, size: 5 };
    return store.commit(id, { token: 1, chunk, complete: {}, expiresAt: later });
  }

  describe('eager attempts', () => {
    test('one begins while the upload is received, and is known after a restart', async () => {
      const { reopen } = current();
      const id = await begun();
      const upload = await (await reopen()).get(id);
      expect(upload).toMatchObject({ phase: 'receiving', attemptCount: 1 });
      expect(upload?.attempts).toEqual([early]);
    });

    test('only one, only then, and never as one that could be whole', async () => {
      const { store } = current();
      const id = await begun();
      expect(await store.beginEagerAttempt(id, { ...early, number: 2 })).toBe('stale');
      const { id: whole } = await store.create(newUpload());
      await complete(store, whole);
      expect(await store.beginEagerAttempt(whole, early)).toBe('stale');
      expect(await store.beginEagerAttempt('unknown-unknown-unknown', early)).toBe('stale');
      const { id: other } = await store.create(newUpload());
      await expect(store.beginEagerAttempt(other, attempt(1))).rejects.toMatchObject({ code: 'CONTRACT_BROKEN' });
    });

    test('it neither stops the upload from growing nor makes it due', async () => {
      const { store } = current();
      const id = await begun();
      expect(await store.claimDelivery(id, 'a', later)).toBeUndefined();
      expect(await store.dueDeliveries(Infinity)).toEqual([]);
      expect(await complete(store, id)).toMatchObject({ phase: 'complete', attempts: [early] });
      expect(await store.dueDeliveries(Date.now())).toEqual([id]);
    });

    test('it ends once, and the upload goes on', async () => {
      const { store } = current();
      const id = await begun();
      expect(await store.endEagerAttempt(id, lost)).toMatchObject({ phase: 'receiving', attempts: [lost] });
      expect(await store.endEagerAttempt(id, { ...lost, problem: 'again' })).toBe('stale');
      expect(await store.recordEarlyAnswer(id, refused, { answer: answer(0), expiresAt: later })).toBe('stale');
      expect(await complete(store, id)).toMatchObject({ phase: 'complete', attempts: [lost] });
      expect(await store.claimDelivery(id, 'a', later, early)).toBeUndefined();
      expect(await store.claimDelivery(id, 'a', later)).toMatchObject({ phase: 'delivering' });
    });

    test('an early answer ends the upload, and is kept', async () => {
      const { store, reopen } = current();
      const id = await begun();
      const body = Buffer.from('too large');
      const answered = await store.recordEarlyAnswer(id, refused, {
        answer: answer(body.length),
        body,
        expiresAt: later,
      });
      expect(answered).toMatchObject({ phase: 'answered', offset: 0, attempts: [refused], expiresAt: later });
      expect(await complete(store, id)).toBe('gone');
      expect(await store.claimDelivery(id, 'a', later)).toBeUndefined();
      const reopened = await reopen();
      expect(await reopened.get(id)).toMatchObject({ phase: 'answered', answer: answer(body.length) });
      expect(Buffer.from((await reopened.answerBody(id))!)).toEqual(body);
    });

    test('what comes of it once the upload is whole is for the holder of the claim to say', async () => {
      const { store } = current();
      const id = await begun();
      await complete(store, id);
      expect(await store.endEagerAttempt(id, lost)).toBe('stale');
      expect(await store.recordEarlyAnswer(id, refused, { answer: answer(0), expiresAt: later })).toBe('stale');
      expect(await store.get(id)).toMatchObject({ phase: 'complete', attempts: [early] });
    });

    test('a claim for it lets it become whole, durably', async () => {
      const { store, reopen } = current();
      const id = await begun();
      await complete(store, id);
      expect(await store.claimDelivery(id, 'a', later, early)).toMatchObject({ phase: 'delivering' });
      const upload = await (await reopen()).get(id);
      expect(upload?.attempts).toEqual([attempt(1)]);
      expect(upload?.attemptCount).toBe(1);
    });

    test('a claim that another worker holds keeps it in part for ever', async () => {
      const { store } = current();
      const id = await begun();
      await complete(store, id);
      await store.claimDelivery(id, 'b', later);
      expect(await store.claimDelivery(id, 'a', later, early)).toBeUndefined();
      expect(await store.get(id)).toMatchObject({ attempts: [early] });
      await store.endAttempt(id, 'b', lost);
      expect(await store.get(id)).toMatchObject({ attempts: [lost] });
    });
  });
}
