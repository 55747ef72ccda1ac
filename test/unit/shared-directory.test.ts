import { mkdir, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { mkdir as mkdirOn, nodeFileSystem, useFileSystem, writeFully } from '../../src/fs/files.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import {
  assertShareable,
  assertUnused,
  readSpoolMark,
  SpoolUse,
  writeSpoolMark,
} from '../../src/spool/shared-directory.js';
import {
  assertClaimable,
  claimForStore,
  claimSpool,
  forgetTakeovers,
  readTakeovers,
  recordTakeover,
  type SpoolClaim,
} from '../../src/spool/spool-claim.js';
import { Cleanup, type CleanupOptions } from '../../src/uploads/cleanup.js';
import { UnknownBytes, UnreadableBytes } from '../../src/uploads/unknown-bytes.js';
import { newId } from '../contract/sample-upload.js';
import { smallDisk } from '../support/disk.js';
import { MemoryDisk, memoryDisks, type Trouble } from '../support/memory-disk.js';
import { temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';

describe('shared directories', () => {
  let directory: TemporaryDirectory;

  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(() => directory.remove());

  describe('a directory for many machines', () => {
    test('is tried out by several at once, and nothing is left of it', async () => {
      await Promise.all(['a', 'b', 'c'].map((unique) => assertShareable(directory.path, unique)));
      expect(await readdir(directory.path)).toEqual([]);
    });

    test('that is no directory is refused by its name', async () => {
      const path = join(directory.path, 'file');
      await writeFile(path, '');
      const refused = assertShareable(path, 'a');
      await expect(refused).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE', retryable: false });
      await expect(refused).rejects.toThrow(`${path}: EEXIST`);
      await expect(refused).rejects.toThrow('spool.shared needs a directory where directories can be created');
    });

    test('that cannot be written is refused', async () => {
      const disk = await smallDisk(1024);
      await disk.setReadOnly(true);
      await expect(assertShareable(disk.path, 'a')).rejects.toThrow('EROFS');
      await disk.setReadOnly(false);
      await disk.remove();
    });

    test('that keeps no bytes is refused', async () => {
      const disk = await smallDisk(64);
      await expect(assertShareable(disk.path, 'a')).rejects.toThrow(
        'needs a directory where written bytes are visible to the next process that opens the file',
      );
      expect(await readdir(disk.path)).toEqual([]);
      await disk.remove();
    });

    test('belongs to no store at first, then to the one that was noted', async () => {
      expect(await readSpoolMark(directory.path)).toBeUndefined();
      await Promise.all(['a', 'b'].map((unique) => writeSpoolMark(directory.path, 'store-1', unique)));
      expect(await readSpoolMark(directory.path)).toBe('store-1');
      await writeSpoolMark(directory.path, 'store-2', 'a');
      expect(await readSpoolMark(directory.path)).toBe('store-2');
      expect(await readdir(join(directory.path, 'spool'))).toEqual(['.store']);
    });

    test('whose note cannot be read is nobody’s to judge', async () => {
      await mkdir(join(directory.path, 'spool', '.store'), { recursive: true });
      await expect(readSpoolMark(directory.path)).rejects.toThrow(`${directory.path}: EISDIR`);
    });
  });

  describe('a shared spool', () => {
    const id = newId();
    const chunk = { name: 'chunk-1', start: 0, size: 5 };
    let spool: LocalSpool;

    beforeEach(async () => {
      await writeSpoolMark(directory.path, 'store-1', 'a');
      spool = new LocalSpool({ directory: directory.path, sync: 'none', isShared: true });
      await spool.open();
      const writer = await spool.create(id, 'chunk-1');
      await writer.write([Buffer.from('hello')]);
      await writer.close();
    });

    test('is read and listed by every node', async () => {
      const other = new LocalSpool({ directory: directory.path, sync: 'none', isShared: true });
      await other.open();
      expect(String(Buffer.concat(await other.read(id, [chunk]).toArray()))).toBe('hello');
      expect(await filesOf(other)).toEqual([`${id}/chunk-1`]);
    });

    test('that is not mounted has lost nothing, and is not opened', async () => {
      const away = { code: 'STORAGE_UNAVAILABLE' };
      await rm(join(directory.path, 'spool'), { recursive: true });
      await mkdir(join(directory.path, 'spool'));
      await expect(spool.read(id, [chunk]).toArray()).rejects.toMatchObject(away);
      await expect(spool.size(id, 'chunk-1')).rejects.toMatchObject(away);
      await expect(spool.acknowledgedOffset(id)).rejects.toMatchObject(away);
      await expect(spool.open()).rejects.toMatchObject(away);
    });

    test('that is mounted says what is lost', async () => {
      await spool.remove(id);
      await expect(spool.read(id, [chunk]).toArray()).rejects.toMatchObject({ code: 'BYTES_LOST' });
      expect(await spool.size(id, 'chunk-1')).toBeUndefined();
      expect(await spool.acknowledgedOffset(id)).toBe(0);
    });

    test('keeps its empty directories when it is opened, since somebody may be about to use them, until it is listed', async () => {
      const empty = newId();
      await mkdir(join(directory.path, 'spool', empty));
      await spool.open();
      expect(await readdir(join(directory.path, 'spool'))).toContain(empty);
      expect(await filesOf(spool)).toEqual([`${id}/chunk-1`]);
      expect((await readdir(join(directory.path, 'spool'))).sort()).toEqual(['.store', id].sort());
    });
  });

  async function filesOf(spool: LocalSpool): Promise<string[]> {
    const found: string[] = [];
    for await (const file of spool.list()) found.push(`${file.id}/${file.name}`);
    return found;
  }

  test('the directory of a spool of one machine that vanishes as a whole has lost nothing', async () => {
    const spool = new LocalSpool({ directory: directory.path, sync: 'none' });
    await spool.open();
    await rm(join(directory.path, 'spool'), { recursive: true });
    const chunk = { name: 'chunk-1', start: 0, size: 5 };
    const id = newId();
    await expect(spool.read(id, [chunk]).toArray()).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    await expect(spool.size(id, 'chunk-1')).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  });
});

describe('takeovers of a spool', () => {
  // Issue 8: a spool whose Redis came back empty, on a sick disk, under any clock, and with a start that did not end well.
  const OLD = '11111111-1111-1111-1111-111111111111';
  const NEW = '22222222-2222-2222-2222-222222222222';
  const NEWER = '33333333-3333-3333-3333-333333333333';
  const HOUR = 3_600_000;
  const DAY = 24 * HOUR;

  function claimOf(directory: string, over: Partial<SpoolClaim> = {}): SpoolClaim {
    return {
      directory,
      isShared: true,
      startsConcurrently: false,
      storeId: OLD,
      isNewStore: true,
      log: silentLog(),
      ...over,
    };
  }

  afterEach(() => {
    useFileSystem();
    jest.restoreAllMocks();
  });

  const growing: Trouble = (operation, flags = '') =>
    flags === 'grows' || flags.startsWith('w') || ['mkdir', 'rename', 'link'].includes(operation)
      ? 'ENOSPC'
      : undefined;

  describe.each([
    ['all nodes share', true],
    ['one node has', false],
  ])('a takeover of a spool that %s', (_, isShared) => {
    let disk: MemoryDisk;
    let id: string;
    const data = () => `${disk.path}/data`;
    beforeEach(async () => {
      useFileSystem(memoryDisks);
      disk = new MemoryDisk();
      disk.makeDirectory('data');
      id = newId();
      await fill();
    });
    afterEach(() => disk.forget());

    const takeOver = (over: Partial<SpoolClaim> = {}) =>
      claimSpool(claimOf(data(), { isShared: isShared, storeId: NEW, isNewStore: true, ...over }));
    const next = { isNewStore: false, unfinishedStartMark: OLD };

    test('that meets a fault at any of its operations is finished by the next start, with all that was there listed', async () => {
      const began = disk.operations;
      await takeOver();
      const operations = disk.operations - began;
      expect(operations).toBeGreaterThan(20);
      for (let at = 1; at <= operations; at++)
        for (const how of ['kill', 'power-cut'] as const) {
          disk.forget();
          disk = new MemoryDisk();
          disk.makeDirectory('data');
          await fill();
          disk.fail(at, false, () => 'EIO');
          await takeOver().catch(() => undefined);
          disk.heal();
          disk.crash(how);
          await assertClaimable(claimOf(data(), { isShared: isShared, storeId: NEW, ...next }));
          expect(await takeOver(next)).toBe(true);
          expect(await readSpoolMark(data())).toBe(NEW);
          // What is durable now is what the store may forget about.
          disk.crash('power-cut');
          expect([at, await readSpoolMark(data()), (await readTakeovers(data()))?.ids]).toEqual([
            at,
            NEW,
            new Set([id]),
          ]);
        }
    });

    /** The spool of the old store, with one upload. */
    async function fill(): Promise<void> {
      await claimSpool(claimOf(data(), { isShared: isShared }));
      await mkdirOn(`${data()}/spool/${id}`, 0o700);
      await writeFully(`${data()}/spool/${id}/chunk-1-0`, Buffer.from('hello'), true);
      // Everything so far is on the disk.
      const spool = new LocalSpool({ directory: data(), sync: 'group', isShared, isMarked: true });
      await spool.size(id, 'chunk-1-0');
    }

    test('without room lets the start go on, and is finished by running nodes when there is some', async () => {
      disk.fail(1, true, growing);
      expect(await takeOver()).toBe(false);
      await expect(claimForStore(data(), NEW)).rejects.toThrow(/no room|ENOSPC/);
      expect(await readSpoolMark(data())).toBe(OLD);
      disk.crash('kill');
      expect(await takeOver(next)).toBe(false);
      disk.heal();
      await claimForStore(data(), NEW);
      expect(await readSpoolMark(data())).toBe(NEW);
      expect((await readTakeovers(data()))?.ids).toEqual(new Set([id]));
      expect(await takeOver({ isNewStore: false })).toBe(true);
    });

    test('is refused to a store that was made for another spool', async () => {
      for (const unfinishedStartMark of [undefined, '', NEWER])
        await expect(takeOver({ isNewStore: false, unfinishedStartMark })).rejects.toThrow(
          isShared ? 'is not the directory that the other nodes' : 'holds the bytes of another Redis',
        );
    });

    test.each(['1', 'x', '\0'])(
      'is not what a mark with a wrong byte (%j) means: it is called damaged',
      async (byte) => {
        const path = `${data()}/spool/.store`;
        await writeFully(path, Buffer.from(`${OLD.slice(0, 20)}${byte}2${OLD.slice(22)}\n`), true);
        const start = takeOver({ storeId: OLD, isNewStore: false });
        await expect(start).rejects.toThrow(`${path} is damaged`);
        await expect(start).rejects.toThrow(`echo ${OLD} > ${path}`);
      },
    );

    test('is listed once, whenever it is tried again', async () => {
      await recordTakeover(data(), NEW);
      await mkdirOn(`${data()}/spool/${newId()}`, 0o700);
      const before = await readTakeovers(data());
      await claimForStore(data(), NEW);
      expect(await readTakeovers(data())).toEqual(before);
      expect(before?.ids).toEqual(new Set([id]));
    });
  });

  describe('a first start', () => {
    test('that failed after it had made the store is finished by the next one', async () => {
      useFileSystem(memoryDisks);
      for (let at = 1; ; at++) {
        const disk = new MemoryDisk();
        disk.makeDirectory('data');
        const data = () => `${disk.path}/data`;
        disk.fail(at, false, () => 'EIO');
        await claimSpool(claimOf(data())).catch(() => undefined);
        if (disk.failures === 0) break;
        disk.crash('kill');
        expect(await claimSpool(claimOf(data(), { isNewStore: false, unfinishedStartMark: '' }))).toBe(true);
        disk.forget();
        expect(at).toBeLessThan(100);
      }
    });
  });

  describe('on a real disk', () => {
    let place: TemporaryDirectory;
    let ids: readonly [string, string];
    const pathOf = (...names: string[]) => join(place.path, 'spool', ...names);
    beforeEach(async () => {
      place = await temporaryDirectory();
      ids = [newId(), newId()];
      await claimSpool(claimOf(place.path));
      for (const id of ids) {
        await mkdir(pathOf(id));
        await writeFile(pathOf(id, 'chunk-1-0'), 'hello');
      }
      await recordTakeover(place.path, NEW);
    });
    afterEach(() => place.remove());

    /** One look; `known`: what the store has. */
    async function look(known: readonly string[] = [], meanwhile: () => Promise<unknown> = () => Promise.resolve()) {
      const told = { log: silentLog(), clock: Date.now };
      const spool = new LocalSpool({ directory: place.path, sync: 'none', isShared: true, isMarked: true });
      let isOver = false;
      const unknown = new UnknownBytes({
        ...told,
        spool,
        store: {
          get: (id) => meanwhile().then(() => (known.includes(id) ? ({ id } as never) : undefined)),
        },
        unreadable: new UnreadableBytes({ spool, ...told }),
        takeovers: () => readTakeovers(place.path),
        forget: async (takeovers) => {
          await forgetTakeovers(place.path, takeovers);
          isOver = true;
        },
        everyMs: HOUR,
      });
      unknown.start();
      await unknown.stop();
      return { found: unknown.known && { uploads: unknown.known.uploads, bytes: unknown.known.bytes }, isOver };
    }

    test.each([
      ['a clock a day ahead', DAY],
      ['a clock 20 s ahead', 20_000],
      ['a clock a day back', -DAY],
    ])('uploads are told of by their names, whatever the times of their files: %s', async (_, ms) => {
      await writeFile(pathOf(ids[0], 'chunk-1-0'), 'hello, more of it');
      const at = new Date(Date.now() + ms);
      await utimes(pathOf(ids[0], 'chunk-1-0'), at, at);
      expect(await look()).toEqual({ found: { uploads: 2, bytes: 22 }, isOver: false });
      expect(await look([ids[0]])).toEqual({ found: { uploads: 1, bytes: 5 }, isOver: false });
    });

    test('uploads that came since are none of them, and what is known or gone ends the telling', async () => {
      await mkdir(pathOf(newId()));
      await rm(pathOf(ids[0]), { recursive: true });
      expect(await look([ids[1]])).toEqual({ found: undefined, isOver: true });
      expect(await readTakeovers(place.path)).toBeUndefined();
    });

    test('a disk that does not list an upload makes nobody forget it', async () => {
      await rm(pathOf(ids[1]), { recursive: true });
      const broken = (path: string) =>
        path === pathOf(ids[0])
          ? Promise.reject(Object.assign(new Error('EIO'), { code: 'EIO', syscall: 'scandir' }))
          : nodeFileSystem.readdir(path);
      useFileSystem({ ...nodeFileSystem, readdir: broken });
      expect(await look()).toEqual({ found: { uploads: 1, bytes: 0 }, isOver: false });
      useFileSystem();
      expect(await look()).toEqual({ found: { uploads: 1, bytes: 5 }, isOver: false });
    });

    test('another takeover during a look is not forgotten with the one before', async () => {
      const late = newId();
      const meanwhile = async () => {
        await mkdir(pathOf(late), { recursive: true });
        await writeFile(pathOf(late, 'chunk-1-0'), 'late');
        await claimForStore(place.path, NEWER);
      };
      expect(await look(ids, meanwhile)).toEqual({ found: undefined, isOver: true });
      expect(await look(ids)).toEqual({ found: { uploads: 1, bytes: 4 }, isOver: false });
    });

    test.each([
      ['right', 0],
      ['20 s back at the takeover', -20_000],
      ['a day back at the takeover', -DAY],
    ])('bytes of before stay as long as an upload may, and no longer: the clock is %s', async (_, ms) => {
      const time = { passed: 0 };
      const start = Date.now();
      const spool = new LocalSpool({ directory: place.path, sync: 'none', isShared: true, isMarked: true });
      const told = { log: silentLog(), clock: () => start + time.passed };
      const own = newId();
      await mkdir(pathOf(own));
      await writeFile(pathOf(own, 'chunk-1-0'), 'an orphan');
      const nothing = () => Promise.resolve([]);
      const swept = new Cleanup({
        ...told,
        spool,
        store: { expired: nothing, setAsideRecords: nothing, get: () => Promise.resolve(undefined) } as never,
        leases: {} as CleanupOptions['leases'],
        metrics: new Metrics(),
        unreadable: new UnreadableBytes({ spool, ...told }),
        monotonic: () => time.passed,
        everyMs: HOUR,
        orphanAgeMs: HOUR,
        longestAgeMs: DAY,
        spoolSince: () => Promise.resolve(start - HOUR + ms),
        takenOver: async () => (await readTakeovers(place.path))?.ids ?? new Set(),
      });
      const left = async () => {
        for (let tenth = 0; tenth < 10; tenth++) await swept.runOnce();
        const files = [...ids, own].map((id) => readFile(pathOf(id, 'chunk-1-0')).catch(() => undefined));
        return (await Promise.all(files)).filter((bytes) => bytes !== undefined).length;
      };
      expect(await left()).toBe(3);
      time.passed = 2 * HOUR;
      await left();
      time.passed = 4 * HOUR;
      expect(await left()).toBe(2);
      time.passed = DAY + HOUR;
      await left();
      time.passed = DAY + 3 * HOUR;
      expect(await left()).toBe(0);
    });

    test.each([
      ['right', 0],
      ['4 minutes ahead', 240_000],
      ['a day back', -DAY],
      ['a day ahead', DAY],
    ])('a start with an empty Redis sees that nodes use the spool: its clock is %s', async (_, ms) => {
      const use = new SpoolUse({
        directory: place.path,
        shared: true,
        storeId: () => OLD,
        log: silentLog(),
        everyMs: 20,
      });
      await until(() => readFile(pathOf('.in-use')).catch(() => undefined), 'a sign of life');
      const now = Date.now.bind(Date);
      jest.spyOn(Date, 'now').mockImplementation(() => now() + ms);
      const start = assertUnused(place.path, {
        name: 'redis',
        isStillNew: () => Promise.resolve(true),
        log: silentLog(),
        watchMs: 600,
      });
      await expect(start).rejects.toThrow('is used right now by nodes of another store');
      await use.stop();
    });
  });
});
