import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { PeriodicTask } from '../../concurrency/periodic-task.js';
import { DirectorySync } from '../../fs/directory-sync.js';
import {
  close,
  fstat,
  hasCode,
  isOutOfSpace,
  link,
  open,
  readAll,
  readdir,
  storageFault,
  unlinkIfExists,
  utimes,
  createFile,
} from '../../fs/files.js';
import { type LockOwner, lockLeftoverPattern, lockText, parseOwner } from '../../fs/lock-owner.js';
import { Fault } from '../../model/fault.js';
import { bootedAt, bootId, pidNamespace, processStart } from './boot.js';

/** The clock and the machine's uptime are not read at the same moment. */
const CLOCK_TOLERANCE_MS = 1000;

export interface DirectoryLockOptions extends Partial<StaleLimits> {
  /** The owner that takes the lock; this process by default. */
  readonly owner?: LockOwner;
}

interface OwnLock {
  readonly owner: LockOwner;
  readonly inode: number;
  /** Stays open, so that the file system does not reuse the inode number. */
  readonly fd: number;
}

/**
 * Keeps two processes from using one data directory. A killed owner's lock is taken over immediately where its death
 * can be proved, and otherwise after its heartbeat has stopped.
 * Reasons: docs/decisions/0006.
 */
export class DirectoryLock {
  private readonly heartbeat: PeriodicTask;
  private readonly lossController = new AbortController();
  private isReleased = false;

  private constructor(
    private readonly path: string,
    private readonly own: OwnLock,
    private readonly staleLimits: StaleLimits,
  ) {
    this.heartbeat = new PeriodicTask(() => this.sendHeartbeat(), staleLimits.heartbeatMs);
    this.heartbeat.start();
  }

  /** Rejects with `DIRECTORY_IN_USE` when another process holds the lock. */
  static async take(directory: string, options: DirectoryLockOptions = {}): Promise<DirectoryLock> {
    const { heartbeatMs = 2000, staleMs = 10_000, owner = await thisOwner() } = options;
    const path = join(directory, 'lock');
    try {
      await new DirectorySync('group').makeDirectory(directory);
      const staleLimits = { heartbeatMs, staleMs };
      const holder = await acquire(path, owner, staleLimits);
      if (holder) throw inUse(directory, holder);
      await removeLeftovers(path);
      return new DirectoryLock(path, { owner, ...(await openOwnLock(path)) }, staleLimits);
    } catch (error) {
      throw storageFault(error, `the data directory ${resolve(directory)} cannot be locked`);
    }
  }

  /**
   * Aborted when the lock is no longer ours, because this process was suspended for so long that another considered it
   * dead. The process must then stop immediately.
   */
  get lost(): AbortSignal {
    return this.lossController.signal;
  }

  async release(): Promise<void> {
    await this.heartbeat.stop();
    if (this.isReleased) return;
    this.isReleased = true;
    try {
      const found = await this.findOwn();
      if (found) await breakLock(this.path, found, this.own.owner, this.staleLimits);
    } catch (error) {
      throw storageFault(error, 'the data directory cannot be unlocked');
    } finally {
      await close(this.own.fd).catch(() => undefined);
    }
  }

  private sendHeartbeat(): Promise<void> {
    return this.renew().catch(() => {
      // A disk that fails for a moment is no reason to give up, since others wait for several missed heartbeats.
    });
  }

  private async renew(): Promise<void> {
    if (await this.findOwn()) return utimes(this.path, new Date(), new Date());
    this.heartbeat.cancel();
    this.lossController.abort();
  }

  /**
   * The lock file if it is still ours. The owner in it decides; in a file without one the inode number does, which
   * the file system does not reuse while the file is open.
   */
  private async findOwn(): Promise<FoundLock | undefined> {
    const { owner, inode } = this.own;
    const found = await readLock(this.path);
    const isOurs = found && (found.owner ? found.owner.nonce === owner.nonce : found.inode === inode);
    return isOurs ? found : undefined;
  }
}

async function openOwnLock(path: string): Promise<Pick<OwnLock, 'fd' | 'inode'>> {
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

/** The time limits for owners whose death cannot be proved: in another container, or on another machine. */
export interface StaleLimits {
  readonly heartbeatMs: number;
  /** An owner without a heartbeat for this long is dead. */
  readonly staleMs: number;
}

/** A lock file as it was read. */
export interface FoundLock {
  /** Undefined for a file that is not a lock or is still being written. */
  readonly owner?: LockOwner;
  /** Distinguishes this lock from every other one. */
  readonly key: string;
  readonly inode: number;
  readonly heartbeatAt: number;
}

/**
 * Creates the lock file and first breaks a dead owner's. Returns the lock of a living owner, if there is one, and then
 * writes nothing.
 */
async function acquire(path: string, self: LockOwner, staleLimits: StaleLimits): Promise<FoundLock | undefined> {
  for (;;) {
    const found = await readLock(path);
    if (!found) {
      if (await createLock(path, self)) return undefined;
      continue;
    }
    const state = found.owner ? await ownerState(found.owner, self) : 'unknown';
    const isHeld = state === 'unknown' ? await hasHeartbeat(path, found, self, staleLimits) : state === 'alive';
    if (isHeld) return found;
    const breaker = await breakLock(path, found, self, staleLimits);
    if (breaker) return breaker;
  }
}

async function readLock(path: string): Promise<FoundLock | undefined> {
  try {
    const fd = await open(path, 'r');
    try {
      const { ino, mtimeMs, birthtimeMs } = await fstat(fd);
      const owner = parseOwner((await readAll(fd)).toString());
      return { owner, key: owner?.nonce ?? `${ino}-${birthtimeMs}`, inode: ino, heartbeatAt: mtimeMs };
    } finally {
      await close(fd);
    }
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/**
 * Removes the files that a process leaves behind when it is killed while it makes or breaks a lock; safe, because no
 * key is used twice.
 */
async function removeLeftovers(path: string): Promise<void> {
  const pattern = lockLeftoverPattern(basename(path));
  for (const name of await readdir(dirname(path)))
    if (pattern.test(name)) await unlinkIfExists(join(dirname(path), name));
}

/**
 * Creates the lock file with its content or not at all, so that nobody reads half a lock. False if another process was
 * first.
 */
async function createLock(path: string, self: LockOwner): Promise<boolean> {
  const text = lockText(self);
  const draft = `${path}.${self.nonce}.tmp`;
  // On a full disk the lock is an empty file: it names no owner, but its heartbeat shows that there is one.
  await createFile(draft, text).catch((error: unknown) => {
    if (!isOutOfSpace(error)) throw error;
  });
  try {
    await link(draft, path);
    return true;
  } catch (error) {
    // ENOENT: another process got the lock and removed our draft.
    if (hasCode(error, 'EEXIST', 'ENOENT')) return false;
    if (!hasCode(error, 'EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK')) throw error;
    return await createLockWithoutLink(path, text);
  } finally {
    await unlinkIfExists(draft);
  }
}

/** For file systems without hard links; others leave a partly written lock alone while it is fresh. */
async function createLockWithoutLink(path: string, text: string): Promise<boolean> {
  try {
    await createFile(path, text);
    return true;
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return false;
    throw error;
  }
}

/**
 * Whether our clock tells how old the owner's last heartbeat is. The host name alone does not: a container that moves
 * to another machine keeps it. In the same boot the clock must not have been set since the lock was taken; from another
 * boot the lock is an earlier run's of this machine only if its last heartbeat is older than the current boot.
 */
function sharesOurClock({ owner, heartbeatAt }: FoundLock, self: LockOwner): boolean {
  if (owner?.host !== self.host) return false;
  const startedAt = bootedAt();
  if (owner.boot !== self.boot) return heartbeatAt < startedAt;
  return owner.bootedAt !== undefined && Math.abs(owner.bootedAt - startedAt) < CLOCK_TOLERANCE_MS;
}

/**
 * Waits for a heartbeat. On the same machine the clock says how long the owner has been silent; another machine's
 * clock may be wrong, so there the owner must stay silent while we watch.
 */
async function hasHeartbeat(
  path: string,
  found: FoundLock,
  self: LockOwner,
  staleLimits: StaleLimits,
): Promise<boolean> {
  const { heartbeatMs, staleMs } = staleLimits;
  const untilStaleMs = staleMs - (Date.now() - found.heartbeatAt);
  const minWatchMs = sharesOurClock(found, self) ? 0 : heartbeatMs * 2.5;
  let remainingMs = Math.min(Math.max(untilStaleMs, minWatchMs), staleMs);
  for (; remainingMs > 0; remainingMs -= heartbeatMs / 8) {
    await delay(heartbeatMs / 8);
    const current = await readLock(path);
    // Without a birth time the key of a lock without an owner changes with each heartbeat.
    const isSame = current?.key === found.key || (current?.inode === found.inode && !current.owner);
    if (!current || !isSame) return false;
    if (current.heartbeatAt !== found.heartbeatAt) return true;
  }
  return false;
}

/**
 * Removes the lock of a dead owner, or our own. Two processes that both found it dead must not remove each other's new
 * lock: only the holder of a second lock, named after the dead one, removes it, after checking again. An owner that
 * releases does the same, since it may have been suspended and considered dead. Returns the second lock when another
 * process holds that.
 */
async function breakLock(
  path: string,
  dead: FoundLock,
  self: LockOwner,
  staleLimits: StaleLimits,
): Promise<FoundLock | undefined> {
  const guard = `${path}.${dead.key}.breaking`;
  const other = await acquire(guard, self, staleLimits);
  if (other) return other;
  try {
    if ((await readLock(path))?.key === dead.key) await unlinkIfExists(path);
  } finally {
    await unlinkIfExists(guard);
  }
  return undefined;
}

/** This process as the owner of a lock. */
export async function thisOwner(): Promise<LockOwner> {
  return {
    nonce: randomBytes(12).toString('hex'),
    pid: process.pid,
    processStart: await processStart(process.pid),
    pidNamespace: await pidNamespace(),
    boot: await bootId(),
    bootedAt: bootedAt(),
    host: hostname(),
    since: new Date().toISOString(),
  };
}

/**
 * The state of the owner as far as it can be proved here. A process id is only valid within its namespace and boot. A
 * namespace's number is reused only after its processes have ended, so equal numbers prove enough. Another boot
 * proves nothing by itself, because machines may share the directory.
 */
async function ownerState(owner: LockOwner, self: LockOwner): Promise<'alive' | 'dead' | 'unknown'> {
  if (owner.boot !== self.boot || owner.pidNamespace !== self.pidNamespace) return 'unknown';
  if (owner.boot === undefined && owner.host !== self.host) return 'unknown';
  if (!isRunning(owner.pid)) return 'dead';
  const start = await processStart(owner.pid);
  if (start === undefined || owner.processStart === undefined) return 'unknown';
  return start === owner.processStart ? 'alive' : 'dead';
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: the process runs as another user.
    return !hasCode(error, 'ESRCH');
  }
}
