import type { Socket } from 'node:net';
import type { HeaderLine } from '../model/headers.js';
import { keepReadingAfterWriteError } from './half-closed-socket.js';
import type { ExchangeCarrier, OriginExchange } from './origin-exchange.js';
import type { ResponseHead } from './response-head.js';
import { type ResponseListener, ResponseParser } from './response-parser.js';

/** The pool that a connection belongs to. */
export interface ConnectionOwner {
  /** Whether a connection may carry another exchange after this response. */
  mayKeep(exchange: OriginExchange, head: ResponseHead): boolean;
  /** The connection waits for its next exchange. */
  onFree(connection: OriginConnection): void;
  /** The connection has ended, or belongs to another protocol. */
  onEnded(connection: OriginConnection): void;
}

/** Stands for a connection that ended without an error. */
function connectionEnded(): Error {
  return Object.assign(new Error('other side closed the connection'), { code: 'ECONNRESET' });
}

/**
 * One connection to an origin, which carries one exchange at a time (RFC 9112 §9). It carries another one only if every octet of
 * the last one has an owner: nothing that was sent or received may be taken for a part of the next message.
 */
export class OriginConnection implements ResponseListener, ExchangeCarrier {
  /** The connection is established, over TLS with its handshake. */
  isConnected = false;
  private exchange: OriginExchange | undefined;
  private readonly parser = new ResponseParser(this);
  private used = false;
  /** Received bytes are being parsed. */
  private isBusy = false;
  /** As far as is known, the connection can carry another exchange after this one. */
  private isPersistent = true;
  private error: Error | undefined;
  /** An error of the response itself, which counts even after its end. */
  private failure: Error | undefined;
  private switchedHead: ResponseHead | undefined;
  private announcedIdleMs = Infinity;
  /** The head of the exchange, which is sent with the first content or in the next turn. */
  private waitingHead: string | undefined;

  constructor(
    readonly socket: Socket,
    private readonly owner: ConnectionOwner,
    /** Longest time without an exchange; 0: no limit. */
    private readonly idleMs: number,
  ) {
    keepReadingAfterWriteError(socket);
    socket.on('data', this.onData).on('end', this.onSocketEnd).on('drain', this.onDrain);
    socket.on('error', this.onError).on('close', this.onClose).on('timeout', this.onTimeout);
    socket.once('encrypted' in socket ? 'secureConnect' : 'connect', () => (this.isConnected = true));
  }

  get wasUsed(): boolean {
    return this.used;
  }

  /**
   * The connection can carry an exchange. One that has ended in a direction, maybe without an event so far, cannot; neither
   * can one with received bytes, which would be taken for the next response.
   */
  get isUsable(): boolean {
    const { socket } = this;
    if (!this.isConnected) return !socket.destroyed;
    return socket.writable && socket.readable && socket.readableLength === 0;
  }

  /** Sends the head of a request, together with content that is written in the same turn. */
  begin(exchange: OriginExchange): void {
    const { socket } = this;
    this.exchange = exchange;
    this.isPersistent = true;
    if (this.used) socket.ref();
    this.used = true;
    socket.setTimeout(0);
    this.parser.begin(exchange.start.method);
    this.waitingHead = exchange.start.head;
    // A body that has been read already is passed on in the next tick.
    process.nextTick(sendHeadSoon, this);
  }

  write(bytes: Buffer, onTaken?: (error?: Error | null) => void): boolean {
    const { socket, waitingHead } = this;
    if (waitingHead === undefined) return socket.write(bytes, onTaken);
    this.waitingHead = undefined;
    const size = waitingHead.length + bytes.length;
    if (size <= MAX_JOINED_BYTES) {
      const joined = Buffer.allocUnsafe(size);
      joined.write(waitingHead, 'latin1');
      bytes.copy(joined, waitingHead.length);
      return socket.write(joined, onTaken);
    }
    socket.cork();
    socket.write(waitingHead, 'latin1');
    const mayContinue = socket.write(bytes, onTaken);
    socket.uncork();
    return mayContinue;
  }

  /** Sends the head that waits for content, if there is one. */
  sendHead(): void {
    const { socket, waitingHead } = this;
    this.waitingHead = undefined;
    if (waitingHead !== undefined && !socket.destroyed) socket.write(waitingHead, 'latin1');
  }

  abort(exchange: OriginExchange, error?: Error): void {
    if (this.exchange === exchange) this.destroy(error);
  }

  destroy(error?: Error): void {
    this.error ??= error;
    this.socket.destroy();
  }

  /** Once both directions of the exchange are complete, the connection is free, or it ends. */
  finishIfComplete(): void {
    const { exchange, socket } = this;
    // Received bytes that are not parsed yet may belong to nobody.
    if (this.isBusy || this.failure || !exchange?.isComplete) return;
    if (socket.writableLength > 0 && !socket.destroyed) {
      // Bytes of the next request must not mix with bytes that the origin has not taken yet.
      socket.write(NOTHING, () => this.finishIfComplete());
      return;
    }
    this.exchange = undefined;
    if (this.isPersistent && this.idleLimitMs > 0 && this.isUsable) this.free();
    else socket.destroySoon();
    exchange.close(undefined);
  }

  /** Ends before the origin would end the connection, so that a request does not meet that end. */
  private get idleLimitMs(): number {
    return Math.min(this.idleMs === 0 ? Infinity : this.idleMs, this.announcedIdleMs - IDLE_MARGIN_MS);
  }

  onHead(head: ResponseHead, contentIsLate: boolean): void {
    const { exchange, socket } = this;
    if (!exchange || socket.destroyed) return;
    if (head.framing === 'switched') this.switchedHead = head;
    else if (head.status < 200) {
      // Only its next bytes would show whether the origin has sent that content.
      if (head.announcesForbiddenContent) this.isPersistent = false;
      exchange.listener.onInterim(head);
    } else {
      const mayKeep = this.owner.mayKeep(exchange, head);
      this.isPersistent &&= mayKeep && head.isPersistent;
      this.announcedIdleMs = (head.keepAliveSeconds ?? Infinity) * 1000;
      exchange.listener.onHead(head, contentIsLate);
    }
  }

  onContent(bytes: Buffer, isLast: boolean): void {
    if (!this.socket.destroyed) this.exchange?.listener.onContent(bytes, isLast);
  }

  onEnd(trailers: readonly HeaderLine[]): void {
    const { exchange } = this;
    if (!exchange || this.socket.destroyed) return;
    exchange.markAnswered();
    exchange.listener.onEnd(trailers);
  }

  private free(): void {
    const { socket } = this;
    if (socket.isPaused()) socket.resume();
    if (this.idleLimitMs < Infinity) socket.setTimeout(this.idleLimitMs);
    socket.unref();
    this.owner.onFree(this);
  }

  private readonly onData = (bytes: Buffer): void => {
    const used = this.guard(this.parse, bytes);
    if (used === undefined || this.socket.destroyed) return;
    if (this.switchedHead) return this.switchProtocols(this.switchedHead, bytes.subarray(used));
    // Bytes that belong to no request make the next response on this connection doubtful.
    if (!this.exchange) return this.destroy();
    if (used < bytes.length) this.isPersistent = false;
    this.finishIfComplete();
  };

  /** The end of the connection is the end of a response without a length. */
  private readonly onSocketEnd = (): void => {
    const { exchange } = this;
    if (!exchange) return this.destroy();
    const isEnd = exchange.isAnswered || this.guard(this.finishParsing, undefined);
    if (isEnd === false) this.destroy(connectionEnded());
    else this.finishIfComplete();
  };

  /** A malformed response, or an error while it is passed on, ends the connection; then it returns undefined. */
  private guard<T, R>(run: (input: T) => R, input: T): R | undefined {
    this.isBusy = true;
    try {
      return run(input);
    } catch (error) {
      this.failure ??= error as Error;
      this.destroy(error as Error);
      return undefined;
    } finally {
      this.isBusy = false;
    }
  }

  private readonly parse = (bytes: Buffer): number => this.parser.parse(bytes);

  private readonly finishParsing = (): boolean => this.parser.finish();

  private switchProtocols(head: ResponseHead, early: Buffer): void {
    const { socket, exchange } = this;
    this.exchange = undefined;
    socket.pause();
    socket.setTimeout(0);
    socket.off('data', this.onData).off('end', this.onSocketEnd).off('drain', this.onDrain);
    socket.off('error', this.onError).off('close', this.onClose).off('timeout', this.onTimeout);
    this.owner.onEnded(this);
    if (!exchange) return void socket.destroy();
    try {
      exchange.listener.onSwitched(head, socket, early);
      exchange.markSwitched();
    } catch (error) {
      socket.destroy();
      exchange.close(error as Error);
    }
  }

  private readonly onDrain = (): void => {
    const { exchange } = this;
    this.guard(drain, exchange);
    this.finishIfComplete();
  };

  private readonly onError = (error: NodeJS.ErrnoException): void => {
    const isReset = error.code === 'ECONNRESET';
    this.error ??= isReset ? Object.assign(new Error('other side reset the connection'), { code: error.code }) : error;
  };

  private readonly onTimeout = (): void => {
    if (!this.exchange) this.destroy();
  };

  private readonly onClose = (): void => {
    const { exchange } = this;
    this.exchange = undefined;
    this.owner.onEnded(this);
    exchange?.close(exchange.isAnswered ? this.failure : (this.error ?? connectionEnded()));
  };
}

function drain(exchange: OriginExchange | undefined): void {
  exchange?.listener.onDrain();
}

const NOTHING = Buffer.alloc(0);

/** A connection is closed this much earlier than the origin announces to close it. */
const IDLE_MARGIN_MS = 500;

/** A longer request is not worth a copy. */
const MAX_JOINED_BYTES = 4096;

function sendHeadSoon(connection: OriginConnection): void {
  process.nextTick(sendHead, connection);
}

function sendHead(connection: OriginConnection): void {
  connection.sendHead();
}
