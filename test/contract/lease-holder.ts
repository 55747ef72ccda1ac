import type { Lease } from '../../src/store/leases.js';
import type { Commit } from '../../src/store/upload-store.js';
import { HOUR } from './sample-upload.js';

/** Fulfilled with what the holder is told, when it is. */
export function told(lease: Lease): Promise<unknown> {
  if (lease.signal.aborted) return Promise.resolve(lease.signal.reason);
  return new Promise((resolve) => lease.signal.addEventListener('abort', () => resolve(lease.signal.reason)));
}

/** What the holder commits of its own chunk. */
export function commitOf(lease: Lease, size: number, start = 0): Commit {
  return {
    token: lease.token,
    chunk: { name: `chunk-${lease.token}`, start, size },
    expiresAt: Date.now() + HOUR,
  };
}
