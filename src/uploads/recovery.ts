import { type EndObserver, reportLoss } from '../delivery/report.js';
import { Fault } from '../model/fault.js';
import { type Chunk, PLAIN_DIALECT, type Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import { areContiguous, isGivenName } from '../spool/chunk-name.js';
import { ACKNOWLEDGED, type Spool, type SpooledChunk } from '../spool/spool.js';
import type { Lease, Leases } from '../store/leases.js';
import {
  type RecoveryDecision,
  everyUpload,
  type RecoveredRecord,
  isStoreUnavailable,
  type UploadStore,
} from '../store/upload-store.js';
import type { UnreadableBytes, UnrecordedBytes } from './unknown-bytes.js';

export interface RecoveryDeps extends EndObserver {
  readonly store: UploadStore;
  readonly leases: Leases;
  readonly spool: Spool;
  /** Collects the uploads that a failing disk keeps from being recovered. */
  readonly unreadable: UnreadableBytes;
  /**
   * Marks an upload as given up and keeps its remaining bytes; false when it needs no bytes any more. Missing for
   * stores that cannot do this: there the upload is invalidated and removed.
   */
  readonly giveUpLost?: (id: string) => Promise<boolean>;
  /** Collects uploads in the spool that have no record; missing if the cleanup alone deals with them. */
  readonly unrecorded?: UnrecordedBytes;
  /**
   * Whether the last line of the record was damaged, so uncounted files may belong to it; missing if the store cannot
   * tell.
   */
  readonly hasLostLine?: (id: string) => boolean;
}

type Files = ReadonlyMap<string, number>;

const MISSING = 'committed bytes are missing from the spool, or do not join';

/**
 * Reconciles records and bytes after a crash, before the first request, in a spool that no other process uses. Records
 * with missing or disjoint bytes are given up, never shortened; uncommitted bytes are removed, because the disk may not
 * have them. Files without a record are reported and left to the cleanup, and an upload with a disk fault does not hold
 * up the others.
 */
export async function recover(deps: RecoveryDeps): Promise<void> {
  const spooled = new Map<string, readonly SpooledChunk[]>();
  for await (const { id, files } of spooledUploads(deps.spool, deps.unreadable.noteUnrecovered)) spooled.set(id, files);
  for (const { id } of await deps.store.setAsideRecords()) spooled.delete(id);
  for await (const upload of everyUpload(deps.store)) {
    const sizes = sizesOf(spooled.get(upload.id) ?? []);
    spooled.delete(upload.id);
    if (deps.unreadable.has(upload.id)) continue;
    if (upload.phase === 'receiving') await noteFault(upload.id, deps, () => recoverIfNeeded(upload, sizes, deps));
    else await noteFault(upload.id, deps, () => giveUpIfIncomplete(upload, sizes, deps));
  }
  for (const [id, files] of spooled) deps.unrecorded?.note(id, files);
  deps.unrecorded?.logAll();
}

/**
 * As `recover`, for one of many nodes that share a store but not this spool: only uploads in the spool are checked.
 * Files of uploads on other nodes are left to the cleanup, since they may just be arriving.
 */
export async function recoverNode(deps: RecoveryDeps, node: string): Promise<void> {
  for await (const { id, files } of spooledUploads(deps.spool, deps.unreadable.noteUnrecovered))
    await noteFault(id, deps, () => recoverOne(id, files, deps, node));
}

/** Recovers one upload, as `recover` and `recoverNode` do. Rejects with a `Fault` when that is not possible now. */
export async function recoverOne(
  id: string,
  files: readonly SpooledChunk[],
  deps: RecoveryDeps,
  node?: string,
): Promise<void> {
  const upload = await deps.store.get(id);
  if (!upload) deps.unrecorded?.note(id, files);
  if (upload?.node !== node) return;
  if (upload?.phase === 'receiving') await recoverReceiving(upload, sizesOf(files), deps);
  else if (upload) await giveUpIfIncomplete(upload, sizesOf(files), deps);
}

/**
 * Recovers an upload whose record could not be read until now. Its record is not visible yet, so nobody has a lease on
 * it. Returns the next step for the record.
 */
export async function recoverRecord(
  { upload, chunks, hasLostLine }: RecoveredRecord,
  deps: Omit<RecoveryDeps, 'store' | 'leases' | 'unreadable'>,
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
async function noteFault(id: string, { unreadable }: RecoveryDeps, task: () => Promise<void>): Promise<void> {
  try {
    await task();
  } catch (error) {
    if (!(error instanceof Fault) || isStoreUnavailable(error)) throw error;
    unreadable.noteUnrecovered(id, error);
  }
}

async function recoverIfNeeded(upload: Upload, files: Files, deps: RecoveryDeps): Promise<void> {
  const chunks = await deps.store.chunks(upload.id);
  const counted = new Set([ACKNOWLEDGED, ...chunks.map(({ name }) => name)]);
  // An intact upload is left alone: its record need not be synced before a client asks for it.
  const isResumable = upload.dialect !== PLAIN_DIALECT;
  if (isResumable && hasAllBytes(chunks, upload, files) && [...files.keys()].every((name) => counted.has(name))) return;
  await recoverReceiving(upload, files, deps);
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
    if (!deps.hasLostLine?.(upload.id)) await removeUncounted(upload.id, chunks, files, spool);
  } finally {
    await lease.release();
  }
}

async function removeUncounted(id: string, chunks: readonly Chunk[], files: Files, spool: Spool): Promise<void> {
  const counted = new Set(chunks.map(({ name }) => name));
  for (const name of files.keys()) if (isGivenName(name) && !counted.has(name)) await spool.removeChunk(id, name);
}

/**
 * Gives up a complete upload with missing bytes before its delivery notices, since that would remove the remaining
 * bytes; the missing ones may still come back from a backup.
 */
async function giveUpIfIncomplete(upload: Upload, files: Files, deps: RecoveryDeps): Promise<void> {
  const { store, spool, giveUpLost } = deps;
  if (!giveUpLost || !needsBytes(upload)) return;
  const chunks = await store.chunks(upload.id);
  if (hasAllBytes(chunks, upload, files)) return;
  if (hasAllBytes(chunks, upload, await lookUpMissing(upload.id, chunks, files, spool))) return;
  if (await giveUpLost(upload.id)) reportLoss(upload, MISSING, deps);
}

function needsBytes({ phase }: Upload): boolean {
  return phase === 'complete' || phase === 'delivering' || phase === 'undelivered';
}

async function giveUp(upload: Upload, { token }: Lease, deps: RecoveryDeps): Promise<void> {
  const { store, spool, giveUpLost } = deps;
  const isGivenUp = giveUpLost
    ? await giveUpLost(upload.id)
    : typeof (await store.invalidate(upload.id, token, 'lost')) !== 'string';
  if (!isGivenUp) return;
  reportLoss(upload, MISSING, deps);
  if (!giveUpLost) await spool.remove(upload.id);
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

async function removeCutOffBytes({ id }: Upload, { spool, log }: Pick<RecoveryDeps, 'spool' | 'log'>) {
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
