import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { Chunk, Phase } from '../../src/model/upload.js';
import { everyUpload, type UploadStore } from '../../src/store/upload-store.js';
import { roomOf } from '../../src/store/usage.js';
import { answer, attempt, HOUR, newId, newUpload } from './sample-upload.js';
import type { StoreUnderTest } from './store-contract.js';
import { cases } from '../support/thoroughness.js';

/** What must be true of an upload; deliberately simple-minded. */
interface Model {
  phase: Phase;
  offset: number;
  token: number;
  chunks: Chunk[];
  attemptCount: number;
  claimed: boolean;
  postponed: boolean;
  /** A claim that nothing has followed: a store whose claims end with its process need not have written it. */
  isClaimAlone?: boolean;
  /** What the worker did last with its claim, while that is known. */
  done?: string;
}

interface Real {
  store: UploadStore;
  readonly tested: StoreUnderTest;
  readonly ids: readonly string[];
}

type Step = (model: Map<number, Model>, real: Real) => Promise<void>;

const later = Date.now() + HOUR;
const which = fc.nat({ max: 2 });

const create = which.map((upload): Step => async (model, { store, ids }) => {
  const id = ids[upload]!;
  if (model.has(upload)) {
    await expect(store.create(newUpload({ id }))).rejects.toMatchObject({ code: 'CONTRACT_BROKEN' });
    return;
  }
  await store.create(newUpload({ id }));
  model.set(upload, {
    phase: 'receiving',
    offset: 0,
    token: 0,
    chunks: [],
    attemptCount: 0,
    claimed: false,
    postponed: false,
  });
});

const commit = fc
  .record({ upload: which, token: fc.nat({ max: 6 }), bytes: fc.nat({ max: 1000 }), complete: fc.nat({ max: 9 }) })
  .map(({ upload, token, bytes, complete }): Step => async (model, { store, ids }) => {
    const known = model.get(upload);
    const name = `chunk-${token}`;
    const last = known?.chunks.at(-1)?.name === name ? known.chunks.at(-1) : undefined;
    const chunk = { name, start: last?.start ?? known?.offset ?? 0, size: (last?.size ?? 0) + bytes };
    const ends = complete === 0 ? { complete: {} } : {};
    const result = await store.commit(ids[upload]!, { token, chunk, expiresAt: later, ...ends });
    const isAgain =
      known?.phase === 'complete' && !known.postponed && complete === 0 && token === known.token && bytes === 0;
    if (isAgain) {
      expect(result).toMatchObject({ offset: known.offset, phase: 'complete' });
      return;
    }
    if (!known || token < known.token || known.phase !== 'receiving') {
      expect(result).toBe(known && token < known.token ? 'stale' : 'gone');
      return;
    }
    known.token = token;
    known.offset += bytes;
    if (last) known.chunks[known.chunks.length - 1] = chunk;
    else if (bytes > 0) known.chunks.push(chunk);
    if (complete === 0) known.phase = 'complete';
    expect(result).toMatchObject({ offset: known.offset, phase: known.phase });
  });

const cancel = which.map((upload): Step => async (model, { store, ids }) => {
  const result = await store.cancel(ids[upload]!);
  const known = model.get(upload);
  if (!known) expect(result).toBe('gone');
  else Object.assign(known, { phase: 'cancelled', claimed: false, done: undefined });
});

const remove = which.map((upload): Step => async (model, { store, ids }) => {
  await store.remove(ids[upload]!);
  model.delete(upload);
});

const claim = which.map((upload): Step => async (model, { store, ids }) => {
  const known = model.get(upload);
  const won = await store.claimDelivery(ids[upload]!, 'w', later);
  const free =
    known && (['complete', 'undelivered'].includes(known.phase) || (known.phase === 'delivering' && !known.claimed));
  expect(won !== undefined).toBe(free === true);
  if (!known || !free) return;
  const isClaimAlone = known.phase === 'complete' || known.isClaimAlone === true;
  Object.assign(known, { phase: 'delivering', claimed: true, postponed: false, done: undefined, isClaimAlone });
});

const endsIn = { answer: 'answered', postpone: 'complete', giveUp: 'undelivered' } as const;

const deliver = fc
  .record({ upload: which, verb: fc.constantFrom('attempt', 'answer', 'postpone', 'giveUp') })
  .map(({ upload, verb }): Step => async (model, { store, ids }) => {
    const id = ids[upload]!;
    const known = model.get(upload);
    const number = (known?.attemptCount ?? 0) + 1;
    const result = await {
      attempt: () => store.beginAttempt(id, 'w', attempt(number)),
      answer: () => store.recordAnswer(id, 'w', { answer: answer(3), body: Buffer.from('abc'), expiresAt: later }),
      postpone: () => store.postpone(id, 'w', later),
      giveUp: () => store.giveUp(id, 'w', { reason: 'unreachable', problem: 'x' }),
    }[verb]();
    if (known?.claimed) known.isClaimAlone = false;
    if (!known?.claimed) {
      if (known?.done === verb) expect(result).toMatchObject({ phase: known.phase });
      else expect(result).toBe('stale');
    } else if (verb === 'attempt') known.attemptCount += 1;
    else Object.assign(known, { claimed: false, phase: endsIn[verb], postponed: verb === 'postpone', done: verb });
  });

const reopen: Step = async (model, real) => {
  real.store = await real.tested.reopen();
  if (real.tested.claimsAreShared) return;
  const { uploads } = await real.store.list(undefined, 10);
  for (const [upload, known] of model) {
    if (known.isClaimAlone && known.phase === 'delivering') {
      const { phase, dueAt } = uploads.find(({ id }) => id === real.ids[upload])!;
      expect(['complete', 'delivering']).toContain(phase);
      Object.assign(known, { phase, postponed: dueAt !== undefined });
    }
    Object.assign(known, { claimed: false, done: undefined, isClaimAlone: false });
  }
};

const restart = fc.constant(reopen);

async function check(model: Map<number, Model>, { store, ids }: Real): Promise<void> {
  let reserved = 0;
  for await (const upload of everyUpload(store)) reserved += Math.max(roomOf(upload) - upload.offset, 0);
  expect((await store.totals()).reservedBytes).toBe(reserved);
  for (const [upload, id] of ids.entries()) {
    const known = model.get(upload);
    const found = await store.get(id);
    if (!known) {
      expect(found).toBeUndefined();
      continue;
    }
    const { phase, offset, attemptCount } = known;
    expect(found).toMatchObject({ phase, offset, attemptCount });
    expect(await store.chunks(id)).toEqual(known.chunks);
    if (phase === 'answered') expect(Buffer.from((await store.answerBody(id))!).toString()).toBe('abc');
  }
}

/** Random verbs against a simple model, with restarts in between: what was acknowledged is there afterwards. */
export function describeStoreModel(name: string, makeStore: () => Promise<StoreUnderTest>, numRuns = 60): void {
  describe(`${name}: a store under random verbs`, () => {
    test('does what a simple model does, across restarts', async () => {
      const steps = fc.array(
        fc.oneof(
          { arbitrary: create, weight: 3 },
          { arbitrary: commit, weight: 10 },
          { arbitrary: claim, weight: 3 },
          { arbitrary: deliver, weight: 5 },
          { arbitrary: cancel, weight: 1 },
          { arbitrary: remove, weight: 1 },
          { arbitrary: restart, weight: 2 },
        ),
        { minLength: 5, maxLength: 60 },
      );
      await fc.assert(
        fc.asyncProperty(steps, async (sequence) => {
          const tested = await makeStore();
          const real: Real = { store: tested.store, tested, ids: [newId(), newId(), newId()] };
          const model = new Map<number, Model>();
          try {
            for (const step of sequence) await step(model, real);
            await check(model, real);
            await reopen(model, real);
            await check(model, real);
          } finally {
            await tested.dispose();
          }
        }),
        cases(numRuns),
      );
    });
  });
}
