import { idempotencyKeyOf, type Phase, type Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import { everyUpload } from '../store/every-upload.js';
import type { UploadStore } from '../store/upload-store.js';

export type Listing = Pick<UploadStore, 'list' | 'setAside'>;

export interface Wanted {
  readonly phase?: Phase;
  /** A tag, the path of a creation, the `Idempotency-Key` that the origin gets, or the address of a client. */
  readonly find?: string;
  readonly limit: number;
  /** The place of the last upload of the page before. */
  readonly after?: Place;
}

/** Where an upload stands in a list, newest first. Known to whoever asks, so it is made of what it may know. */
export interface Place {
  readonly createdAt: number;
  readonly tag: string;
}

/** The newest uploads behind a place; `next` is missing on the last page. Reads all, keeps no more than a page or two. */
export async function newestUploads(
  store: Pick<Listing, 'list'>,
  wanted: Wanted,
): Promise<{ uploads: Upload[]; next?: Place }> {
  const { phase, find, limit, after } = wanted;
  let found: Upload[] = [];
  for await (const upload of everyUpload(store)) {
    if (phase !== undefined && upload.phase !== phase) continue;
    if (find !== undefined && !isFoundBy(upload, find)) continue;
    if (after && !isBehind(upload, after)) continue;
    found.push(upload);
    if (found.length > 2 * limit + 100) found = found.sort(newestFirst).slice(0, limit + 1);
  }
  const page = found.sort(newestFirst).slice(0, limit);
  const last = page.at(-1);
  return found.length > limit && last ? { uploads: page, next: placeOf(last) } : { uploads: page };
}

function isFoundBy(upload: Upload, what: string): boolean {
  const { target, clientAddress } = upload.request;
  const names = [uploadTag(upload.id), target.split('?', 1)[0], idempotencyKeyOf(upload), clientAddress];
  return names.includes(what);
}

/** The uploads with this tag: it is short, so that there can be more than one. */
export async function uploadsTagged(store: Pick<Listing, 'list'>, tag: string): Promise<Upload[]> {
  const found: Upload[] = [];
  for await (const upload of everyUpload(store)) if (uploadTag(upload.id) === tag) found.push(upload);
  return found;
}

function placeOf({ createdAt, id }: Upload): Place {
  return { createdAt, tag: uploadTag(id) };
}

function isBehind(upload: Upload, after: Place): boolean {
  if (upload.createdAt !== after.createdAt) return upload.createdAt < after.createdAt;
  return uploadTag(upload.id) > after.tag;
}

function newestFirst(a: Upload, b: Upload): number {
  return b.createdAt - a.createdAt || (uploadTag(a.id) < uploadTag(b.id) ? -1 : 1);
}
