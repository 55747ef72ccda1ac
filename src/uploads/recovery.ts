import { Fault } from '../model/fault.js';
import { PLAIN, type Chunk, type Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import { uploadTag } from '../observe/log.js';
import { areJoined } from '../spool/chunk-name.js';
import { PROMISED, type Spool } from '../spool/spool.js';
import { everyUpload } from '../store/every-upload.js';
import type { Leases } from '../store/lease.js';
import type { UploadStore } from '../store/upload-store.js';
import { spooledUploads, type SpooledUpload } from './spooled-uploads.js';

export interface RecoveryRooms {
  readonly store: UploadStore;
  readonly leases: Leases;
  readonly spool: Spool;
  readonly log: Log;
  /** Of a store that can show an upload as given up and keep what there is of it; else it is invalidated, and removed. */
  readonly giveUpLost?: (id: string) => Promise<void>;
}

type Files = ReadonlyMap<string, number>;

/**
 * Brings records and bytes back together after a crash, before the first request. Only for a spool that no other process
 * uses. Records whose bytes are missing, or do not follow each other, are given up, never shortened. Bytes that were
 * written but not committed are removed: nothing tells whether the disk has them. Files of uploads that the store does not
 * know are for the sweep, which takes only old ones.
 */
export async function recover(rooms: RecoveryRooms): Promise<void> {
  const files = new Map<string, Files>();
  for await (const spooled of spooledUploads(rooms.spool)) files.set(spooled.id, sizesOf(spooled));
  for await (const upload of everyUpload(rooms.store)) {
    const own = files.get(upload.id) ?? new Map<string, number>();
    if (upload.phase === 'receiving') await recoverOrNote(upload, own, rooms);
  }
}

/**
 * As `recover`, for one of many nodes: the spool is its own, the store is everybody's. It looks at what is in its spool, not
 * at all that the store knows. Files of uploads that were moved away are for the sweep too: what is young may just be coming
 * from another node.
 */
export async function recoverNode(rooms: RecoveryRooms, node: string): Promise<void> {
  for await (const spooled of spooledUploads(rooms.spool)) {
    const upload = await rooms.store.get(spooled.id);
    if (upload?.phase !== 'receiving' || upload.node !== node) continue;
    await recoverReceiving(upload, sizesOf(spooled), rooms);
  }
}

/** One upload that the disk keeps from being looked after does not keep the others from being served. */
async function recoverOrNote(upload: Upload, files: Files, rooms: RecoveryRooms): Promise<void> {
  try {
    const chunks = await rooms.store.chunks(upload.id);
    const counted = new Set([PROMISED, ...chunks.map(({ name }) => name)]);
    // Nothing to do: the record need not even be made certain, as long as nobody asks for it.
    const isKept = upload.dialect !== PLAIN;
    if (isKept && areWhole(chunks, upload, files) && [...files.keys()].every((name) => counted.has(name))) return;
    await recoverReceiving(upload, files, rooms);
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    rooms.log.error({ upload: uploadTag(upload.id), err: error }, 'an upload could not be looked after at the start');
  }
}

async function recoverReceiving(known: Upload, files: Files, rooms: RecoveryRooms): Promise<void> {
  const { store, leases, spool, log } = rooms;
  const lease = await leases.take(known.id, 'to-end');
  try {
    const upload = await store.get(known.id);
    if (upload?.phase !== 'receiving' || upload.node !== known.node) return;
    if (upload.dialect === PLAIN) return await removeBrokenOff(upload, rooms);
    const chunks = await store.chunks(upload.id);
    if (!areWhole(chunks, upload, await lookedAtAgain(upload.id, chunks, files, spool))) {
      log.error(
        { upload: uploadTag(upload.id) },
        'committed bytes are missing from the spool, or do not join: the upload is given up',
      );
      if (rooms.giveUpLost) return await rooms.giveUpLost(upload.id);
      await store.invalidate(upload.id, lease.token, 'lost');
      return await spool.remove(upload.id);
    }
    const counted = new Set([PROMISED, ...chunks.map((chunk) => chunk.name)]);
    for (const name of files.keys()) if (!counted.has(name)) await spool.removeChunk(upload.id, name);
  } finally {
    await lease.release();
  }
}

/** A listing that leaves something out proves nothing: what it lacks is looked for by its name. */
async function lookedAtAgain(id: string, chunks: readonly Chunk[], files: Files, spool: Spool): Promise<Files> {
  const found = new Map(files);
  for (const { name, size } of chunks)
    if ((files.get(name) ?? 0) < size) found.set(name, (await spool.size(id, name)) ?? 0);
  return found;
}

/** Every committed byte has a file that says it belongs there. */
function areWhole(chunks: readonly Chunk[], { offset }: Upload, files: Files): boolean {
  const { start, size } = chunks.at(-1) ?? { start: 0, size: 0 };
  const isAll = (chunks[0]?.start ?? 0) === 0 && start + size === offset;
  return isAll && areJoined(chunks) && chunks.every((chunk) => (files.get(chunk.name) ?? 0) >= chunk.size);
}

/** An ordinary request whose body was not complete went with its connection. */
async function removeBrokenOff({ id }: Upload, { store, spool, log }: RecoveryRooms): Promise<void> {
  log.info({ upload: uploadTag(id) }, 'an ordinary request broke off when the process ended: its bytes are removed');
  await spool.remove(id);
  await store.remove(id);
}

function sizesOf({ files }: SpooledUpload): Files {
  return new Map(files.map(({ name, size }) => [name, size]));
}
