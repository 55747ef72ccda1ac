import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { useFileSystem } from '../../src/fs/files.js';
import { Fault } from '../../src/model/fault.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { chunkName } from '../../src/spool/chunk-name.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { EmbeddedLeases, EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { GrowingChunk } from '../../src/uploads/chunk.js';
import { newUpload } from '../support/delivery-room.js';
import { MemoryDisk, memoryDisks } from '../support/memory-disk.js';

const ID = 'a'.repeat(32);
const BYTES = Buffer.alloc(1000, 'x');

beforeAll(() => useFileSystem(memoryDisks));
afterAll(() => useFileSystem());

async function open(disk: MemoryDisk): Promise<{ store: EmbeddedStore; spool: LocalSpool }> {
  const directory = `${disk.path}/data`;
  const store = await EmbeddedStore.open({ directory, sync: 'group', log: silentLog() });
  const spool = new LocalSpool({ directory, sync: 'group' });
  await spool.open();
  return { store, spool };
}

interface Troubled {
  /** Of the operations of the commit. */
  readonly first: number;
  /** From this one on every operation fails. */
  readonly rest: number;
  readonly end: 'kill' | 'power-cut';
  /** A request whose bytes count only as a whole is not rescued. */
  readonly rescued: boolean;
}

/** One commit in trouble, and a start after it; gives how many operations there were, and the chunks whose bytes are missing. */
async function missingAfter({ first, rest, end, rescued }: Troubled): Promise<{ count: number; missing: string[] }> {
  const disk = new MemoryDisk();
  disk.makeDirectory('data');
  const { store, spool } = await open(disk);
  const upload = await store.create(newUpload(ID));
  const lease = await new EmbeddedLeases(store).take(ID);
  const name = chunkName(lease.token, 0);
  const task = { upload, lease, name, minCommitBytes: 0, onCommitted: () => undefined, onFailure: () => undefined };
  const pace = { bytes: 1_000_000, everyMs: 60_000 };
  const deps = { store, spool, metrics: new Metrics(), clock: Date.now, pace };
  const chunk = new GrowingChunk(await spool.create(ID, name), task, deps);
  await chunk.write([BYTES]);
  let count = 0;
  disk.fail(1, true, () => (++count === first || count >= rest ? 'EIO' : undefined));
  await chunk.commit().catch(async (fault: unknown) => {
    if (!(fault instanceof Fault)) throw fault;
    if (rescued) await chunk.rescue();
  });
  const operations = count;
  disk.heal();
  // The process lives on just long enough to remove files.
  await chunk.close();
  disk.crash(end);
  const again = await open(disk);
  const chunks = await again.store.chunks(ID);
  const missing: string[] = [];
  for (const { name: counted, size } of chunks)
    if (((await again.spool.size(ID, counted)) ?? 0) < size) missing.push(`${first}, ${rest}: ${counted}`);
  await again.store.close();
  disk.forget();
  return { count: operations, missing };
}

test.each((['kill', 'power-cut'] as const).flatMap((end) => [true, false].map((rescued) => [end, rescued] as const)))(
  'whatever fails in a commit, no bytes that a record may count are removed (%s, rescued: %s)',
  async (end, rescued) => {
    const missing: string[] = [];
    let most = 0;
    for (let first = 1; first <= Math.max(most, 10); first++)
      for (let rest = first; rest <= Math.max(most, 10) + 1; rest++) {
        const found = await missingAfter({ first, rest, end, rescued });
        missing.push(...found.missing);
        most = Math.max(most, found.count);
      }
    expect(most).toBeGreaterThan(10);
    expect(missing).toEqual([]);
  },
);
