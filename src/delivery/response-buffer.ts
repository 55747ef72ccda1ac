import { Notifier } from '../concurrency/waiting.js';
import { crc32 } from '../fs/crc32.js';
import { Fault } from '../model/fault.js';
import { fieldValue, type HeaderLine, forwardableHeaders, forwardableTrailers } from '../model/headers.js';
import type { RelayedAnswer } from '../model/messages.js';
import type { Answer } from '../model/upload.js';
import type { ChunkWriter, Extent, Spool } from '../spool/spool.js';
import { withoutBody } from './kept-answer.js';
import type { OriginAnswer } from './origin.js';

/** The dependencies of a `ResponseBuffer`, which keeps a body that is too large for memory in the spool. */
export interface ResponseBufferDeps {
  readonly spool: Pick<Spool, 'create' | 'read' | 'removeChunk'>;
  readonly id: string;
  /** Name of the chunk for a body that is too large to stay in memory. */
  readonly name: string;
  /** Bodies up to this size stay in memory. */
  readonly maxMemoryBytes: number;
}

/** An answer that has not ended after this many bytes, or this long, is shown while it arrives. */
const SHORT_BYTES = 64 * 1024;
const SHORT_MS = 500;

/**
 * Receives the origin's answer at the origin's speed, while any number of clients read it from the start at theirs. Its end
 * is held back until the answer is recorded, so that a client that has read all of it can get it again; if it breaks off,
 * readers fail.
 */
export class ResponseBuffer {
  /** The reason why the body cannot be kept; only status and headers of the answer remain then. */
  storageFault: Fault | undefined;
  private readonly head: Pick<RelayedAnswer, 'status' | 'reason' | 'headers'>;
  /** From Content-Length: at this size a client regards the body as complete. */
  private readonly declaredSize: number;
  private readonly changed = new Notifier();
  /** The bytes after those in the spool. */
  private pieces: Uint8Array[] = [];
  private stored: Extent = { size: 0 };
  private size = 0;
  private lastPieceBytes = 0;
  private writer: ChunkWriter | undefined;
  private trailers: readonly HeaderLine[] = [];
  private state: 'growing' | 'ended' | 'broken' = 'growing';
  /** The reason why the answer is broken. */
  private failure: Error | undefined;
  private longResponseListener: (() => void) | undefined;
  private storageFailureListener: (() => void) | undefined;

  constructor(
    private readonly answer: OriginAnswer,
    private readonly deps: ResponseBufferDeps,
  ) {
    const { status, reason, headers } = answer;
    this.head = { status, reason, headers: forwardableHeaders(headers, true) };
    const isBodiless = status === 204 || status === 304;
    this.declaredSize = isBodiless ? 0 : Number(fieldValue(headers, 'content-length') ?? Infinity);
  }

  /** `listener` is called once if the answer is too long to let clients wait for its end. */
  onLongResponse(listener: () => void): void {
    this.longResponseListener = listener;
  }

  /** `listener` is called if the body cannot be kept; new clients must not read it from then on. */
  onStorageFailure(listener: () => void): void {
    this.storageFailureListener = listener;
  }

  /** Reads the answer to its end and makes a body in the spool durable. Rejects if the answer breaks off. */
  async readToEnd(receivedAt: number): Promise<{ readonly answer: Answer; readonly body: Uint8Array | undefined }> {
    const slow = setTimeout(() => this.announceLong(), SHORT_MS);
    try {
      for await (const piece of this.answer.body as AsyncIterable<Uint8Array>) await this.add(piece);
      await this.runWrite(async () => this.writer?.sync());
    } finally {
      clearTimeout(slow);
      // The bytes are synced already, so a failing close loses nothing.
      await this.writer?.close().catch(() => undefined);
    }
    this.trailers = forwardableTrailers(this.answer.trailers());
    const answer = { ...this.head, trailers: this.trailers, bodySize: this.size, at: receivedAt };
    if (this.storageFault) return { answer: { ...answer, body: { in: 'nowhere' } }, body: undefined };
    if (this.writer) {
      const { crc } = this.writer.extent;
      return { answer: { ...answer, body: { in: 'spool', name: this.deps.name, crc } }, body: undefined };
    }
    const body = Buffer.concat(this.pieces);
    return { answer: { ...answer, body: { in: 'record', crc: crc32(body) } }, body };
  }

  /** Lets readers see the end: the answer is recorded, or will never be. */
  release(): void {
    this.state = 'ended';
    this.changed.notifyAll();
  }

  /** Makes readers fail and removes the stored bytes, because the answer is not complete or not the one that counts. */
  async break(reason: Error): Promise<void> {
    this.state = 'broken';
    this.failure = reason;
    this.changed.notifyAll();
    this.answer.body.destroy();
    if (this.writer) await this.deps.spool.removeChunk(this.deps.id, this.deps.name);
  }

  /** The answer for one client, read from its start. */
  relay(): RelayedAnswer {
    if (this.storageFault) return withoutBody(this.head);
    return {
      ...this.head,
      body: this.read(),
      bodySize: this.state === 'ended' ? this.size : undefined,
      trailers: () => this.trailers,
    };
  }

  private async *read(): AsyncGenerator<Uint8Array> {
    try {
      for (let position = 0; await this.waitForBytesAfter(position);) {
        for await (const piece of this.between(position, this.visibleSize())) {
          position += piece.length;
          yield piece;
        }
      }
    } catch (error) {
      // A read error may only mean that the file of a broken answer was removed.
      throw this.failure ?? this.storageFault ?? error;
    }
  }

  /** Resolves with false at the end of the answer. */
  private async waitForBytesAfter(position: number): Promise<boolean> {
    for (;;) {
      const failure = this.failure ?? this.storageFault;
      if (failure) throw failure;
      if (position < this.visibleSize()) return true;
      if (this.state === 'ended') return false;
      await this.changed.next();
    }
  }

  /** The number of bytes that readers may see. The last piece of a body with a declared size is held back until `release`. */
  private visibleSize(): number {
    const isComplete = this.size >= this.declaredSize;
    return isComplete && this.state !== 'ended' ? this.size - this.lastPieceBytes : this.size;
  }

  private between(start: number, end: number): Iterable<Uint8Array> | AsyncIterable<Uint8Array> {
    const { size } = this.stored;
    if (start >= size) return slices(this.pieces, start - size, end - size);
    const { id, name, spool } = this.deps;
    const chunk = { name, start: 0, ...this.stored };
    return spool.read(id, [chunk], { start, end: Math.min(end, size) }) as AsyncIterable<Uint8Array>;
  }

  private async add(piece: Uint8Array): Promise<void> {
    const fitsInMemory = !this.writer && !this.storageFault && this.size + piece.length <= this.deps.maxMemoryBytes;
    if (!fitsInMemory) await this.runWrite(() => this.write([...this.pieces, piece]));
    if (fitsInMemory) this.pieces.push(piece);
    else this.pieces = [];
    this.size += piece.length;
    this.lastPieceBytes = piece.length;
    this.changed.notifyAll();
    if (this.size > SHORT_BYTES) this.announceLong();
  }

  private async write(pieces: readonly Uint8Array[]): Promise<void> {
    const { id, name, spool } = this.deps;
    this.writer ??= await spool.create(id, name);
    await this.writer.write(pieces);
    this.stored = this.writer.extent;
  }

  /**
   * Runs a write to the spool. If it fails, the rest of the body is read and discarded, so that status and headers of the
   * answer still count; readers of the body fail.
   */
  private async runWrite(write: () => Promise<void>): Promise<void> {
    if (this.storageFault) return;
    try {
      await write();
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      this.storageFault = error;
      this.longResponseListener = undefined;
      this.changed.notifyAll();
      this.storageFailureListener?.();
      // The cleanup of uploads removes a leftover file.
      await this.writer?.discard().catch(() => undefined);
    }
  }

  private announceLong(): void {
    this.longResponseListener?.();
    this.longResponseListener = undefined;
  }
}

/** The bytes from `start` to `end` of consecutive pieces. */
function* slices(pieces: readonly Uint8Array[], start: number, end: number): Generator<Uint8Array> {
  let before = 0;
  for (const piece of pieces) {
    const slice = piece.subarray(Math.max(start - before, 0), Math.max(end - before, 0));
    if (slice.length > 0) yield slice;
    before += piece.length;
  }
}
