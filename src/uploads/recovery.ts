import type { Chunk, Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import { uploadTag } from '../observe/log.js';
import { PROMISED, type Spool } from '../spool/spool.js';
import { everyUpload } from '../store/every-upload.js';
import type { Leases } from '../store/lease.js';
import type { UploadStore } from '../store/upload-store.js';
import { chunkToken } from './chunk-name.js';
import { spooledUploads, type SpooledUpload } from './spooled-uploads.js';

export interface RecoveryRooms {
  readonly store: UploadStore;
  readonly leases: Leases;
  readonly spool: Spool;
  readonly log: Log;
  readonly clock: () => number;
}

type Files = ReadonlyMap<string, number>;

/**
 * Brings records and bytes back together after a crash, before the first request. Only for a spool that no other process
 * uses. Records whose bytes are missing are invalidated, never shortened. Bytes that were written but not yet committed
 * are counted when only the process died (`sameBoot`); after a power cut nobody knows whether they are right.
 */
export async function recover(rooms: RecoveryRooms, sameBoot: boolean): Promise<void> {
  const files = new Map<string, Files>();
  for await (const spooled of spooledUploads(rooms.spool)) files.set(spooled.id, sizesOf(spooled));
  for await (const upload of everyUpload(rooms.store)) {
    const own = files.get(upload.id) ?? new Map<string, number>();
    files.delete(upload.id);
    if (upload.phase === 'receiving') await recoverReceiving(upload, own, sameBoot, rooms);
  }
  for (const id of files.keys()) await rooms.spool.remove(id);
}

/**
 * As `recover`, for one of many nodes: the spool is its own, the store is everybody's. It looks at what is in its spool, not
 * at all that the store knows. Files of uploads that the store does not know, or that were moved away, are for the sweep,
 * which takes only old ones: what is young may just be coming from another node.
 */
export async function recoverNode(rooms: RecoveryRooms, node: string, sameBoot: boolean): Promise<void> {
  for await (const spooled of spooledUploads(rooms.spool)) {
    const upload = await rooms.store.get(spooled.id);
    if (upload?.phase !== 'receiving' || upload.node !== node) continue;
    await recoverReceiving(upload, sizesOf(spooled), sameBoot, rooms);
  }
}

async function recoverReceiving(known: Upload, files: Files, sameBoot: boolean, rooms: RecoveryRooms): Promise<void> {
  const { store, leases, spool, log, clock } = rooms;
  const lease = await leases.take(known.id);
  try {
    const upload = await store.get(known.id);
    if (upload?.phase !== 'receiving' || upload.node !== known.node) return;
    const chunks = await store.chunks(upload.id);
    if (chunks.some((chunk) => (files.get(chunk.name) ?? 0) < chunk.size)) {
      log.error({ upload: uploadTag(upload.id) }, 'committed bytes are missing from the spool: the upload is given up');
      await store.invalidate(upload.id, lease.token);
      return await spool.remove(upload.id);
    }
    const tail = sameBoot ? uncommittedTail(upload, chunks, files, store.mayForget) : undefined;
    const counted = new Set([PROMISED, ...chunks.map((chunk) => chunk.name)]);
    if (tail) {
      counted.add(tail.name);
      // Commits promise durable bytes, and nothing has synced these yet: asking for their size does.
      await spool.size(upload.id, tail.name);
      const expiresAt = Math.max(upload.expiresAt, clock());
      await store.commit(upload.id, { token: lease.token, chunk: tail, expiresAt });
    }
    for (const name of files.keys()) if (!counted.has(name)) await spool.removeChunk(upload.id, name);
  } finally {
    await lease.release();
  }
}

/**
 * What the newest writer had written beyond its last commit: more of the last committed chunk, or a file that began at
 * the committed offset. Older writers' tails were given up when the newer one began, and a body that had to be whole to
 * count never was. The very last byte only counts with the completion; without a length, that may be the last of the file.
 * Where the store may have forgotten the commits before it, nobody knows where a file began of which it knows nothing.
 */
function uncommittedTail(
  upload: Upload,
  chunks: readonly Chunk[],
  files: Files,
  mayForget: boolean,
): Chunk | undefined {
  const newest = [...files.keys()].sort((a, b) => (chunkToken(a)?.token ?? 0) - (chunkToken(b)?.token ?? 0)).at(-1);
  if (newest === undefined || chunkToken(newest)?.mustBeWhole !== false) return undefined;
  const committed = chunks.find((chunk) => chunk.name === newest);
  if (!committed && mayForget) return undefined;
  const start = committed?.start ?? upload.offset;
  const written = files.get(newest) ?? 0;
  const size = Math.min(written, (upload.length ?? start + written) - 1 - start);
  return size > (committed?.size ?? 0) ? { name: newest, start, size } : undefined;
}

function sizesOf({ files }: SpooledUpload): Files {
  return new Map(files.map(({ name, size }) => [name, size]));
}
