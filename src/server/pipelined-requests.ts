import type { Socket } from 'node:net';
import { isSafe } from '../model/methods.js';
import { ReadGate } from '../streams/read-gate.js';
import type { Http1Exchange } from './exchange.js';

/** The most concurrent requests of one connection; each may have a connection to an origin. */
const MAX_CONCURRENT = 8;

/** With this many waiting, reading pauses; the client notices by its own writes. */
const PAUSE_READING_AT = 8;

/**
 * One read of 64 KiB may bring thousands of requests before reading pauses, and each takes a hundred times its bytes of
 * memory while it waits. A connection with more waiting is destroyed: its client repeats what was not answered (RFC
 * 9112 §9.3.2).
 */
const MAX_WAITING = 512;

/**
 * The limit of all connections together; beyond it, a connection with more than `PAUSE_READING_AT` waiting is
 * destroyed.
 */
const MAX_WAITING_IN_ALL = 2048;

let waitingInAll = 0;

/** Interval for probing a paused connection: without reads the client's leaving goes unnoticed. */
const PROBE_INTERVAL_MS = 1000;

interface WaitingRequest {
  readonly exchange: Http1Exchange;
  readonly start: () => void;
}

/**
 * The requests of one HTTP/1.1 connection, in their order (RFC 9112 §9.3.2): safe ones may run concurrently, any other
 * runs alone.
 */
export class PipelinedRequests {
  /** An array: see `ChurningSet`. */
  private readonly running: Http1Exchange[] = [];
  private waiting: WaitingRequest[] = [];
  private newestExchange: Http1Exchange | undefined;
  private isReadingPaused = false;
  private isStalled = false;
  private probeTimer: NodeJS.Timeout | undefined;

  constructor(
    private readonly socket: Socket,
    /** Called after the end of each response. */
    private readonly onResponseClosed: () => void,
  ) {
    // Each request adds a listener for the end of the connection.
    socket.setMaxListeners(0);
    socket.once('close', () => this.dropWaiting());
  }

  /** The exchanges without a finished response, in their order. */
  get exchanges(): readonly Http1Exchange[] {
    return [...this.running, ...this.waiting.map(({ exchange }) => exchange)];
  }

  /** The exchange that came last, unless its response is finished. */
  get newest(): Http1Exchange | undefined {
    return this.newestExchange;
  }

  /** Calls `start` when it is this request's turn: usually immediately, and never when the connection ends first. */
  add(exchange: Http1Exchange, start: () => void): void {
    this.newestExchange = exchange;
    if (this.waiting.length === 0 && this.mayRun(exchange)) return this.run(exchange, start);
    // One read may bring more requests after the one that made the connection end.
    if (this.socket.destroyed) return;
    this.waiting.push({ exchange, start });
    waitingInAll++;
    if (this.hasTooManyWaiting()) this.abort();
    else if (this.waiting.length >= PAUSE_READING_AT) this.pauseReading();
  }

  private hasTooManyWaiting(): boolean {
    const { length } = this.waiting;
    return length > MAX_WAITING || (length > PAUSE_READING_AT && waitingInAll > MAX_WAITING_IN_ALL);
  }

  private mayRun({ req }: Http1Exchange): boolean {
    if (this.running.length === 0) return true;
    if (this.running.length >= MAX_CONCURRENT || !isSafe(req.method!)) return false;
    // Running requests are either all safe or a single unsafe one, so the first decides.
    const [first] = this.running;
    return isSafe(first!.req.method!);
  }

  private run(exchange: Http1Exchange, start: () => void): void {
    this.running.push(exchange);
    exchange.res.on('close', () => this.onClosed(exchange));
    start();
  }

  private onClosed(exchange: Http1Exchange): void {
    this.isStalled = false;
    this.running.splice(this.running.indexOf(exchange), 1);
    if (this.newestExchange === exchange) this.newestExchange = undefined;
    while (!this.socket.destroyed && this.waiting.length > 0 && this.mayRun(this.waiting[0]!.exchange)) this.runNext();
    if (this.waiting.length < PAUSE_READING_AT) this.resumeReading();
    this.onResponseClosed();
  }

  private runNext(): void {
    const { exchange, start } = this.waiting.shift()!;
    waitingInAll--;
    this.run(exchange, start);
  }

  /** Drops the waiting requests immediately, because 'close' comes only after the whole read is parsed. */
  private abort(): void {
    this.socket.destroy();
    this.dropWaiting();
  }

  private pauseReading(): void {
    if (this.isReadingPaused) return;
    this.isReadingPaused = true;
    ReadGate.of(this.socket).hold();
    this.probeTimer = setInterval(() => this.probeConnection(), PROBE_INTERVAL_MS);
  }

  private resumeReading(): void {
    if (!this.isReadingPaused) return;
    this.isReadingPaused = false;
    clearInterval(this.probeTimer);
    ReadGate.of(this.socket).release();
  }

  /** Reads once if no response has finished since the last probe. */
  private probeConnection(): void {
    const gate = ReadGate.of(this.socket);
    if (this.isStalled) {
      gate.release();
      setImmediate(() => setImmediate(() => gate.hold()));
    }
    this.isStalled = true;
  }

  private dropWaiting(): void {
    waitingInAll -= this.waiting.length;
    this.waiting = [];
    this.newestExchange = undefined;
    this.resumeReading();
  }
}
