import { describe, expect, test } from '@jest/globals';
import type { Attempt, Upload } from '../../src/model/upload.js';
import type { Commit, UploadStore } from '../../src/store/upload-store.js';
import type { StoreUnderTest } from './store-contract.js';
import { answer, attempt, HOUR, newUpload } from './sample-upload.js';

type Verb = (store: UploadStore, id: string) => Promise<Upload | string | boolean>;

const later = Date.now() + HOUR;
const early: Attempt = attempt(1, { inPart: true });
const refused: Attempt = { ...early, endedAt: 5, reached: 'answered', status: 413 };
const ended: Attempt = attempt(1, { endedAt: 5, reached: 'sent' });
const chunk = { name: 'chunk-1', start: 0, size: 5 };
const complete: Commit = { token: 1, chunk, complete: { heldBack: { lastByte: 7 } }, expiresAt: later };
const why = { reason: 'outcome-unknown', problem: 'the connection broke' } as const;
const body = Buffer.from('body');

const verbs: Record<string, Verb> = {
  'a commit': (store, id) => store.commit(id, { token: 1, chunk, expiresAt: later }),
  'the commit that completes': (store, id) => store.commit(id, complete),
  'an invalidation': (store, id) => store.invalidate(id, 1),
  'a cancellation': (store, id) => store.cancel(id),
  'a move': (store, id) => store.move(id, 1, 'another'),
  'the begin of an eager attempt': (store, id) => store.beginEagerAttempt(id, early),
  'the end of an eager attempt': (store, id) =>
    store.endEagerAttempt(id, { ...early, endedAt: 5, reached: 'sent-in-part' }),
  'an early answer': (store, id) => store.recordEarlyAnswer(id, refused, { answer: answer(4), body, expiresAt: later }),
  'a renewed claim': (store, id) => store.renewClaim(id, 'a', later),
  'the begin of an attempt': (store, id) => store.beginAttempt(id, 'a', attempt(1)),
  'the end of an attempt': (store, id) => store.endAttempt(id, 'a', ended),
  'an answer': (store, id) => store.recordAnswer(id, 'a', { answer: answer(4), body, expiresAt: later }),
  'an answer and the end of its attempt': (store, id) =>
    store.recordAnswer(id, 'a', { answer: answer(4), body, expiresAt: later }, ended),
  'a postponement': (store, id) => store.postpone(id, 'a', later),
  'giving up': (store, id) => store.giveUp(id, 'a', why),
  'the note that a client knows': (store, id) => store.recordClientInformed(id, 1, why),
};

const claim: Verb = async (store, id) => (await store.claimDelivery(id, 'a', later)) ?? 'none';
const claimed = [verbs['the commit that completes']!, claim];
const before: Partial<Record<string, readonly Verb[]>> = {
  'the end of an eager attempt': [verbs['the begin of an eager attempt']!],
  'an early answer': [verbs['the begin of an eager attempt']!],
  'a renewed claim': claimed,
  'the begin of an attempt': claimed,
  'the end of an attempt': [...claimed, verbs['the begin of an attempt']!],
  'an answer': claimed,
  'an answer and the end of its attempt': [...claimed, verbs['the begin of an attempt']!],
  'a postponement': claimed,
  'giving up': claimed,
  'the note that a client knows': [...claimed, verbs['the begin of an attempt']!, verbs['giving up']!],
};

/** The part of the store's contract for those who did not hear what came of a step. */
export function describeAskingAgain(current: () => StoreUnderTest): void {
  async function prepared(...steps: readonly Verb[]): Promise<string> {
    const { store } = current();
    const { id } = await store.create(newUpload());
    for (const step of steps) await step(store, id);
    return id;
  }

  describe('the same step again', () => {
    test.each(Object.keys(verbs))('%s gives the same result and changes nothing', async (name) => {
      const { store } = current();
      const id = await prepared(...(before[name] ?? []));
      const first = await verbs[name]!(store, id);
      expect(first).not.toBe('stale');
      expect(first).not.toBe('gone');
      const known = [await store.get(id), await store.chunks(id), await store.totals()];
      expect(await verbs[name]!(store, id)).toEqual(first);
      expect([await store.get(id), await store.chunks(id), await store.totals()]).toEqual(known);
    });

    test('is refused when it says something else', async () => {
      const { store } = current();
      const whole = await prepared(verbs['the commit that completes']!);
      const grown = { ...complete, chunk: { ...chunk, size: 6 } };
      expect(await store.commit(whole, grown)).toBe('gone');
      expect(await store.commit(whole, { ...complete, token: 2 })).toBe('gone');
      expect(await store.commit(whole, { ...complete, complete: undefined })).toBe('gone');
      const answered = await prepared(...claimed, verbs['an answer']!);
      const second = { ...answer(4), at: answer(4).at + 1 };
      expect(await store.recordAnswer(answered, 'a', { answer: second, body, expiresAt: later })).toBe('stale');
      expect(await store.recordAnswer(answered, 'b', { answer: answer(4), body, expiresAt: later })).toBe('stale');
      const other = await prepared(...claimed, verbs['the begin of an attempt']!);
      await verbs['an answer and the end of its attempt']!(store, other);
      const kept = { answer: answer(4), body, expiresAt: later };
      expect(await store.recordAnswer(other, 'a', kept, { ...ended, endedAt: 6 })).toBe('stale');
      const waiting = await prepared(...claimed, verbs['a postponement']!);
      expect(await store.postpone(waiting, 'a', later + 1)).toBe('stale');
      const given = await prepared(...claimed, verbs['giving up']!);
      expect(await store.giveUp(given, 'a', { ...why, problem: 'another' })).toBe('stale');
    });

    test('is refused when something else came in between', async () => {
      const { store } = current();
      const id = await prepared(...claimed);
      expect(await store.commit(id, complete)).toBe('gone');
      await store.postpone(id, 'a', 0);
      expect(await store.commit(id, complete)).toBe('gone');
      await store.claimDelivery(id, 'b', later);
      expect(await store.postpone(id, 'a', 0)).toBe('stale');
    });
  });

  describe('a move', () => {
    test('says where the bytes are from now on, and keeps all else', async () => {
      const { store } = current();
      const id = await prepared(verbs['a commit']!);
      const known = await store.get(id);
      expect(await store.move(id, 2, 'elsewhere')).toEqual({ ...known, node: 'elsewhere' });
      expect(await store.get(id)).toEqual({ ...known, node: 'elsewhere' });
      expect(await store.chunks(id)).toEqual([chunk]);
    });

    test('keeps the holder of an older lease from writing on where nobody looks', async () => {
      const { store } = current();
      const id = await prepared(verbs['a commit']!);
      await store.move(id, 3, 'elsewhere');
      expect(await store.commit(id, { token: 2, chunk: { ...chunk, size: 6 }, expiresAt: later })).toBe('stale');
      expect(await store.move(id, 2, 'back')).toBe('stale');
      expect(await store.get(id)).toMatchObject({ node: 'elsewhere', offset: 5 });
    });

    test('is possible in every phase but while it is being delivered', async () => {
      const { store } = current();
      const id = await prepared(...claimed);
      expect(await store.move(id, 2, 'elsewhere')).toBe('gone');
      await store.giveUp(id, 'a', why);
      expect(await store.move(id, 2, 'elsewhere')).toMatchObject({ phase: 'undelivered', node: 'elsewhere' });
      expect(await store.claimDelivery(id, 'b', later)).toMatchObject({ phase: 'delivering', node: 'elsewhere' });
      expect(await store.move('unknown-unknown-unknown', 1, 'elsewhere')).toBe('gone');
    });

    test('does not happen when it was delivered since somebody looked', async () => {
      const { store } = current();
      const id = await prepared(verbs['the commit that completes']!);
      const seen = (await store.get(id))!;
      await store.claimDelivery(id, 'a', later);
      await store.beginAttempt(id, 'a', attempt(1));
      await store.giveUp(id, 'a', why);
      expect(await store.move(id, 2, 'elsewhere', seen)).toBe('gone');
      const failed = (await store.get(id))!;
      await store.claimDelivery(id, 'a', later);
      await store.beginAttempt(id, 'a', attempt(2));
      await store.giveUp(id, 'a', why);
      expect(await store.move(id, 2, 'elsewhere', failed)).toBe('gone');
      const now = (await store.get(id))!;
      expect(await store.move(id, 2, 'elsewhere', now)).toMatchObject({ node: 'elsewhere' });
      expect(await store.move(id, 2, 'elsewhere', now)).toMatchObject({ node: 'elsewhere' });
    });
  });
}
