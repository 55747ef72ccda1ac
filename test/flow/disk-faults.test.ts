import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { SyncMode } from '../../src/fs/directory-sync.js';
import { useFileSystem } from '../../src/fs/files.js';
import { Fault } from '../../src/model/fault.js';
import { ConnectionLost, CrossCheck, CountingOrigin, FaithfulClient } from '../support/faithful-client.js';
import { Machine, type MachineOptions } from '../support/faulty-machine.js';
import { MemoryDisk, memoryDisks, type Operation, type Trouble } from '../support/memory-disk.js';
import { everyNth } from '../support/thoroughness.js';

const HOUR = 3_600_000;
const SIDE_BY_SIDE = 32;
/** A process that does not start is started again so often. */
const STARTS = 4;

const READS: readonly Operation[] = [
  'read',
  'readv',
  'readdir',
  'readdirEntries',
  'opendir',
  'stat',
  'lstat',
  'fstat',
  'access',
];
const NAMES: readonly Operation[] = ['mkdir', 'rename', 'link'];
const SYNCS: readonly Operation[] = ['fsync', 'fdatasync', 'ftruncate'];

/** What each kind of trouble makes of an operation. */
const TROUBLES = {
  EIO: () => 'EIO',
  'EIO of syncs': (operation) => (SYNCS.includes(operation) ? 'EIO' : undefined),
  'EIO of reads': (operation, flags = '') => (isRead(operation, flags) ? 'EIO' : undefined),
  ENOSPC: (operation, flags = '') => (grows(operation, flags) ? 'ENOSPC' : undefined),
  EDQUOT: (operation, flags = '') => (grows(operation, flags) ? 'EDQUOT' : undefined),
  EMFILE: (operation) => (['open', 'opendir', 'readdir', 'readdirEntries'].includes(operation) ? 'EMFILE' : undefined),
  EACCES: (operation, flags = '') =>
    ['opendir', 'readdir', 'readdirEntries'].includes(operation) || (operation === 'open' && flags === 'r')
      ? 'EACCES'
      : undefined,
} satisfies Record<string, Trouble>;

function isRead(operation: Operation, flags: string): boolean {
  return READS.includes(operation) || (operation === 'open' && flags === 'r');
}

function grows(operation: Operation, flags: string): boolean {
  if (operation === 'write' || operation === 'writev') return flags === 'grows';
  return NAMES.includes(operation) || (operation === 'open' && flags.startsWith('w'));
}

interface Case {
  readonly trouble: keyof typeof TROUBLES;
  readonly isLasting?: boolean;
  /** In which process: the first, or the second, which finds what the first had done. */
  readonly when?: 'first life' | 'start';
  /** How that process ends. */
  readonly end: 'kill' | 'SIGTERM' | 'power cut';
  /** It ends so many operations after the first that failed; when its client has finished, or after several failures, when missing. */
  readonly livesOn?: number;
  /** What the client does between that and a power cut. */
  readonly then: 'looks' | 'goes on';
  readonly sync?: SyncMode;
  readonly origin?: 'refuses first';
  /** No record stays in memory between two steps. */
  readonly isReadAgain?: boolean;
  /** Every n-th operation, from this one on; all of them when missing. Those with EIO in the first life take each one. */
  readonly every?: number;
  readonly from?: number;
}

beforeAll(() => useFileSystem(memoryDisks));
afterAll(() => useFileSystem());

/** The life of one data directory, with trouble at one of its operations. */
class Life {
  readonly disk = new MemoryDisk();
  private readonly origin: CountingOrigin;
  private readonly client = new FaithfulClient({
    hasFailed: () => this.disk.failures > 0,
    isSick: () => this.disk.isSick,
  });
  private machine: Machine | undefined;
  private readonly ended: Promise<unknown>[] = [];

  constructor(private readonly how: Case) {
    this.origin = new CountingOrigin(how.origin !== undefined);
    // A new one whose name can neither be synced nor be taken back is known to be uncertain to nobody.
    if (how.isLasting) for (const name of ['data', 'node']) this.disk.makeDirectory(name);
  }

  /** Gives how many operations could have failed. */
  async run(at: number): Promise<number> {
    if (this.how.when === 'start') {
      await this.start();
      await this.client.begin(this.machine!);
      this.crash('kill');
    }
    const operations = await this.suffer(at);
    await this.start();
    if (this.how.then === 'goes on') await this.client.work(this.machine!);
    else await this.client.look(this.machine!);
    this.crash('power-cut');
    await this.start();
    await this.client.work(this.machine!);
    this.crash('power-cut');
    await this.start();
    await this.client.look(this.machine!);
    this.client.assertRight(this.origin);
    await this.expire();
    await Promise.all(this.ended);
    if (this.disk.descriptors > 0) throw new CrossCheck(`${this.disk.descriptors} descriptors are left open`);
    this.disk.forget();
    return operations;
  }

  /** The process with the trouble, to its end. */
  private async suffer(at: number): Promise<number> {
    const { disk, client, how } = this;
    const { isLasting = false, end } = how;
    const before = disk.operations;
    disk.fail(at, isLasting, TROUBLES[how.trouble], how.livesOn);
    const work = this.workInTrouble();
    this.ended.push(work);
    await Promise.race([work, disk.isHopeless]);
    const operations = disk.operations - before;
    if (end === 'SIGTERM') await this.machine?.end();
    this.crash(end === 'power cut' ? 'power-cut' : 'kill');
    if (!isLasting && client.toldUnknown) throw new CrossCheck('an outcome is unknown');
    return operations;
  }

  private async workInTrouble(): Promise<void> {
    const { disk, how } = this;
    const { path } = disk;
    try {
      let machine: Machine | undefined;
      for (let starts = 1; !machine; starts++) {
        if (disk.path !== path) throw new ConnectionLost();
        machine = await this.start().catch((error: unknown) => {
          // One that was met by a single fault starts the next time.
          if (!(error instanceof Fault) || starts === STARTS) throw error;
          return undefined;
        });
      }
      await this.client.work(machine);
    } catch (error) {
      if (error instanceof ConnectionLost) return;
      const isDead = disk.path !== path;
      if (!(error instanceof Fault) || !(how.isLasting || isDead)) throw error;
    }
  }

  private async start(aheadMs = 0): Promise<Machine> {
    const { disk, origin } = this;
    const { sync, isReadAgain = false } = this.how;
    const { path } = disk;
    const options: MachineOptions = { disk, origin, sync, aheadMs, ...(isReadAgain && { maxCachedBytes: 0 }) };
    const machine = await Machine.boot(options);
    if (disk.path === path) this.machine = machine;
    else await machine.end();
    return machine;
  }

  private crash(how: 'kill' | 'power-cut'): void {
    this.disk.crash(how);
    this.disk.heal();
    if (this.machine) this.ended.push(this.machine.end());
    this.machine = undefined;
  }

  private async expire(): Promise<void> {
    this.crash('power-cut');
    this.disk.age(3 * HOUR);
    await this.start(2 * HOUR);
    await this.machine!.sweep();
    await this.machine!.end();
    const left = this.disk.files().filter((name) => !STAYS.test(name));
    if (left.length > 0) throw new CrossCheck(`left behind: ${left.join()}`);
  }
}

const STAYS = /^(node\/node|data\/(last-start\.json|rufh-proxy\.json|(uploads|spool)\/\.store))$/;

/** Every operation in turn; gives what went wrong, by the number of the operation. */
async function everyOperation(how: Case): Promise<string[]> {
  const wrong: string[] = [];
  const count = await new Life(how).run(Infinity);
  const { from = 1 } = how;
  const every = (how.every ?? 1) * everyNth(4);
  let next = from;
  const worker = async (): Promise<void> => {
    for (let at = next; at <= count; at = next) {
      next += every;
      await new Life(how).run(at).catch((error: unknown) => wrong.push(`operation ${at}: ${(error as Error).message}`));
    }
  };
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker));
  expect(count).toBeGreaterThan(40);
  return wrong;
}

const CASES: readonly Case[] = [
  { trouble: 'EIO', end: 'kill', then: 'goes on', every: 3 },
  { trouble: 'EIO', end: 'kill', then: 'looks', every: 6, from: 3 },
  { trouble: 'EIO', end: 'power cut', then: 'goes on', sync: 'always', every: 6, from: 2 },
  { trouble: 'EIO', end: 'SIGTERM', then: 'goes on', sync: 'always', origin: 'refuses first', every: 6, from: 5 },
  { trouble: 'EIO', end: 'kill', livesOn: 6, then: 'goes on', every: 6, from: 6 },
  { trouble: 'EIO of syncs', end: 'power cut', livesOn: 1, then: 'goes on', sync: 'always', every: 2 },
  { trouble: 'EIO', when: 'start', end: 'kill', then: 'goes on', every: 6 },
  { trouble: 'EIO', isLasting: true, end: 'kill', then: 'goes on', every: 8, from: 5 },
  { trouble: 'EIO of syncs', isLasting: true, end: 'kill', then: 'goes on', sync: 'always', every: 2 },
  { trouble: 'EIO of syncs', isLasting: true, end: 'kill', then: 'looks', every: 2, from: 2 },
  { trouble: 'ENOSPC', end: 'kill', then: 'goes on', origin: 'refuses first', every: 2 },
  { trouble: 'ENOSPC', isLasting: true, end: 'kill', then: 'goes on', every: 2 },
  { trouble: 'EDQUOT', isLasting: true, end: 'SIGTERM', then: 'looks', sync: 'always', every: 2, from: 2 },
  { trouble: 'EMFILE', end: 'kill', then: 'goes on', origin: 'refuses first', every: 3 },
  { trouble: 'EMFILE', isLasting: true, end: 'power cut', then: 'goes on', sync: 'always', every: 3, from: 2 },
  {
    trouble: 'EIO of reads',
    when: 'start',
    isLasting: true,
    end: 'SIGTERM',
    then: 'goes on',
    sync: 'always',
    every: 3,
  },
  { trouble: 'EMFILE', when: 'start', end: 'kill', then: 'goes on', every: 2 },
  { trouble: 'EIO', end: 'kill', then: 'goes on', isReadAgain: true, every: 6, from: 4 },
  { trouble: 'EIO of reads', isLasting: true, end: 'power cut', then: 'looks', isReadAgain: true, every: 3 },
  { trouble: 'EMFILE', when: 'start', end: 'kill', then: 'goes on', sync: 'always', isReadAgain: true, every: 3 },
  { trouble: 'EACCES', when: 'start', end: 'kill', then: 'looks', every: 2, from: 2 },
];

describe('trouble at each operation of two uploads at once loses nothing', () => {
  test.each(CASES.map((how) => [nameOf(how), how] as const))('%s', async (_, how) => {
    expect(await everyOperation(how)).toEqual([]);
  });
});

function nameOf({
  trouble,
  isLasting,
  when = 'first life',
  end,
  livesOn,
  then,
  sync = 'group',
  origin,
  isReadAgain,
  every,
}: Case): string {
  const how = `${isLasting ? 'lasting ' : ''}${trouble} in the ${when}`;
  const soon = livesOn !== undefined && `${end} ${livesOn} operations later`;
  const rest = [
    sync,
    soon,
    origin && `the origin ${origin}`,
    isReadAgain && 'records are read again',
    every && `one operation of ${every}`,
  ].filter(Boolean);
  return `${how}, ${end}, the client ${then}, power cut (${rest.join(', ')})`;
}
