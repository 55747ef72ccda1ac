import { mkdir, readdir, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { endLostUploads } from '../../src/cluster/lost-nodes.js';
import { type Phase, PLAIN_DIALECT } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { EmbeddedLeases } from '../../src/store/embedded/embedded-leases.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { Cleanup, type CleanupOptions } from '../../src/uploads/cleanup.js';
import { recoverNode } from '../../src/uploads/recovery.js';
import { UnreadableBytes } from '../../src/uploads/unknown-bytes.js';
import { newUpload } from '../contract/sample-upload.js';
import { startRedis } from '../support/redis-server.js';
import { openRedis, settingsFor } from '../support/redis-store.js';
import { until } from '../support/temporary.js';
import { ReceivingHarness, StoreReach } from '../support/upload-harness.js';

let harness: ReceivingHarness;
let reach: StoreReach;
let store: UploadStore;

beforeEach(async () => {
  reach = new StoreReach({ mayForget: true });
  harness = await ReceivingHarness.open({ reach, node: 'here' });
  store = reach.to(harness.store);
});

afterEach(() => harness.close());

function deps() {
  const { spool } = harness;
  const told = { log: silentLog(), metrics: new Metrics(), clock: Date.now };
  return {
    ...told,
    store,
    spool,
    leases: new EmbeddedLeases(harness.store),
    unreadable: new UnreadableBytes({ spool, ...told }),
  };
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
interface Ended {
  readonly isCancelled?: boolean;
  readonly isInvalid?: boolean;
}

const TOMORROW = new Date(Date.now() + DAY);

function options(): CleanupOptions {
  return { ...deps(), everyMs: 60_000, orphanAgeMs: -1, node: 'here' };
}

function sweep(more: Partial<CleanupOptions> = {}): Promise<void> {
  return new Cleanup({ ...options(), ...more }).runOnce();
}

function pathOf(id: string, name: string): string {
  return join(harness.path, 'spool', id, name);
}

async function chunksOf(id: string): Promise<string[]> {
  return (await readdir(join(harness.path, 'spool', id))).filter((name) => name.startsWith('chunk'));
}

/** An upload of a node, with bytes in this spool. */
async function uploaded(node: string, bytes = 'hello'): Promise<string> {
  const id = await harness.empty({ node: 'here' });
  await harness.send(id, bytes);
  if (node !== 'here') await harness.store.move(id, await harness.store.nextToken(id), node);
  return id;
}

async function spooled(): Promise<Set<string>> {
  const ids = new Set<string>();
  for await (const { id } of harness.spool.list()) ids.add(id);
  return ids;
}

describe('a node that starts on its own disk', () => {
  test('counts what was committed of its own uploads and nothing beyond it, and looks at no others', async () => {
    const id = await uploaded('here');
    const [chunk] = await harness.store.chunks(id);
    await writeFile(join(harness.path, 'spool', id, chunk!.name), 'hello world');
    await writeFile(join(harness.path, 'spool', id, 'chunk-2000000000-5'), 'written, but never committed');
    const others = [await uploaded('there'), await harness.empty({ node: 'there' })];
    await recoverNode(deps(), 'here');
    expect(await harness.offset(id)).toBe(5);
    expect((await harness.files()).filter((name) => name.startsWith('chunk-2'))).toEqual([]);
    expect(await Promise.all(others.map((other) => harness.offset(other)))).toEqual([5, 0]);
    expect(reach.count('list')).toBe(0);
  });

  test('gives up its own uploads whose bytes are gone, and keeps what it does not know', async () => {
    const id = await uploaded('here');
    const [chunk] = await harness.store.chunks(id);
    await writeFile(join(harness.path, 'spool', id, chunk!.name), 'he');
    const unknown = await uploaded('here');
    await harness.store.remove(unknown);
    const moved = await uploaded('there');
    await recoverNode(deps(), 'here');
    expect((await harness.store.get(id))?.phase).toBe('invalid');
    expect(await spooled()).toEqual(new Set([unknown, moved]));
  });
});

test('an ordinary request that broke off when its process ended leaves its client’s key to nobody', async () => {
  const server = await startRedis();
  const redis = await openRedis(settingsFor(server.port));
  try {
    const upload = { ...newUpload({ node: 'here' }), dialect: PLAIN_DIALECT, clientKey: 'a key' };
    await redis.store.createUnlessKeyUsed(upload);
    expect(await redis.store.idByClientKey('a key')).toBe(upload.id);
    await mkdir(join(harness.path, 'spool', upload.id));
    await writeFile(pathOf(upload.id, 'chunk-1-0'), 'cut o');
    await recoverNode({ ...deps(), store: redis.store, leases: new EmbeddedLeases(harness.store) }, 'here');
    expect(await redis.store.get(upload.id)).toBeUndefined();
    expect(await redis.store.idByClientKey('a key')).toBeUndefined();
  } finally {
    await redis.close();
    await server.stop();
  }
});

describe('a sweep of one of many', () => {
  test('removes old files of uploads that are unknown or elsewhere, and keeps what was promised of its own', async () => {
    const own = await uploaded('here');
    const unknown = await uploaded('here');
    await harness.store.remove(unknown);
    await uploaded('there');
    await sweep();
    expect(await spooled()).toEqual(new Set([own]));
    expect(await harness.spool.acknowledgedOffset(own)).toBe(5);
    expect(await harness.head(own)).toMatchObject({ kind: 'retrieved', upload: { offset: 5 } });
  });

  test('keeps the files of a live upload of a node that never said that it is there', async () => {
    const [named, unknown] = [await uploaded('there'), await uploaded('there')];
    await harness.store.remove(unknown);
    const asked: string[] = [];
    const saysSo = (isThere: boolean) => (node: string) => (asked.push(node), Promise.resolve(isThere));
    await sweep({ isAnnounced: saysSo(false) });
    expect(await spooled()).toEqual(new Set([named]));
    await sweep({ isAnnounced: saysSo(true) });
    expect(await spooled()).toEqual(new Set());
    expect(asked).toEqual(['there', 'there']);
  });

  test('takes a file that nobody counts only from a writer that cannot commit it any more', async () => {
    const id = await uploaded('here');
    const token = await harness.store.nextToken(id);
    const name = `chunk-${token}-5`;
    await writeFile(pathOf(id, name), 'of a process that stands still');
    await sweep();
    expect(await chunksOf(id)).toHaveLength(1);
    const chunk = { name, start: 5, size: 4 };
    expect(await harness.store.commit(id, { token, chunk, expiresAt: TOMORROW.getTime() })).toBe('stale');
    expect(await harness.head(id)).toMatchObject({ kind: 'retrieved', upload: { offset: 5 } });
  });

  test('takes no lease of an upload that has nothing to be removed', async () => {
    const id = await uploaded('here');
    const token = await harness.store.nextToken(id);
    await sweep();
    expect(await harness.store.nextToken(id)).toBe(token + 1);
  });

  test.each<[phase: Phase, stays: boolean]>([
    ['receiving', true],
    ['delivering', true],
    ['undelivered', true],
    ['answered', false],
  ])('keeps the answer to the newest attempt while it may still be recorded: %s, %s', async (phase, stays) => {
    const id = await uploaded('here');
    await writeFile(pathOf(id, 'answer-2-0'), 'of a process that stands still');
    await writeFile(pathOf(id, 'answer-1-0'), 'of the attempt before');
    const attempted = Object.create(store) as UploadStore;
    attempted.get = async (one) => ({ ...(await store.get(one))!, phase, attemptCount: 2 });
    await sweep({ store: attempted });
    const left = (await harness.files()).filter((name) => name.startsWith('answer'));
    expect(left.includes('answer-2-0')).toBe(stays);
    // One that is delivered may have any of them in use.
    expect(left.includes('answer-1-0')).toBe(phase === 'delivering');
  });

  test('leaves young files of uploads that are elsewhere: they may just be coming', async () => {
    const coming = await uploaded('there');
    await sweep({ orphanAgeMs: 60_000 });
    expect(await spooled()).toEqual(new Set([coming]));
  });

  test('keeps the files of a spool that was shared before, or that is said to be', async () => {
    const id = await uploaded('here');
    await sweep({ node: undefined });
    const asShared = Object.create(store) as UploadStore;
    asShared.get = async (one) => ({ ...(await store.get(one))!, node: undefined });
    await sweep({ store: asShared });
    expect(await spooled()).toEqual(new Set([id]));
  });

  test.each([
    ['that has expired', {}, ['expired']],
    ['that was cancelled elsewhere', { isCancelled: true }, ['cancelled']],
    ['whose end was told', { isInvalid: true }, []],
  ])(
    'tells of the end of an upload %s once, however many sweep at once',
    async (_, { isCancelled, isInvalid }: Ended, told) => {
      const ids = [await uploaded('here'), await uploaded('here')];
      if (!isCancelled && !isInvalid)
        for (const id of ids)
          await harness.store.commit(id, {
            token: await harness.store.nextToken(id),
            complete: {},
            expiresAt: Date.now() + DAY,
          });
      if (isCancelled) await Promise.all(ids.map((id) => harness.store.cancel(id)));
      if (isInvalid) for (const id of ids) await harness.store.invalidate(id, await harness.store.nextToken(id));
      const counted: string[] = [];
      const metrics = { uploadEnded: (phase: string) => counted.push(phase), bytesLost: () => undefined };
      // As another server would, which gives the same ids to both, and lets each see what the other is about to remove.
      let arrived = 0;
      const late = Object.create(harness.spool) as typeof harness.spool;
      late.remove = async (id) => {
        arrived += 1;
        await until(() => arrived >= 3, 'all to have seen the uploads');
        await harness.spool.remove(id);
      };
      const later = { clock: () => Date.now() + 2 * DAY, expiryClock: () => Date.now() + 2 * DAY };
      const both = [1, 2, 3].map(() => sweep({ ...later, spool: late, metrics: metrics as never, longestAgeMs: DAY }));
      await Promise.all(both);
      expect(counted).toEqual(told.flatMap((phase) => [phase, phase]));
      expect(await Promise.all(ids.map((id) => harness.store.get(id)))).toEqual([undefined, undefined]);
    },
  );

  test('reads the spool only when it is its turn', async () => {
    const unknown = await uploaded('here');
    await harness.store.remove(unknown);
    await sweep({ mayRemoveOrphans: () => Promise.resolve(false) });
    expect(await spooled()).toEqual(new Set([unknown]));
    await sweep({ mayRemoveOrphans: () => Promise.resolve(true) });
    expect(await spooled()).toEqual(new Set());
  });

  test.each([
    ['a day forward', [DAY], true],
    ['a day back', [-DAY], true],
    ['a day back and forward again', [-DAY, 0], true],
    ['a day forward and back again', [DAY, 0], true],
    ['not at all', [0], false],
  ])('ends no upload before its time when the clock is set: %s', async (_, steps, stays) => {
    const time = { step: 0, passed: 0 };
    const start = Date.now();
    const clocks = { clock: () => start + time.step + time.passed, monotonic: () => time.passed };
    const swept = new Cleanup({ ...options(), ...clocks, longestAgeMs: DAY });
    const early = await harness.empty({ expiresAt: start + DAY });
    await swept.runOnce();
    const meanwhile: string[] = [];
    for (const step of steps) {
      time.step = step;
      time.passed += MINUTE;
      await swept.runOnce();
      meanwhile.push(await harness.empty({ expiresAt: clocks.clock() + DAY }));
    }
    await swept.runOnce();
    for (const id of [early, ...meanwhile]) expect(await harness.store.get(id)).toBeDefined();
    // Its whole time has passed, and a day more in which the step was not believed.
    time.passed += stays ? 2 * DAY + MINUTE : DAY;
    await swept.runOnce();
    expect(await harness.store.get(early)).toBeUndefined();
  });

  test.each([
    ['old', -2 * HOUR],
    ['as of yesterday, from another clock', -DAY],
  ])('takes a file for an orphan when it has seen it for the whole age: %s', async (_, at) => {
    const time = { passed: 0 };
    const start = Date.now();
    const clocks = { clock: () => start + time.passed, monotonic: () => time.passed };
    const unknown = await uploaded('here');
    await harness.store.remove(unknown);
    const chunk = (await harness.files()).find((name) => name.startsWith('chunk'))!;
    const paths = [chunk, 'promised'].map((name) => join(harness.path, 'spool', unknown, name));
    for (const path of paths) await utimes(path, new Date(start + at), new Date(start + at));
    const swept = new Cleanup({ ...options(), ...clocks, orphanAgeMs: HOUR });
    const round = async (): Promise<void> => {
      for (let tenth = 0; tenth < 10; tenth++) await swept.runOnce();
    };
    await round();
    time.passed += HOUR - MINUTE;
    await writeFile(paths[0]!, 'still written');
    await utimes(paths[0]!, new Date(start + at), new Date(start + at));
    await round();
    time.passed += HOUR - MINUTE;
    await round();
    expect(await spooled()).toEqual(new Set([unknown]));
    time.passed += MINUTE;
    await round();
    expect(await spooled()).toEqual(new Set());
  });

  test('removes nothing from the future, nothing of another shape, and nothing from before the spool was its own', async () => {
    const ahead = await uploaded('here');
    await harness.store.remove(ahead);
    for (const name of [...(await chunksOf(ahead)), 'promised']) await utimes(pathOf(ahead, name), TOMORROW, TOMORROW);
    const mixed = await uploaded('here');
    await harness.store.remove(mixed);
    await writeFile(pathOf(mixed, 'notes.txt'), 'mine');
    await mkdir(join(harness.path, 'spool', 'a-directory-of-somebody-else'));
    await writeFile(pathOf('a-directory-of-somebody-else', 'chunk-1-0'), 'mine');
    await sweep({ orphanAgeMs: 0, spoolSince: () => Promise.resolve(Date.now() + MINUTE), longestAgeMs: HOUR });
    expect((await spooled()).has(mixed)).toBe(true);
    expect((await harness.files()).filter((name) => name.startsWith('chunk'))).toHaveLength(3);
    await sweep({ orphanAgeMs: 0 });
    expect((await harness.files()).sort()).toEqual(
      [...(await chunksOf(ahead)), 'chunk-1-0', 'notes.txt', 'promised'].sort(),
    );
  });

  test('goes on when one upload cannot be removed, and not when the store is away', async () => {
    const ids = [await harness.empty({ expiresAt: 1 }), await harness.empty({ expiresAt: 1 })];
    const stubborn = Object.create(harness.spool) as typeof harness.spool;
    stubborn.remove = (id) => (id === ids[0] ? harness.spool.removeChunk(id, '../x') : harness.spool.remove(id));
    await sweep({ spool: stubborn });
    expect([await harness.store.get(ids[0]!), await harness.store.get(ids[1]!)]).toMatchObject([
      { id: ids[0] },
      undefined,
    ]);
    reach.cut('remove');
    await expect(sweep()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    reach.heal();
  });

  test('does not end a request on an upload that is named, but not over', async () => {
    const id = await uploaded('here');
    const { leases } = deps();
    const lease = await leases.take(id);
    const naming = Object.create(store) as UploadStore;
    naming.expired = () => Promise.resolve([id]);
    await sweep({ store: naming, leases });
    expect([lease.signal.aborted, await harness.offset(id)]).toEqual([false, 5]);
  });

  test('that meets another one at the same work does no harm', async () => {
    const ids = [await harness.empty({ expiresAt: 1 }), await harness.empty({ expiresAt: 1 }), await uploaded('here')];
    await Promise.all([sweep(), sweep(), sweep()]);
    expect(await Promise.all(ids.map((id) => harness.offset(id)))).toEqual([undefined, undefined, 5]);
  });
});

test('uploads of a node that is gone are unknown afterwards, but for answers that need none of its bytes', async () => {
  const receiving = await uploaded('gone');
  const whole = await uploaded('gone');
  const answered = await uploaded('gone');
  for (const id of [whole, answered]) {
    const token = await harness.store.nextToken(id);
    await harness.store.commit(id, { token, complete: {}, expiresAt: Date.now() + 60_000 });
  }
  const answer = { status: 201, reason: '', headers: [], trailers: [], bodySize: 2, at: Date.now() };
  await harness.store.claimDelivery(answered, 'worker', Date.now() + 1000);
  const body = Buffer.from('ok');
  const kept = { ...answer, body: { in: 'record' } } as const;
  await harness.store.recordAnswer(answered, 'worker', { answer: kept, body, expiresAt: Date.now() + 60_000 });
  const gone = { node: 'gone', isStillLost: () => Promise.resolve(true), successor: 'here' };
  expect(await endLostUploads({ ...deps(), ...gone, store: harness.store })).toBe(2);
  expect(await harness.store.get(receiving)).toBeUndefined();
  expect(await harness.store.get(whole)).toBeUndefined();
  expect(await harness.store.get(answered)).toMatchObject({ phase: 'answered', node: 'here' });
  expect(String(await harness.store.answerBody(answered))).toBe('ok');
});

test('whoever forgets a node and stands still meanwhile ends nothing that others go on with', async () => {
  const id = await uploaded('gone');
  const slow = Object.create(harness.store) as UploadStore;
  slow.get = async (one) => {
    const upload = await harness.store.get(one);
    // The node is back, and its client as well.
    await harness.store.nextToken(one);
    return upload;
  };
  const gone = { node: 'gone', isStillLost: () => Promise.resolve(true), successor: 'here' };
  const forgetting = endLostUploads({ ...deps(), ...gone, store: slow });
  await expect(forgetting).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
  expect(await harness.store.get(id)).toMatchObject({ phase: 'receiving', offset: 5 });
});
