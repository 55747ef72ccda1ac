import { expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import type { Commit } from '../../src/store/upload-store.js';
import { type Capacity, noRoomFault } from '../../src/store/usage.js';
import { type ChunkDeps, type ChunkTask, GrowingChunk } from '../../src/uploads/chunk.js';

const CAPACITY: Capacity = { all: { bytes: 100 } };

/** A chunk of an upload of this length, whose commits end as `commit` does, and the chunks that were removed from the spool. */
function chunkOf(commit: (step: Commit) => Promise<unknown>, length?: number): { chunk: GrowingChunk; gone: string[] } {
  const gone: string[] = [];
  const writer = {
    size: 0,
    get extent() {
      return { size: this.size };
    },
    write(buffers: readonly Uint8Array[]) {
      for (const { length } of buffers) this.size += length;
      return Promise.resolve();
    },
    sync: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
  const upload = { id: 'id', offset: 0, route: '', limits: { maxAgeSeconds: 1 }, length };
  const lease = { token: 1, signal: new AbortController().signal };
  const onCommitted = (): Promise<void> => Promise.resolve();
  const task = { upload, lease, name: 'chunk-1', minCommitBytes: 0, onCommitted } as unknown as ChunkTask;
  const deps = {
    store: { commit: (_id: string, step: Commit) => commit(step) },
    spool: { removeChunk: (_id: string, name: string) => Promise.resolve(gone.push(name)) },
    metrics: { commit: () => undefined },
    admission: { capacityFor: () => CAPACITY },
    pace: { bytes: 1000, everyMs: 60_000 },
    clock: () => 0,
  } as unknown as ChunkDeps;
  return { chunk: new GrowingChunk(writer as never, task, deps), gone };
}

test.each<[string, Fault, string[]]>([
  ['that finds no room leaves no bytes behind', noRoomFault({ exceeds: 'all-bytes' }), ['chunk-1']],
  ['whose record cannot be written leaves them, as it may be there', new Fault('STORAGE_FULL', 'full', true), []],
])('the first commit of a chunk %s', async (_, fault, removed) => {
  const { chunk, gone } = chunkOf(() => Promise.reject(fault));
  await chunk.write([Buffer.from('bytes')]);
  await expect(chunk.commit()).rejects.toBe(fault);
  await chunk.close();
  expect(gone).toEqual(removed);
});

test.each<[string, number | undefined, Capacity | undefined]>([
  ['a known length takes no room, which its creation took', 10, undefined],
  ['an empty upload takes no room', 0, undefined],
  ['an unknown length may take more room', undefined, CAPACITY],
])('the commit of %s', async (_, length, capacity) => {
  const steps: Commit[] = [];
  const { chunk } = chunkOf((step) => Promise.resolve(steps.push(step)), length);
  await chunk.write([Buffer.from('bytes')]);
  await chunk.commit();
  await chunk.close();
  expect(steps.map((step) => step.capacity)).toEqual([capacity]);
});
