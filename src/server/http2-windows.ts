import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import { ReadGate } from '../streams/read-gate.js';

/** Flow-control windows in bytes (RFC 9113 §5.2). */
export interface Windows {
  /** Of each stream. */
  readonly stream: number;
  /** Of the connection, all streams together. */
  readonly session: number;
}

/** The largest window of a connection; that of a stream grows in proportion. 64 MiB fill 10 Gbit/s over 50 ms. */
const MAX_SESSION_WINDOW = 64 * 1024 * 1024;

/** The smallest window of a stream, which is also the initial one of the protocol (RFC 9113 §6.5.2). */
const MIN_STREAM_WINDOW = 65_535;

/** The pause between two measurements of a connection; it doubles with each one that lets nothing grow. */
const MIN_PAUSE_MS = 20;
const MAX_PAUSE_MS = 1000;

/** The bytes that all windows of this process together may have grown beyond their initial size. */
export class GrowthBudget {
  private takenBytes = 0;

  constructor(private readonly maxBytes: number) {}

  /** Takes so many bytes; false if they are not there. */
  take(bytes: number): boolean {
    if (this.takenBytes + bytes > this.maxBytes) return false;
    this.takenBytes += bytes;
    return true;
  }

  giveBack(bytes: number): void {
    this.takenBytes -= bytes;
  }
}

/** Two connections at the largest window, or 16 at twice the initial one. */
const budgetOfProcess = new GrowthBudget(128 * 1024 * 1024);

/**
 * The window of a connection that its readers can use, from what they read in one round trip. A window limits the rate
 * when a round trip brings most of it; then the next is twice what was read.
 */
export function grownWindow(window: number, readBytes: number): number {
  if (readBytes < (window / 3) * 2) return window;
  return Math.max(window, Math.min(MAX_SESSION_WINDOW, 2 ** Math.ceil(Math.log2(2 * readBytes))));
}

/** The window of a stream for so many bodies, so that all of them together hold no more than the connection may. */
export function sharedWindow(sessionWindow: number, bodies: number): number {
  return Math.max(MIN_STREAM_WINDOW, 2 ** Math.floor(Math.log2(sessionWindow / Math.max(1, bodies))));
}

/**
 * Sizes the windows of one session by what its readers do. They grow while request bodies are read as fast as a round
 * trip allows, because a fixed window caps distant clients. They shrink while bodies pile up unread: Node takes the
 * bytes of paused streams without counting them against the window of the connection. A client that ignores that is no
 * longer read.
 */
export class SessionWindows {
  private readonly bodies = new Set<ServerHttp2Stream>();
  private readonly ratio: number;
  private sessionWindow: number;
  private streamWindow: number;
  private isHeld = false;
  private isMeasuring = false;
  private pauseMs = MIN_PAUSE_MS;
  private timer: NodeJS.Timeout | undefined;
  private bytesReadBefore = 0;
  private unreadBefore = 0;

  constructor(
    private readonly session: ServerHttp2Session,
    private readonly socket: Socket,
    private readonly initial: Windows,
    private readonly budget = budgetOfProcess,
  ) {
    this.ratio = initial.stream / initial.session;
    this.sessionWindow = initial.session;
    this.streamWindow = initial.stream;
    session.once('close', () => this.end());
  }

  /** Watches the body of a new stream. Runs before anything else changes how the stream is read. */
  watch(stream: ServerHttp2Stream): void {
    const forget = (): void => {
      this.bodies.delete(stream);
      this.onRead();
    };
    this.bodies.add(stream);
    stream.once('end', forget).once('close', forget);
    const push = stream.push.bind(stream);
    stream.push = (piece: unknown, encoding?: BufferEncoding) => {
      const wantsMore = push(piece, encoding);
      if (!wantsMore) this.onPiledUp();
      this.scheduleMeasurement();
      return wantsMore;
    };
    const read = stream._read.bind(stream);
    stream._read = (size) => {
      read(size);
      this.onRead();
    };
  }

  /** The bytes of all bodies that nobody has read. */
  private get unreadBytes(): number {
    let sum = 0;
    for (const { readableLength } of this.bodies) sum += readableLength;
    return sum;
  }

  private onPiledUp(): void {
    const { unreadBytes, sessionWindow } = this;
    if (unreadBytes <= sessionWindow / 2) return;
    this.setStreamWindow(Math.min(this.streamWindow, sharedWindow(sessionWindow, this.bodies.size)));
    // One window may be on its way while the client learns of the smaller one.
    if (unreadBytes <= 2 * sessionWindow || this.isHeld) return;
    this.isHeld = true;
    ReadGate.of(this.socket).hold();
  }

  private onRead(): void {
    if (!this.isHeld && this.streamWindow >= this.initial.stream) return;
    const { unreadBytes, sessionWindow } = this;
    if (this.isHeld && unreadBytes <= sessionWindow) this.release();
    if (unreadBytes <= sessionWindow / 8) this.setStreamWindow(sessionWindow * this.ratio);
  }

  private release(): void {
    this.isHeld = false;
    ReadGate.of(this.socket).release();
  }

  private scheduleMeasurement(): void {
    if (this.isMeasuring || this.timer || this.sessionWindow >= MAX_SESSION_WINDOW) return;
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.measure();
    }, this.pauseMs);
    this.timer.unref();
  }

  /** Measures what is read during one round trip, and lets the windows grow by it. */
  private measure(): void {
    if (this.session.destroyed || this.session.closed) return;
    this.isMeasuring = true;
    this.bytesReadBefore = this.socket.bytesRead;
    this.unreadBefore = this.unreadBytes;
    const isSent = this.session.ping((error) => {
      this.isMeasuring = false;
      if (!error && !this.session.destroyed) this.grow();
    });
    // Too many PINGs are unanswered already.
    if (!isSent) this.isMeasuring = false;
  }

  private grow(): void {
    const readBytes = this.socket.bytesRead - this.bytesReadBefore - (this.unreadBytes - this.unreadBefore);
    const next = grownWindow(this.sessionWindow, readBytes / this.ratio);
    this.pauseMs = next === this.sessionWindow ? Math.min(MAX_PAUSE_MS, this.pauseMs * 2) : MIN_PAUSE_MS;
    if (next === this.sessionWindow || this.session.pendingSettingsAck) return;
    if (!this.budget.take(next - this.sessionWindow)) return;
    this.sessionWindow = next;
    this.session.setLocalWindowSize(next);
    this.setStreamWindow(next * this.ratio);
  }

  /** Changes the window of every stream (RFC 9113 §6.9.2), unless the client has not confirmed the last change. */
  private setStreamWindow(bytes: number): void {
    const { session } = this;
    const next = Math.floor(bytes);
    if (next === this.streamWindow || session.destroyed || session.closed || session.pendingSettingsAck) return;
    this.streamWindow = next;
    session.settings({ initialWindowSize: next });
  }

  private end(): void {
    clearTimeout(this.timer);
    if (this.isHeld) this.release();
    this.budget.giveBack(this.sessionWindow - this.initial.session);
    this.sessionWindow = this.initial.session;
  }
}
