import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import type { Refusal } from '../model/messages.js';
import { concatenationRole, type StoredRequest, type Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import type { UploadStore } from '../store/upload-store.js';
import { Body } from './request-body.js';

/** At least one upload. */
type Parts = readonly [Upload, ...Upload[]];

/**
 * The parts of an upload that is made of others (tus 1.0.0, concatenation), in their order. Each must be complete,
 * belong to this client, and be on one node with the others. `ids` may have one part several times.
 */
export async function findParts(
  ids: readonly string[],
  principal: string | undefined,
  find: (id: string) => Promise<Upload | undefined>,
): Promise<Parts | Refusal> {
  const parts: Upload[] = [];
  for (const [index, id] of ids.entries()) {
    const part = await find(id);
    const isOwn = part && (part.principal === undefined || part.principal === principal);
    if (!isOwn || concatenationRole(part) !== 'part')
      return refusal(index, 'is no part of this client: it never existed, was cancelled, or has expired');
    if (part.length !== part.offset) return refusal(index, 'is not complete yet');
    if (part.node !== parts[0]?.node && parts.length > 0)
      return refusal(index, 'is on another node than the first: send the file as one upload');
    parts.push(part);
  }
  return parts as unknown as Parts;
}

function refusal(index: number, problem: string): Refusal {
  return { reason: 'malformed', detail: `Part ${index + 1} in Upload-Concat ${problem}.` };
}

/** The key by which a repetition of the request finds the same upload; it reveals none of the ids. */
export function joinedKey(parts: readonly Upload[], { target }: StoredRequest): string {
  return createHash('sha256')
    .update(JSON.stringify(['tus-concatenation', target, ...parts.map(({ id }) => id)]))
    .digest('base64url');
}

/** Time without bytes after which a disk counts as unavailable. */
const READ_TIMEOUT_MS = 60_000;

/** The bytes of all parts as one body, read from the spool. */
export function bodyOfParts(
  parts: readonly Upload[],
  { store, spool }: { readonly store: Pick<UploadStore, 'chunks'>; readonly spool: Pick<Spool, 'read'> },
): Body {
  const read = async function* (): AsyncGenerator<Uint8Array> {
    for (const { id, offset } of parts)
      if (offset > 0)
        yield* spool.read(id, await store.chunks(id), { start: 0, end: offset }) as AsyncIterable<Uint8Array>;
  };
  const declaredLength = parts.reduce((sum, { offset }) => sum + offset, 0);
  return new Body(Readable.from(read(), { objectMode: false }), {
    declaredLength,
    idleMs: READ_TIMEOUT_MS,
    onFirstRead: () => undefined,
  });
}
