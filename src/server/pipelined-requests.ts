import type { Socket } from 'node:net';
import { ReadGate } from '../streams/read-gate.js';
import type { Http1Exchange } from './exchange.js';

/** Methods whose requests may be under way beside each other: they change nothing (RFC 9110 §9.2.1). */
const SAFE_METHODS = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE']);

/** So many requests of one connection are under way at a time; each may have a connection to an origin. */
const MAX_CONCURRENT = 8;

/** With so many waiting nothing more is read: the client notices by its own sends. */
const PAUSE_READING_AT = 8;

/**
 * One read of 64 KiB may bring thousands of requests before reading stops, and each of them takes a hundred times its bytes
 * while it waits. A connection with more waiting ends: its client repeats what was not answered (RFC 9112 §9.3.2).
 */
const MAX_WAITING = 512;

/** Of all connections together; beyond it, a connection with more waiting than stop its reading ends. */
const MAX_WAITING_IN_ALL = 2048;

let waitingInAll = 0;

/** A connection that is not read from does not tell that its client has left: it is looked at so often. */
const PROBE_INTERVAL_MS = 1000;

interface WaitingRequest {
  readonly exchange: Http1Exchange;
  readonly start: () => void;
}

/**
 * The requests of one HTTP/1.1 connection, in their order (RFC 9112 §9.3.2): safe ones may be under way together, any other
 * waits for all before it and is waited for by all behind it.
 */
export class PipelinedRequests {
  private readonly running = new Set<Http1Exchange>();
  private waiting: WaitingRequest[] = [];
  private newestExchange: Http1Exchange | undefined;
  private isReadingPaused = false;
  private isStalled = false;
  private probeTimer: NodeJS.Timeout | undefined;

  constructor(private readonly socket: Socket) {
    // Each of them listens for the end of their connection.
    socket.setMaxListeners(0);
    socket.once('close', () => this.dropWaiting());
  }

  /** Those that are not answered yet, in their order. */
  get exchanges(): readonly Http1Exchange[] {
    return [...this.running, ...this.waiting.map(({ exchange }) => exchange)];
  }

  /** The one that came last, unless it is answered. */
  get newest(): Http1Exchange | undefined {
    return this.newestExchange;
  }

  /** Calls `start` when it is this request's turn: at once in nearly all cases, never when the connection ends before. */
  add(exchange: Http1Exchange, start: () => void): void {
    this.newestExchange = exchange;
    if (this.waiting.length === 0 && this.mayRun(exchange)) return this.run({ exchange, start });
    // What else stands in the read that ended the connection.
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
    if (this.running.size === 0) return true;
    if (this.running.size >= MAX_CONCURRENT || !isSafe(req.method)) return false;
    // Of those under way either all are safe, or there is one.
    const [first] = this.running;
    return isSafe(first!.req.method);
  }

  private run({ exchange, start }: WaitingRequest): void {
    this.running.add(exchange);
    exchange.res.once('close', () => this.onClosed(exchange));
    start();
  }

  private onClosed(exchange: Http1Exchange): void {
    this.isStalled = false;
    this.running.delete(exchange);
    if (this.newestExchange === exchange) this.newestExchange = undefined;
    while (!this.socket.destroyed && this.waiting.length > 0 && this.mayRun(this.waiting[0]!.exchange))
      this.run(this.next());
    if (this.waiting.length < PAUSE_READING_AT) this.resumeReading();
  }

  private next(): WaitingRequest {
    waitingInAll--;
    return this.waiting.shift()!;
  }

  /** What waits is forgotten at once: the event of the connection's end comes after the whole read. */
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

  /** Reads once, when no request has ended for a while. */
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

function isSafe(method: string | undefined): boolean {
  return method !== undefined && SAFE_METHODS.has(method);
}
