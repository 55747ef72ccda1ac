import { getEventListeners } from 'node:events';
import fs from 'node:fs';
import { mkdir, readdir, rename, rm, rmdir, stat } from 'node:fs/promises';
import { constants } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { KeyedQueue, Semaphore } from '../../src/concurrency/queues.js';
import { DirectorySync } from '../../src/fs/directory-sync.js';
import { hasCode, isOutOfSpace, storageFault } from '../../src/fs/files.js';
import { Fault } from '../../src/model/fault.js';
import { silentLog } from '../../src/observe/log.js';
import { EmbeddedLeases } from '../../src/store/embedded/embedded-leases.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { newRecord, SettlementWaiters } from '../../src/store/embedded/transitions.js';
import { answer, attempt, HOUR, newUpload } from '../contract/sample-upload.js';
import { smallDisk, type SmallDisk } from '../support/disk.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

describe('sick disks', () => {
  let disk: SmallDisk;
  let store: EmbeddedStore;

  const expiresAt = Date.now() + HOUR;
  const uploads = (): string => join(disk.path, 'uploads');
  const open = (): Promise<EmbeddedStore> =>
    EmbeddedStore.open({ directory: disk.path, sync: 'group', log: silentLog() });

  async function reopen(): Promise<void> {
    await store.close();
    store = await open();
  }

  async function grow(id: string, size: number): Promise<unknown> {
    return store.commit(id, { token: 1, chunk: { name: 'chunk-1', start: 0, size }, expiresAt });
  }

  /** Commits until one has no room; gives the last offset that was acknowledged. */
  async function growUntilRefused(id: string): Promise<number> {
    for (let size = 1; ; size++) {
      const result = await grow(id, size).catch((fault: unknown) => fault);
      if (!(result instanceof Error)) continue;
      expect(result).toMatchObject({ name: 'Fault', code: 'STORAGE_FULL', retryable: true });
      expect(result.message).not.toContain(id);
      return size - 1;
    }
  }

  beforeEach(async () => {
    disk = await smallDisk();
    store = await open();
  });
  afterEach(async () => {
    await store.close();
    await disk.remove();
  });

  describe('on a full disk', () => {
    test('what was acknowledged stays, what was not is not there, and with room it goes on', async () => {
      const { id } = await store.create(newUpload());
      await disk.fill();
      const offset = await growUntilRefused(id);
      expect(await store.get(id)).toMatchObject({ offset, phase: 'receiving' });
      await expect(grow(id, offset + 1)).rejects.toMatchObject({ code: 'STORAGE_FULL' });
      await disk.makeRoom();
      expect(await grow(id, offset + 5)).toMatchObject({ offset: offset + 5 });
      await reopen();
      expect(await store.get(id)).toMatchObject({ offset: offset + 5 });
    });

    test('a process that dies there finds every acknowledged step again', async () => {
      const { id } = await store.create(newUpload());
      await disk.fill();
      const offset = await growUntilRefused(id);
      await disk.makeRoom();
      await reopen();
      expect(await store.get(id)).toMatchObject({ offset, phase: 'receiving' });
    });

    test('no upload is created by half, and no file is left of it', async () => {
      await disk.fill();
      const refused = newUpload();
      await expect(store.create(refused)).rejects.toMatchObject({ code: 'STORAGE_FULL' });
      expect(await store.get(refused.id)).toBeUndefined();
      expect(await readdir(uploads())).toEqual([]);
      await disk.makeRoom();
      expect(await store.create(refused)).toMatchObject({ id: refused.id });
    });

    test('an answer that cannot be kept is refused, leaves nothing behind, and can be recorded when there is room', async () => {
      const { id } = await store.create(newUpload());
      await store.commit(id, { token: 1, complete: {}, expiresAt });
      await store.claimDelivery(id, 'w', Infinity);
      await disk.fill();
      const body = Buffer.alloc(50_000, 'x');
      const record = (): Promise<unknown> =>
        store.recordAnswer(id, 'w', { answer: answer(body.length), body, expiresAt });
      await expect(record()).rejects.toMatchObject({ code: 'STORAGE_FULL' });
      // A line still fits behind the others.
      expect(await store.get(id)).toMatchObject({ phase: 'answered', answer: { body: { in: 'nowhere' } } });
      expect(await readdir(uploads())).toEqual([`${id}.log`]);
      await disk.makeRoom();
      expect(await record()).toMatchObject({ phase: 'answered' });
      expect(await store.answerBody(id)).toHaveLength(body.length);
    });

    describe('the answer to an attempt that has begun', () => {
      const ended = attempt(1, { endedAt: 1_700_000_000_500, reached: 'answered', status: 201 });
      const given = (size: number) => ({ answer: answer(size), body: Buffer.alloc(size, 'x'), expiresAt });

      /** `longer`: by so many bytes, so that the room in the last block of its file is another one each time. */
      async function attempted(longer = 0): Promise<string> {
        const { id } = await store.create(newUpload({ deliveryKey: 'k'.repeat(longer) }));
        await store.commit(id, { token: 1, complete: {}, expiresAt });
        await store.claimDelivery(id, 'w', Infinity);
        await store.beginAttempt(id, 'w', attempt(1));
        await disk.fill();
        return id;
      }

      test.each([0, 800, 1600, 2400, 3200])(
        'is kept with a short body, also when the process dies there: %i',
        async (longer) => {
          const id = await attempted(longer);
          const recorded = await store.recordAnswer(id, 'w', given(1000), ended);
          expect(recorded).toMatchObject({ phase: 'answered', answer: { status: 201, body: { in: 'record' } } });
          expect(await store.answerBody(id)).toEqual(given(1000).body);
          await reopen();
          expect(await store.get(id)).toMatchObject({ phase: 'answered', attempts: [{ number: 1, status: 201 }] });
          expect(await store.answerBody(id)).toEqual(given(1000).body);
        },
      );

      test('is noted without a body for which there is no room, and gets it when there is', async () => {
        const id = await attempted();
        const record = (): Promise<unknown> => store.recordAnswer(id, 'w', given(50_000), ended);
        for (let tries = 0; tries < 5; tries++) await expect(record()).rejects.toMatchObject({ code: 'STORAGE_FULL' });
        const noted = { phase: 'answered', answer: { status: 201, bodySize: 50_000, body: { in: 'nowhere' } } };
        expect(await store.get(id)).toMatchObject(noted);
        const other = await open();
        expect(await other.get(id)).toMatchObject(noted);
        await other.close();
        await disk.makeRoom();
        expect(await record()).toMatchObject({ phase: 'answered', answer: { body: { in: 'record' } } });
        expect(await store.answerBody(id)).toEqual(given(50_000).body);
        await reopen();
        expect(await store.answerBody(id)).toEqual(given(50_000).body);
      });
    });

    test('a process that starts there shows and ends uploads, and writes as soon as there is room', async () => {
      const [shown, ended] = [(await store.create(newUpload())).id, (await store.create(newUpload())).id];
      await grow(shown, 10);
      const before = await store.nextToken(shown);
      await store.close();
      await disk.fill();
      store = await open();
      expect(store.acceptsBytes).toBe(false);
      expect(await store.get(shown)).toMatchObject({ offset: 10, phase: 'receiving' });
      expect(await store.nextToken(shown, 'to-read')).toBe(1);
      await expect(store.nextToken(shown)).rejects.toMatchObject({ code: 'STORAGE_FULL' });
      await expect(store.create(newUpload())).rejects.toMatchObject({ code: 'STORAGE_FULL' });
      expect(await store.nextToken(ended, 'to-end')).toBe(0);
      expect(await store.cancel(ended)).toMatchObject({ phase: 'cancelled' });
      await store.remove(ended);
      await disk.makeRoom();
      expect(await store.nextToken(shown)).toBeGreaterThan(before);
      expect(store.acceptsBytes).toBe(true);
      expect(await store.nextToken(shown, 'to-read')).toBeGreaterThan(before);
    });

    test('uploads can still be ended and removed: that is what makes room', async () => {
      const ids: string[] = [];
      // Of different sizes, so that some have no room for the shortest line.
      for (let count = 0; count < 24; count++)
        ids.push((await store.create(newUpload({ deliveryKey: 'k'.repeat(count * 5) }))).id);
      await disk.fill();
      for (const id of ids) await growUntilRefused(id);
      const [removed, ...ended] = ids as [string, ...string[]];
      for (const [at, id] of ended.entries()) {
        if (at % 2 === 0) expect(await store.cancel(id)).toMatchObject({ phase: 'cancelled' });
        else expect(await store.invalidate(id, 1)).toMatchObject({ phase: 'invalid' });
      }
      await store.remove(removed);
      expect([...(await store.expired(0))].sort()).toEqual([...ended].sort());
      expect((await readdir(uploads())).length).toBeLessThan(ended.length);
      await disk.makeRoom();
      await reopen();
      for (const id of ids) expect((await store.get(id))?.phase).not.toBe('receiving');
      for (const id of ended) await store.remove(id);
      expect(await readdir(uploads())).toEqual([]);
    });

    test('a record that cannot be written anew goes on line by line', async () => {
      const { id } = await store.create(newUpload());
      const inTheWay = join(uploads(), `${id}.log.tmp`);
      await mkdir(inTheWay);
      for (let size = 1; size <= 800; size++) expect(await grow(id, size)).toMatchObject({ offset: size });
      expect((await stat(join(uploads(), `${id}.log`))).size).toBeGreaterThan(80_000);
      await rmdir(inTheWay);
      expect(await grow(id, 801)).toMatchObject({ offset: 801 });
      expect((await stat(join(uploads(), `${id}.log`))).size).toBeLessThan(5000);
      await reopen();
      expect(await store.get(id)).toMatchObject({ offset: 801 });
    });
  });

  describe('on a disk that cannot be written', () => {
    test('every verb says so and changes nothing; afterwards all go on', async () => {
      const { id } = await store.create(newUpload());
      await grow(id, 10);
      await disk.setReadOnly(true);
      const unavailable = { name: 'Fault', code: 'STORAGE_UNAVAILABLE', retryable: true };
      await expect(grow(id, 20)).rejects.toMatchObject(unavailable);
      await expect(store.create(newUpload())).rejects.toMatchObject(unavailable);
      await expect(store.cancel(id)).rejects.toMatchObject(unavailable);
      await expect(store.remove(id)).rejects.toMatchObject(unavailable);
      await expect(open()).rejects.toMatchObject(unavailable);
      expect(await store.get(id)).toMatchObject({ offset: 10, phase: 'receiving' });
      await disk.setReadOnly(false);
      expect(await grow(id, 20)).toMatchObject({ offset: 20 });
      await reopen();
      expect(await store.get(id)).toMatchObject({ offset: 20 });
    });

    test('a record whose file vanished is written anew, whole', async () => {
      const { id } = await store.create(newUpload());
      await grow(id, 10);
      await rm(join(uploads(), `${id}.log`));
      expect(await grow(id, 20)).toMatchObject({ offset: 20 });
      await reopen();
      expect(await store.get(id)).toMatchObject({ offset: 20 });
      expect(await store.chunks(id)).toEqual([{ name: 'chunk-1', start: 0, size: 20 }]);
    });

    test('a directory that vanished is a fault, and nobody is told that anything was kept', async () => {
      const { id } = await store.create(newUpload());
      await grow(id, 10);
      await rename(uploads(), `${uploads()}-elsewhere`);
      await expect(grow(id, 20)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      await expect(store.create(newUpload())).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      await expect(store.get(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      await rename(`${uploads()}-elsewhere`, uploads());
      expect(await store.get(id)).toMatchObject({ offset: 10 });
      expect(await grow(id, 20)).toMatchObject({ offset: 20 });
      await reopen();
      expect(await store.get(id)).toMatchObject({ offset: 20 });
    });
  });
});

describe('waiting for the store', () => {
  const timers = (): number => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;

  /** What is kept of uploads. */
  function linesOf(leases: EmbeddedLeases): unknown {
    return Reflect.get(Reflect.get(leases, 'queues') as object, 'newestRequests');
  }

  describe('leases', () => {
    test('leave neither timers nor entries behind when nobody holds or waits', async () => {
      let token = 0;
      const leases = new EmbeddedLeases({ nextToken: () => Promise.resolve(++token) }, { graceMs: 600_000 });
      const before = timers();
      const first = await leases.take('a');
      const others = ['a', 'a', 'b', 'a'].map(async (id) => (await leases.take(id)).release());
      await first.release();
      await Promise.all(others);
      expect(timers()).toBe(before);
      expect(linesOf(leases)).toEqual(new Map());
    });

    test('pass on to the next when the store cannot give a token', async () => {
      let calls = 0;
      const nextToken = (): Promise<number> =>
        ++calls === 2 ? Promise.reject(new Error('no token')) : Promise.resolve(calls);
      const leases = new EmbeddedLeases({ nextToken }, { graceMs: 600_000 });
      const first = await leases.take('a');
      const failing = leases.take('a');
      const third = leases.take('a');
      await first.release();
      await expect(failing).rejects.toThrow('no token');
      const lease = await third;
      expect(lease.token).toBe(3);
      await lease.release();
      expect(linesOf(leases)).toEqual(new Map());
    });
  });

  describe('those who wait for a delivery', () => {
    const upload = newRecord(newUpload()).upload;

    test('leave nothing behind, neither when they are woken, nor when they leave, nor when all is over', async () => {
      const settlement = new SettlementWaiters();
      const leaving = new AbortController();
      const staying = new AbortController();
      const outcomes = [leaving, leaving, staying, staying].map(({ signal }) => settlement.wait(upload.id, signal));
      const other = settlement.wait('another', staying.signal);
      leaving.abort(new Error('left'));
      settlement.notify(upload.id, { ...upload, phase: 'delivering' });
      settlement.notify(upload.id, { ...upload, phase: 'answered' });
      settlement.notify(upload.id, { ...upload, phase: 'cancelled' });
      const ended = await Promise.allSettled(outcomes);
      expect(ended.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'fulfilled', 'fulfilled']);
      expect(await outcomes[2]).toMatchObject({ phase: 'answered' });
      settlement.failAll(new Error('over'));
      await expect(other).rejects.toThrow('over');
      for (const { signal } of [leaving, staying]) expect(getEventListeners(signal, 'abort')).toEqual([]);
      expect(Reflect.get(settlement, 'waiters')).toEqual(new Map());
    });

    test('who had left before begins no waiting', async () => {
      const settlement = new SettlementWaiters();
      await expect(settlement.wait(upload.id, AbortSignal.abort(new Error('left')))).rejects.toThrow('left');
      expect(Reflect.get(settlement, 'waiters')).toEqual(new Map());
    });
  });
});

describe('the model of a disk', () => {
  describe('syncing a directory', () => {
    let directory: TemporaryDirectory;
    beforeEach(async () => {
      directory = await temporaryDirectory();
    });
    afterEach(() => directory.remove());

    test('who comes while one runs waits for the next one, and all of them share it', async () => {
      const names = new DirectorySync('group');
      const first = names.sync(directory.path);
      const others = Array.from({ length: 100 }, () => names.sync(directory.path));
      expect(new Set(others).size).toBe(1);
      expect(others[0]).not.toBe(first);
      let firstEnded = false;
      void first.then(() => (firstEnded = true));
      await others[0];
      expect(firstEnded).toBe(true);
      const later = names.sync(directory.path);
      expect(later).not.toBe(others[0]);
      await later;
      expect(Reflect.get(names, 'rounds')).toEqual(new Map());
    });

    test('a failed sync fails those who waited for it, not those after them', async () => {
      const names = new DirectorySync('always');
      const missing = join(directory.path, 'missing');
      const failing = names.sync(missing);
      const next = names.sync(missing);
      await expect(failing).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(next).rejects.toMatchObject({ code: 'ENOENT' });
      await mkdir(missing);
      await expect(names.sync(missing)).resolves.toBeUndefined();
    });

    test('a directory is made with those above it, for the owner alone', async () => {
      const path = join(directory.path, 'a', 'b', 'c');
      const names = new DirectorySync('group');
      await names.makeDirectory(path);
      await names.makeDirectory(path);
      expect(fs.statSync(path).mode & 0o777).toBe(0o700);
    });

    test('without syncing, not even a missing directory is looked at', async () => {
      await expect(new DirectorySync('none').sync(join(directory.path, 'missing'))).resolves.toBeUndefined();
    });
  });

  describe('a fault of the disk', () => {
    test.each([
      ['ENOSPC', 'STORAGE_FULL'],
      ['EDQUOT', 'STORAGE_FULL'],
      ['EFBIG', 'STORAGE_FULL'],
      ['EROFS', 'STORAGE_UNAVAILABLE'],
      ['EACCES', 'STORAGE_UNAVAILABLE'],
      ['EIO', 'STORAGE_UNAVAILABLE'],
      ['ENOENT', 'STORAGE_UNAVAILABLE'],
      ['EMFILE', 'STORAGE_UNAVAILABLE'],
    ])('%s is %s, and worth another try', (code, expected) => {
      const error = Object.assign(new Error(`${code}: text, write '/data/uploads/secret.log'`), {
        code,
        syscall: 'write',
      });
      const fault = storageFault(error, 'a thing failed');
      expect(fault).toMatchObject({ name: 'Fault', code: expected, retryable: true });
      expect(fault.message).toContain('a thing failed');
      expect(fault.message).toContain(code);
      expect(`${fault.message} ${String(fault.cause)}`).not.toContain('secret');
    });

    test.each([
      ['EDQUOT', 'STORAGE_FULL'],
      ['ESTALE', 'STORAGE_UNAVAILABLE'],
    ] as const)('%s is known by its number, for which Node has no name', (name, expected) => {
      const errno = -constants.errno[name];
      const error = Object.assign(new Error(`text`), {
        code: `Unknown system error ${errno}`,
        errno,
        syscall: 'write',
      });
      expect(hasCode(error, name)).toBe(true);
      expect(isOutOfSpace(error)).toBe(expected === 'STORAGE_FULL');
      const fault = storageFault(error, 'a thing failed');
      expect(fault).toMatchObject({ code: expected });
      expect(fault.message).toContain(`(${name} in write)`);
    });

    test('faults and mistakes of our own pass unchanged', () => {
      const fault = new Fault('BYTES_LOST', 'x', false);
      const configError = new TypeError('y');
      expect(storageFault(fault, 'z')).toBe(fault);
      expect(storageFault(configError, 'z')).toBe(configError);
      expect(hasCode(fault, 'BYTES_LOST')).toBe(false);
    });
  });

  describe('tasks', () => {
    test('run no more at once than the gate is wide, in their order, also past failures', async () => {
      const gate = new Semaphore(3);
      const order: number[] = [];
      let running = 0;
      let most = 0;
      const tasks = Array.from({ length: 20 }, (_, number) =>
        gate.run(async () => {
          order.push(number);
          most = Math.max(most, ++running);
          await new Promise((resolve) => setImmediate(resolve));
          running -= 1;
          if (number % 5 === 0) throw new Error('on purpose');
        }),
      );
      const results = await Promise.allSettled(tasks);
      expect(results.filter(({ status }) => status === 'rejected')).toHaveLength(4);
      expect(most).toBe(3);
      expect(order).toEqual([...order].sort((a, b) => a - b));
      await expect(gate.run(() => Promise.resolve('free'))).resolves.toBe('free');
    });

    test('of one key run one after the other, of other keys at once, and leave nothing behind', async () => {
      const serial = new KeyedQueue();
      const seen: string[] = [];
      const slow = serial.run('a', async () => {
        await new Promise((resolve) => setImmediate(resolve));
        seen.push('a1');
        throw new Error('on purpose');
      });
      const after = serial.run('a', () => seen.push('a2'));
      await serial.run('b', () => seen.push('b'));
      await expect(slow).rejects.toThrow('on purpose');
      await after;
      await serial.idle();
      expect(seen).toEqual(['b', 'a1', 'a2']);
      expect(Reflect.get(serial, 'lastSteps')).toEqual(new Map());
    });
  });
});
