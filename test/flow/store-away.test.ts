import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import type { EagerFeed, EarlyAnswer } from '../../src/delivery/eager.js';
import type { Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import type { Commit, UploadStore } from '../../src/store/upload-store.js';
import { until, within } from '../support/temporary.js';
import { ReceivingHarness, type ReceivingHarnessOptions, StoreReach } from '../support/upload-harness.js';

describe('forgotten offsets', () => {
  const LOST = { kind: 'refused', refusal: { reason: 'gone', detail: 'The state of this upload was lost.' } };

  /** A store that confirms commits it will not remember, as before a failover. */
  class Forgetful extends StoreReach {
    private forgets = false;

    constructor() {
      super({ mayForget: true });
    }

    /** What is committed from now on is confirmed and forgotten. */
    forget(): void {
      this.forgets = true;
    }

    /** The failover is over. */
    settle(): void {
      this.forgets = false;
    }

    override to<S extends UploadStore>(store: S): S {
      const seen = super.to(store);
      return new Proxy(seen, {
        get: (target, name) => {
          const verb = Reflect.get(target, name) as unknown;
          if (name !== 'commit') return verb;
          return (id: string, commit: Commit) =>
            this.forgets ? this.pretend(target, id, commit) : target.commit(id, commit);
        },
      });
    }

    private async pretend(store: UploadStore, id: string, { chunk, complete }: Commit) {
      const upload = (await store.get(id))!;
      const offset = chunk ? chunk.start + chunk.size : upload.offset;
      return { ...upload, offset, ...(complete && { phase: 'complete' as const, length: offset }) };
    }
  }

  /** An origin that begins its answer with the first bytes, and breaks off in the middle of it. */
  class EarlyEnd implements EagerFeed {
    private readonly enough = new AbortController();
    readonly answeredEarly = this.enough.signal;

    constructor(
      private readonly upload: Upload,
      private readonly kind: EarlyAnswer['kind'],
    ) {}

    onCommitted({ offset }: Upload): void {
      if (offset > 0) this.enough.abort();
    }

    setInterimListener(): void {
      // It has nothing to say before.
    }

    takeEarlyAnswer(): EarlyAnswer | undefined {
      const { kind, upload } = this;
      const head = { status: 401, reason: 'Unauthorized', headers: [], trailers: () => [] };
      return this.enough.signal.aborted ? { kind, upload, answer: { ...head, body: Readable.from([]) } } : undefined;
    }
  }

  describe('a store that may forget', () => {
    let harness: ReceivingHarness;
    let reach: Forgetful;
    let id: string;

    async function open(options: Omit<ReceivingHarnessOptions, 'reach'> = {}): Promise<void> {
      reach = new Forgetful();
      harness = await ReceivingHarness.open({ reach, ...options });
      id = await harness.empty();
    }

    beforeEach(() => open());

    afterEach(() => harness.close());

    test('and remembers: an upload goes on over many requests, whatever was shown', async () => {
      expect(await harness.send(id, 'hello')).toMatchObject({ kind: 'appended', upload: { offset: 5 } });
      expect(await harness.head(id)).toMatchObject({ kind: 'retrieved', upload: { offset: 5 } });
      expect(await harness.send(id, ' world', { offset: 5 })).toMatchObject({
        kind: 'appended',
        upload: { offset: 11 },
      });
      expect(await harness.send(id, '!', { offset: 11, complete: true })).toMatchObject({
        upload: { phase: 'complete' },
      });
      expect(await harness.head(id)).toMatchObject({ kind: 'retrieved', upload: { offset: 12 } });
      expect(await harness.spool.acknowledgedOffset(id)).toBe(13);
    });

    test('what the end of an append has shown: the upload is given up, and its bytes go', async () => {
      await harness.send(id, 'hello');
      reach.forget();
      expect(await harness.send(id, ' world', { offset: 5 })).toMatchObject({
        kind: 'appended',
        upload: { offset: 11 },
      });
      reach.settle();
      expect(await harness.offset(id)).toBe(5);
      expect(await harness.head(id)).toEqual(LOST);
      expect((await harness.store.get(id))?.phase).toBe('invalid');
      expect(await harness.files()).toEqual([]);
    });

    test('what the end of an append has shown: going on with it is refused as well', async () => {
      reach.forget();
      await harness.send(id, 'hello');
      reach.settle();
      expect(await harness.send(id, ' world', { offset: 5 })).toEqual(LOST);
      expect(await harness.send(id, 'hello')).toMatchObject({ kind: 'refused', refusal: { reason: 'gone' } });
    });

    test('what progress has shown: the upload is given up', async () => {
      const { stream, shownOffsets: told, outcome } = harness.append(id);
      reach.forget();
      stream.push('hello');
      await until(() => told.at(-1) === 5, 'progress to be told');
      reach.settle();
      stream.destroy();
      await within(outcome, 'the end');
      expect(await harness.head(id)).toEqual(LOST);
    });

    test('what nobody was shown: the upload goes on from where it is', async () => {
      await harness.close();
      await open({ hears: false });
      const { stream, shownOffsets: told, outcome } = harness.append(id);
      stream.push('hello');
      await until(async () => (await harness.offset(id)) === 5, 'the first commit');
      expect(await harness.spool.acknowledgedOffset(id)).toBe(0);
      reach.forget();
      stream.push(' world');
      const before = reach.count('commit');
      await until(async () => (await harness.spool.size(id, 'chunk-1000000001-0')) === 11, 'the bytes on the disk');
      stream.destroy();
      expect(await within(outcome, 'the end')).toEqual({ kind: 'interrupted', reason: 'client-left' });
      reach.settle();
      expect(reach.count('commit')).toBe(before);
      expect(told).toEqual([]);
      expect(await harness.head(id)).toMatchObject({ kind: 'retrieved', upload: { offset: 5 } });
      expect(await harness.spool.acknowledgedOffset(id)).toBe(5);
    });

    test('what a refusal has shown: the upload is given up', async () => {
      await harness.close();
      await open({ hears: false });
      const { stream, outcome } = harness.append(id);
      stream.push('hello');
      await until(async () => (await harness.offset(id)) === 5, 'the first commit');
      stream.destroy();
      await outcome;
      expect(await harness.spool.acknowledgedOffset(id)).toBe(0);
      expect(await harness.send(id, 'x', { offset: 1 })).toMatchObject({ refusal: { reason: 'mismatching-offset' } });
      expect(await harness.spool.acknowledgedOffset(id)).toBe(5);
    });

    test.each(['answered', 'parked'] as const)(
      'an early answer that is not kept, %s, promises the offset that it shows and no more',
      async (kind) => {
        await harness.close();
        await open({
          hears: false,
          feeds: {
            startEager: (upload) => new EarlyEnd(upload, kind),
            stopEager: () => undefined,
            eagerAvailability: () => 'yes',
          },
        });
        const { stream, outcome } = harness.append(id);
        stream.push('hello');
        expect(await within(outcome, 'the early answer')).toMatchObject({ kind, upload: { offset: 5 } });
        expect(await harness.spool.acknowledgedOffset(id)).toBe(5);
        expect(await harness.head(id)).toMatchObject({ kind: 'retrieved', upload: { phase: 'receiving', offset: 5 } });
      },
    );

    test('nothing: who stood still while a newer request went on gives up nothing, and says nothing', async () => {
      await harness.close();
      const errors: string[] = [];
      const log = { ...silentLog(), error: (_: object | string, message?: string) => void errors.push(message ?? '') };
      await open({ log });
      await harness.send(id, 'hello');
      const { spool } = harness;
      let goOn = (): void => undefined;
      const goesOn = new Promise<void>((resolve) => (goOn = resolve));
      const promised = jest.spyOn(spool, 'acknowledgedOffset').mockImplementationOnce(async () => {
        await goesOn;
        return spool.acknowledgedOffset(id);
      });
      const head = harness.head(id);
      await until(() => promised.mock.calls.length === 1, 'the record to be read');
      expect(await harness.send(id, ' world', { offset: 5 })).toMatchObject({
        kind: 'appended',
        upload: { offset: 11 },
      });
      goOn();
      expect(await within(head, 'the end')).toEqual({ kind: 'interrupted', reason: 'taken-over' });
      expect(await harness.head(id)).toMatchObject({ kind: 'retrieved', upload: { offset: 11 } });
      expect(errors).toEqual([]);
    });

    test('that an upload was whole: its origin gets no second request for it', async () => {
      await harness.send(id, 'hell');
      reach.forget();
      expect(await harness.send(id, 'o', { offset: 4, complete: true })).toMatchObject({ kind: 'pending' });
      reach.settle();
      expect((await harness.store.get(id))?.phase).toBe('receiving');
      expect(await harness.send(id, 'o', { offset: 4, complete: true })).toEqual(LOST);
      expect(harness.delivered).toEqual([id]);
    });

    test('that an upload was whole, all of whose bytes it remembers: no second request either', async () => {
      await harness.send(id, 'hello');
      reach.forget();
      expect(await harness.send(id, '', { offset: 5, complete: true })).toMatchObject({ kind: 'pending' });
      reach.settle();
      expect(await harness.send(id, '', { offset: 5, complete: true })).toEqual(LOST);
      expect(harness.delivered).toEqual([id]);
    });
  });

  test('a store that forgets nothing costs no file', async () => {
    const harness = await ReceivingHarness.open({ reach: new StoreReach() });
    const id = await harness.empty();
    await harness.send(id, 'hello');
    await harness.head(id);
    expect(await harness.files()).toEqual(['chunk-1000000001-0']);
    await harness.close();
  });
});

describe('receiving', () => {
  /** Named by the first token of a store. */
  const FIRST_CHUNK = 'chunk-1000000001-0';

  const PACES = {
    'in groups': { bytes: 1, everyMs: 5 },
    'after every write': { bytes: 0, everyMs: 0 },
  };

  describe.each(Object.entries(PACES))('bytes that are committed %s', (_, pace) => {
    let harness: ReceivingHarness;
    let reach: StoreReach;
    let id: string;

    beforeEach(async () => {
      reach = new StoreReach();
      harness = await ReceivingHarness.open({ reach, pace });
      id = await harness.empty();
    });

    afterEach(() => harness.close());

    test('are still written while the store is away, and committed when it is back', async () => {
      const { stream, shownOffsets: told, outcome } = harness.append(id);
      stream.push('hello');
      await until(async () => (await harness.offset(id)) === 5, 'the first commit');
      reach.cut();
      stream.push(' world');
      await until(async () => (await harness.spool.size(id, FIRST_CHUNK)) === 11, 'the bytes on the disk');
      stream.push('!');
      await until(async () => (await harness.spool.size(id, FIRST_CHUNK)) === 12, 'more bytes on the disk');
      const before = reach.count('commit');
      await until(() => reach.count('commit') > before + 1, 'two more commits that are not answered');
      expect(await harness.offset(id)).toBe(5);
      expect(told).toEqual([5]);
      reach.heal();
      await until(() => told.at(-1) === 12, 'progress to be told');
      stream.push(null);
      expect(await within(outcome, 'the end')).toMatchObject({ kind: 'appended', upload: { offset: 12 } });
      expect(await harness.metrics.text()).toMatch(/^rufh_store_unavailable_total [1-9]/m);
    });

    test('whose end comes while the store is away are answered for when it is back', async () => {
      const { stream, outcome } = harness.append(id, { complete: true });
      stream.push('hello');
      await until(async () => (await harness.offset(id)) === 4, 'the first commit, without what may be the end');
      reach.cut();
      stream.push(' world');
      stream.push(null);
      const before = reach.count('commit');
      await until(() => reach.count('commit') > before + 1, 'two commits that are not answered');
      expect(harness.delivered).toEqual([]);
      reach.heal();
      expect(await within(outcome, 'the end')).toMatchObject({
        kind: 'pending',
        upload: { phase: 'complete', offset: 11 },
      });
      expect(harness.delivered).toEqual([id]);
    });

    test('count once when the step was done and only its answer was lost', async () => {
      const { stream, outcome } = harness.append(id);
      reach.silence('commit');
      stream.push('hello');
      await until(() => reach.count('commit') > 1, 'a second try');
      reach.heal();
      stream.push(null);
      expect(await within(outcome, 'the end')).toMatchObject({ kind: 'appended', upload: { offset: 5 } });
      expect(await harness.store.chunks(id)).toMatchObject([{ name: FIRST_CHUNK, start: 0, size: 5 }]);
    });

    test('and whose lease ends while the store is away are not answered for: the connection ends', async () => {
      const { stream, outcome } = harness.append(id);
      reach.cut('commit');
      stream.push('hello');
      await until(() => reach.count('commit') > 0, 'a commit that is not answered');
      harness.endLeases('lost');
      expect(await within(outcome, 'the end')).toEqual({ kind: 'interrupted', reason: 'lost' });
      expect(await harness.offset(id)).toBe(0);
    });

    test('and whose lease ends after their last byte are not answered for: the client is told to come back', async () => {
      const { stream, outcome } = harness.append(id, { complete: true });
      reach.cut('commit');
      stream.push('hello');
      stream.push(null);
      await until(() => reach.count('commit') > 0, 'a commit that is not answered');
      harness.endLeases('lost');
      await expect(within(outcome, 'the end')).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      expect((await harness.store.get(id))?.phase).toBe('receiving');
      expect(harness.delivered).toEqual([]);
    });

    test('stay on the disk when nobody knows whether they are counted', async () => {
      id = await harness.empty({ length: 1 });
      reach.silence('commit');
      const { stream, outcome } = harness.append(id, { complete: true });
      stream.push('x');
      await until(() => stream.readableLength === 0 && stream.readableFlowing, 'the byte to be taken');
      stream.push(null);
      await until(async () => (await harness.store.get(id))?.phase === 'complete', 'the completion');
      harness.endLeases('lost');
      await expect(within(outcome, 'the end')).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      reach.heal();
      expect(await harness.store.get(id)).toMatchObject({ phase: 'complete', offset: 1 });
      expect(await harness.files()).toEqual([FIRST_CHUNK]);
    });

    test('are given up when a newer request was faster to the store that is back', async () => {
      const { stream, outcome } = harness.append(id);
      stream.push('hello');
      await until(async () => (await harness.offset(id)) === 5, 'the first commit');
      reach.cut();
      stream.push(' world');
      const before = reach.count('commit');
      await until(() => reach.count('commit') > before, 'a commit that is not answered');
      await harness.store.nextToken(id);
      reach.heal();
      expect(await within(outcome, 'the end')).toEqual({ kind: 'interrupted', reason: 'taken-over' });
      expect(await harness.offset(id)).toBe(5);
    });
  });

  describe('while the store is away', () => {
    let harness: ReceivingHarness;
    const reach = new StoreReach();

    beforeEach(async () => {
      harness = await ReceivingHarness.open({ reach });
    });

    afterEach(async () => {
      reach.heal();
      await harness.close();
    });

    test('new requests do not wait for it', async () => {
      const id = await harness.empty();
      reach.cut();
      await expect(harness.head(id)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      await expect(harness.send(id, 'hello')).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      await expect(harness.uploads.cancel({ kind: 'cancel', id })).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      expect(reach.asked).toEqual(['get', 'get', 'get']);
    });

    test('a HEAD that gets no lease fails and changes nothing', async () => {
      const id = await harness.empty();
      reach.cut('nextToken');
      await expect(harness.head(id)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      reach.heal();
      expect(await harness.head(id)).toMatchObject({ kind: 'retrieved', upload: { offset: 0 } });
    });

    test.each([
      { fails: 'create', created: [] },
      { fails: 'nextToken', created: ['rufh_uploads_created_total{dialect="10"} 1'] },
    ])('a creation that fails at $fails is counted when an upload is left to expire, not otherwise', async (row) => {
      reach.cut(row.fails);
      await expect(harness.create()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      const figures = async (): Promise<string[]> =>
        (await harness.metrics.text()).match(/^rufh_uploads_created_total{.*/gm) ?? [];
      await until(async () => (await figures()).length === row.created.length, 'the creation to end');
      expect(await figures()).toEqual(row.created);
    });

    test('an empty end of an upload waits as well', async () => {
      const id = await harness.empty();
      await harness.send(id, 'hello');
      reach.cut('commit');
      const before = reach.count('commit');
      const ending = harness.send(id, '', { offset: 5, complete: true });
      await until(() => reach.count('commit') > before, 'a commit that is not answered');
      reach.heal();
      expect(await within(ending, 'the end')).toMatchObject({ kind: 'pending', upload: { phase: 'complete' } });
    });
  });
});
