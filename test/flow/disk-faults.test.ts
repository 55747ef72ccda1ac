import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { useFileSystem } from '../../src/disk/files.js';
import { assertRight, CountingOrigin, FaithfulClient, isConnectionLost, Machine } from '../support/faulty-machine.js';
import { MemoryDisk, memoryDisks, type Trouble } from '../support/memory-disk.js';

const HOUR = 3_600_000;
const SIDE_BY_SIDE = 64;

const TROUBLES: Record<string, Trouble> = {
  EIO: () => 'EIO',
  // A full disk, and a process that is out of descriptors.
  'no room': (operation, flags = '') => {
    if (operation === 'open') return flags.startsWith('w') ? 'ENOSPC' : 'EMFILE';
    if (operation === 'opendir' || operation === 'readdir') return 'EMFILE';
    return ['write', 'writev', 'mkdir', 'rename', 'link'].includes(operation) ? 'ENOSPC' : undefined;
  },
};

interface Case {
  readonly code: Trouble;
  readonly isLasting: boolean;
  readonly crash: 'kill' | 'power-cut';
}

beforeAll(() => useFileSystem(memoryDisks));
afterAll(() => useFileSystem());

/** A life with trouble from its n-th operation on; gives how many operations could have failed. */
async function live(at: number, { code, isLasting, crash }: Case): Promise<number> {
  const disk = new MemoryDisk();
  const origin = new CountingOrigin();
  const client = new FaithfulClient();
  const ended: Promise<void>[] = [];
  const restart = async (how: Case['crash'], machine?: Machine): Promise<Machine> => {
    disk.crash(how);
    disk.heal();
    client.hangUp();
    if (machine) ended.push(machine.end());
    return Machine.boot(disk, origin);
  };
  disk.fail(at, isLasting, code);
  let machine: Machine | undefined;
  const work = (async () => {
    machine = await Machine.boot(disk, origin);
    await client.work(machine);
  })();
  await Promise.race([work, disk.isHopeless]).catch((error: unknown) => {
    if (disk.failures === 0) throw error;
  });
  const operations = disk.operations;
  // Killed first: what its page cache has is seen by the next one, and only then does the power go.
  machine = await restart(crash, machine);
  await client.look(machine);
  machine = await restart('power-cut', machine);
  await client.work(machine);
  machine = await restart('power-cut', machine);
  await client.look(machine);
  assertRight(origin, client);
  await machine.end();
  await work.catch((error: unknown) => {
    if (!isConnectionLost(error) && disk.failures === 0) throw error;
  });
  await Promise.all(ended);
  await expire(disk, origin);
  disk.forget();
  return operations;
}

async function expire(disk: MemoryDisk, origin: CountingOrigin): Promise<void> {
  disk.crash('power-cut');
  disk.age(3 * HOUR);
  const machine = await Machine.boot(disk, origin, 2 * HOUR);
  await machine.sweep();
  await machine.end();
  const left = disk.files().filter((name) => name !== 'last-start.json');
  if (left.length > 0) throw new Error(`left behind: ${left.join()}`);
}

/** Every operation in turn; gives what went wrong, by the number of the operation. */
async function everyOperation(how: Case): Promise<string[]> {
  const wrong: string[] = [];
  const count = await live(Infinity, how);
  let next = 1;
  const worker = async (): Promise<void> => {
    for (let at = next++; at <= count; at = next++)
      await live(at, how).catch((error: unknown) => wrong.push(`operation ${at}: ${(error as Error).message}`));
  };
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker));
  expect(count).toBeGreaterThan(20);
  return wrong;
}

describe.each(Object.keys(TROUBLES))('%s', (name) => {
  const code = TROUBLES[name]!;

  test.each([
    { isLasting: false, crash: 'kill' },
    { isLasting: false, crash: 'power-cut' },
    { isLasting: true, crash: 'kill' },
    { isLasting: true, crash: 'power-cut' },
  ] as const)('at each operation of an upload, lasting: $isLasting, then a $crash, loses nothing', async (how) => {
    expect(await everyOperation({ code, ...how })).toEqual([]);
  });
});
