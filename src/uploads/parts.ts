import { Readable } from 'node:stream';
import type { Refusal } from '../model/messages.js';
import { concatenationRole, type Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import type { UploadStore } from '../store/upload-store.js';
import { Body } from './request-body.js';

/** A list may name a part several times, as long as it asks for at most this many times the bytes that were sent. */
const MAX_REPETITION = 8;

/**
 * The parts of an upload that is made of others (tus 1.0.0, concatenation), in their order. Each must be complete, and
 * belong to the same client and the same route as the upload.
 */
export async function findParts(
  ids: readonly string[],
  owner: Pick<Upload, 'principal' | 'route'>,
  find: (id: string) => Promise<Upload | undefined>,
): Promise<readonly Upload[] | Refusal> {
  const parts: Upload[] = [];
  for (const [index, id] of ids.entries()) {
    const part = await find(id);
    const isOwn = part?.principal === owner.principal && part?.route === owner.route;
    if (!isOwn || concatenationRole(part) !== 'part')
      return refusal(
        `Part ${index + 1} in Upload-Concat is none here: it never existed, was cancelled, or has expired.`,
      );
    if (part.length !== part.offset) return refusal(`Part ${index + 1} in Upload-Concat is not complete yet.`);
    parts.push(part);
  }
  const distinct = new Map(parts.map((part) => [part.id, part]));
  if (sizeOf(parts) > MAX_REPETITION * sizeOf([...distinct.values()]))
    return refusal(`Upload-Concat repeats parts too often: at most ${MAX_REPETITION} times their bytes are joined.`);
  return parts;
}

function refusal(detail: string): Refusal {
  return { reason: 'malformed', detail };
}

function sizeOf(parts: readonly Upload[]): number {
  return parts.reduce((sum, { offset }) => sum + offset, 0);
}

/** A part whose bytes could not be read. */
export interface PartFailure {
  readonly part: Upload;
  readonly fault: unknown;
}

/** Time without bytes after which a disk counts as unavailable. */
const READ_TIMEOUT_MS = 60_000;

/** The bytes of all parts as one body, read from the spool. */
export class PartsContent {
  readonly size: number;
  readonly body: Body;
  /** The reason why the body ended early. */
  failure: PartFailure | undefined;
  private readonly stream: Readable;

  constructor(
    parts: readonly Upload[],
    private readonly deps: { readonly store: Pick<UploadStore, 'chunks'>; readonly spool: Pick<Spool, 'read'> },
  ) {
    this.size = sizeOf(parts);
    this.stream = Readable.from(this.read(parts), { objectMode: false });
    const options = { declaredLength: this.size, idleMs: READ_TIMEOUT_MS, onFirstRead: () => undefined };
    this.body = new Body(this.stream, options);
  }

  /** Closes the file that is being read. */
  close(): void {
    this.stream.destroy();
  }

  private async *read(parts: readonly Upload[]): AsyncGenerator<Uint8Array> {
    const { store, spool } = this.deps;
    for (const part of parts) {
      if (part.offset === 0) continue;
      try {
        const range = { start: 0, end: part.offset };
        yield* spool.read(part.id, await store.chunks(part.id), range) as AsyncIterable<Uint8Array>;
      } catch (fault) {
        this.failure = { part, fault };
        throw fault;
      }
    }
  }
}
