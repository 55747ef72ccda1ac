import { describe, expect, test } from '@jest/globals';
import { blanks, changeLine, readRecord, ANSWER_BYTES, snapshotLine } from '../../src/store/embedded/record-lines.js';
import { type Change, applyToCopy, newRecord, type UploadRecord } from '../../src/store/embedded/transitions.js';
import { attempt, newUpload } from '../contract/sample-upload.js';

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
