import { expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import { noRoomFault } from '../../src/store/usage.js';
import { type ChunkDeps, type ChunkTask, GrowingChunk } from '../../src/uploads/chunk.js';

test.each<[string, Fault, string[]]>([
  ['that finds no room leaves no bytes behind', noRoomFault({ exceeds: 'all-bytes' }), ['chunk-1']],
  ['whose record cannot be written leaves them, as it may be there', new Fault('STORAGE_FULL', 'full', true), []],
])('the first commit of a chunk %s', async (_, fault, removed) => {
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
  const upload = { id: 'id', offset: 0, route: '', limits: { maxAgeSeconds: 1 } };
  const lease = { token: 1, signal: new AbortController().signal };
  const task = { upload, lease, name: 'chunk-1', minCommitBytes: 0 } as unknown as ChunkTask;
  const deps = {
    store: { commit: () => Promise.reject(fault) },
    spool: { removeChunk: (_id: string, name: string) => Promise.resolve(gone.push(name)) },
    pace: { bytes: 1000, everyMs: 60_000 },
    clock: () => 0,
  } as unknown as ChunkDeps;
  const chunk = new GrowingChunk(writer as never, task, deps);
  await chunk.write([Buffer.from('bytes')]);
  await expect(chunk.commit()).rejects.toBe(fault);
  await chunk.close();
  expect(gone).toEqual(removed);
});
