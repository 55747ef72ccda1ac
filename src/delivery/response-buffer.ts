import { Notifier } from '../concurrency/waiting.js';
import { crc32 } from '../fs/crc32.js';
import { Fault } from '../model/fault.js';
import { fieldValue, type HeaderLine, forwardableHeaders, forwardableTrailers } from '../model/headers.js';
import type { RelayedAnswer } from '../model/messages.js';
import type { Answer } from '../model/upload.js';
import type { ChunkWriter, Extent, Spool } from '../spool/spool.js';
import { withoutBody } from './kept-answer.js';
import type { OriginAnswer } from './origin.js';

export interface ResponseBufferDeps {
  readonly spool: Pick<Spool, 'create' | 'read' | 'removeChunk'>;
  readonly id: string;
  /** Name of the chunk for a body that is too large to stay in memory. */
  readonly name: string;
  /** Bodies up to this size stay in memory. */
  readonly maxMemoryBytes: number;
}

/** An answer that is not over after so many bytes, or so long, is shown while it comes in. */
const SHORT_BYTES = 64 * 1024;
const SHORT_MS = 500;

/**
 * The origin's answer while it comes in: taken at the origin's speed, and read from its start by any number of clients at
 * theirs. The end is held back until the answer is recorded, so that whoever has seen a whole answer can rely on its being
 * kept; when it breaks off, or is given up, its readers fail.
 */
export class ResponseBuffer {
  /** The fault for which its body is not kept: the answer is its status and its fields then. */
  storageFault: Fault | undefined;
  private readonly head: Pick<RelayedAnswer, 'status' | 'reason' | 'headers'>;
  /** From Content-Length: at this size a client takes the body for whole. */
  private readonly declaredSize: number;
  private readonly changed = new Notifier();
  /** What follows the bytes on disk. */
  private pieces: Uint8Array[] = [];
  private stored: Extent = { size: 0 };
  private size = 0;
  private lastPieceBytes = 0;
  private writer: ChunkWriter | undefined;
  private trailers: readonly HeaderLine[] = [];
  private state: 'growing' | 'ended' | 'broken' = 'growing';
  /** Why it is broken. */
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

  /** Called if the end is too far away to let clients wait for it. */
  onLongResponse(listener: () => void): void {
    this.longResponseListener = listener;
  }

  /** Called if its body cannot be kept: nobody who comes from now on is to read it. */
  onStorageFailure(listener: () => void): void {
    this.storageFailureListener = listener;
  }

  /** Takes the answer to its end and makes a body that is on disk durable. Fails when it breaks off. */
  async readToEnd(receivedAt: number): Promise<{ readonly answer: Answer; readonly body: Uint8Array | undefined }> {
    const slow = setTimeout(() => this.announceLong(), SHORT_MS);
    try {
      for await (const piece of this.answer.body as AsyncIterable<Uint8Array>) await this.add(piece);
      await this.store(async () => this.writer?.sync());
    } finally {
      clearTimeout(slow);
      // Every byte that counts has been synced before.
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

  /** The end may be seen. */
  release(): void {
    this.state = 'ended';
    this.changed.notifyAll();
  }

  /** There is no whole answer: readers fail, and what was written is removed. */
  async break(reason: Error): Promise<void> {
    this.state = 'broken';
    this.failure = reason;
    this.changed.notifyAll();
    this.answer.body.destroy();
    if (this.writer) await this.deps.spool.removeChunk(this.deps.id, this.deps.name);
  }

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
      for (let at = 0; await this.growsBeyond(at);) {
        for await (const piece of this.between(at, this.visibleSize())) {
          at += piece.length;
          yield piece;
        }
      }
    } catch (error) {
      // A reader may be the first to notice that the file of a broken answer was removed.
      throw this.failure ?? this.storageFault ?? error;
    }
  }

  /** False when this is the end. */
  private async growsBeyond(at: number): Promise<boolean> {
    for (;;) {
      const failure = this.failure ?? this.storageFault;
      if (failure) throw failure;
      if (at < this.visibleSize()) return true;
      if (this.state === 'ended') return false;
      await this.changed.next();
    }
  }

  private visibleSize(): number {
    const looksComplete = this.size >= this.declaredSize;
    return looksComplete && this.state !== 'ended' ? this.size - this.lastPieceBytes : this.size;
  }

  private between(start: number, end: number): Iterable<Uint8Array> | AsyncIterable<Uint8Array> {
    const { size } = this.stored;
    if (start >= size) return slices(this.pieces, start - size, end - size);
    const { id, name, spool } = this.deps;
    const written = { name, start: 0, ...this.stored };
    return spool.read(id, [written], { start, end: Math.min(end, size) }) as AsyncIterable<Uint8Array>;
  }

  private async add(piece: Uint8Array): Promise<void> {
    const onlyInMemory = !this.writer && !this.storageFault && this.size + piece.length <= this.deps.maxMemoryBytes;
    if (!onlyInMemory) await this.store(() => this.write([...this.pieces, piece]));
    if (onlyInMemory) this.pieces.push(piece);
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
   * A disk that does not take the body takes nothing from the answer: the rest is read and thrown away, so that its status
   * and fields are known. Whoever reads the body already fails.
   */
  private async store(task: () => Promise<void>): Promise<void> {
    if (this.storageFault) return;
    try {
      await task();
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      this.storageFault = error;
      this.longResponseListener = undefined;
      this.changed.notifyAll();
      this.storageFailureListener?.();
      // What cannot be removed is the sweep's business.
      await this.writer?.discard().catch(() => undefined);
    }
  }

  private announceLong(): void {
    this.longResponseListener?.();
    this.longResponseListener = undefined;
  }
}

function* slices(pieces: readonly Uint8Array[], start: number, end: number): Generator<Uint8Array> {
  let before = 0;
  for (const piece of pieces) {
    const slice = piece.subarray(Math.max(start - before, 0), Math.max(end - before, 0));
    if (slice.length > 0) yield slice;
    before += piece.length;
  }
}
