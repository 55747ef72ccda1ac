import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { LockOwner } from '../../disk/lock-text.js';
import { hasCode } from '../../disk/storage-fault.js';
import { bootedAt, bootId, pidNamespace, processStart } from './machine.js';

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
 * Whether the owner lives, as far as it can be proved from here. A process id means something only in its own namespace
 * and boot. A namespace's number can come again once the namespace has ended, but then its processes have ended too, so
 * equal numbers prove enough. Another boot proves nothing by itself: machines may share the directory.
 */
export async function judge(owner: LockOwner, self: LockOwner): Promise<'alive' | 'dead' | 'unknown'> {
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
    // EPERM: it runs, but belongs to somebody else.
    return !hasCode(error, 'ESRCH');
  }
}
