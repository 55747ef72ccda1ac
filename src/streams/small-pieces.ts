import { IncomingMessage } from 'node:http';
import { Http2ServerRequest } from 'node:http2';
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { ReadGate } from './read-gate.js';

/** The connections of the bodies passed to `limitSmallPieces`. */
const SOCKETS = new WeakMap<Readable, Socket>();

/** Makes a body on this connection cost no more memory and time in small pieces than in large ones. */
export function limitSmallPieces(body: Readable, socket: Socket): void {
  SOCKETS.set(body, socket);
  combineSmallPieces(body, () => throttle.count(socket));
}

/**
 * A request over HTTP/1.1 whose body is limited like those of `limitSmallPieces`. It has the methods of its class,
 * because replacing those of each request costs more than a short body.
 */
export class CombiningRequest extends IncomingMessage {
  private hasPassedPiece = false;
  private combiner: PieceCombiner | undefined;

  override push(piece: unknown, encoding?: BufferEncoding): boolean {
    if (!isSmallPiece(piece)) {
      this.combiner?.flush();
      return super.push(piece, encoding);
    }
    if (this.hasPassedPiece) {
      this.combiner ??= new PieceCombiner(this, (combined) => super.push(combined), this.countPiece);
      return this.combiner.add(piece);
    }
    // Not counted: a connection may have only few requests at a time.
    this.hasPassedPiece = true;
    return super.push(piece, encoding);
  }

  override _read(size: number): void {
    this.combiner?.flush();
    super._read(size);
  }

  override destroy(error?: Error): this {
    this.combiner?.flushBeforeDestroy();
    return super.destroy(error);
  }

  private readonly countPiece = (): void => throttle.count(this.socket);
}

/**
 * Milliseconds since reading from the body's connection was last held, 0 while it is held, Infinity if it never was.
 */
export function sinceReadHeldMs(body: Readable): number {
  const socket =
    body instanceof CombiningRequest
      ? body.socket
      : SOCKETS.get(body instanceof Http2ServerRequest ? body.stream : body);
  return socket ? ReadGate.sinceHeldMs(socket) : Infinity;
}

/** Called for every small piece, so that its connection can be read less often. */
export type SmallPieceListener = () => void;

/**
 * Makes a stream combine the small pieces of one turn of the event loop, or of many turns while nobody reads, so that a
 * body in chunks of one byte costs as little memory as one in large chunks. Order and content stay, and bytes wait for
 * a waiting reader no longer than to the end of the turn.
 */
export function combineSmallPieces<T extends Readable>(stream: T, onSmallPiece: SmallPieceListener = noop): T {
  const hasBufferedPieces = combineBuffered(stream, onSmallPiece);
  const push = stream.push.bind(stream);
  const read = stream._read.bind(stream);
  const destroy = stream.destroy.bind(stream);
  const combiner = new PieceCombiner(stream, push, onSmallPiece);
  // A stream with a single small piece costs nothing more.
  let hasPassedPiece = hasBufferedPieces;
  stream.push = (piece: unknown, encoding?: BufferEncoding) => {
    if (isSmallPiece(piece)) {
      if (hasPassedPiece) return combiner.add(piece);
      hasPassedPiece = true;
      onSmallPiece();
    } else combiner.flush();
    return push(piece, encoding);
  };
  stream._read = (size) => {
    combiner.flush();
    read(size);
  };
  stream.destroy = (error) => {
    combiner.flushBeforeDestroy();
    return destroy(error);
  };
  return stream;
}

/**
 * Combines earlier pieces: Node reports an HTTP/2 stream only after it has read everything that came with its head.
 * Returns whether there were any.
 */
function combineBuffered(stream: Readable, onSmallPiece: SmallPieceListener): boolean {
  const count = bufferedPieces(stream);
  if (count < 2 || stream.readableFlowing !== null || stream.readableLength / count >= SMALL_BYTES) return count > 0;
  for (let piece = 0; piece < count; piece++) onSmallPiece();
  joinPieces(stream);
  return true;
}

function isSmallPiece(piece: unknown): piece is Buffer {
  return Buffer.isBuffer(piece) && piece.length > 0 && piece.length < SMALL_BYTES;
}

function noop(): void {
  // By default nothing has to be throttled.
}

/**
 * Smaller pieces are copied: each would otherwise cost a few hundred bytes of overhead and retain its parent buffer.
 */
const SMALL_BYTES = 8 * 1024;

/** Size of the blocks into which small pieces are copied. */
const BLOCK_BYTES = 16 * 1024;

/** Combines the pieces of one stream and hands them on. */
class PieceCombiner {
  /** The only piece of this turn so far: a slow client needs no block, which would be most of its memory. */
  private single: Buffer | undefined;
  private block: Buffer | undefined;
  private usedBytes = 0;
  private isFlushScheduled = false;

  constructor(
    private readonly stream: Readable,
    private readonly push: (combined: Buffer) => boolean,
    private readonly onSmallPiece: SmallPieceListener,
  ) {}

  /** Like `push`, returns false when no more data should come for now. */
  add(piece: Buffer): boolean {
    this.onSmallPiece();
    if (this.block && this.usedBytes + piece.length > this.block.length) this.flush();
    if (this.usedBytes === 0) this.single = Buffer.from(piece);
    else this.addToBlock(piece);
    this.usedBytes += piece.length;
    if (!this.isFlushScheduled) {
      this.isFlushScheduled = true;
      setImmediate(this.endTurn);
    }
    return this.stream.readableLength + this.usedBytes < this.stream.readableHighWaterMark;
  }

  /** Hands on a single piece or a mostly full block as it is; otherwise a copy, which is smaller. */
  flush(): void {
    const { single, block, usedBytes } = this;
    if (usedBytes === 0) return;
    this.usedBytes = 0;
    this.single = undefined;
    this.block = undefined;
    const content = single ?? block!.subarray(0, usedBytes);
    this.push(single || usedBytes > BLOCK_BYTES / 2 ? content : Buffer.from(content));
  }

  /** Bytes that arrived before a broken connection count, so the consumer gets them first. */
  flushBeforeDestroy(): void {
    if (this.stream.readableFlowing && !this.stream.destroyed) this.flush();
  }

  private addToBlock(piece: Buffer): void {
    this.block ??= Buffer.allocUnsafeSlow(BLOCK_BYTES);
    this.single?.copy(this.block);
    this.single = undefined;
    piece.copy(this.block, this.usedBytes);
  }

  private readonly endTurn = (): void => {
    this.isFlushScheduled = false;
    if (this.stream.readableFlowing || this.stream.readableLength === 0) this.flush();
  };
}

/**
 * Combines all pieces that a paused stream has buffered into one. Since version 26 Node returns one piece per read,
 * before that all of them.
 */
export function joinPieces(stream: Readable): void {
  const pieces: Buffer[] = [];
  while (stream.readableLength > 0) {
    const piece = stream.read() as Buffer | null;
    if (!piece) break;
    pieces.push(piece);
  }
  if (pieces.length > 0) stream.unshift(Buffer.concat(pieces));
}

/** The number of buffered pieces, for which Node has no public API: streams only report their bytes. */
function bufferedPieces(stream: Readable): number {
  const { _readableState: state } = stream as Readable & { readonly _readableState?: { buffer?: { length?: number } } };
  return state?.buffer?.length ?? 0;
}

/**
 * This many small pieces of one connection in one turn are deliberate: a slow writer's data arrives in only a few
 * pieces.
 */
const MANY_PIECES = 256;

/** After a read with many pieces, held connections are not read for this many times the duration of that read. */
const PAUSE_FACTOR = 3;

/**
 * Reads connections that send very many tiny pieces one at a time and with pauses, so that all of them together leave
 * most of the CPU time to other connections. Each read may yield ten thousand pieces.
 */
class SmallPieceThrottle {
  private readonly counts = new Map<Socket, number>();
  private readonly heldGates: ReadGate[] = [];
  private timer: NodeJS.Timeout | undefined;
  private readsAgainAt = 0;
  private turnBeganAt = 0;

  count(socket: Socket): void {
    const count = (this.counts.get(socket) ?? 0) + 1;
    if (this.counts.size === 0) {
      this.turnBeganAt = performance.now();
      setImmediate(this.endTurn);
    }
    this.counts.set(socket, count);
    // Not only at the end of the turn, because the same turn may read this connection again.
    if (count === MANY_PIECES) this.hold(ReadGate.of(socket));
  }

  private hold(gate: ReadGate): void {
    gate.hold();
    this.heldGates.push(gate);
  }

  private readonly endTurn = (): void => {
    const now = performance.now();
    const hadMany = [...this.counts.values()].some((count) => count >= MANY_PIECES);
    this.counts.clear();
    if (hadMany) this.readsAgainAt = now + (now - this.turnBeganAt) * PAUSE_FACTOR;
    this.scheduleRelease();
  };

  private scheduleRelease(): void {
    if (this.timer || this.heldGates.length === 0) return;
    this.timer = setTimeout(this.releaseNext, Math.max(1, this.readsAgainAt - performance.now()));
  }

  /** Releases one connection at a time: the cost of its next read decides how long the others wait. */
  private readonly releaseNext = (): void => {
    this.timer = undefined;
    this.heldGates.shift()?.release();
    // The released connection may send nothing for a while, so the others must not wait for its data.
    setImmediate(() => setImmediate(() => this.scheduleRelease()));
  };
}

const throttle = new SmallPieceThrottle();
