import { describe, expect, test } from '@jest/globals';
import type { Upload } from '../../src/model/upload.js';
import type { StoreUnderTest } from './store-contract.js';
import { answer, attempt, HOUR, newUpload } from './sample-upload.js';

/** The part of the store's contract that is about giving uploads to the origin. */
export function describeDeliveries(current: () => StoreUnderTest): void {
  const later = Date.now() + HOUR;
  const past = Date.now() - 1;

  async function whole(): Promise<string> {
    const { store } = current();
    const { id } = await store.create(newUpload());
    const chunk = { name: 'chunk-1', start: 0, size: 5 };
    await store.commit(id, { token: 1, chunk, complete: {}, expiresAt: later });
    return id;
  }

  async function claimed(worker = 'a'): Promise<string> {
    const id = await whole();
    expect(await current().store.claimDelivery(id, worker, later)).toMatchObject({ phase: 'delivering' });
    return id;
  }

  describe('deliveries', () => {
    test('one worker wins the claim, however many ask', async () => {
      const { store } = current();
      const id = await whole();
      const claims = await Promise.all(['a', 'b', 'c', 'a'].map((worker) => store.claimDelivery(id, worker, later)));
      expect(claims.filter((claim) => claim !== undefined)).toEqual([expect.objectContaining({ phase: 'delivering' })]);
    });

    test('an upload that still receives, or has its answer, cannot be claimed', async () => {
      const { store } = current();
      const { id } = await store.create(newUpload());
      expect(await store.claimDelivery(id, 'a', later)).toBeUndefined();
      expect(await store.claimDelivery('unknown-unknown-unknown', 'a', later)).toBeUndefined();
      const done = await claimed();
      await store.recordAnswer(done, 'a', { answer: answer(0), expiresAt: later });
      expect(await store.claimDelivery(done, 'a', later)).toBeUndefined();
    });

    test('a claim that has run out goes to the next one who asks, and its old worker is stale', async () => {
      const { store } = current();
      const id = await whole();
      await store.claimDelivery(id, 'a', past);
      expect(await store.claimDelivery(id, 'b', later)).toMatchObject({ phase: 'delivering' });
      expect(await store.renewClaim(id, 'a', later)).toBe(false);
      expect(await store.beginAttempt(id, 'a', attempt(1))).toBe('stale');
      expect(await store.recordAnswer(id, 'a', { answer: answer(1), body: Buffer.from('x'), expiresAt: later })).toBe(
        'stale',
      );
      expect(await store.postpone(id, 'a', later)).toBe('stale');
      expect(await store.giveUp(id, 'a', { reason: 'unreachable', problem: 'late' })).toBe('stale');
      expect(await store.get(id)).toMatchObject({ phase: 'delivering', attempts: [] });
      expect(await store.answerBody(id)).toBeUndefined();
    });

    test('a renewed claim stays with its worker', async () => {
      const { store } = current();
      const id = await whole();
      await store.claimDelivery(id, 'a', past);
      expect(await store.renewClaim(id, 'a', later)).toBe(true);
      expect(await store.claimDelivery(id, 'b', later)).toBeUndefined();
      expect(await store.dueDeliveries(Date.now())).toEqual([]);
    });

    test('what a worker learned counts as long as nobody took its claim, run out or not', async () => {
      const { store } = current();
      const id = await whole();
      await store.claimDelivery(id, 'a', past);
      expect(
        await store.recordAnswer(id, 'a', { answer: answer(2), body: Buffer.from('ok'), expiresAt: later }),
      ).toMatchObject({
        phase: 'answered',
      });
    });

    test('attempts are kept from their beginning on, the newest twenty of them', async () => {
      const { store, reopen } = current();
      const id = await claimed();
      for (let number = 1; number <= 25; number++) {
        await store.beginAttempt(id, 'a', attempt(number));
        const ended = attempt(number, { endedAt: 5, reached: 'never-sent', problem: 'ECONNREFUSED' });
        if (number < 25) await store.endAttempt(id, 'a', ended);
      }
      const upload = await (await reopen()).get(id);
      expect(upload?.attemptCount).toBe(25);
      expect(upload?.attempts.map(({ number }) => number)).toEqual(Array.from({ length: 20 }, (_, at) => at + 6));
      expect(upload?.attempts.at(-2)).toMatchObject({ reached: 'never-sent', endedAt: 5 });
      expect(upload?.attempts.at(-1)).toEqual(attempt(25));
    });

    test('an attempt begins once, and none ends that did not begin', async () => {
      const { store } = current();
      const id = await claimed();
      await store.beginAttempt(id, 'a', attempt(1));
      const other = attempt(1, { origin: 'http://127.0.0.1:4000' });
      await expect(store.beginAttempt(id, 'a', other)).rejects.toMatchObject({ code: 'CONTRACT_BROKEN' });
      await expect(store.endAttempt(id, 'a', attempt(2))).rejects.toMatchObject({ code: 'CONTRACT_BROKEN' });
      expect(await store.get(id)).toMatchObject({ attemptCount: 1, attempts: [attempt(1)] });
    });

    test('the answer and every byte of its body come back, also after a restart', async () => {
      const { store, reopen } = current();
      const id = await claimed();
      const body = Buffer.from(Array.from({ length: 100_000 }, (_, at) => at % 251));
      const expected = { phase: 'answered', answer: answer(body.length), expiresAt: later };
      expect(await store.recordAnswer(id, 'a', { answer: answer(body.length), body, expiresAt: later })).toMatchObject(
        expected,
      );
      expect(Buffer.from((await store.answerBody(id))!).equals(body)).toBe(true);
      const reopened = await reopen();
      expect(await reopened.get(id)).toMatchObject(expected);
      expect(Buffer.from((await reopened.answerBody(id))!).equals(body)).toBe(true);
    });

    test('the end of an attempt and the answer it brought are one step', async () => {
      const { store, reopen } = current();
      const id = await claimed();
      await store.beginAttempt(id, 'a', attempt(1));
      const ended = attempt(1, { endedAt: 5, reached: 'answered', status: 201 });
      const expected = { phase: 'answered', answer: answer(0), attempts: [ended], attemptCount: 1 };
      const kept = { answer: answer(0), expiresAt: later };
      expect(await store.recordAnswer(id, 'b', kept)).toBe('stale');
      expect((await store.get(id))?.attempts).toEqual([attempt(1)]);
      expect(await store.recordAnswer(id, 'a', kept, ended)).toMatchObject(expected);
      expect(await (await reopen()).get(id)).toMatchObject(expected);
    });

    test('an attempt that did not begin brings no answer', async () => {
      const { store } = current();
      const id = await claimed();
      const kept = { answer: answer(2), body: Buffer.from('ok'), expiresAt: later };
      await expect(store.recordAnswer(id, 'a', kept, attempt(1))).rejects.toMatchObject({ code: 'CONTRACT_BROKEN' });
      expect(await store.get(id)).toMatchObject({ phase: 'delivering', attempts: [] });
    });

    test('an empty body is one, and a body in the spool is not ours', async () => {
      const { store } = current();
      const empty = await claimed();
      await store.recordAnswer(empty, 'a', { answer: answer(0), expiresAt: later });
      expect(await store.answerBody(empty)).toHaveLength(0);
      const spooled = await claimed();
      await store.recordAnswer(spooled, 'a', {
        answer: answer(9, { in: 'spool', name: 'answer-1' }),
        expiresAt: later,
      });
      expect(await store.answerBody(spooled)).toBeUndefined();
      expect((await store.get(spooled))?.answer?.body).toEqual({ in: 'spool', name: 'answer-1' });
    });

    test('a postponed delivery is due at its time and can be claimed before it', async () => {
      const { store, reopen } = current();
      const id = await claimed();
      expect(await store.postpone(id, 'a', 5000)).toMatchObject({ phase: 'complete', dueAt: 5000 });
      expect(await store.dueDeliveries(4999)).toEqual([]);
      expect(await store.dueDeliveries(5000)).toEqual([id]);
      const again = await (await reopen()).claimDelivery(id, 'b', later);
      expect(again).toMatchObject({ phase: 'delivering' });
      expect(again?.dueAt).toBeUndefined();
    });

    test('a delivery that was given up is not due, but can be claimed again', async () => {
      const { store, reopen } = current();
      const id = await claimed();
      const why = { reason: 'outcome-unknown', problem: 'the connection broke' } as const;
      expect(await store.giveUp(id, 'a', why)).toMatchObject({ phase: 'undelivered', undelivered: why });
      const reopened = await reopen();
      expect(await reopened.get(id)).toMatchObject({ phase: 'undelivered', undelivered: why });
      expect(await reopened.dueDeliveries(Infinity)).toEqual([]);
      const again = await reopened.claimDelivery(id, 'a', later);
      expect(again?.phase).toBe('delivering');
      expect(again?.undelivered).toBeUndefined();
    });

    test('a whole upload nobody has claimed is due, and so is one whose claim has run out', async () => {
      const { store } = current();
      const unclaimed = await whole();
      const abandoned = await whole();
      await store.claimDelivery(abandoned, 'a', 5000);
      expect(await store.dueDeliveries(4000)).toEqual([unclaimed]);
      expect([...(await store.dueDeliveries(6000))].sort()).toEqual([unclaimed, abandoned].sort());
    });

    test('an upload never expires under the worker that delivers it', async () => {
      const { store } = current();
      const id = await claimed();
      expect(await store.expired(later - 1)).toEqual([]);
      await store.renewClaim(id, 'a', later + 5000);
      expect(await store.expired(later + 4000)).toEqual([]);
      expect(await store.expired(later + 6000)).toEqual([id]);
    });

    test('a cancelled upload leaves its worker with nothing to say', async () => {
      const { store } = current();
      const id = await claimed();
      await store.cancel(id);
      expect(await store.recordAnswer(id, 'a', { answer: answer(1), body: Buffer.from('x'), expiresAt: later })).toBe(
        'stale',
      );
      expect(await store.renewClaim(id, 'a', later)).toBe(false);
      expect(await store.get(id)).toMatchObject({ phase: 'cancelled' });
    });
  });

  describe('the worker of the newest attempt', () => {
    const ended = attempt(1, { endedAt: 5, reached: 'answered', status: 201 });
    const lost = attempt(1, { endedAt: 9, reached: 'sent', problem: 'lost' });
    const kept = { answer: answer(2), body: Buffer.from('ok'), expiresAt: later };
    const unknown = { reason: 'outcome-unknown', problem: 'lost' } as const;
    type Meanwhile = (id: string) => Promise<unknown>;

    const taken: Meanwhile = async (id) => {
      await current().store.renewClaim(id, 'a', past);
      expect(await current().store.claimDelivery(id, 'b', later)).toMatchObject({ phase: 'delivering' });
    };
    const closed: Meanwhile = async (id) => {
      await taken(id);
      expect(await current().store.endAttempt(id, 'b', lost)).toMatchObject({ attempts: [lost] });
    };
    const givenUp: Meanwhile = async (id) => {
      await closed(id);
      expect(await current().store.giveUp(id, 'b', unknown)).toMatchObject({ phase: 'undelivered' });
    };
    const postponed: Meanwhile = async (id) => {
      await closed(id);
      expect(await current().store.postpone(id, 'b', later)).toMatchObject({ phase: 'complete' });
    };
    const claimedOnceMore: Meanwhile = async (id) => {
      await givenUp(id);
      expect(await current().store.claimDelivery(id, 'c', later)).toMatchObject({ phase: 'delivering' });
    };

    async function begun(): Promise<string> {
      const id = await claimed();
      await current().store.beginAttempt(id, 'a', attempt(1));
      return id;
    }

    const goesOn: [string, Meanwhile][] = [
      ['nothing was', () => Promise.resolve()],
      ['the claim was taken', taken],
      ['the attempt was taken for lost', closed],
      ['the outcome was said to be unknown', givenUp],
      ['the delivery was postponed', postponed],
      ['it was claimed once more', claimedOnceMore],
    ];

    test.each(goesOn)('may record its answer when meanwhile %s', async (_, meanwhile) => {
      const { store, reopen } = current();
      const id = await begun();
      const waiting = store.waitUntilSettled(id, new AbortController().signal);
      await meanwhile(id);
      const expected = { phase: 'answered', answer: answer(2), attempts: [ended], attemptCount: 1 };
      const upload = await store.recordAnswer(id, 'a', kept, ended);
      expect(upload).toMatchObject(expected);
      expect(upload).not.toHaveProperty('undelivered');
      expect(upload).not.toHaveProperty('dueAt');
      expect(await store.recordAnswer(id, 'a', kept, ended)).toEqual(upload);
      expect(await store.dueDeliveries(Infinity)).toEqual([]);
      expect(await store.totals()).toMatchObject({ bytes: 0 });
      for (const worker of ['b', 'c']) expect(await store.beginAttempt(id, worker, attempt(2))).toBe('stale');
      expect(await store.claimDelivery(id, 'b', later)).toBeUndefined();
      expect(['answered', 'undelivered']).toContain((await waiting)?.phase);
      const reopened = await reopen();
      expect(await reopened.get(id)).toMatchObject(expected);
      expect(Buffer.from((await reopened.answerBody(id))!).toString()).toBe('ok');
    });

    test.each(goesOn)('gets its claim back when meanwhile %s', async (_, meanwhile) => {
      const { store } = current();
      const id = await begun();
      await meanwhile(id);
      expect(await store.renewClaim(id, 'a', later, 1)).toBe(true);
      const upload = await store.get(id);
      expect(upload).toMatchObject({ phase: 'delivering' });
      expect(upload).not.toHaveProperty('undelivered');
      expect(upload).not.toHaveProperty('dueAt');
      for (const worker of ['b', 'c']) expect(await store.beginAttempt(id, worker, attempt(2))).toBe('stale');
      expect(await store.claimDelivery(id, 'b', later)).toBeUndefined();
      expect(await store.dueDeliveries(Date.now())).toEqual([]);
      expect(await store.endAttempt(id, 'a', ended)).toMatchObject({ attempts: [ended] });
    });

    const over: [string, Meanwhile, Partial<Upload>][] = [
      [
        'a newer attempt began',
        async (id) => {
          await givenUp(id);
          await current().store.claimDelivery(id, 'b', later);
          await current().store.beginAttempt(id, 'b', attempt(2));
        },
        { phase: 'delivering', attemptCount: 2 },
      ],
      [
        'a newer attempt was answered',
        async (id) => {
          await givenUp(id);
          await current().store.claimDelivery(id, 'b', later);
          await current().store.beginAttempt(id, 'b', attempt(2));
          await current().store.recordAnswer(
            id,
            'b',
            { answer: answer(0), expiresAt: later },
            attempt(2, { endedAt: 7 }),
          );
        },
        { phase: 'answered', answer: answer(0) },
      ],
      ['it was cancelled', (id) => current().store.cancel(id), { phase: 'cancelled' }],
    ];

    test.each(over)('comes too late when meanwhile %s', async (_, meanwhile, expected) => {
      const { store } = current();
      const id = await begun();
      await meanwhile(id);
      expect(await store.recordAnswer(id, 'a', kept, ended)).toBe('stale');
      expect(await store.renewClaim(id, 'a', later, 1)).toBe(false);
      expect(await store.get(id)).toMatchObject(expected);
    });

    test.each<[string, Meanwhile, Partial<Upload>]>([
      ['postponed it', (id) => current().store.postpone(id, 'a', 5), { phase: 'complete', dueAt: 5 }],
      [
        'gave it up',
        (id) => current().store.giveUp(id, 'a', { reason: 'outcome-unknown', problem: 'x', clientKnows: true }),
        { phase: 'undelivered', undelivered: { reason: 'outcome-unknown', problem: 'x', clientKnows: true } },
      ],
    ])('does not get its claim back when it %s itself: a renewal may come late', async (_, itself, expected) => {
      const { store } = current();
      const id = await begun();
      await store.endAttempt(id, 'a', attempt(1, { endedAt: 7, reached: 'sent' }));
      const [, isRenewed] = await Promise.all([itself(id), store.renewClaim(id, 'a', later, 1)]);
      expect(isRenewed).toBe(false);
      expect(await store.renewClaim(id, 'a', later, 1)).toBe(false);
      expect(await store.get(id)).toMatchObject(expected);
      expect(await store.claimDelivery(id, 'b', later)).toMatchObject({ phase: 'delivering' });
    });

    test('is not the worker of an eager attempt and was never taken over', async () => {
      const { store } = current();
      const { id } = await store.create(newUpload());
      await store.beginEagerAttempt(id, attempt(1, { inPart: true }));
      await store.commit(id, {
        token: 1,
        chunk: { name: 'chunk-1', start: 0, size: 5 },
        complete: {},
        expiresAt: later,
      });
      expect(await store.renewClaim(id, 'a', later, 1)).toBe(false);
      expect(await store.recordAnswer(id, 'a', kept, ended)).toBe('stale');
    });
  });

  describe('waiting for a delivery', () => {
    const patient = new AbortController().signal;

    test.each<[string, (id: string) => Promise<unknown>, Partial<Upload> | undefined]>([
      [
        'answered',
        (id) => current().store.recordAnswer(id, 'a', { answer: answer(0), expiresAt: later }),
        { phase: 'answered' },
      ],
      [
        'given up',
        (id) => current().store.giveUp(id, 'a', { reason: 'unreachable', problem: 'x' }),
        { phase: 'undelivered' },
      ],
      ['cancelled', (id) => current().store.cancel(id), { phase: 'cancelled' }],
      ['removed', (id) => current().store.remove(id), undefined],
    ])('everyone who waits is woken when it is %s', async (_, end, expected) => {
      const { store } = current();
      const id = await claimed();
      const waiting = [1, 2, 3].map(() => store.waitUntilSettled(id, patient));
      await end(id);
      const results = await Promise.all(waiting);
      for (const result of results) {
        if (expected) expect(result).toMatchObject(expected);
        else expect(result).toBeUndefined();
      }
    });

    test('a postponed delivery keeps them waiting', async () => {
      const { store } = current();
      const id = await claimed();
      let woken = false;
      const waiting = store.waitUntilSettled(id, patient).then((upload) => {
        woken = true;
        return upload;
      });
      await store.postpone(id, 'a', 0);
      await store.claimDelivery(id, 'a', later);
      expect(woken).toBe(false);
      await store.recordAnswer(id, 'a', { answer: answer(0), expiresAt: later });
      expect(await waiting).toMatchObject({ phase: 'answered' });
    });

    test('who asks late gets it at once, and an unknown upload is gone', async () => {
      const { store } = current();
      const id = await claimed();
      await store.recordAnswer(id, 'a', { answer: answer(0), expiresAt: later });
      expect(await store.waitUntilSettled(id, patient)).toMatchObject({ phase: 'answered' });
      expect(await store.waitUntilSettled('unknown-unknown-unknown', patient)).toBeUndefined();
    });

    test('who leaves stops waiting, for the reason it left', async () => {
      const { store } = current();
      const id = await claimed();
      const leaving = new AbortController();
      const waiting = store.waitUntilSettled(id, leaving.signal);
      const staying = store.waitUntilSettled(id, patient);
      leaving.abort(new Error('client left'));
      await expect(waiting).rejects.toThrow('client left');
      await expect(store.waitUntilSettled(id, leaving.signal)).rejects.toThrow('client left');
      await store.recordAnswer(id, 'a', { answer: answer(0), expiresAt: later });
      expect(await staying).toMatchObject({ phase: 'answered' });
    });
  });
}
