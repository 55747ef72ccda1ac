import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { type FileSystem, useFileSystem } from '../../src/fs/files.js';
import { silentLog } from '../../src/observe/log.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { ANSWER_BYTES, blanks, changeLine, readRecord, snapshotLine } from '../../src/store/embedded/record-lines.js';
import { applyToCopy, type Change, newRecord, type UploadRecord } from '../../src/store/embedded/transitions.js';
import { answer, attempt, HOUR, newUpload } from '../contract/sample-upload.js';
import { MemoryDisk, memoryDisks, type Operation } from '../support/memory-disk.js';

describe('record lines', () => {
  const first = newRecord(newUpload({ length: 900 }));
  const changes: Change[] = [
    { token: 1, chunk: { name: 'chunk-1', start: 0, size: 300 }, set: { offset: 300, expiresAt: 5 } },
    { token: 1, chunk: { name: 'chunk-1', start: 0, size: 400 }, set: { offset: 400, expiresAt: 6 } },
    { token: 9, chunk: { name: 'chunk-9', start: 400, size: 500 }, set: { offset: 900, phase: 'complete', dueAt: 7 } },
    { set: { phase: 'delivering' }, unset: ['dueAt'] },
    { attempt: attempt(1) },
    { attempt: attempt(1, { endedAt: 9, reached: 'sent', problem: 'line\nbreak – “quoted”' }) },
  ];
  const stages = changes.reduce<UploadRecord[]>((all, change) => [...all, applyToCopy(all.at(-1)!, change)], [first]);
  const lines = [snapshotLine(first), ...changes.map((change) => changeLine(change))];
  const file = Buffer.concat(lines);
  const endOf = (count: number): number => lines.slice(0, count).reduce((sum, line) => sum + line.length, 0);

  describe('the file of a record', () => {
    test('gives the record again after any number of changes', () => {
      for (let count = 1; count <= lines.length; count++) {
        const read = readRecord(file.subarray(0, endOf(count)));
        expect(read).toMatchObject({ state: 'intact', validBytes: endOf(count), snapshotBytes: endOf(1) });
        expect(read?.record).toMatchObject(stages[count - 1]!);
        expect(read?.record.upload).toEqual(stages[count - 1]!.upload);
      }
    });

    test('cut off anywhere in its last line, it ends with the line before', () => {
      for (let size = endOf(lines.length - 1) + 1; size < file.length; size++) {
        const read = readRecord(file.subarray(0, size));
        expect(read).toMatchObject({ state: 'torn', validBytes: endOf(lines.length - 1) });
        expect(read?.record.upload).toEqual(stages.at(-2)!.upload);
      }
    });

    test('a last line of zeros or of rubbish, as a power cut leaves it, is dropped', () => {
      const zeros = Buffer.alloc(300);
      const rubbish = Buffer.from('00000000 {"set":{"offset":1}}\n');
      for (const [end, state] of [
        [zeros, 'torn'],
        [rubbish, 'illegible'],
        [Buffer.concat([zeros, rubbish]), 'illegible'],
        // Where room is kept a line is written from its end: this one never had its beginning.
        [Buffer.concat([blanks(300), rubbish, blanks(50)]), 'torn'],
        // With pages missing within it and behind it.
        [Buffer.concat([rubbish.subarray(0, 9), blanks(300), rubbish.subarray(20), zeros]), 'illegible'],
        // The room behind it was written with it: it has lost its end.
        [Buffer.concat([rubbish.subarray(0, 9), blanks(300)]), 'illegible'],
      ] as const) {
        const read = readRecord(Buffer.concat([file, end]));
        expect(read).toMatchObject({ state, validBytes: file.length });
        expect(read?.record.upload).toEqual(stages.at(-1)!.upload);
      }
    });

    test('an attempt whose line was lost with all that followed it is taken for one whose outcome nobody knows', () => {
      const reserved = blanks(ANSWER_BYTES - lines.at(-1)!.length);
      const whole = Buffer.concat([file, reserved]);
      for (let at = endOf(1); at < endOf(6); at++) {
        const kept = lines.findLastIndex((_, index) => endOf(index + 1) <= at) + 1;
        const read = readRecord(Buffer.concat([whole.subarray(0, at), Buffer.alloc(whole.length - at)]), 77);
        expect(read).toMatchObject({ state: 'torn', validBytes: endOf(kept) });
        expect(read?.record.upload).toMatchObject({
          phase: kept < 4 ? 'receiving' : 'delivering',
          attemptCount: 1,
          attempts: [{ number: 1, budgetFrom: 1, startedAt: 77 }],
        });
        expect(read?.record.upload.attempts[0]?.reached).toBeUndefined();
        expect(read?.record.upload.dueAt).toBeUndefined();
      }
    });

    test('an attempt whose line is there, but is not what was written, is taken for one like that too', () => {
      const begun = Buffer.concat([changeLine({ attempt: attempt(1) }), blanks(ANSWER_BYTES)]);
      begun[20]! ^= 1;
      for (let kept = 1; kept < 6; kept++) {
        const read = readRecord(Buffer.concat([...lines.slice(0, kept), begun]), 77);
        expect(read).toMatchObject({ state: 'illegible', validBytes: endOf(kept) });
        expect(read?.record.upload).toMatchObject({
          phase: kept < 4 ? 'receiving' : 'delivering',
          attemptCount: 1,
          attempts: [{ number: 1, budgetFrom: 1, startedAt: 77 }],
        });
      }
    });

    test.each([
      ['an attempt that is open', 6, ANSWER_BYTES, stages[5]!],
      ['less than an attempt leaves', 5, ANSWER_BYTES - 1, stages[4]!],
    ])('nothing is made up behind %s', (_, count, dropped, stage) => {
      const read = readRecord(Buffer.concat([file.subarray(0, endOf(count)), Buffer.alloc(dropped)]));
      expect(read).toMatchObject({ state: 'torn', validBytes: endOf(count) });
      expect(read?.record.upload).toEqual(stage.upload);
    });

    test('room that is kept behind the last line says nothing', () => {
      const read = readRecord(Buffer.concat([file, blanks(4096)]));
      expect(read).toMatchObject({ state: 'intact', validBytes: file.length, fileBytes: file.length + 4096 });
      expect(read?.record.upload).toEqual(stages.at(-1)!.upload);
    });

    test('without a readable first line there is no record', () => {
      for (let size = 0; size < endOf(1); size++) expect(readRecord(file.subarray(0, size))).toBeUndefined();
      expect(readRecord(Buffer.concat([Buffer.alloc(endOf(1)), file.subarray(endOf(1))]))).toBeUndefined();
      expect(readRecord(file.subarray(endOf(1)))).toBeUndefined();
    });

    test('one changed byte anywhere is never taken for truth', () => {
      const beforeLast = endOf(lines.length - 1) - 1;
      const truths = stages.slice(0, -1).map(({ upload }) => JSON.stringify(upload));
      for (let at = 0; at < file.length; at++) {
        for (const by of [1, 0x80, 0xff]) {
          const damaged = Buffer.from(file);
          damaged[at] = damaged[at]! ^ by;
          const read = readRecord(damaged);
          if (read === undefined) expect(at).toBeLessThan(endOf(1));
          // Without the newline between them, the last two lines are one; without that at its end, it looks cut off.
          else expect(read.state).toBe(at < beforeLast ? 'damaged' : at === file.length - 1 ? 'torn' : 'illegible');
          if (read) expect(truths).toContain(JSON.stringify(read.record.upload));
        }
      }
    });

    test('lines that are sound but do not follow each other are damage', () => {
      const withoutOne = Buffer.concat([lines[0]!, lines[3]!]);
      expect(readRecord(withoutOne)?.state).toBe('damaged');
      const elsewhere = changeLine({ chunk: { name: 'chunk-1', start: 7, size: 300 }, set: { offset: 300 } });
      expect(readRecord(Buffer.concat([lines[0]!, elsewhere]))?.state).toBe('damaged');
    });

    test('a record of a later format is not understood', () => {
      const later = changeLine({ ...first, format: 2 } as object);
      expect(readRecord(later)).toBeUndefined();
    });
  });
});

describe('room on the disk', () => {
  const expiresAt = Date.now() + HOUR;
  const ended = attempt(1, { endedAt: 9, reached: 'answered', status: 201 });
  const kept = { answer: answer(2), body: Buffer.from('ok'), expiresAt };
  const why = { reason: 'outcome-unknown', problem: 'it broke off' } as const;

  let disk: MemoryDisk;
  let store: EmbeddedStore;

  /** Writes and syncs since the last look. */
  let counts: Record<string, number> = {};
  const counted = (operation: keyof FileSystem): void => void (counts[operation] = (counts[operation] ?? 0) + 1);
  const counting: FileSystem = {
    ...memoryDisks,
    write: (...call) => (counted('write'), memoryDisks.write(...call)),
    fdatasync: (...call) => (counted('fdatasync'), memoryDisks.fdatasync(...call)),
    fsync: (...call) => (counted('fsync'), memoryDisks.fsync(...call)),
  };

  beforeAll(() => useFileSystem(counting));
  afterAll(() => useFileSystem());
  beforeEach(async () => {
    disk = new MemoryDisk();
    store = await open();
  });
  afterEach(async () => {
    await store.close();
    expect(disk.descriptors).toBe(0);
    disk.forget();
  });

  function open(): Promise<EmbeddedStore> {
    return EmbeddedStore.open({ directory: disk.path, sync: 'group', log: silentLog() });
  }

  async function crash(how: 'kill' | 'power-cut'): Promise<void> {
    const old = store;
    disk.crash(how);
    disk.heal();
    await old.close();
    store = await open();
  }

  async function complete(): Promise<string> {
    const { id } = await store.create(newUpload());
    await store.commit(id, { token: 1, chunk: { name: 'chunk-1', start: 0, size: 5 }, complete: {}, expiresAt });
    return id;
  }

  /** An upload with an attempt under way, whose record is open. */
  async function attempted(): Promise<string> {
    const id = await complete();
    await store.claimDelivery(id, 'w', expiresAt);
    await store.beginAttempt(id, 'w', attempt(1));
    expect(disk.descriptors).toBe(1);
    return id;
  }

  async function attemptedEarly(): Promise<string> {
    const { id } = await store.create(newUpload());
    await store.beginEagerAttempt(id, attempt(1, { inPart: true }));
    expect(disk.descriptors).toBe(1);
    return id;
  }

  function fileOf(id: string): string {
    return `${disk.path}/uploads/${id}.log`;
  }

  test('a delivery costs one write and one sync of its record a step, room or not', async () => {
    const each = async (step: Promise<unknown>): Promise<Record<string, number>> => {
      counts = {};
      await step;
      return counts;
    };
    const { id } = await store.create(newUpload());
    const chunk = { name: 'chunk-1', start: 0, size: 5 };
    const once = { write: 1, fdatasync: 1 };
    expect(await each(store.commit(id, { token: 1, chunk, complete: {}, expiresAt }))).toEqual(once);
    const before = disk.contents(`uploads/${id}.log`).length;
    // A claim means nothing to the next process: it is written with the attempt.
    expect(await each(store.claimDelivery(id, 'w', expiresAt))).toEqual({});
    expect(await each(store.beginAttempt(id, 'w', attempt(1)))).toEqual(once);
    expect(await each(store.recordAnswer(id, 'w', kept, ended))).toEqual(once);
    expect(disk.contents(`uploads/${id}.log`).length).toBe(before);
    expect(disk.files().filter((name) => name.includes('.answer'))).toEqual([]);
  });

  describe('a claim that is not written yet', () => {
    async function claimed(): Promise<string> {
      const id = await complete();
      expect(await store.claimDelivery(id, 'w', expiresAt)).toMatchObject({ phase: 'delivering' });
      return id;
    }

    test.each(['kill', 'power-cut'] as const)('leaves an upload that is due after a %s', async (how) => {
      const id = await claimed();
      await crash(how);
      expect(await store.dueDeliveries(Date.now())).toEqual([id]);
      expect(await store.get(id)).toMatchObject({ phase: 'complete', attempts: [] });
    });

    test.each<[string, (id: string) => Promise<unknown>, object]>([
      ['the attempt', (id) => store.beginAttempt(id, 'w', attempt(1)), { phase: 'delivering', attemptCount: 1 }],
      ['its end', (id) => store.postpone(id, 'w', 7), { phase: 'complete', dueAt: 7 }],
      ['a new due time', (id) => postponedTwice(id), { phase: 'complete', dueAt: 9 }],
      ['its failure', (id) => store.giveUp(id, 'w', why), { phase: 'undelivered', undelivered: why }],
      ['an answer without an attempt', (id) => store.recordAnswer(id, 'w', kept), { phase: 'answered' }],
      ['the loss of its bytes', (id) => store.markLost(id), { phase: 'invalid', lost: true }],
      ['the end of the upload', (id) => store.cancel(id), { phase: 'cancelled' }],
    ])('is on the disk with %s', async (_, step, expected) => {
      const id = await claimed();
      await step(id);
      const before = await store.get(id);
      expect(before).toMatchObject(expected);
      await crash('power-cut');
      expect(await store.get(id)).toEqual(before);
    });

    async function postponedTwice(id: string): Promise<void> {
      await store.postpone(id, 'w', 7);
      await store.claimDelivery(id, 'w', expiresAt);
      expect((await store.get(id))?.dueAt).toBeUndefined();
      await store.postpone(id, 'w', 9);
    }

    test('of an upload that was given up is written at once, since a start would not try it again', async () => {
      const id = await claimed();
      await store.giveUp(id, 'w', why);
      await store.claimDelivery(id, 'w', expiresAt);
      await crash('power-cut');
      expect(await store.get(id)).toMatchObject({ phase: 'delivering' });
    });

    test('survives a step whose write fails, and comes with the next one', async () => {
      const id = await claimed();
      const files = (operation: Operation): boolean => operation === 'write' || operation === 'open';
      disk.fail(1, true, (operation) => (files(operation) ? 'EIO' : undefined));
      await expect(store.beginAttempt(id, 'w', attempt(1))).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      disk.heal();
      await store.beginAttempt(id, 'w', attempt(1));
      await crash('power-cut');
      expect(await store.get(id)).toMatchObject({ phase: 'delivering', attemptCount: 1 });
    });

    test('does not bring back an upload that was cancelled on a full disk', async () => {
      const id = await claimed();
      disk.fail(1, true, (operation, flags) => (operation === 'write' || flags === 'w' ? 'ENOSPC' : undefined));
      await store.cancel(id);
      disk.heal();
      expect(await store.cancel(id)).toMatchObject({ phase: 'cancelled' });
      expect(await store.get(id)).toMatchObject({ phase: 'cancelled' });
      await crash('power-cut');
      expect((await store.get(id))?.phase).not.toBe('complete');
    });

    test('is not in the way of a record that has to be written over itself on a full disk', async () => {
      const id = await claimed();
      const trouble = { fdatasync: 'EIO', w: 'ENOSPC' } as Readonly<Record<string, string>>;
      disk.fail(1, true, (operation, flags = '') => trouble[operation] ?? trouble[flags]);
      await expect(store.beginAttempt(id, 'w', attempt(1))).rejects.toMatchObject({ code: 'STORAGE_FULL' });
      expect(await store.get(id)).toMatchObject({ phase: 'delivering' });
    });
  });

  describe('no record stays open', () => {
    test.each<[string, (id: string) => Promise<unknown>]>([
      ['answered', (id) => store.recordAnswer(id, 'w', kept, ended)],
      ['answered, its end forgotten', (id) => store.recordAnswer(id, 'w', kept)],
      ['ended without an answer', (id) => store.endAttempt(id, 'w', { ...ended, reached: 'sent' })],
      ['given up', (id) => store.giveUp(id, 'w', why)],
      [
        'postponed after its end',
        async (id) => {
          await store.endAttempt(id, 'w', { ...ended, reached: 'never-sent' });
          await store.postpone(id, 'w', 7);
        },
      ],
      [
        'parked',
        async (id) => {
          await store.endAttempt(id, 'w', ended);
          await store.giveUp(id, 'w', { reason: 'unauthorized', status: 401, problem: 'the origin answered 401' });
        },
      ],
      ['cancelled', (id) => store.cancel(id)],
      ['removed', (id) => store.remove(id)],
      ['lost', (id) => store.markLost(id)],
      ['ended by the stop of the store', () => store.close()],
      [
        'cancelled on a full disk',
        async (id) => {
          disk.fail(1, true, (operation, flags) => (operation === 'write' || flags === 'w' ? 'ENOSPC' : undefined));
          await store.cancel(id);
        },
      ],
      [
        'answered after a sync that failed',
        async (id) => {
          disk.fail(1, false, (operation) => (operation === 'fdatasync' ? 'EIO' : undefined));
          await store.recordAnswer(id, 'w', { ...kept, answer: answer(0, { in: 'nowhere' }) }, ended);
        },
      ],
      [
        'answered after its record was removed',
        async (id) => {
          await memoryDisks.unlink(fileOf(id));
          await store.recordAnswer(id, 'w', kept, ended);
        },
      ],
    ])('of an attempt that is %s', async (_, end) => {
      await end(await attempted());
      expect(disk.descriptors).toBe(0);
    });

    test.each<[string, (id: string) => Promise<unknown>]>([
      ['answered', (id) => store.recordEarlyAnswer(id, ended, kept)],
      ['ended', (id) => store.endEagerAttempt(id, { ...ended, reached: 'sent-in-part' })],
      ['invalid', (id) => store.invalidate(id, 1)],
      ['cancelled', (id) => store.cancel(id)],
      ['removed', (id) => store.remove(id)],
    ])('of an eager attempt that is %s', async (_, end) => {
      await end(await attemptedEarly());
      expect(disk.descriptors).toBe(0);
    });

    test('of a claim that another worker takes over, once that one is through', async () => {
      const id = await complete();
      await store.claimDelivery(id, 'w', 0);
      await store.beginAttempt(id, 'w', attempt(1));
      await store.claimDelivery(id, 'v', expiresAt);
      await store.beginAttempt(id, 'v', attempt(2));
      expect(disk.descriptors).toBe(1);
      await store.giveUp(id, 'v', why);
      expect(disk.descriptors).toBe(0);
    });
  });

  describe('an answer is not written to a file that nobody will find', () => {
    test.each<[string, (path: string) => Promise<void>]>([
      ['removed', (path) => memoryDisks.unlink(path)],
      ['moved away', (path) => memoryDisks.rename(path, `${disk.path}/elsewhere`)],
      [
        'replaced by a copy',
        async (path) => {
          const bytes = disk.contents(path.split('/').slice(3).join('/'));
          const fd = await memoryDisks.open(`${path}.copy`, 'w');
          await memoryDisks.write(fd, bytes, 0);
          await memoryDisks.close(fd);
          await memoryDisks.rename(`${path}.copy`, path);
        },
      ],
    ])('its record was %s', async (_, change) => {
      const id = await attempted();
      await change(fileOf(id));
      await store.recordAnswer(id, 'w', kept, ended);
      await crash('power-cut');
      expect(await store.get(id)).toMatchObject({ phase: 'answered', answer: { status: 201 } });
    });

    test('its record was written anew with the attempt', async () => {
      const id = await complete();
      await store.claimDelivery(id, 'w', expiresAt);
      disk.fail(1, false, (operation) => (operation === 'fdatasync' ? 'EIO' : undefined));
      await store.beginAttempt(id, 'w', attempt(1));
      expect(disk.failures).toBe(1);
      disk.fail(1, true, (operation) => (operation === 'open' ? 'EMFILE' : undefined));
      await store.recordAnswer(id, 'w', kept, ended);
      await crash('power-cut');
      expect(await store.get(id)).toMatchObject({ phase: 'answered' });
    });
  });

  describe('nothing can be opened from the answer on', () => {
    test.each([
      ['EMFILE', attempted, 'w'],
      ['EACCES', attempted, 'w'],
      ['ENFILE', attemptedEarly, undefined],
      ['EMFILE', attemptedEarly, undefined],
    ])('%s: it is recorded all the same', async (code, begin, worker) => {
      const id = await begin();
      disk.fail(1, true, (operation: Operation) => (operation === 'open' ? code : undefined));
      const recorded = worker ? store.recordAnswer(id, worker, kept, ended) : store.recordEarlyAnswer(id, ended, kept);
      expect(await recorded).toMatchObject({ phase: 'answered' });
      await crash('kill');
      expect(await store.get(id)).toMatchObject({ phase: 'answered', answer: { status: 201 } });
      expect(Buffer.from((await store.answerBody(id))!).toString()).toBe('ok');
    });
  });
});
