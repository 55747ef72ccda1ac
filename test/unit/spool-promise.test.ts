import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { newId } from '../contract/sample-upload.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

describe('the file of a promise', () => {
  const id = newId();
  let directory: TemporaryDirectory;
  let spool: LocalSpool;
  let path: string;

  beforeEach(async () => {
    directory = await temporaryDirectory();
    spool = new LocalSpool({ directory: directory.path, sync: 'group' });
    await spool.open();
    path = join(directory.path, 'spool', id, 'promised');
  });
  afterEach(() => directory.remove());

  test('never grows, however much is promised', async () => {
    for (let offset = 1; offset < 20; offset++) await spool.noteAcknowledged(id, offset * 1e12);
    expect((await readFile(path)).length).toBeLessThanOrEqual(64);
  });

  test('is not written when it says as much already', async () => {
    await spool.noteAcknowledged(id, 100);
    const before = await readFile(path);
    await spool.noteAcknowledged(id, 100);
    await spool.noteAcknowledged(id, 99);
    expect(await readFile(path)).toEqual(before);
  });

  test('survives a write that was torn anywhere: the one before it counts', async () => {
    await spool.noteAcknowledged(id, 100);
    const before = await readFile(path);
    await spool.noteAcknowledged(id, 200_000_000);
    const after = await readFile(path);
    await fc.assert(
      fc.asyncProperty(fc.nat({ max: after.length }), async (torn) => {
        const mixed = Buffer.concat([after.subarray(0, torn), before.subarray(torn)]);
        await writeFile(path, mixed);
        expect([100, 200_000_000]).toContain(await spool.acknowledgedOffset(id));
        await spool.noteAcknowledged(id, 300_000_000);
        expect(await spool.acknowledgedOffset(id)).toBe(300_000_000);
      }),
      { numRuns: 70 },
    );
  });

  test('that was never written whole promises nothing', async () => {
    await spool.noteAcknowledged(id, 100);
    for (const content of ['', '0000', 'x'.repeat(64), '0000000000000100 00000000\n']) {
      await writeFile(path, content);
      expect(await spool.acknowledgedOffset(id)).toBe(0);
    }
  });

  test('is for its owner alone, and nothing is beside it', async () => {
    await spool.noteAcknowledged(id, 1);
    expect(await readdir(join(directory.path, 'spool', id))).toEqual(['promised']);
  });
});
