import { join, resolve } from 'node:path';
import { DirectorySync } from '../../disk/directory-sync.js';
import { stat, unlinkIfThere, utimes } from '../../disk/files.js';
import { hasCode, storageFault } from '../../disk/storage-fault.js';
import { Fault } from '../../model/fault.js';
import { acquire, clearRemains, type FoundLock, type Patience } from './lock-file.js';
import { thisOwner, type LockOwner } from './lock-owner.js';

export interface DirectoryLockOptions extends Partial<Patience> {
  /** Who takes the lock; this process unless said otherwise. */
  readonly owner?: LockOwner;
}

/**
 * Keeps two processes from sharing a data directory by mistake. A lock whose owner was killed is taken over at once
 * where its death can be proved, and after its heartbeat has stopped where not.
 */
export class DirectoryLock {
  private readonly beats: NodeJS.Timeout;
  private readonly loss = new AbortController();
  private beating: Promise<void> | undefined;

  private constructor(
    private readonly path: string,
    private readonly inode: number,
    heartbeatMs: number,
  ) {
    this.beats = setInterval(() => this.beat(), heartbeatMs).unref();
  }

  /** Fails with `DIRECTORY_IN_USE` when another process holds it. */
  static async take(directory: string, options: DirectoryLockOptions = {}): Promise<DirectoryLock> {
    const { heartbeatMs = 2000, staleMs = 10_000, owner = await thisOwner() } = options;
    const path = join(directory, 'lock');
    try {
      await new DirectorySync('group').make(directory);
      const holder = await acquire(path, owner, { heartbeatMs, staleMs });
      if (holder) throw inUse(directory, holder);
      await clearRemains(path);
      const { ino } = await stat(path);
      return new DirectoryLock(path, ino, heartbeatMs);
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
    try {
      if (await this.isOurs()) await unlinkIfThere(this.path);
    } catch (error) {
      throw storageFault(error, 'the data directory cannot be unlocked');
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
    if (await this.isOurs()) return utimes(this.path, new Date(), new Date());
    clearInterval(this.beats);
    this.loss.abort();
  }

  private async isOurs(): Promise<boolean> {
    try {
      return (await stat(this.path)).ino === this.inode;
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return false;
      throw error;
    }
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
