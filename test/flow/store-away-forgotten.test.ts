import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { Readable } from 'node:stream';
import type { EarlyAnswer, EagerFeed } from '../../src/delivery/eager.js';
import type { Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import type { Commit, UploadStore } from '../../src/store/upload-store.js';
import { ReceivingRoom, type RoomOptions } from '../support/receiving-room.js';
import { StoreReach } from '../support/store-reach.js';
import { until, within } from '../support/temporary.js';

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
  let room: ReceivingRoom;
  let reach: Forgetful;
  let id: string;

  async function open(options: Omit<RoomOptions, 'reach'> = {}): Promise<void> {
    reach = new Forgetful();
    room = await ReceivingRoom.open({ reach, ...options });
    id = await room.empty();
  }

  beforeEach(() => open());

  afterEach(() => room.close());

  test('and remembers: an upload goes on over many requests, whatever was shown', async () => {
    expect(await room.send(id, 'hello')).toMatchObject({ kind: 'appended', upload: { offset: 5 } });
    expect(await room.head(id)).toMatchObject({ kind: 'retrieved', upload: { offset: 5 } });
    expect(await room.send(id, ' world', { offset: 5 })).toMatchObject({ kind: 'appended', upload: { offset: 11 } });
    expect(await room.send(id, '!', { offset: 11, complete: true })).toMatchObject({ upload: { phase: 'complete' } });
    expect(await room.head(id)).toMatchObject({ kind: 'retrieved', upload: { offset: 12 } });
    expect(await room.spool.acknowledgedOffset(id)).toBe(13);
  });

  test('what the end of an append has shown: the upload is given up, and its bytes go', async () => {
    await room.send(id, 'hello');
    reach.forget();
    expect(await room.send(id, ' world', { offset: 5 })).toMatchObject({ kind: 'appended', upload: { offset: 11 } });
    reach.settle();
    expect(await room.offset(id)).toBe(5);
    expect(await room.head(id)).toEqual(LOST);
    expect((await room.store.get(id))?.phase).toBe('invalid');
    expect(await room.files()).toEqual([]);
  });

  test('what the end of an append has shown: going on with it is refused as well', async () => {
    reach.forget();
    await room.send(id, 'hello');
    reach.settle();
    expect(await room.send(id, ' world', { offset: 5 })).toEqual(LOST);
    expect(await room.send(id, 'hello')).toMatchObject({ kind: 'refused', refusal: { reason: 'gone' } });
  });

  test('what progress has shown: the upload is given up', async () => {
    const { stream, told, outcome } = room.append(id);
    reach.forget();
    stream.push('hello');
    await until(() => told.at(-1) === 5, 'progress to be told');
    reach.settle();
    stream.destroy();
    await within(outcome, 'the end');
    expect(await room.head(id)).toEqual(LOST);
  });

  test('what nobody was shown: the upload goes on from where it is', async () => {
    await room.close();
    await open({ hears: false });
    const { stream, told, outcome } = room.append(id);
    stream.push('hello');
    await until(async () => (await room.offset(id)) === 5, 'the first commit');
    expect(await room.spool.acknowledgedOffset(id)).toBe(0);
    reach.forget();
    stream.push(' world');
    const before = reach.count('commit');
    await until(async () => (await room.spool.size(id, 'chunk-1000000001-0')) === 11, 'the bytes on the disk');
    stream.destroy();
    expect(await within(outcome, 'the end')).toEqual({ kind: 'interrupted', why: 'client-left' });
    reach.settle();
    expect(reach.count('commit')).toBe(before);
    expect(told).toEqual([]);
    expect(await room.head(id)).toMatchObject({ kind: 'retrieved', upload: { offset: 5 } });
    expect(await room.spool.acknowledgedOffset(id)).toBe(5);
  });

  test('what a refusal has shown: the upload is given up', async () => {
    await room.close();
    await open({ hears: false });
    const { stream, outcome } = room.append(id);
    stream.push('hello');
    await until(async () => (await room.offset(id)) === 5, 'the first commit');
    stream.destroy();
    await outcome;
    expect(await room.spool.acknowledgedOffset(id)).toBe(0);
    expect(await room.send(id, 'x', { offset: 1 })).toMatchObject({ refusal: { reason: 'mismatching-offset' } });
    expect(await room.spool.acknowledgedOffset(id)).toBe(5);
  });

  test.each(['answered', 'parked'] as const)(
    'an early answer that is not kept, %s, promises the offset that it shows and no more',
    async (kind) => {
      await room.close();
      await open({
        hears: false,
        feeds: {
          startEager: (upload) => new EarlyEnd(upload, kind),
          stopEager: () => undefined,
          eagerAvailability: () => 'yes',
        },
      });
      const { stream, outcome } = room.append(id);
      stream.push('hello');
      expect(await within(outcome, 'the early answer')).toMatchObject({ kind, upload: { offset: 5 } });
      expect(await room.spool.acknowledgedOffset(id)).toBe(5);
      expect(await room.head(id)).toMatchObject({ kind: 'retrieved', upload: { phase: 'receiving', offset: 5 } });
    },
  );

  test('nothing: who stood still while a newer request went on gives up nothing, and says nothing', async () => {
    await room.close();
    const errors: string[] = [];
    const log = { ...silentLog(), error: (_: object | string, message?: string) => void errors.push(message ?? '') };
    await open({ log });
    await room.send(id, 'hello');
    const { spool } = room;
    let goOn = (): void => undefined;
    const goesOn = new Promise<void>((resolve) => (goOn = resolve));
    const promised = jest.spyOn(spool, 'acknowledgedOffset').mockImplementationOnce(async () => {
      await goesOn;
      return spool.acknowledgedOffset(id);
    });
    const head = room.head(id);
    await until(() => promised.mock.calls.length === 1, 'the record to be read');
    expect(await room.send(id, ' world', { offset: 5 })).toMatchObject({ kind: 'appended', upload: { offset: 11 } });
    goOn();
    expect(await within(head, 'the end')).toEqual({ kind: 'interrupted', why: 'taken-over' });
    expect(await room.head(id)).toMatchObject({ kind: 'retrieved', upload: { offset: 11 } });
    expect(errors).toEqual([]);
  });

  test('that an upload was whole: its origin gets no second request for it', async () => {
    await room.send(id, 'hell');
    reach.forget();
    expect(await room.send(id, 'o', { offset: 4, complete: true })).toMatchObject({ kind: 'pending' });
    reach.settle();
    expect((await room.store.get(id))?.phase).toBe('receiving');
    expect(await room.send(id, 'o', { offset: 4, complete: true })).toEqual(LOST);
    expect(room.delivered).toEqual([id]);
  });

  test('that an upload was whole, all of whose bytes it remembers: no second request either', async () => {
    await room.send(id, 'hello');
    reach.forget();
    expect(await room.send(id, '', { offset: 5, complete: true })).toMatchObject({ kind: 'pending' });
    reach.settle();
    expect(await room.send(id, '', { offset: 5, complete: true })).toEqual(LOST);
    expect(room.delivered).toEqual([id]);
  });
});

test('a store that forgets nothing costs no file', async () => {
  const room = await ReceivingRoom.open({ reach: new StoreReach() });
  const id = await room.empty();
  await room.send(id, 'hello');
  await room.head(id);
  expect(await room.files()).toEqual(['chunk-1000000001-0']);
  await room.close();
});
