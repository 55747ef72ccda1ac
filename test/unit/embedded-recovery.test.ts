import { readdir, readFile, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { beforeAttempt, type StartDecision } from '../../src/delivery/retry-policy.js';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import type { Upload } from '../../src/model/upload.js';
import { createLog, uploadTag } from '../../src/observe/log.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { readRecord } from '../../src/store/embedded/record-lines.js';
import { answer, attempt, HOUR, newId, newUpload } from '../contract/sample-upload.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

let directory: TemporaryDirectory;
let store: EmbeddedStore;
let logged: string[];

const DAY = 24 * HOUR;
const expiresAt = Date.now() + HOUR;
const uploads = (): string => join(directory.path, 'uploads');
const longAgo = (hours: number): Date => new Date(Date.now() - hours * HOUR);
const logOf = (id: string): string => join(uploads(), `${id}.log`);

async function open(sync: 'group' | 'none' = 'none'): Promise<EmbeddedStore> {
  const log = createLog({ level: 'info', format: 'json', destination: { write: (line) => void logged.push(line) } });
  return EmbeddedStore.open({ directory: directory.path, sync, log });
}

async function reopen(): Promise<EmbeddedStore> {
  await store.close();
  return (store = await open());
}

/** What the sweep has done, at a time of the wall and so long after the start. */
async function clear(aheadMs: number, passedMs: number): Promise<void> {
  await store.clearLeftovers({ now: Date.now() + aheadMs, elapsedMs: passedMs, minAgeMs: HOUR });
}

async function grown(...sizes: number[]): Promise<string> {
  const { id } = await store.create(newUpload());
  for (const size of sizes) await grow(id, size);
  return id;
}

async function grow(id: string, size: number): Promise<unknown> {
  return store.commit(id, { token: 1, chunk: { name: 'chunk-1', start: 0, size }, expiresAt });
}

beforeEach(async () => {
  directory = await temporaryDirectory();
  logged = [];
  store = await open();
});
afterEach(async () => {
  await store.close();
  await directory.remove();
});

describe('after a crash in the middle of a write', () => {
  test('the torn change is forgotten and the next one follows cleanly, wherever it was torn', async () => {
    const id = await grown(100);
    const before = (await stat(logOf(id))).size;
    await grow(id, 200);
    const whole = await readFile(logOf(id));
    await store.remove(id);
    for (let size = before; size < whole.length; size += 7) {
      await store.close();
      await writeFile(logOf(id), whole.subarray(0, size));
      store = await open();
      expect(await store.get(id)).toMatchObject({ offset: 100, phase: 'receiving' });
      // Shorter than what was torn: nothing of that may be left behind it.
      expect(await store.commit(id, { token: 2, expiresAt: 1 })).toMatchObject({ offset: 100 });
      expect(await grow(id, 300)).toBe('stale');
      expect(readRecord(await readFile(logOf(id)))?.state).toBe('intact');
      await reopen();
      expect(await store.get(id)).toMatchObject({ offset: 100, expiresAt: 1, phase: 'receiving' });
      // Told, unless nothing is left of it.
      expect(logged).toEqual(size === before ? [] : [expect.stringContaining('is incomplete')]);
      expect(logged.join()).not.toContain(id);
      logged = [];
    }
  });

  test('a last line that is damaged is dropped, and told', async () => {
    const id = await grown(100, 200);
    const bytes = await readFile(logOf(id));
    bytes.write('#', bytes.indexOf('"size":200'));
    await writeFile(logOf(id), bytes);
    await reopen();
    expect(await store.get(id)).toMatchObject({ offset: 100, phase: 'receiving' });
    const told = logged.map((line) => JSON.parse(line) as object);
    expect(told).toEqual([expect.objectContaining({ level: 'error', code: 'RECORD_DAMAGED', upload: uploadTag(id) })]);
  });

  test('what belongs to no record is cleared away, and foreign files are left alone', async () => {
    const id = await grown(5);
    const [old, young] = [`${newId()}.answer`, `${newId()}.answer`];
    for (const name of [`${newId()}.log.tmp`, `${id}.log.tmp`, old, young, `${id}.answer`])
      await writeFile(join(uploads(), name), 'rest');
    await utimes(join(uploads(), old), longAgo(2), longAgo(2));
    await writeFile(join(uploads(), 'README.log'), 'mine');
    await reopen();
    // The record of an answer may just be coming, from a backup; a copy keeps the times of files.
    const kept = [`${id}.log`, young, old, 'README.log'].sort();
    expect((await readdir(uploads())).sort()).toEqual(kept);
    expect(await store.get(id)).toMatchObject({ offset: 5 });
    await clear(0, 0);
    await clear(0, HOUR - 1);
    expect((await readdir(uploads())).sort()).toEqual(kept);
    await writeFile(join(uploads(), young), 'still coming');
    await clear(HOUR, HOUR);
    expect((await readdir(uploads())).sort()).toEqual(kept.filter((name) => name !== old));
    await clear(2 * HOUR, 2 * HOUR);
    expect((await readdir(uploads())).sort()).toEqual([`${id}.log`, 'README.log'].sort());
  });

  test('a delivery that was under way is due again, and its old worker has lost it', async () => {
    const id = await grown(5);
    await store.commit(id, { token: 1, complete: {}, expiresAt });
    await store.claimDelivery(id, 'w', Date.now() + HOUR);
    await store.beginAttempt(id, 'w', attempt(1));
    await reopen();
    expect(await store.get(id)).toMatchObject({ phase: 'delivering' });
    expect(await store.dueDeliveries(Date.now())).toEqual([id]);
    expect(await store.recordAnswer(id, 'w', { answer: answer(0), expiresAt })).toBe('stale');
    expect(await store.claimDelivery(id, 'w', Date.now() + HOUR)).toMatchObject({ phase: 'delivering' });
    expect(await store.dueDeliveries(Date.now())).toEqual([]);
  });

  test('the tokens of leases that never committed are not given again', async () => {
    const id = await grown(5);
    const handedOut = [await store.nextToken(id), await store.nextToken(newId())];
    await reopen();
    expect(await store.nextToken(id)).toBeGreaterThan(Math.max(...handedOut));
    await store.close();
    await writeFile(join(directory.path, 'last-start.json'), 'half a li');
    const committed = 7_000_000_123;
    await reopen();
    await store.commit(id, { token: committed, expiresAt });
    await writeFile(join(directory.path, 'last-start.json'), '');
    await reopen();
    expect(await store.nextToken(newId())).toBeGreaterThan(committed);
    expect(await store.nextToken(id)).toBeGreaterThan(committed);
  });
});

describe('a last line that is damaged may have said that an attempt begins', () => {
  const rules = { firstDelayMs: 1, longestDelayMs: 1, maxAttempts: 9, whileWaitingMs: 1e6, inBackgroundMs: 1e6 };
  const startOf = (upload: Upload | undefined, repeatable: boolean): StartDecision =>
    beforeAttempt(upload?.attempts.at(-1), false, { repeatable, rules, parkOn: [] });

  async function whole(): Promise<string> {
    const id = await grown(5);
    await store.commit(id, { token: 1, complete: {}, expiresAt });
    return id;
  }
  const claim = (id: string): Promise<unknown> => store.claimDelivery(id, 'w', Date.now() + HOUR);

  const before: [string, (id: string) => Promise<unknown>, number][] = [
    ['the first', claim, 1],
    ['the first, by the line of its claim', () => Promise.resolve(), 1],
    [
      'one that follows a refusal',
      async (id) => {
        await claim(id);
        await store.beginAttempt(id, 'w', attempt(1));
        await store.endAttempt(id, 'w', attempt(1, { endedAt: 2, reached: 'never-sent' }));
        await store.postpone(id, 'w', 5);
      },
      2,
    ],
    [
      'one that somebody asked for',
      async (id) => {
        await claim(id);
        await store.beginAttempt(id, 'w', attempt(1));
        await store.endAttempt(id, 'w', attempt(1, { endedAt: 2, reached: 'never-sent' }));
        await store.giveUp(id, 'w', { reason: 'unreachable', problem: 'x' });
      },
      2,
    ],
  ];

  test.each(before)('%s: it is not sent again unless it may be', async (_, until, number) => {
    const id = await whole();
    await until(id);
    const good = readRecord(await readFile(logOf(id)))!.validBytes;
    // One changed byte between two lines makes them one.
    if (number === 2 || (await store.get(id))?.phase === 'complete') await claim(id);
    await store.beginAttempt(id, 'w', attempt(number));
    const bytes = await readFile(logOf(id));
    const end = bytes.lastIndexOf(0x0a);
    const from = bytes.lastIndexOf(0x0a, end - 1) > good ? bytes.lastIndexOf(0x0a, end - 1) : good;
    const places =
      from === good ? Array.from({ length: 9 }, (__, n) => from + Math.floor(((end - from) * n) / 8)) : [from];
    for (const at of places) {
      await store.close();
      const damaged = Buffer.from(bytes);
      damaged[at]! ^= 1;
      await writeFile(logOf(id), damaged);
      logged = [];
      store = await open('group');
      const upload = await store.get(id);
      expect(startOf(upload, false)).toMatchObject({ kind: 'give-up', failure: { reason: 'outcome-unknown' } });
      expect(startOf(upload, true)).toMatchObject({ kind: 'send', number: number + 1 });
      expect(upload?.attemptCount).toBe(number);
      if (upload?.undelivered) expect(upload.undelivered).toMatchObject({ reason: 'outcome-unknown' });
      expect(logged).toEqual([expect.stringContaining('"level":"error"')]);
      // And so it stays.
      await store.close();
      store = await open('group');
      expect((await store.get(id))?.attempts).toEqual(upload?.attempts);
    }
  });

  test('an early one may have become the whole', async () => {
    const { id } = await store.create(newUpload());
    await store.beginEagerAttempt(id, attempt(1, { inPart: true }));
    await store.commit(id, { token: 1, complete: {}, expiresAt });
    await store.claimDelivery(id, 'w', Date.now() + HOUR, attempt(1, { inPart: true }));
    const bytes = await readFile(logOf(id));
    bytes[bytes.lastIndexOf('startedAt')]! ^= 1;
    await store.close();
    await writeFile(logOf(id), bytes);
    store = await open('group');
    const upload = await store.get(id);
    expect(upload).toMatchObject({ phase: 'complete', attemptCount: 1 });
    expect(startOf(upload, false)).toMatchObject({ kind: 'give-up', failure: { reason: 'outcome-unknown' } });
  });
});

describe('a damaged record', () => {
  test('in its middle makes its upload invalid, and no other', async () => {
    const id = await grown(100, 200, 300);
    const other = await grown(7);
    const bytes = await readFile(logOf(id));
    bytes.write('#', bytes.indexOf('"size":200'));
    await writeFile(logOf(id), bytes);
    await reopen();
    expect(await store.get(id)).toMatchObject({ phase: 'invalid' });
    expect(await grow(id, 400)).toBe('gone');
    // It is kept as it is until its time is over, for whoever wants to look at it.
    expect(await store.expired(0)).toEqual([]);
    expect(await store.expired(expiresAt + 1)).toContain(id);
    expect(await readFile(logOf(id))).toEqual(bytes);
    expect(await store.get(other)).toMatchObject({ offset: 7, phase: 'receiving' });
    expect(logged).toEqual([expect.stringContaining('"code":"RECORD_DAMAGED"')]);
    expect(logged.join()).not.toContain(id);
    await store.cancel(id);
    await reopen();
    expect(await store.get(id)).toMatchObject({ phase: 'cancelled' });
    await store.remove(id);
    expect(await readdir(uploads())).toEqual([`${other}.log`]);
  });

  test('with an unreadable beginning is unknown, and kept aside for a week', async () => {
    const id = await grown(100);
    await truncate(logOf(id), 20);
    await reopen();
    expect(await store.get(id)).toBeUndefined();
    expect(await readdir(uploads())).toEqual([`${id}.damaged`]);
    expect(logged).toHaveLength(1);
    for (let starts = 0; starts < 3; starts++) {
      await reopen();
      expect(await readdir(uploads())).toEqual([`${id}.damaged`]);
      expect(await store.setAsideRecords()).toMatchObject([{ id, state: 'damaged' }]);
    }
    await clear(0, 0);
    await clear(6 * DAY, 6 * DAY);
    expect(await readdir(uploads())).toEqual([`${id}.damaged`]);
    await clear(8 * DAY, 7 * DAY - 1);
    expect([await readdir(uploads()), await store.setAsideRecords()]).toEqual([[], []]);
  });

  test.each([
    ['ahead of the file for a moment', 8 * DAY, 60_000, true],
    ['right, an hour after a start', 8 * DAY, HOUR, false],
    ['behind, and a week has passed', -DAY, 7 * DAY, false],
    ['behind', -DAY, 6 * DAY, true],
  ])('that was set aside goes only when its week has passed: the clock is %s', async (_, aheadMs, passedMs, stays) => {
    const id = await grown(100);
    await truncate(logOf(id), 20);
    await utimes(logOf(id), longAgo(8 * 24), longAgo(8 * 24));
    await reopen();
    await clear(aheadMs, 0);
    await clear(aheadMs, passedMs);
    expect(await readdir(uploads())).toEqual(stays ? [`${id}.damaged`] : []);
  });

  test('that is set aside by a clock that was set back keeps the later time', async () => {
    const id = await grown(100);
    await truncate(logOf(id), 20);
    const tomorrow = new Date(Date.now() + DAY);
    await utimes(logOf(id), tomorrow, tomorrow);
    await reopen();
    expect((await stat(join(uploads(), `${id}.damaged`))).mtimeMs).toBeCloseTo(tomorrow.getTime(), -1);
  });

  test('without any byte is none: what is removed anew leaves that, and it was never acknowledged', async () => {
    const id = await grown(100);
    await truncate(logOf(id), 0);
    await reopen();
    expect([await store.get(id), await store.setAsideRecords(), await readdir(uploads())]).toEqual([undefined, [], []]);
    expect(logged).toEqual([]);
  });

  test('an answer that cannot be read for a moment is asked for again', async () => {
    const id = await grown(5);
    await store.commit(id, { token: 1, complete: {}, expiresAt });
    await store.claimDelivery(id, 'w', Infinity);
    const body = Buffer.alloc(2000, 'x');
    await store.recordAnswer(id, 'w', { answer: answer(2000), body, expiresAt });
    let failures = 0;
    useFileSystem({
      ...nodeFileSystem,
      open: (path, ...rest) =>
        path.endsWith('.answer') && failures++ < 2
          ? Promise.reject(Object.assign(new Error('EIO'), { code: 'EIO', syscall: 'open' }))
          : nodeFileSystem.open(path, ...rest),
    });
    expect(await store.answerBody(id)).toEqual(body);
    expect(failures).toBe(3);
    useFileSystem();
  });

  test('that is somebody else’s is not believed', async () => {
    const id = await grown(100);
    const other = newId();
    await writeFile(logOf(other), await readFile(logOf(id)));
    await reopen();
    expect(await store.get(other)).toBeUndefined();
    expect(await store.get(id)).toMatchObject({ offset: 100 });
  });

  test('an answer that is damaged or missing is a fault, never a wrong answer', async () => {
    const id = await grown(5);
    await store.commit(id, { token: 1, complete: {}, expiresAt });
    await store.claimDelivery(id, 'w', Infinity);
    await store.recordAnswer(id, 'w', { answer: answer(2000), body: Buffer.alloc(2000, 'x'), expiresAt });
    await writeFile(join(uploads(), `${id}.answer`), 'ko');
    await expect(store.answerBody(id)).rejects.toMatchObject({ code: 'BYTES_LOST' });
    await reopen();
    await expect(store.answerBody(id)).rejects.toMatchObject({ code: 'BYTES_LOST' });
    await store.remove(id);
    expect(await readdir(uploads())).toEqual([]);
  });
});

describe.each([
  ['EIO', 'not-durable'],
  ['EMFILE', 'durable'],
  ['EACCES', 'durable'],
])('a record that cannot be read at a start (%s, %s)', (code, mode) => {
  let failing: string | undefined;
  const failure = (path: string): Error =>
    Object.assign(new Error(`${code}: open '${path}'`), { code, syscall: 'open' });

  beforeEach(() => {
    useFileSystem({
      ...nodeFileSystem,
      open: (path, flags, bits) =>
        failing !== undefined && path.includes(failing) && flags === 'r'
          ? Promise.reject(failure(path))
          : nodeFileSystem.open(path, flags, bits),
      openSync: (path) => {
        if (failing !== undefined && path.includes(failing)) throw failure(path);
        return nodeFileSystem.openSync(path);
      },
    });
  });
  afterEach(() => {
    failing = undefined;
    useFileSystem();
  });

  test('is kept with all that belongs to it, is neither shown nor changed, and is there again when it can be read', async () => {
    const id = await grown(100);
    const other = await grown(7);
    await writeFile(join(uploads(), `${id}.answer`), 'an answer');
    await writeFile(join(uploads(), `${id}.log.tmp`), 'a draft');
    await store.close();
    const before = (await readdir(uploads())).sort();
    failing = id;
    store = await open(mode === 'durable' ? 'group' : 'none');
    expect(await store.get(other)).toMatchObject({ offset: 7 });
    const fault = { code: 'STORAGE_UNAVAILABLE', retryable: true };
    for (const verb of [
      () => store.get(id),
      () => grow(id, 200),
      () => store.cancel(id),
      () => store.remove(id),
      () => store.nextToken(id),
      () => store.waitUntilSettled(id, new AbortController().signal),
    ])
      await expect(verb()).rejects.toMatchObject(fault);
    expect((await readdir(uploads())).sort()).toEqual(before);
    expect(await store.setAsideRecords()).toEqual([
      { id, state: 'unreadable', reason: expect.stringContaining(code), since: expect.any(Number) },
    ]);
    expect((await store.setAsideRecords())[0]!.reason).not.toContain(id);
    expect((await store.list(undefined, 10)).uploads.map((upload) => upload.id)).toEqual([other]);
    failing = undefined;
    expect(await store.get(id)).toMatchObject({ offset: 100, phase: 'receiving' });
    expect(await store.setAsideRecords()).toEqual([]);
    expect(await grow(id, 200)).toMatchObject({ offset: 200 });
    expect((await store.list(undefined, 10)).uploads.map((upload) => upload.id).sort()).toEqual([id, other].sort());
  });
});

describe('the files of records', () => {
  test('stay small however often an upload is committed, and say the same', async () => {
    const id = await grown();
    let largest = 0;
    for (let round = 1; round <= 20; round++) {
      await Promise.all(Array.from({ length: 100 }, (_, step) => grow(id, round * 1000 + step)));
      largest = Math.max(largest, (await stat(logOf(id))).size);
    }
    expect(largest).toBeLessThan(70_000);
    await reopen();
    expect(await store.get(id)).toMatchObject({ offset: 20_099 });
    expect(await grow(id, 20_100)).toMatchObject({ offset: 20_100 });
  });

  test('grow by the same few bytes for the first commit and for the hundredth chunk', async () => {
    const { id } = await store.create(newUpload());
    const sizes: number[] = [];
    for (let token = 100; token < 200; token++) {
      const before = (await stat(logOf(id))).size;
      const start = (token - 100) * 5;
      await store.commit(id, { token, chunk: { name: `chunk-${token}`, start, size: 5 }, expiresAt });
      sizes.push((await stat(logOf(id))).size - before);
    }
    expect(Math.max(...sizes)).toBeLessThan(160);
  });

  test('are for their owner alone', async () => {
    const id = await grown(5);
    await store.commit(id, { token: 1, complete: {}, expiresAt });
    await store.claimDelivery(id, 'w', Infinity);
    await store.recordAnswer(id, 'w', { answer: answer(2), body: Buffer.from('ok'), expiresAt });
    expect((await stat(uploads())).mode & 0o777).toBe(0o700);
    for (const name of await readdir(uploads())) expect((await stat(join(uploads(), name))).mode & 0o777).toBe(0o600);
  });

  test('are not held open, however many uploads there are', async () => {
    const ids = await Promise.all(Array.from({ length: 1000 }, () => grown(5)));
    const counts: number[] = [];
    const commits = Promise.all(ids.map((id) => grow(id, 10)));
    for (let look = 0; look < 20; look++) counts.push((await readdir('/proc/self/fd')).length);
    await commits;
    expect(Math.max(...counts)).toBeLessThan(150);
    await reopen();
    expect((await store.list(undefined, 2000)).uploads.every(({ offset }) => offset === 10)).toBe(true);
  });

  test('are written to the end when the store closes, and not touched afterwards', async () => {
    const { id } = await store.create(newUpload());
    const last = grow(id, 50);
    await store.close();
    await expect(last).resolves.toMatchObject({ offset: 50 });
    await expect(grow(id, 60)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    store = await open('group');
    expect(await store.get(id)).toMatchObject({ offset: 50 });
  });
});
