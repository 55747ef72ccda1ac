import { forEachOf } from '../concurrency/in-order.js';
import { type EndObserver, reportLoss } from '../delivery/report.js';
import { Fault } from '../model/fault.js';
import { type Chunk, PLAIN_DIALECT, type Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import { areContiguous, isGivenName } from '../spool/chunk-name.js';
import type { Spool, SpooledChunk } from '../spool/spool.js';
import type { Lease, Leases } from '../store/leases.js';
import {
  type RecoveryDecision,
  type RecoveredRecord,
  isStoreUnavailable,
  type UploadStore,
} from '../store/upload-store.js';
import type { UnreadableBytes, UnrecordedBytes } from './unknown-bytes.js';

/** What the recovery of a spool needs. */
interface SpoolRecoveryDeps extends EndObserver {
  readonly spool: Spool;
  /** Collects the uploads that a failing disk keeps from being recovered. */
  readonly unreadable: UnreadableBytes;
}

/** A store that has each record from before the start compared with its bytes before it is shown. */
interface RecoveringStore {
  recoverWith(recover: (found: RecoveredRecord) => Promise<RecoveryDecision>): void;
  /** Notes that the spool has a directory of this upload; false if the upload is unknown. */
  noteSpooled(id: string): boolean;
}

export interface OwnRecoveryDeps extends SpoolRecoveryDeps {
  readonly store: RecoveringStore;
  /** Collects uploads in the spool that have no record. */
  readonly unrecorded: UnrecordedBytes;
}

export interface RecoveryDeps extends SpoolRecoveryDeps {
  readonly store: UploadStore;
  readonly leases: Leases;
}

type Files = ReadonlyMap<string, number>;

const MISSING = 'committed bytes are missing from the spool, or do not join';

/** As many directories without a record as are read at the same time. */
const MAX_READS = 16;

/**
 * Prepares the recovery after a crash, before the first request, for a spool that no other process uses. Each upload is
 * recovered when it is first used (see `recoverRecord`), or when the store recovers those that nobody has used. Files
 * without a record are reported and left to the cleanup.
 */
export async function recover(deps: OwnRecoveryDeps): Promise<void> {
  const { store, spool, unrecorded, unreadable } = deps;
  store.recoverWith((found) => recoverRecord(found, deps));
  const unknown: string[] = [];
  for await (const id of spool.ids()) if (!store.noteSpooled(id)) unknown.push(id);
  await forEachOf(unknown, MAX_READS, (id) =>
    noteFault(id, unreadable, async () => unrecorded.note(id, await spool.filesOf(id))),
  );
  unrecorded.logAll();
}

/**
 * Recovers the uploads in the spool of one of many nodes that share a store. Records with missing or disjoint bytes are
 * given up, never shortened; uncommitted bytes are removed, because the disk may not have them. Files of uploads on other
 * nodes are left to the cleanup, since they may just be arriving. An upload with a disk fault does not hold up the
 * others.
 */
export async function recoverNode(deps: RecoveryDeps, node: string): Promise<void> {
  const { spool, unreadable } = deps;
  for await (const { id, files } of spooledUploads(spool, unreadable.noteUnrecovered))
    await noteFault(id, unreadable, () => recoverOne(id, files, deps, node));
}

/** Recovers one upload, as `recoverNode` does. Rejects with a `Fault` when that is not possible now. */
export async function recoverOne(
  id: string,
  files: readonly SpooledChunk[],
  deps: RecoveryDeps,
  node: string,
): Promise<void> {
  const upload = await deps.store.get(id);
  if (upload?.node === node && upload.phase === 'receiving') await recoverReceiving(upload, sizesOf(files), deps);
}

/**
 * Reconciles the record of one upload with its bytes. Missing or disjoint bytes end the upload, before a delivery notices
 * and removes the others: the missing ones may still come back from a backup. Uncommitted bytes are removed. The record is
 * not visible yet, so nobody has a lease on it. Returns the next step for the record.
 */
async function recoverRecord(
  { upload, chunks, hasLostLine }: RecoveredRecord,
  deps: Pick<OwnRecoveryDeps, 'spool' | 'log' | 'metrics' | 'clock'>,
): Promise<RecoveryDecision> {
  const { spool } = deps;
  if (upload.phase === 'receiving' && upload.dialect === PLAIN_DIALECT) {
    await removeCutOffBytes(upload, deps);
    return 'remove';
  }
  if (upload.phase !== 'receiving' && !needsBytes(upload)) return 'show';
  const files = sizesOf(await spool.filesOf(upload.id));
  if (!hasAllBytes(chunks, upload, await lookUpMissing(upload.id, chunks, files, spool))) {
    reportLoss(upload, MISSING, deps);
    return 'give-up';
  }
  if (upload.phase === 'receiving' && !hasLostLine) await removeUncounted(upload.id, chunks, files, spool);
  return 'show';
}

/** Notes a fault of the disk, so that the other uploads are still recovered. An unavailable store is left to the caller. */
async function noteFault(id: string, unreadable: UnreadableBytes, task: () => Promise<void>): Promise<void> {
  try {
    await task();
  } catch (error) {
    if (!(error instanceof Fault) || isStoreUnavailable(error)) throw error;
    unreadable.noteUnrecovered(id, error);
  }
}

async function recoverReceiving(known: Upload, files: Files, deps: RecoveryDeps): Promise<void> {
  const { store, leases, spool } = deps;
  const lease = await leases.take(known.id, 'to-end');
  try {
    const upload = await store.get(known.id);
    if (upload?.phase !== 'receiving' || upload.node !== known.node) return;
    if (upload.dialect === PLAIN_DIALECT) return await removeCutOff(upload, deps);
    const chunks = await store.chunks(upload.id);
    if (!hasAllBytes(chunks, upload, await lookUpMissing(upload.id, chunks, files, spool)))
      return await giveUp(upload, lease, deps);
    await removeUncounted(upload.id, chunks, files, spool);
  } finally {
    await lease.release();
  }
}

async function removeUncounted(id: string, chunks: readonly Chunk[], files: Files, spool: Spool): Promise<void> {
  const counted = new Set(chunks.map(({ name }) => name));
  for (const name of files.keys()) if (isGivenName(name) && !counted.has(name)) await spool.removeChunk(id, name);
}

function needsBytes({ phase }: Upload): boolean {
  return phase === 'complete' || phase === 'delivering' || phase === 'undelivered';
}

async function giveUp(upload: Upload, { token }: Lease, deps: RecoveryDeps): Promise<void> {
  if (typeof (await deps.store.invalidate(upload.id, token, 'lost')) === 'string') return;
  reportLoss(upload, MISSING, deps);
  await deps.spool.remove(upload.id);
}

/** Looks for missing files by name, because a listing may leave some out. */
async function lookUpMissing(id: string, chunks: readonly Chunk[], files: Files, spool: Spool): Promise<Files> {
  const sizes = new Map(files);
  for (const { name, size } of chunks)
    if ((files.get(name) ?? 0) < size) sizes.set(name, (await spool.size(id, name)) ?? 0);
  return sizes;
}

/** Whether the files contain every committed byte, and the chunks join up to the offset. */
function hasAllBytes(chunks: readonly Chunk[], { offset }: Upload, files: Files): boolean {
  const { start, size } = chunks.at(-1) ?? { start: 0, size: 0 };
  const isAll = (chunks[0]?.start ?? 0) === 0 && start + size === offset;
  return isAll && areContiguous(chunks) && chunks.every((chunk) => (files.get(chunk.name) ?? 0) >= chunk.size);
}

/** Removes an ordinary request whose body was cut off; its client cannot resume it. */
async function removeCutOff(upload: Upload, deps: RecoveryDeps): Promise<void> {
  await removeCutOffBytes(upload, deps);
  await deps.store.remove(upload.id, upload.clientKey);
}

async function removeCutOffBytes({ id }: Upload, { spool, log }: Pick<SpoolRecoveryDeps, 'spool' | 'log'>) {
  log.info({ upload: uploadTag(id) }, 'an ordinary request was cut off when the process ended; its bytes are removed');
  await spool.remove(id);
}

function sizesOf(files: readonly SpooledChunk[]): Files {
  return new Map(files.map(({ name, size }) => [name, size]));
}

/** All files of one upload in the spool. */
export interface SpooledUpload {
  readonly id: string;
  readonly files: readonly SpooledChunk[];
}

/** All files of a spool, grouped by upload; `onUnlisted` gets the uploads whose files cannot be listed. */
export async function* spooledUploads(
  spool: Pick<Spool, 'list'>,
  onUnlisted: (id: string, fault: Error) => void,
): AsyncGenerator<SpooledUpload> {
  let files: SpooledChunk[] = [];
  for await (const file of spool.list(onUnlisted)) {
    const before = files[0];
    if (before && before.id !== file.id) {
      yield { id: before.id, files };
      files = [];
    }
    files.push(file);
  }
  if (files[0]) yield { id: files[0].id, files };
}
