import { join, resolve } from 'node:path';
import { DirectorySync } from '../../disk/directory-sync.js';
import { close, fstat, open, utimes } from '../../disk/files.js';
import type { LockOwner } from '../../disk/lock-text.js';
import { storageFault } from '../../disk/storage-fault.js';
import { Fault } from '../../model/fault.js';
import { acquire, breakLock, clearRemains, type FoundLock, look, type Patience } from './lock-file.js';
import { thisOwner } from './lock-owner.js';

export interface DirectoryLockOptions extends Partial<Patience> {
  /** Who takes the lock; this process unless said otherwise. */
  readonly owner?: LockOwner;
}

interface OwnLock {
  readonly owner: LockOwner;
  readonly inode: number;
  /** Kept open. */
  readonly fd: number;
}

/**
 * Keeps two processes from sharing a data directory by mistake. A lock whose owner was killed is taken over at once
 * where its death can be proved, and after its heartbeat has stopped where not.
 */
export class DirectoryLock {
  private readonly beats: NodeJS.Timeout;
  private readonly loss = new AbortController();
  private beating: Promise<void> | undefined;
  private isReleased = false;

  private constructor(
    private readonly path: string,
    private readonly own: OwnLock,
    private readonly patience: Patience,
  ) {
    this.beats = setInterval(() => this.beat(), patience.heartbeatMs).unref();
  }

  /** Fails with `DIRECTORY_IN_USE` when another process holds it. */
  static async take(directory: string, options: DirectoryLockOptions = {}): Promise<DirectoryLock> {
    const { heartbeatMs = 2000, staleMs = 10_000, owner = await thisOwner() } = options;
    const path = join(directory, 'lock');
    try {
      await new DirectorySync('group').make(directory);
      const patience = { heartbeatMs, staleMs };
      const holder = await acquire(path, owner, patience);
      if (holder) throw inUse(directory, holder);
      await clearRemains(path);
      return new DirectoryLock(path, { owner, ...(await keptOpen(path)) }, patience);
    } catch (error) {
      throw storageFault(error, `the data directory ${resolve(directory)} cannot be locked`);
    }
  }

  /**
   * Aborted when the lock is no longer ours: this process stood still for so long that another one took it for dead.
   * Whoever sees this should stop at once.
   */
  get lost(): AbortSignal {
    return this.loss.signal;
  }

  async release(): Promise<void> {
    clearInterval(this.beats);
    await this.beating;
    if (this.isReleased) return;
    this.isReleased = true;
    try {
      const found = await this.found();
      if (found) await breakLock(this.path, found, this.own.owner, this.patience);
    } catch (error) {
      throw storageFault(error, 'the data directory cannot be unlocked');
    } finally {
      await close(this.own.fd).catch(() => undefined);
    }
  }

  private beat(): void {
    this.beating ??= this.renew()
      .catch(() => {
        // A disk that fails for a moment is no reason to give up; the others wait for several beats.
      })
      .finally(() => (this.beating = undefined));
  }

  private async renew(): Promise<void> {
    if (await this.found()) return utimes(this.path, new Date(), new Date());
    clearInterval(this.beats);
    this.loss.abort();
  }

  /**
   * The lock, if it is still ours. A file system gives the number of a removed file to the next one, but not as long as it
   * is open; of one that says whose it is, that counts.
   */
  private async found(): Promise<FoundLock | undefined> {
    const { owner, inode } = this.own;
    const found = await look(this.path);
    const isOurs = found && (found.owner ? found.owner.nonce === owner.nonce : found.inode === inode);
    return isOurs ? found : undefined;
  }
}

async function keptOpen(path: string): Promise<Pick<OwnLock, 'fd' | 'inode'>> {
  const fd = await open(path, 'r');
  try {
    return { fd, inode: (await fstat(fd)).ino };
  } catch (error) {
    await close(fd).catch(() => undefined);
    throw error;
  }
}

function inUse(directory: string, { owner }: FoundLock): Fault {
  const holder = owner ? `process ${owner.pid} on host ${owner.host} since ${owner.since}` : 'another process';
  const advice = 'stop the other process, or choose another --data for this one';
  return new Fault(
    'DIRECTORY_IN_USE',
    `the data directory ${resolve(directory)} is in use by ${holder}: ${advice}`,
    true,
  );
}
