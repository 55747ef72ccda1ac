import { readdir, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { EmbeddedLeases } from '../../src/store/embedded/embedded-leases.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { Cleanup } from '../../src/uploads/cleanup.js';
import { recover } from '../../src/uploads/recovery.js';
import { UnreadableBytes, UnrecordedBytes } from '../../src/uploads/unknown-bytes.js';
import { attempt, HOUR, newId, newUpload } from '../contract/sample-upload.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

const TOKENS = [2_000_000_001, 2_000_000_002, 2_000_000_003];
const expiresAt = Date.now() + 24 * HOUR;
let directory: TemporaryDirectory;
let store: EmbeddedStore;
let spool: LocalSpool;
let id: string;
let unrecorded: UnrecordedBytes;
/** Who compares records and bytes first after a start. */
let whoLooks: 'the background' | 'the first use';

const told = { log: silentLog(), clock: Date.now };
const pathOf = (...names: string[]): string => join(directory.path, ...names);
const recordPath = (): string => pathOf('uploads', `${id}.log`);

/** An upload of three chunks, which have not been touched for hours. */
beforeEach(async () => {
  directory = await temporaryDirectory();
  id = newId();
  spool = new LocalSpool({ directory: directory.path, sync: 'group' });
  await spool.open();
  store = await EmbeddedStore.open({ directory: directory.path, sync: 'group', log: told.log });
  await store.create(newUpload({ id, expiresAt }));
  for (const [index, token] of TOKENS.entries()) {
    const name = `chunk-${token}-${index * 5}`;
    const writer = await spool.create(id, name);
    await writer.write([Buffer.from('hello')]);
    await writer.sync();
    await writer.close();
    await store.commit(id, { token, chunk: { name, start: index * 5, ...writer.extent }, expiresAt });
  }
});

afterEach(async () => {
  await store.close();
  await directory.remove();
});

async function age(): Promise<void> {
  const then = new Date(Date.now() - 3 * HOUR);
  for (const name of await readdir(pathOf('spool', id)).catch(() => []))
    await utimes(pathOf('spool', id, name), then, then);
}

/** `looked`: called each time that a chunk is looked for by its name. */
async function start(looked: () => unknown = () => undefined): Promise<void> {
  await store.close();
  await age();
  store = await EmbeddedStore.open({ directory: directory.path, sync: 'group', log: told.log, maxCachedBytes: 0 });
  const unreadable = new UnreadableBytes({ spool, ...told });
  unrecorded = new UnrecordedBytes(told);
  const watched = Object.create(spool) as LocalSpool;
  watched.size = async (...args) => {
    await looked();
    return spool.size(...args);
  };
  await recover({
    ...told,
    store,
    spool: watched,
    unreadable,
    unrecorded,
    metrics: new Metrics(),
  });
  if (whoLooks === 'the background') await store.recoverRest();
}

/** Rounds of the sweep in the hours to come, as long as the upload has time. `watched`: the store that it uses. */
async function sweep(hours = 5, watched = store): Promise<void> {
  let passedMs = 0;
  const sweeping = new Cleanup({
    store: watched,
    spool,
    log: told.log,
    unreadable: new UnreadableBytes({ spool, ...told }),
    leases: new EmbeddedLeases(store),
    metrics: new Metrics(),
    clock: () => Date.now() + passedMs,
    monotonic: () => passedMs,
    everyMs: HOUR,
    orphanAgeMs: HOUR,
    longestAgeMs: 24 * HOUR,
    unrecorded,
  });
  for (let hour = 0; hour < hours; hour++, passedMs += HOUR)
    for (let round = 0; round < 10; round++) await sweeping.runOnce();
}

async function damage(word: string, how: 'first' | 'last'): Promise<Buffer> {
  const bytes = await readFile(recordPath());
  const at = how === 'first' ? bytes.indexOf(word) : bytes.lastIndexOf(word);
  const damaged = Buffer.from(bytes);
  damaged[at]! ^= 1;
  await writeFile(recordPath(), damaged);
  return bytes;
}

describe.each(['the background', 'the first use'] as const)('found by %s:', (who) => {
  beforeEach(() => void (whoLooks = who));

  test('a record that is damaged before its last line keeps every chunk, also those that can no longer be counted', async () => {
    const right = await damage(`chunk-${TOKENS[1]}`, 'first');
    await start();
    await sweep();
    expect(await store.get(id)).toMatchObject({ phase: 'invalid' });
    expect(await readdir(pathOf('spool', id))).toHaveLength(3);
    await store.close();
    await writeFile(recordPath(), right);
    await start();
    expect(await store.get(id)).toMatchObject({ phase: 'receiving', offset: 15 });
  });

  test('a record whose last line is damaged keeps the chunk that it counted, so that it can be put right', async () => {
    const right = await damage(`chunk-${TOKENS[2]}`, 'last');
    await start();
    expect(await store.get(id)).toMatchObject({ phase: 'receiving', offset: 10 });
    expect(await readdir(pathOf('spool', id))).toHaveLength(3);
    await store.close();
    await writeFile(recordPath(), right);
    await start();
    expect(await store.get(id)).toMatchObject({ phase: 'receiving', offset: 15 });
  });

  describe('a backup that was copied only in part', () => {
    const phases: [string, () => Promise<unknown>][] = [
      ['receiving', () => Promise.resolve()],
      ['complete', whole],
      [
        'delivering',
        async () => {
          await whole();
          await store.claimDelivery(id, 'w', Date.now() + HOUR);
          await store.beginAttempt(id, 'w', attempt(1));
        },
      ],
      [
        'undelivered',
        async () => {
          await whole();
          await store.claimDelivery(id, 'w', Date.now() + HOUR);
          await store.beginAttempt(id, 'w', attempt(1));
          await store.giveUp(id, 'w', { reason: 'unreachable', problem: 'x' });
        },
      ],
    ];

    function whole(): Promise<unknown> {
      return store.commit(id, { token: TOKENS[2]!, complete: {}, expiresAt });
    }

    test.each(phases)('is noticed at the start, kept, and goes on when the rest has come: %s', async (phase, until) => {
      await until();
      const name = `chunk-${TOKENS[1]}-5`;
      await rename(pathOf('spool', id, name), pathOf('later'));
      await start();
      expect(await store.get(id)).toMatchObject({ phase: 'invalid', lost: true });
      expect(await store.expired(Date.now())).toEqual([]);
      await sweep();
      expect(await readdir(pathOf('spool', id))).toHaveLength(2);
      await rename(pathOf('later'), pathOf('spool', id, name));
      await start();
      expect(await store.get(id)).toMatchObject({ phase, offset: 15 });
    });

    test('has bytes without a record, which stay as long as an upload may, and are told of until they go', async () => {
      await rename(recordPath(), pathOf('later'));
      await start();
      expect(unrecorded.known).toMatchObject({ uploads: 1, bytes: 15 });
      await sweep(20);
      expect(await readdir(pathOf('spool', id))).toHaveLength(3);
      expect(unrecorded.known).toMatchObject({ uploads: 1, bytes: 15 });
      await rename(pathOf('later'), recordPath());
      await start();
      expect([unrecorded.known, await store.get(id)]).toMatchObject([undefined, { phase: 'receiving', offset: 15 }]);
      await rename(recordPath(), pathOf('later'));
      await start();
      await sweep(25);
      expect(await readdir(pathOf('spool'))).not.toContain(id);
      expect(unrecorded.known).toBeUndefined();
    });

    test('is so without any bytes, too', async () => {
      await whole();
      await rm(pathOf('spool', id), { recursive: true });
      await start();
      expect(await store.get(id)).toMatchObject({ phase: 'invalid', lost: true });
      expect(await store.expired(Date.now())).toEqual([]);
      // A delivery that finds it out as well has nothing more to tell, and does not write over what is kept.
      const before = await readFile(recordPath());
      expect(await store.markLost(id)).toBe('gone');
      expect(await readFile(recordPath())).toEqual(before);
    });
  });

  test('a delivery that wants to begin while the bytes of its upload are looked for waits, and learns that they are gone', async () => {
    await store.commit(id, { token: TOKENS[2]!, complete: {}, expiresAt });
    await rm(pathOf('spool', id), { recursive: true });
    const claims: Promise<unknown>[] = [];
    await start(() => claims.push(store.claimDelivery(id, 'w', Date.now() + HOUR)));
    expect(await store.get(id)).toMatchObject({ phase: 'invalid', lost: true });
    expect(claims.length).toBeGreaterThan(0);
    expect(await Promise.all(claims)).toEqual(claims.map(() => undefined));
  });

  const DAMAGES: [string, damage: (bytes: Buffer) => Buffer][] = [
    ['a damaged first line', (bytes) => Buffer.concat([Buffer.from('x'), bytes.subarray(1)])],
    ['a line too few', (bytes) => bytes.subarray(0, bytes.lastIndexOf('\n', -2) + 1)],
    ['no line', () => Buffer.alloc(0)],
  ];
  /** Calls `damage` once the orphans are old, at one of the moments between two steps of the sweep. */
  const MOMENTS: [string, watch: (sweeping: EmbeddedStore, damage: () => Promise<void>) => void][] = [
    [
      'before the sweep looks',
      (sweeping, damage) => (sweeping.setAsideRecords = onCall(sweeping, 'setAsideRecords', damage)),
    ],
    ['after the sweep has seen the record', (sweeping, damage) => (sweeping.get = onCall(sweeping, 'get', damage))],
    [
      'after the sweep has seen the chunks',
      (sweeping, damage) => (sweeping.chunks = onCall(sweeping, 'chunks', damage)),
    ],
  ];

  function onCall<M extends 'setAsideRecords' | 'get' | 'chunks'>(
    sweeping: EmbeddedStore,
    method: M,
    damage: () => Promise<void>,
  ): EmbeddedStore[M] {
    const call = sweeping[method].bind(sweeping) as (...args: unknown[]) => Promise<unknown>;
    return (async (...args: unknown[]) => {
      const result = await call(...args);
      await damage();
      return result;
    }) as EmbeddedStore[M];
  }

  test.each(DAMAGES.flatMap(([what, damage]) => MOMENTS.map(([when, watch]) => [what, when, damage, watch] as const)))(
    'a record that gets %s %s keeps every chunk',
    async (what, when, damage, watch) => {
      await start();
      await writeFile(pathOf('spool', id, 'chunk-2000000009-15'), 'x');
      await age();
      const right = await readFile(recordPath());
      const watched = Object.create(store) as EmbeddedStore;
      let calls = 0;
      // Files are old in the second hour.
      const isFirst = when === 'before the sweep looks';
      watch(watched, async () => {
        if (++calls === (isFirst ? 2 : 1)) await writeFile(recordPath(), damage(right));
      });
      await sweep(5, watched);
      expect(calls).toBeGreaterThanOrEqual(isFirst ? 2 : 1);
      const names = TOKENS.map((token, index) => `chunk-${token}-${index * 5}`);
      expect(await readdir(pathOf('spool', id))).toEqual(expect.arrayContaining(names));
      const upload = await store.get(id).catch(() => undefined);
      if (what === 'a line too few') expect(upload).toMatchObject({ phase: 'invalid', lost: true });
      else expect(await store.setAsideRecords()).toMatchObject([{ id }]);
    },
  );

  test('an upload whose damage another step finds while the sweep wants to remove it keeps every chunk', async () => {
    await start();
    const watched = Object.create(store) as EmbeddedStore;
    watched.expired = async () => {
      if (await store.get(id).catch(() => undefined)) await damage('format', 'first');
      await store.get(id).catch(() => undefined);
      return [id];
    };
    await sweep(5, watched);
    expect(await store.setAsideRecords()).toMatchObject([{ id, state: 'damaged' }]);
    expect(await readdir(pathOf('spool', id))).toHaveLength(3);
  });

  test('a start removes what nobody counts, but no file of another name', async () => {
    const foreign = ['notes.txt', `chunk-${TOKENS[0]}-0.bak`];
    for (const name of [...foreign, 'chunk-2000000009-15']) await writeFile(pathOf('spool', id, name), 'x');
    await start();
    await sweep();
    const names = await readdir(pathOf('spool', id));
    expect(names).toEqual(expect.arrayContaining(foreign));
    expect(names).not.toContain('chunk-2000000009-15');
    expect(names).toHaveLength(5);
  });
});
