import { Http2ServerRequest } from 'node:http2';
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { gatherSmallPieces } from '../streams/gather.js';
import { ReadGate } from './read-gate.js';

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
export function tameSmallPieces(body: Readable, socket: Socket): void {
  SOCKETS.set(body, socket);
  gatherSmallPieces(body, () => pace.count(socket));
}

/** Milliseconds since its connection was last kept from being read, 0 while it is; Infinity when it never was. */
export function sinceHeldBackMs(body: Readable): number {
  const socket = SOCKETS.get(body instanceof Http2ServerRequest ? body.stream : body);
  return socket ? ReadGate.sinceHeldMs(socket) : Infinity;
}
