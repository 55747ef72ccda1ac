import { Fault } from '../model/fault.js';
import type { Upload } from '../model/upload.js';
import { type Log, uploadTag } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { Leases } from '../store/lease.js';
import type { UploadStore } from '../store/upload-store.js';

export interface ForgetNodeRooms {
  /** The one that is gone. */
  readonly node: string;
  /** Asked before each upload: it may come back at any moment, with all its bytes. */
  readonly isStillGone: () => Promise<boolean>;
  /** As the node that is gone would see it: it names that node's uploads. */
  readonly store: UploadStore;
  readonly leases: Leases;
  /** Takes what needs no bytes of the node that is gone. */
  readonly heir: string;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** Later than every upload's end. */
const WHENEVER = Number.MAX_SAFE_INTEGER;

/**
 * Ends the uploads of a node that will not come back with its bytes: from then on they are unknown. An answer that is kept
 * in its record needs no bytes, and is still given. Gives how many are gone. May be broken off, and done again; fails with a
 * `Fault` where one has changed meanwhile.
 */
export async function forgetNode(rooms: ForgetNodeRooms): Promise<number> {
  const seen = new Set<string>();
  let gone = 0;
  for (let ids = await unseen(rooms, seen); ids.length > 0; ids = await unseen(rooms, seen))
    for (const id of ids) {
      if (!(await rooms.isStillGone())) return gone;
      if (await forget(id, rooms)) gone += 1;
    }
  return gone;
}

async function unseen({ store }: ForgetNodeRooms, seen: Set<string>): Promise<string[]> {
  const ids = (await store.expired(WHENEVER)).filter((id) => !seen.has(id));
  for (const id of ids) seen.add(id);
  return ids;
}

async function forget(id: string, { node, store, leases, heir, metrics, log }: ForgetNodeRooms): Promise<boolean> {
  const lease = await leases.take(id, 'to-end');
  try {
    const upload = await store.get(id);
    if (upload?.node !== node) return false;
    if (isKeptInRecord(upload)) {
      assertDone(await store.move(id, lease.token, heir));
      return false;
    }
    if (upload.phase === 'receiving') assertDone(await store.invalidate(id, lease.token));
    log.error({ upload: uploadTag(id), phase: upload.phase }, 'an upload is given up: its node is gone with its bytes');
    if (upload.phase !== 'answered' && upload.phase !== 'undelivered') metrics.uploadEnded('invalid');
    await store.remove(id);
    return true;
  } finally {
    await lease.release();
  }
}

/** Whoever stood still under its lease must not end what others go on with, perhaps at that node, which is back. */
function assertDone(result: Upload | 'stale' | 'gone'): void {
  if (typeof result === 'string')
    throw new Fault('STORE_UNAVAILABLE', 'an upload of a node that is gone has changed meanwhile', true);
}

function isKeptInRecord({ phase, answer }: Upload): boolean {
  return phase === 'answered' && (answer?.bodySize === 0 || answer?.body.in === 'record');
}
