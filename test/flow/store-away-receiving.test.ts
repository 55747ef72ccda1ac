import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { ReceivingRoom } from '../support/receiving-room.js';
import { StoreReach } from '../support/store-reach.js';
import { until, within } from '../support/temporary.js';

/** Named by the first token of a store. */
const FIRST_CHUNK = 'chunk-1000000001-0';

const PACES = {
  'in groups': { bytes: 1, everyMs: 5 },
  'after every write': { bytes: 0, everyMs: 0 },
};

describe.each(Object.entries(PACES))('bytes that are committed %s', (_, pace) => {
  let room: ReceivingRoom;
  let reach: StoreReach;
  let id: string;

  beforeEach(async () => {
    reach = new StoreReach();
    room = await ReceivingRoom.open({ reach, pace });
    id = await room.empty();
  });

  afterEach(() => room.close());

  test('are still written while the store is away, and committed when it is back', async () => {
    const { stream, told, outcome } = room.append(id);
    stream.push('hello');
    await until(async () => (await room.offset(id)) === 5, 'the first commit');
    reach.cut();
    stream.push(' world');
    await until(async () => (await room.spool.size(id, FIRST_CHUNK)) === 11, 'the bytes on the disk');
    stream.push('!');
    await until(async () => (await room.spool.size(id, FIRST_CHUNK)) === 12, 'more bytes on the disk');
    const before = reach.count('commit');
    await until(() => reach.count('commit') > before + 1, 'two more commits that are not answered');
    expect(await room.offset(id)).toBe(5);
    expect(told).toEqual([5]);
    reach.heal();
    await until(() => told.at(-1) === 12, 'progress to be told');
    stream.push(null);
    expect(await within(outcome, 'the end')).toMatchObject({ kind: 'appended', upload: { offset: 12 } });
    expect(await room.metrics.text()).toMatch(/^rufh_store_unavailable_total [1-9]/m);
  });

  test('whose end comes while the store is away are answered for when it is back', async () => {
    const { stream, outcome } = room.append(id, { complete: true });
    stream.push('hello');
    await until(async () => (await room.offset(id)) === 4, 'the first commit, without what may be the end');
    reach.cut();
    stream.push(' world');
    stream.push(null);
    const before = reach.count('commit');
    await until(() => reach.count('commit') > before + 1, 'two commits that are not answered');
    expect(room.delivered).toEqual([]);
    reach.heal();
    expect(await within(outcome, 'the end')).toMatchObject({
      kind: 'pending',
      upload: { phase: 'complete', offset: 11 },
    });
    expect(room.delivered).toEqual([id]);
  });

  test('count once when the step was done and only its answer was lost', async () => {
    const { stream, outcome } = room.append(id);
    reach.silence('commit');
    stream.push('hello');
    await until(() => reach.count('commit') > 1, 'a second try');
    reach.heal();
    stream.push(null);
    expect(await within(outcome, 'the end')).toMatchObject({ kind: 'appended', upload: { offset: 5 } });
    expect(await room.store.chunks(id)).toMatchObject([{ name: FIRST_CHUNK, start: 0, size: 5 }]);
  });

  test('and whose lease ends while the store is away are not answered for: the connection ends', async () => {
    const { stream, outcome } = room.append(id);
    reach.cut('commit');
    stream.push('hello');
    await until(() => reach.count('commit') > 0, 'a commit that is not answered');
    room.endLeases('lost');
    expect(await within(outcome, 'the end')).toEqual({ kind: 'interrupted', why: 'lost' });
    expect(await room.offset(id)).toBe(0);
  });

  test('and whose lease ends after their last byte are not answered for: the client is told to come back', async () => {
    const { stream, outcome } = room.append(id, { complete: true });
    reach.cut('commit');
    stream.push('hello');
    stream.push(null);
    await until(() => reach.count('commit') > 0, 'a commit that is not answered');
    room.endLeases('lost');
    await expect(within(outcome, 'the end')).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect((await room.store.get(id))?.phase).toBe('receiving');
    expect(room.delivered).toEqual([]);
  });

  test('stay on the disk when nobody knows whether they are counted', async () => {
    id = await room.empty({ length: 1 });
    reach.silence('commit');
    const { stream, outcome } = room.append(id, { complete: true });
    stream.push('x');
    await until(() => stream.readableLength === 0 && stream.readableFlowing, 'the byte to be taken');
    stream.push(null);
    await until(async () => (await room.store.get(id))?.phase === 'complete', 'the completion');
    room.endLeases('lost');
    await expect(within(outcome, 'the end')).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    reach.heal();
    expect(await room.store.get(id)).toMatchObject({ phase: 'complete', offset: 1 });
    expect(await room.files()).toEqual([FIRST_CHUNK]);
  });

  test('are given up when a newer request was faster to the store that is back', async () => {
    const { stream, outcome } = room.append(id);
    stream.push('hello');
    await until(async () => (await room.offset(id)) === 5, 'the first commit');
    reach.cut();
    stream.push(' world');
    const before = reach.count('commit');
    await until(() => reach.count('commit') > before, 'a commit that is not answered');
    await room.store.nextToken(id);
    reach.heal();
    expect(await within(outcome, 'the end')).toEqual({ kind: 'interrupted', why: 'taken-over' });
    expect(await room.offset(id)).toBe(5);
  });
});

describe('while the store is away', () => {
  let room: ReceivingRoom;
  const reach = new StoreReach();

  beforeEach(async () => {
    room = await ReceivingRoom.open({ reach });
  });

  afterEach(async () => {
    reach.heal();
    await room.close();
  });

  test('new requests do not wait for it', async () => {
    const id = await room.empty();
    reach.cut();
    await expect(room.head(id)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    await expect(room.send(id, 'hello')).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    await expect(room.uploads.cancel({ kind: 'cancel', id })).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect(reach.asked).toEqual(['get', 'get', 'get']);
  });

  test('a HEAD that gets no lease fails and changes nothing', async () => {
    const id = await room.empty();
    reach.cut('nextToken');
    await expect(room.head(id)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    reach.heal();
    expect(await room.head(id)).toMatchObject({ kind: 'retrieved', upload: { offset: 0 } });
  });

  test.each([
    { fails: 'create', created: [] },
    { fails: 'nextToken', created: ['rufh_uploads_created_total{dialect="10"} 1'] },
  ])('a creation that fails at $fails is counted when an upload is left to expire, not otherwise', async (row) => {
    reach.cut(row.fails);
    await expect(room.create()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    const figures = async (): Promise<string[]> =>
      (await room.metrics.text()).match(/^rufh_uploads_created_total{.*/gm) ?? [];
    await until(async () => (await figures()).length === row.created.length, 'the creation to end');
    expect(await figures()).toEqual(row.created);
  });

  test('an empty end of an upload waits as well', async () => {
    const id = await room.empty();
    await room.send(id, 'hello');
    reach.cut('commit');
    const before = reach.count('commit');
    const ending = room.send(id, '', { offset: 5, complete: true });
    await until(() => reach.count('commit') > before, 'a commit that is not answered');
    reach.heal();
    expect(await within(ending, 'the end')).toMatchObject({ kind: 'pending', upload: { phase: 'complete' } });
  });
});
