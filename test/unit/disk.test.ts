import fs from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { constants } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Semaphore, KeyedQueue } from '../../src/concurrency/queues.js';
import { DirectorySync } from '../../src/fs/directory-sync.js';
import { hasCode, isOutOfSpace, storageFault } from '../../src/fs/files.js';
import { Fault } from '../../src/model/fault.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

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
    expect(Reflect.get(names, 'turns')).toEqual(new Map());
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
    const error = Object.assign(new Error(`text`), { code: `Unknown system error ${errno}`, errno, syscall: 'write' });
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
    expect(Reflect.get(serial, 'tails')).toEqual(new Map());
  });
});
