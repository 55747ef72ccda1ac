import { basename, dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { close, fstat, link, open, readAll, readdir, unlinkIfThere, writeNew } from '../../disk/files.js';
import { type LockOwner, lockRemains, lockText, parseOwner } from '../../disk/lock-text.js';
import { hasCode, isNoRoom } from '../../disk/storage-fault.js';
import { judge } from './lock-owner.js';
import { bootedAt } from './machine.js';

/** How silence is read where nothing can be proved: in another container, or on another machine. */
export interface Patience {
  readonly heartbeatMs: number;
  /** An owner whose heartbeat is older than this is dead. */
  readonly staleMs: number;
}

/** A lock as it was found. */
export interface FoundLock {
  /** Undefined for a file that is no lock, or is still being written. */
  readonly owner?: LockOwner;
  /** Tells this lock from every other one. */
  readonly key: string;
  readonly inode: number;
  readonly beatAt: number;
}

/** Makes the lock file, breaking one whose owner is dead. Gives the lock that stands in the way, if any, and then writes nothing. */
export async function acquire(path: string, self: LockOwner, patience: Patience): Promise<FoundLock | undefined> {
  for (;;) {
    const found = await look(path);
    if (!found) {
      if (await place(path, self)) return undefined;
      continue;
    }
    const verdict = found.owner ? await judge(found.owner, self) : 'unknown';
    const isHeld = verdict === 'unknown' ? await showsLife(path, found, self, patience) : verdict === 'alive';
    if (isHeld) return found;
    const breaker = await breakLock(path, found, self, patience);
    if (breaker) return breaker;
  }
}

export async function look(path: string): Promise<FoundLock | undefined> {
  try {
    const fd = await open(path, 'r');
    try {
      const { ino, mtimeMs, birthtimeMs } = await fstat(fd);
      const owner = parseOwner((await readAll(fd)).toString());
      return { owner, key: owner?.nonce ?? `${ino}-${birthtimeMs}`, inode: ino, beatAt: mtimeMs };
    } finally {
      await close(fd);
    }
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** Removes the files that breaking and making locks leave behind when it is killed; harmless, since no key ever comes again. */
export async function clearRemains(path: string): Promise<void> {
  const remains = lockRemains(basename(path));
  for (const name of await readdir(dirname(path)))
    if (remains.test(name)) await unlinkIfThere(join(dirname(path), name));
}

/** The file appears with its content or not at all, so nobody ever reads half a lock. */
async function place(path: string, self: LockOwner): Promise<boolean> {
  const text = lockText(self);
  const temporary = `${path}.${self.nonce}.tmp`;
  // On a full disk it is a lock all the same: who has it is not said then, but its heartbeat shows that somebody has.
  await writeNew(temporary, text).catch((error: unknown) => {
    if (!isNoRoom(error)) throw error;
  });
  try {
    await link(temporary, path);
    return true;
  } catch (error) {
    // ENOENT: a starter that got the lock has cleared ours away.
    if (hasCode(error, 'EEXIST', 'ENOENT')) return false;
    if (!hasCode(error, 'EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK')) throw error;
    return await placeWithoutLink(path, text);
  } finally {
    await unlinkIfThere(temporary);
  }
}

/** For file systems without hard links; a half-written lock is left alone while it is fresh. */
async function placeWithoutLink(path: string, text: string): Promise<boolean> {
  try {
    await writeNew(path, text);
    return true;
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return false;
    throw error;
  }
}

/**
 * Whether the clock says how old the owner's last beat is. A name is no machine: a container that was moved to another one
 * keeps it. On this machine the clock may have been set since the lock was taken, which a living owner survives. Of another
 * boot it can only be an earlier run of this machine where its last beat is from before this one began.
 */
function isOfOurClock({ owner, beatAt }: FoundLock, self: LockOwner): boolean {
  if (owner?.host !== self.host) return false;
  const startedAt = bootedAt();
  if (owner.boot !== self.boot) return beatAt < startedAt;
  return owner.bootedAt !== undefined && Math.abs(owner.bootedAt - startedAt) < UNSURE_MS;
}

/** Two readings of the clock and of the machine's age are not of one moment. */
const UNSURE_MS = 1000;

/**
 * Waits for a heartbeat. On one machine the clock says how long it has been silent already; another machine's clock may
 * be wrong, so there it must stay silent while we watch.
 */
async function showsLife(path: string, found: FoundLock, self: LockOwner, patience: Patience): Promise<boolean> {
  const { heartbeatMs, staleMs } = patience;
  const silent = staleMs - (Date.now() - found.beatAt);
  const least = isOfOurClock(found, self) ? 0 : heartbeatMs * 2.5;
  let left = Math.min(Math.max(silent, least), staleMs);
  for (; left > 0; left -= heartbeatMs / 8) {
    await delay(heartbeatMs / 8);
    const now = await look(path);
    // Without a time of birth the key of a lock that does not say whose it is changes with each beat.
    const isSame = now?.key === found.key || (now?.inode === found.inode && !now.owner);
    if (!now || !isSame) return false;
    if (now.beatAt !== found.beatAt) return true;
  }
  return false;
}

/**
 * Removes a dead owner's lock. Two starters that both found it dead must not remove each other's new one: only who
 * holds a second lock, named after the dead one, may do it, and looks again first. So does an owner that ends, since it may
 * have stood still and have been taken for dead. Gives the lock of whoever is doing the same right now.
 */
export async function breakLock(
  path: string,
  dead: FoundLock,
  self: LockOwner,
  patience: Patience,
): Promise<FoundLock | undefined> {
  const guard = `${path}.${dead.key}.breaking`;
  const other = await acquire(guard, self, patience);
  if (other) return other;
  try {
    if ((await look(path))?.key === dead.key) await unlinkIfThere(path);
  } finally {
    await unlinkIfThere(guard);
  }
  return undefined;
}
