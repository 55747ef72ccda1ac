import { Readable } from 'node:stream';
import { type Headers, forwardableTrailers } from '../model/headers.js';
import type { BodyMemory, BodyShare } from './body-memory.js';

/** The end of a body. Only `clean` may complete an upload. */
export type BodyEnd = 'clean' | 'client-left' | 'idle' | 'slow' | 'stopped';

export interface BodyOptions {
  /** Content-Length; a body of another size was cut off. */
  readonly declaredLength?: number;
  /** Bounds the bytes of all bodies together; without it, only the size of a batch is bounded. */
  readonly memory?: BodyMemory;
  /** A client that sends nothing for this long is given up. */
  readonly idleMs: number;
  /** Starts watching the speed of the body, and returns a function that ends watching. */
  readonly watch?: (body: { isAwaited(): boolean; onSlow(): void }) => () => void;
  /**
   * Milliseconds since we last held the body back, 0 while we do; such a pause is not the client's silence. Never by
   * default.
   */
  readonly sinceHeldBackMs?: () => number;
  /** Called before the first byte is read: the moment for `100 (Continue)`. */
  readonly onFirstRead: () => void;
  /** Whether the HTTP/2 stream was reset, for which Node may emit 'end' as well. */
  readonly wasReset?: () => boolean;
  /** The trailer section; read when the body has ended. */
  readonly trailers?: () => Headers;
}

/** Reading pauses above this; the bytes collected between two calls of `next` exceed it by at most one read. */
const MAX_BATCH_BYTES = 4 * 1024 * 1024;
/** Each piece has a fixed cost, so a slow disk must not let many small ones pile up. */
const MAX_BATCH_PIECES = 1024;

/**
 * Longer trailer sections are dropped, as any recipient may do (RFC 9110 §6.5.1): otherwise a client could fill the
 * upload's record with them.
 */
const MAX_TRAILER_BYTES = 8 * 1024;

/**
 * A request body in batches: `next` returns everything that arrived since the last call, so that one write serves many
 * reads. Never fails for its reader, whatever happens to the connection; `ending` says how it ended.
 */
export class Body {
  ending: BodyEnd | undefined;
  private batch: Buffer[] = [];
  private batchBytes = 0;
  private share: BodyShare | undefined;
  private totalBytes = 0;
  private hasBegun = false;
  private wake: (() => void) | undefined;
  private idleTimer: NodeJS.Timeout | undefined;
  private stopWatching: (() => void) | undefined;

  constructor(
    private readonly stream: Readable,
    private readonly options: BodyOptions,
  ) {
    stream.on('error', () => this.endWith('client-left'));
  }

  /** Everything that has arrived, at least one byte; undefined if the body has ended. Bytes that were used have to be freed. */
  async next(): Promise<Buffer[] | undefined> {
    if (!this.hasBegun) this.begin();
    while (this.batchBytes === 0 && !this.ending) await new Promise<void>((resolve) => (this.wake = resolve));
    if (this.batchBytes === 0) return undefined;
    const batch = this.batch;
    this.batch = [];
    this.batchBytes = 0;
    this.readIfRoom();
    return batch;
  }

  /** Puts bytes back that `next` has returned; the next call returns them first. */
  unread(buffers: readonly Buffer[]): void {
    this.batch = [...buffers, ...this.batch];
    for (const { length } of buffers) this.batchBytes += length;
  }

  /** So many of the returned bytes are not in memory any more, so that others may follow. */
  free(bytes: number): void {
    this.share?.free(bytes);
    this.readIfRoom();
  }

  /** The trailer section of a body that ended properly. */
  get trailers(): Headers {
    const lines = this.ending === 'clean' ? forwardableTrailers(this.options.trailers?.() ?? []) : [];
    const size = lines.reduce((sum, [name, value]) => sum + name.length + value.length, 0);
    return size <= MAX_TRAILER_BYTES ? lines : [];
  }

  /** Stops reading. Bytes that have arrived already are still returned; the rest stays in the stream. */
  stop(): void {
    this.endWith('stopped');
  }

  /** Stops reading, and frees all bytes. */
  close(): void {
    this.stop();
    this.share?.close();
    this.share = undefined;
  }

  private begin(): void {
    this.hasBegun = true;
    if (this.ending) return;
    this.share = this.options.memory?.open(() => this.readIfRoom());
    if (this.stream.destroyed) return this.endWith('client-left');
    this.options.onFirstRead();
    this.idleTimer = setTimeout(() => this.onIdle(), this.options.idleMs);
    // While the stream is paused, the disk is slow and not the client.
    const isAwaited = (): boolean => !this.stream.isPaused() && this.sinceHeldBackMs > 0;
    this.stopWatching = this.options.watch?.({ isAwaited, onSlow: () => this.endWith('slow') });
    this.stream.on('data', this.onData);
    this.stream.once('end', this.onEnd);
    this.stream.once('aborted', this.onCut);
    this.stream.once('close', this.onCut);
  }

  private readonly onData = (data: Buffer): void => {
    if (this.batchBytes === 0) setImmediate(this.wakeReader);
    this.batch.push(data);
    this.batchBytes += data.length;
    this.totalBytes += data.length;
    this.idleTimer?.refresh();
    this.share?.add(data.length);
    if (!this.mayRead) this.pause();
  };

  private get isFull(): boolean {
    return this.batchBytes >= MAX_BATCH_BYTES || this.batch.length >= MAX_BATCH_PIECES;
  }

  private get mayRead(): boolean {
    return !this.isFull && this.share?.hasRoom !== false;
  }

  private pause(): void {
    this.stream.pause();
    if (!this.isFull) this.share?.waitForRoom();
  }

  private readIfRoom(): void {
    if (this.ending || !this.stream.isPaused()) return;
    if (this.mayRead) this.stream.resume();
    else this.pause();
  }

  /** Runs after all reads of this turn of the event loop, so that they form one batch. */
  private readonly wakeReader = (): void => {
    const wake = this.wake;
    this.wake = undefined;
    wake?.();
  };

  private readonly onEnd = (): void => {
    const { declaredLength, wasReset } = this.options;
    const isComplete = declaredLength === undefined || declaredLength === this.totalBytes;
    this.endWith(isComplete && !wasReset?.() ? 'clean' : 'client-left');
  };

  private readonly onCut = (): void => this.endWith('client-left');

  private onIdle(): void {
    if (this.stream.isPaused() || this.sinceHeldBackMs < this.options.idleMs) this.idleTimer?.refresh();
    else this.endWith('idle');
  }

  private get sinceHeldBackMs(): number {
    return this.options.sinceHeldBackMs?.() ?? Infinity;
  }

  private endWith(ending: BodyEnd): void {
    if (this.ending) return;
    this.ending = ending;
    clearTimeout(this.idleTimer);
    this.stopWatching?.();
    this.stream.off('data', this.onData);
    this.stream.off('end', this.onEnd);
    this.stream.off('aborted', this.onCut);
    this.stream.off('close', this.onCut);
    // A stream that was never read is left as it is: another node may get its request.
    if (ending !== 'clean' && this.hasBegun) this.stream.pause();
    this.wakeReader();
  }
}

/** A body of no bytes that has ended properly. */
export function emptyBody(): Body {
  return new Body(Readable.from([]), { declaredLength: 0, idleMs: 60_000, onFirstRead: () => undefined });
}
