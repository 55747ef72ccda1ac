import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Fault } from '../model/fault.js';
import type { Log } from '../observe/log.js';
import { holdsUploads, noteSpoolIdentity, type SpoolIdentity, spoolIdentity } from './shared-directory.js';
import { wayBack } from './spool-use.js';

export interface SpoolClaim {
  readonly directory: string;
  /** Nodes on other machines use it too. */
  readonly shared: boolean;
  /** Other processes start on it at the same time. */
  readonly isOthersToo: boolean;
  readonly storeId: string;
  /** It was made just now: nobody can have used the spool with it. */
  readonly isNewStore: boolean;
  readonly log: Log;
}

/** A directory that is not the right one is better found out now than by a loss. */
export async function claimSpool(claim: SpoolClaim): Promise<void> {
  const { directory, shared, storeId, isNewStore, log } = claim;
  const identity = await identityOf(claim);
  if (identity === 'same') return;
  const isLoss = identity === 'other' && (await holdsUploads(directory));
  if (!isNewStore && (shared || isLoss))
    throw new Fault('CONTRACT_BROKEN', notThisStores(directory, shared, storeId), false);
  if (isLoss) log.error({ data: directory }, LOST);
  await noteSpoolIdentity(directory, storeId, randomUUID());
}

/** The process that has made the store may be about to say that this is its spool. */
async function identityOf({ directory, storeId, isOthersToo, isNewStore }: SpoolClaim): Promise<SpoolIdentity> {
  for (let tries = 0; ; tries++) {
    const identity = await spoolIdentity(directory, storeId);
    if (identity === 'same' || isNewStore || !isOthersToo || tries === MOST_LOOKS) return identity;
    await sleep(LOOK_AGAIN_MS);
  }
}

const MOST_LOOKS = 30;
const LOOK_AGAIN_MS = 100;

const LOST =
  'the spool has bytes that belong to another Redis, and this one is empty: their uploads are lost. This is prevented by ' +
  'persistence (`appendonly yes` in the configuration of Redis). If this is the wrong Redis, database or store.prefix, ' +
  'correct it within an hour, before the bytes are removed';

function notThisStores(directory: string, shared: boolean, storeId: string): string {
  const how = shared
    ? 'is not the directory that the other nodes of this Redis use: mount theirs, or choose another store.prefix'
    : 'holds the bytes of another Redis, or of another store.prefix: go back to that, or choose another --data';
  return `${directory} ${how}. If it is the right one, stop whoever uses it for another store, and ${wayBack(directory, storeId)}`;
}
