import { Http2ServerRequest } from 'node:http2';
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { ReadGate } from './read-gate.js';

/** Smaller pieces are copied: each would cost some hundred bytes beside its own, and keep alive what it was cut from. */
const SMALL_BYTES = 8 * 1024;

/** Small pieces grow to this size while nobody reads them. */
const BLOCK_BYTES = 16 * 1024;

/** Told of every small piece: somebody may have to read less. */
export type SmallPieceListener = () => void;

/**
 * Makes a stream hand on the small pieces of one turn of the event loop as one piece, or those of many turns while nobody
 * reads: a body in chunks of one byte costs as much memory as one in large chunks. Nothing is lost or reordered, and no
 * byte waits longer than to the end of its turn for a reader who wants it.
 */
export function combineSmallPieces<T extends Readable>(stream: T, onSmallPiece: SmallPieceListener = noop): T {
  new Gathering(stream, onSmallPiece).begin();
  return stream;
}

class Gathering {
  private readonly pushOn: Readable['push'];
  private block: Buffer | undefined;
  private used = 0;
  private isScheduled = false;

  constructor(
    private readonly stream: Readable,
    private readonly onSmallPiece: SmallPieceListener,
  ) {
    this.pushOn = stream.push.bind(stream);
  }

  begin(): void {
    const { stream } = this;
    this.takeEarlier();
    const read = stream._read.bind(stream);
    const destroy = stream.destroy.bind(stream);
    stream.push = (piece: unknown, encoding?: BufferEncoding) => {
      if (Buffer.isBuffer(piece) && piece.length > 0 && piece.length < SMALL_BYTES) return this.add(piece);
      this.flush();
      return this.pushOn(piece, encoding);
    };
    stream._read = (size) => {
      this.flush();
      read(size);
    };
    // Bytes that came before a cut count: whoever listens gets them first.
    stream.destroy = (error) => {
      if (stream.readableFlowing && !stream.destroyed) this.flush();
      return destroy(error);
    };
  }

  /** What came before anybody could look: HTTP/2 tells of a stream after the whole of the read that brought its head. */
  private takeEarlier(): void {
    const { stream } = this;
    const pieces = piecesIn(stream);
    if (pieces < 2 || stream.readableFlowing !== null || stream.readableLength / pieces >= SMALL_BYTES) return;
    for (let count = 0; count < pieces; count++) this.onSmallPiece();
    joinPieces(stream);
  }

  /** As `push`: false when no more should come for now. */
  private add(piece: Buffer): boolean {
    this.onSmallPiece();
    if (this.block && this.used + piece.length > this.block.length) this.flush();
    this.block ??= Buffer.allocUnsafeSlow(BLOCK_BYTES);
    this.used += piece.copy(this.block, this.used);
    if (!this.isScheduled) {
      this.isScheduled = true;
      setImmediate(this.endTurn);
    }
    return this.stream.readableLength + this.used < this.stream.readableHighWaterMark;
  }

  private readonly endTurn = (): void => {
    this.isScheduled = false;
    if (this.stream.readableFlowing || this.stream.readableLength === 0) this.flush();
  };

  /** A block is given away as it is when most of it is used, else as large as its content. */
  private flush(): void {
    const { block, used } = this;
    if (!block || used === 0) return;
    this.used = 0;
    const isFull = used > BLOCK_BYTES / 2;
    if (isFull) this.block = undefined;
    this.pushOn(isFull ? block.subarray(0, used) : Buffer.from(block.subarray(0, used)));
  }
}

/**
 * Makes one piece of all that a paused stream holds. Since version 26 Node gives one piece with each read, before that all
 * of them.
 */
export function joinPieces(stream: Readable): void {
  const taken: Buffer[] = [];
  while (stream.readableLength > 0) {
    const piece = stream.read() as Buffer | null;
    if (!piece) break;
    taken.push(piece);
  }
  if (taken.length > 0) stream.unshift(Buffer.concat(taken));
}

/** Streams do not tell how many pieces they hold, only their bytes. */
function piecesIn(stream: Readable): number {
  const { _readableState: state } = stream as Readable & { readonly _readableState?: { buffer?: { length?: number } } };
  return state?.buffer?.length ?? 0;
}

function noop(): void {
  // Nobody needs to know.
}

/** So many small pieces of one connection in one turn are no accident: what a client writes slowly comes in a few. */
const MANY_PIECES = 256;

/** After a read that brought many, none of its kind follows for so many times as long as it took. */
const PAUSE_FACTOR = 3;

/**
 * Reads connections that send their bodies in very many tiny pieces one after the other and with pauses, so that all of
 * them together leave most of the time to everybody else. Each read may bring ten thousand pieces.
 */
class SmallPiecePace {
  private readonly counts = new Map<Socket, number>();
  private readonly held: Held[] = [];
  private timer: NodeJS.Timeout | undefined;
  private readsAgainAt = 0;
  private turnBeganAt = 0;

  count(socket: Socket): void {
    const before = this.counts.get(socket) ?? 0;
    if (this.counts.size === 0) {
      this.turnBeganAt = performance.now();
      setImmediate(this.endTurn);
    }
    this.counts.set(socket, before + 1);
    // At once: the same turn may read the same connection again.
    if (before + 1 === MANY_PIECES) this.hold(socket);
  }

  private hold(socket: Socket): void {
    const gate = ReadGate.of(socket);
    gate.hold();
    this.held.push({ socket, gate });
  }

  private readonly endTurn = (): void => {
    const now = performance.now();
    const hadMany = [...this.counts.values()].some((count) => count >= MANY_PIECES);
    this.counts.clear();
    if (hadMany) this.readsAgainAt = now + (now - this.turnBeganAt) * PAUSE_FACTOR;
    this.wait();
  };

  private wait(): void {
    if (this.timer || this.held.length === 0) return;
    this.timer = setTimeout(this.next, Math.max(1, this.readsAgainAt - performance.now()));
  }

  /** One connection at a time: what it brings says how long the next one waits. */
  private readonly next = (): void => {
    this.timer = undefined;
    const held = this.held.shift();
    held?.gate.release();
    // It may bring nothing for a while, and then the others need not wait for it.
    setImmediate(() => setImmediate(() => this.wait()));
  };
}

interface Held {
  readonly socket: Socket;
  readonly gate: ReadGate;
}

const pace = new SmallPiecePace();

/** The connections that bodies arrive on. */
const SOCKETS = new WeakMap<Readable, Socket>();

/** Makes a body that arrives on this connection cost no more in small pieces than in large ones. */
export function limitSmallPieces(body: Readable, socket: Socket): void {
  SOCKETS.set(body, socket);
  combineSmallPieces(body, () => pace.count(socket));
}

/** Milliseconds since its connection was last kept from being read, 0 while it is; Infinity when it never was. */
export function sinceReadHeldMs(body: Readable): number {
  const socket = SOCKETS.get(body instanceof Http2ServerRequest ? body.stream : body);
  return socket ? ReadGate.sinceHeldMs(socket) : Infinity;
}
