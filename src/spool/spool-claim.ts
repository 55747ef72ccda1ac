import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DirectorySync } from '../fs/directory-sync.js';
import {
  isOutOfSpace,
  opendir,
  withReadRetries,
  readdir,
  readText,
  removeDrafts,
  removeIfEmpty,
  rename,
  stat,
  storageFault,
  undefinedIfMissing,
  unlinkIfExists,
  withDraft,
  writeFully,
} from '../fs/files.js';
import { Fault } from '../model/fault.js';
import { isGeneratedId } from '../model/upload-id.js';
import type { Log } from '../observe/log.js';
import { assertUsable, beginMark, completeMark, removeMarkDrafts } from './data-directory.js';
import type { DirectoryState } from './directory-rules.js';
import { markPath, writeSpoolMark, markRemedy } from './shared-directory.js';

export interface SpoolClaim {
  readonly directory: string;
  /** Nodes on other machines use the directory too. */
  readonly isShared: boolean;
  /** Other processes may start with the directory at the same time. */
  readonly startsConcurrently: boolean;
  readonly storeId: string;
  /** The store was created just now, so nobody can have used the spool with it. */
  readonly isNewStore: boolean;
  /**
   * Set when the start that created the store did not finish: the id in the spool's mark at that time, `''` without
   * one.
   */
  readonly unfinishedStartMark?: string | undefined;
  readonly log: Log;
}

/** Rejects when this store must not use the directory, which is better than losing uploads later. Changes nothing. */
export async function assertClaimable(claim: SpoolClaim): Promise<void> {
  const reason = refusalOf(await inspect(claim), claim);
  if (reason !== undefined) throw new Fault('CONTRACT_BROKEN', reason, false);
}

/**
 * Marks the directory as that of this Redis; rejects if it must not be. False if the disk is too full to change the
 * mark: the spool can be used, and `claimForStore` must be retried until it succeeds.
 * Reasons: docs/decisions/0026.
 */
export async function claimSpool(claim: SpoolClaim): Promise<boolean> {
  const { directory, storeId, log } = claim;
  const state = await inspect(claim);
  const reason = refusalOf(state, claim);
  if (reason !== undefined) throw new Fault('CONTRACT_BROKEN', reason, false);
  await removeMarkDrafts(useOf(claim));
  if (state.spoolMark === storeId && state.mark?.complete && state.mark.id === storeId) return true;
  try {
    if (!state.mark) await beginMark(useOf(claim), storeId);
    if (state.spoolMark !== storeId && hasForeignBytes(state)) {
      log.error({ data: directory }, FOREIGN_BYTES);
      await recordTakeover(directory, storeId);
    }
    // An equal mark is written again: a failed start may have left it unsynced.
    await writeSpoolMark(directory, storeId, randomUUID());
    // The mark in the spool decides, because operators can correct it; this one follows.
    await completeMark(useOf(claim), storeId);
    return true;
  } catch (error) {
    if (state.spoolMark === undefined || !lacksRoom(error as Error)) throw error;
    log.error({ code: 'STORAGE_FULL', data: directory, err: error }, NOT_MARKED);
    return false;
  }
}

function lacksRoom(error: Error): boolean {
  return (error instanceof Fault && error.code === 'STORAGE_FULL') || isOutOfSpace(error.cause);
}

/** Marks the directory for the data that running nodes have found in Redis after it lost its own. */
export async function claimForStore(directory: string, storeId: string): Promise<void> {
  await recordTakeover(directory, storeId);
  await writeSpoolMark(directory, storeId, randomUUID());
  await completeMark({ directory, store: 'redis', isShared: true }, storeId);
}

function useOf({ directory, isShared }: SpoolClaim) {
  return { directory, store: 'redis', isShared } as const;
}

/** Waits a moment for a process that has created the store and may be about to mark the spool. */
async function inspect(claim: SpoolClaim): Promise<DirectoryState> {
  const { storeId, startsConcurrently } = claim;
  for (let tries = 0; ; tries++) {
    const state = await assertUsable(useOf(claim));
    if (state.spoolMark === storeId || isMadeForSpool(state, claim) || !startsConcurrently || tries === MAX_CHECKS)
      return state;
    await sleep(CHECK_INTERVAL_MS);
  }
}

const MAX_CHECKS = 30;
const CHECK_INTERVAL_MS = 100;

/** Whether the store was created for a start with this spool, so it was not used with another one. */
function isMadeForSpool({ spoolMark }: DirectoryState, { isNewStore, unfinishedStartMark }: SpoolClaim): boolean {
  return isNewStore || unfinishedStartMark === (spoolMark ?? '');
}

function refusalOf(state: DirectoryState, claim: SpoolClaim): string | undefined {
  const { directory, isShared, storeId } = claim;
  const { mark, spoolMark, spool, records } = state;
  if (spoolMark === storeId) return undefined;
  if (records === 'filled') return recordsMessage(directory);
  if (spoolMark === undefined && mark?.complete) return spoolMissingMessage(directory, mark.id);
  if (spoolMark === undefined && spool === 'filled') return unmarkedMessage(directory, storeId);
  if (isMadeForSpool(state, claim) || !(isShared || hasForeignBytes(state))) return undefined;
  return mark?.id === storeId ? damagedMessage(directory, storeId) : otherStoreMessage(directory, isShared, storeId);
}

/** Whether the spool contains bytes of another store; either that store is lost, or this one is wrong. */
function hasForeignBytes({ spoolMark, spool }: DirectoryState): boolean {
  return spoolMark !== undefined && spool === 'filled';
}

function recordsMessage(directory: string): string {
  return `${directory} has records of the embedded store in uploads: choose another --data, or start it without \`store.type: redis\``;
}

const FOREIGN_BYTES =
  'the spool has bytes that belong to another Redis, and this one is empty: their uploads are lost. This is prevented by ' +
  'persistence (`appendonly yes` in the configuration of Redis). If this is the wrong Redis, database or store.prefix, ' +
  'correct it: the bytes are kept as long as an upload may live (the longest limits.max_age), and then removed';

const NOT_MARKED =
  'the disk of the data directory is too full to mark the spool for the Redis that it belongs to now: this is retried every ' +
  'second, and no orphaned files are removed until it succeeds';

function spoolMissingMessage(directory: string, id: string): string {
  return (
    `${directory}/spool is missing or is not the one that belongs to the rest of ${directory} (it has no .store): mount ` +
    `it, or copy the whole directory. If its bytes are permanently lost, ${markRemedy(directory, id)}`
  );
}

function unmarkedMessage(directory: string, storeId: string): string {
  return (
    `${directory} has bytes of uploads in spool, but not ${markPath(directory)}, which identifies their store: copy the whole ` +
    `directory. If they are those of this Redis, ${markRemedy(directory, storeId)}`
  );
}

function damagedMessage(directory: string, storeId: string): string {
  return (
    `${markPath(directory)} is damaged, or a start with another Redis did not finish: it names another store than ` +
    `rufh-proxy.json beside it, which says that the directory is that of this Redis. If it is, stop the nodes that use it for ` +
    `another store, and ${markRemedy(directory, storeId)}`
  );
}

function otherStoreMessage(directory: string, isShared: boolean, storeId: string): string {
  const how = isShared
    ? 'is not the directory that the other nodes of this Redis use: mount theirs, or choose another store.prefix'
    : 'holds the bytes of another Redis, or of another store.prefix: go back to that, or choose another --data';
  return `${directory} ${how}. If it is the right one, stop the nodes that use it for another store, and ${markRemedy(directory, storeId)}`;
}

/**
 * The directory of takeover notes. Each has the id of the store that took the spool over as its name, and lists the
 * uploads found.
 */
const TAKEOVERS = '.taken-over';
const DRAFT = /^\.draft-/;

/** Uploads that were in the spool when other stores took it over. */
export interface Takeovers {
  /** The ids of the uploads, whether the present store knows them or not. */
  readonly ids: ReadonlySet<string>;
  /** The time of the first takeover in milliseconds. */
  readonly since: number;
  /** The names of the notes that were read. */
  readonly notes: readonly string[];
}

/**
 * Durably lists the uploads in the spool when the store with this id takes it over from a lost one. Each takeover has a
 * file of its own, written once, so that forgetting an earlier one does not remove it.
 */
export function recordTakeover(directory: string, storeId: string): Promise<void> {
  return withFault(directory, async () => {
    const spool = join(directory, 'spool');
    const notes = join(spool, TAKEOVERS);
    const names = new DirectorySync('group');
    const known = await undefinedIfMissing(readdir(notes));
    if (!known?.includes(storeId)) {
      const ids = await uploadsIn(spool);
      if (ids.length === 0) return;
      await names.makeDirectory(notes);
      await removeDrafts(notes, DRAFT);
      await writeNote(notes, storeId, ids);
    }
    try {
      // A process that created the note may have been killed before it synced the name.
      await names.sync(notes);
      await names.sync(spool);
    } catch (error) {
      // The next try must not consider a name durable whose sync has failed.
      await unlinkIfExists(join(notes, storeId)).catch(() => undefined);
      await removeIfEmpty(notes).catch(() => undefined);
      throw error;
    }
  });
}

/** Undefined if the spool was never taken over, or all takeovers were forgotten. */
export function readTakeovers(directory: string): Promise<Takeovers | undefined> {
  return withFault(directory, async () => {
    const path = join(directory, 'spool', TAKEOVERS);
    const ids = new Set<string>();
    const notes: string[] = [];
    let since = Infinity;
    for (const name of (await undefinedIfMissing(readdir(path))) ?? []) {
      const text = DRAFT.test(name) ? undefined : await undefinedIfMissing(readText(join(path, name)));
      if (text === undefined) continue;
      const stats = await undefinedIfMissing(stat(join(path, name)));
      for (const id of text.split('\n')) if (isGeneratedId(id)) ids.add(id);
      notes.push(name);
      since = Math.min(since, stats?.mtimeMs ?? since);
    }
    return notes.length === 0 ? undefined : { ids, since, notes };
  });
}

/** Removes the notes that were read, and no newer ones. */
export function forgetTakeovers(directory: string, { notes }: Takeovers): Promise<void> {
  return withFault(directory, async () => {
    const path = join(directory, 'spool', TAKEOVERS);
    for (const name of notes) await unlinkIfExists(join(path, name));
    await removeIfEmpty(path);
  });
}

async function writeNote(notes: string, name: string, ids: readonly string[]): Promise<void> {
  const draft = join(notes, `.draft-${randomUUID()}`);
  await withDraft(draft, async () => {
    await writeFully(draft, Buffer.from(`${ids.join('\n')}\n`), true);
    await rename(draft, join(notes, name));
  });
}

async function uploadsIn(spool: string): Promise<string[]> {
  const ids: string[] = [];
  for await (const entry of await withReadRetries(() => opendir(spool)))
    if (entry.isDirectory() && isGeneratedId(entry.name)) ids.push(entry.name);
  return ids;
}

async function withFault<T>(directory: string, task: () => Promise<T>): Promise<T> {
  try {
    return await task();
  } catch (error) {
    throw storageFault(error, `the takeover of the spool in ${directory} cannot be noted or read`);
  }
}
