import { type EndEars, reportLoss, reportLostAnswer } from '../delivery/report.js';
import { Fault } from '../model/fault.js';
import type { Upload } from '../model/upload.js';
import type { Leases } from '../store/lease.js';
import { isAway } from '../store/until-available.js';
import type { UploadStore } from '../store/upload-store.js';

export interface ForgetNodeRooms extends EndEars {
  /** The one that is gone. */
  readonly node: string;
  /** Asked before each upload: it may come back at any moment, with all its bytes. */
  readonly isStillGone: () => Promise<boolean>;
  /** As the node that is gone would see it: it names that node's uploads. */
  readonly store: UploadStore;
  readonly leases: Leases;
  /** Takes what needs no bytes of the node that is gone. */
  readonly heir: string;
}

const GONE = 'its node is gone with its bytes';

/** Later than every upload's end. */
const WHENEVER = Number.MAX_SAFE_INTEGER;

/**
 * Ends the uploads of a node that will not come back with its bytes: from then on they are unknown. An answer that is kept
 * in its record needs no bytes, and is still given. Gives how many are gone. May be broken off, and done again; fails with a
 * `Fault` where one has changed meanwhile, and, after all others, where one cannot be ended.
 */
export async function forgetNode(rooms: ForgetNodeRooms): Promise<number> {
  const seen = new Set<string>();
  let gone = 0;
  let failure: Fault | undefined;
  for (let ids = await unseen(rooms, seen); ids.length > 0; ids = await unseen(rooms, seen))
    for (const id of ids) {
      if (!(await rooms.isStillGone())) return gone;
      try {
        if (await forget(id, rooms)) gone += 1;
      } catch (fault) {
        if (!(fault instanceof Fault) || isAway(fault)) throw fault;
        failure ??= fault;
      }
    }
  if (failure) throw failure;
  return gone;
}

async function unseen({ store }: ForgetNodeRooms, seen: Set<string>): Promise<string[]> {
  const ids = (await store.expired(WHENEVER)).filter((id) => !seen.has(id));
  for (const id of ids) seen.add(id);
  return ids;
}

async function forget(id: string, rooms: ForgetNodeRooms): Promise<boolean> {
  const { node, store, leases, heir } = rooms;
  const lease = await leases.take(id, 'to-end');
  try {
    const upload = await store.get(id);
    if (upload?.node !== node) return false;
    if (isKeptInRecord(upload)) {
      assertDone(await store.move(id, lease.token, heir));
      return false;
    }
    const { phase } = upload;
    if (phase === 'receiving') assertDone(await store.invalidate(id, lease.token, 'lost'));
    else if (phase !== 'answered') await store.lose(id);
    if (phase === 'answered') reportLostAnswer(upload, GONE, rooms);
    else if (phase !== 'cancelled' && phase !== 'invalid') reportLoss(upload, GONE, rooms);
    await store.remove(id, upload.clientKey);
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
