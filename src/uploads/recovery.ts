import { type EndObserver, reportLoss } from '../delivery/report.js';
import { Fault } from '../model/fault.js';
import { type Chunk, PLAIN_DIALECT, type Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import { areJoined, isGivenName } from '../spool/chunk-name.js';
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
  /** Takes what the disk keeps from being looked after. */
  readonly unreadable: UnreadableBytes;
  /**
   * Of a store that can show an upload as given up and keep what there is of it; else it is invalidated, and removed. False
   * when the upload needs no bytes any more.
   */
  readonly giveUpLost?: (id: string) => Promise<boolean>;
  /** Takes what is in the spool without a record, where that is not for the sweep alone. */
  readonly unrecorded?: UnrecordedBytes;
  /** Of a store that can tell that the last line of a record was damaged: the files that nobody counts may be those of it. */
  readonly hasLostLine?: (id: string) => boolean;
}

type Files = ReadonlyMap<string, number>;

const MISSING = 'committed bytes are missing from the spool, or do not join';

/**
 * Brings records and bytes back together after a crash, before the first request. Only for a spool that no other process
 * uses. Records whose bytes are missing, or do not follow each other, are given up, never shortened. Bytes that were
 * written but not committed are removed: nothing tells whether the disk has them. Files of uploads that the store does not
 * know are for the sweep, which takes only old ones, and are told of. An upload that the disk keeps from being looked after stays as it is,
 * and does not keep the others from being served.
 */
export async function recover(deps: RecoveryDeps): Promise<void> {
  const spooled = new Map<string, readonly SpooledChunk[]>();
  for await (const { id, files } of spooledUploads(deps.spool, deps.unreadable.noteUnrecovered)) spooled.set(id, files);
  for (const { id } of await deps.store.setAsideRecords()) spooled.delete(id);
  for await (const upload of everyUpload(deps.store)) {
    const own = sizesOf(spooled.get(upload.id) ?? []);
    spooled.delete(upload.id);
    if (deps.unreadable.has(upload.id)) continue;
    if (upload.phase === 'receiving') await orNote(upload.id, deps, () => recoverUnlessRight(upload, own, deps));
    else await orNote(upload.id, deps, () => giveUpUnlessComplete(upload, own, deps));
  }
  for (const [id, left] of spooled) deps.unrecorded?.note(id, left);
  deps.unrecorded?.tell();
}

/**
 * As `recover`, for one of many nodes: the spool is its own, the store is everybody's. It looks at what is in its spool, not
 * at all that the store knows. Files of uploads that were moved away are for the sweep too: what is young may just be coming
 * from another node.
 */
export async function recoverNode(deps: RecoveryDeps, node: string): Promise<void> {
  for await (const { id, files } of spooledUploads(deps.spool, deps.unreadable.noteUnrecovered))
    await orNote(id, deps, () => recoverOne(id, files, deps, node));
}

/** One upload, as `recover` and `recoverNode` do it. Fails with a `Fault` where that cannot be done now. */
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
  else if (upload) await giveUpUnlessComplete(upload, sizesOf(files), deps);
}

/**
 * One upload whose record could not be read until now, so that nobody has a lease on it: its bytes are looked at before
 * anybody is shown the record. Gives what becomes of the record.
 */
export async function recoverRecord(
  { upload, chunks, hasLostLine }: RecoveredRecord,
  deps: Omit<RecoveryDeps, 'store' | 'leases' | 'unreadable'>,
): Promise<RecoveryDecision> {
  const { spool } = deps;
  if (upload.phase === 'receiving' && upload.dialect === PLAIN_DIALECT) {
    await removeBytesOfBrokenOff(upload, deps);
    return 'remove';
  }
  if (upload.phase !== 'receiving' && !needsBytes(upload)) return 'show';
  const files = sizesOf(await spool.filesOf(upload.id));
  if (!areComplete(chunks, upload, await lookedAtAgain(upload.id, chunks, files, spool))) {
    reportLoss(upload, MISSING, deps);
    return 'give-up';
  }
  if (upload.phase === 'receiving' && !hasLostLine) await removeUncounted(upload.id, chunks, files, spool);
  return 'show';
}

/** A store that is away keeps all of them from being looked after, and is for the caller to wait for. */
async function orNote(id: string, { unreadable }: RecoveryDeps, task: () => Promise<void>): Promise<void> {
  try {
    await task();
  } catch (error) {
    if (!(error instanceof Fault) || isStoreUnavailable(error)) throw error;
    unreadable.noteUnrecovered(id, error);
  }
}

async function recoverUnlessRight(upload: Upload, files: Files, deps: RecoveryDeps): Promise<void> {
  const chunks = await deps.store.chunks(upload.id);
  const counted = new Set([ACKNOWLEDGED, ...chunks.map(({ name }) => name)]);
  // Nothing to do: the record need not even be made certain, as long as nobody asks for it.
  const isKept = upload.dialect !== PLAIN_DIALECT;
  if (isKept && areComplete(chunks, upload, files) && [...files.keys()].every((name) => counted.has(name))) return;
  await recoverReceiving(upload, files, deps);
}

async function recoverReceiving(known: Upload, files: Files, deps: RecoveryDeps): Promise<void> {
  const { store, leases, spool } = deps;
  const lease = await leases.take(known.id, 'to-end');
  try {
    const upload = await store.get(known.id);
    if (upload?.phase !== 'receiving' || upload.node !== known.node) return;
    if (upload.dialect === PLAIN_DIALECT) return await removeBrokenOff(upload, deps);
    const chunks = await store.chunks(upload.id);
    if (!areComplete(chunks, upload, await lookedAtAgain(upload.id, chunks, files, spool)))
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
 * One that waits for its delivery, or is in the middle of it, is given up before the delivery finds out that its bytes are
 * missing, and removes what there is of them: a backup may still be on its way.
 */
async function giveUpUnlessComplete(upload: Upload, files: Files, deps: RecoveryDeps): Promise<void> {
  const { store, spool, giveUpLost } = deps;
  if (!giveUpLost || !needsBytes(upload)) return;
  const chunks = await store.chunks(upload.id);
  if (areComplete(chunks, upload, files)) return;
  if (areComplete(chunks, upload, await lookedAtAgain(upload.id, chunks, files, spool))) return;
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

/** A listing that leaves something out proves nothing: what it lacks is looked for by its name. */
async function lookedAtAgain(id: string, chunks: readonly Chunk[], files: Files, spool: Spool): Promise<Files> {
  const found = new Map(files);
  for (const { name, size } of chunks)
    if ((files.get(name) ?? 0) < size) found.set(name, (await spool.size(id, name)) ?? 0);
  return found;
}

/** Every committed byte has a file that says it belongs there. */
function areComplete(chunks: readonly Chunk[], { offset }: Upload, files: Files): boolean {
  const { start, size } = chunks.at(-1) ?? { start: 0, size: 0 };
  const isAll = (chunks[0]?.start ?? 0) === 0 && start + size === offset;
  return isAll && areJoined(chunks) && chunks.every((chunk) => (files.get(chunk.name) ?? 0) >= chunk.size);
}

/** An ordinary request whose body was not complete went with its connection. */
async function removeBrokenOff(upload: Upload, deps: RecoveryDeps): Promise<void> {
  await removeBytesOfBrokenOff(upload, deps);
  await deps.store.remove(upload.id, upload.clientKey);
}

async function removeBytesOfBrokenOff({ id }: Upload, { spool, log }: Pick<RecoveryDeps, 'spool' | 'log'>) {
  log.info({ upload: uploadTag(id) }, 'an ordinary request broke off when the process ended: its bytes are removed');
  await spool.remove(id);
}

function sizesOf(files: readonly SpooledChunk[]): Files {
  return new Map(files.map(({ name, size }) => [name, size]));
}

/** Everything a spool has of one upload. */
export interface SpooledUpload {
  readonly id: string;
  readonly files: readonly SpooledChunk[];
}

/** All that a spool lists, upload by upload; `unlisted` is told of those that it cannot list. */
export async function* spooledUploads(
  spool: Pick<Spool, 'list'>,
  unlisted: (id: string, fault: Error) => void,
): AsyncGenerator<SpooledUpload> {
  let files: SpooledChunk[] = [];
  for await (const file of spool.list(unlisted)) {
    const before = files[0];
    if (before && before.id !== file.id) {
      yield { id: before.id, files };
      files = [];
    }
    files.push(file);
  }
  if (files[0]) yield { id: files[0].id, files };
}
