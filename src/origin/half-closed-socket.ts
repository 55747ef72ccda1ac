import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { ReadGate } from '../streams/read-gate.js';

/** Longest time without received bytes after a refused write. */
const LONGEST_SILENCE_MS = 10_000;

type WriteDone = (error?: Error | null) => void;

/**
 * Makes a socket continue to read after its peer refuses a write. Node would destroy it immediately, and lose an answer
 * that has already arrived (413, then a reset). After a refused write nothing more is sent, and pending writes fail
 * when the socket closes (docs/decisions/0001).
 */
export function keepReadingAfterWriteError<T extends Socket>(socket: T, longestSilenceMs = LONGEST_SILENCE_MS): T {
  const write = socket._write.bind(socket);
  const refused = new RefusedWrites(socket, longestSilenceMs);
  socket._write = refused.guard(write);
  if (socket._writev) socket._writev = refused.guardMany(socket._writev.bind(socket));
  const push = socket.push.bind(socket);
  socket.push = (bytes: unknown, encoding?: BufferEncoding) =>
    bytes === null && refused.suppressFalseEnd(write) ? false : push(bytes, encoding);
  return socket;
}

/** Holds back the writes of one socket after the first refused one. */
class RefusedWrites {
  private reason: NodeJS.ErrnoException | undefined;
  private readonly held: WriteDone[] = [];
  private silenceTimer: NodeJS.Timeout | undefined;

  constructor(
    private readonly socket: Socket,
    private readonly longestSilenceMs: number,
  ) {}

  guard(write: Socket['_write']): Socket['_write'] {
    return (chunk, encoding, done) => {
      if (this.reason) this.held.push(done);
      else write(chunk, encoding, this.guarded(done));
    };
  }

  guardMany(write: NonNullable<Socket['_writev']>): NonNullable<Socket['_writev']> {
    return (chunks, done) => {
      if (this.reason) this.held.push(done);
      else write(chunks, this.guarded(done));
    };
  }

  /**
   * The kernel reports a reset only once: if a write got the error, reading ends normally, and a message delimited by the close
   * would look complete. Returns true if this end is such a reset; after EPIPE the end is real.
   */
  suppressFalseEnd(write: Socket['_write']): boolean {
    this.reason ??= hiddenReset(this.socket, write);
    if (this.reason?.code !== 'ECONNRESET') return false;
    if (this.socket.readableLength === 0) this.fail();
    else this.socket.on('data', () => this.socket.readableLength === 0 && this.fail());
    return true;
  }

  private guarded(done: WriteDone): WriteDone {
    return (error) => (isRefusal(error) ? this.holdBack(error, done) : done(error));
  }

  private holdBack(reason: NodeJS.ErrnoException, done: WriteDone): void {
    this.held.push(done);
    if (this.reason) return;
    this.reason = reason;
    this.silenceTimer = setTimeout(() => this.failUnlessPaused(), this.longestSilenceMs);
    this.socket.on('data', () => this.silenceTimer?.refresh());
    this.socket.once('end', () => process.nextTick(() => this.socket.destroy()));
    this.socket.once('close', () => this.close());
  }

  /** Fails the socket, unless the silence is due to our own paused reading. */
  private failUnlessPaused(): void {
    if (ReadGate.sinceHeldMs(this.socket) < this.longestSilenceMs) this.silenceTimer?.refresh();
    else this.fail();
  }

  private fail(): void {
    this.socket.destroy(this.reason);
  }

  private close(): void {
    clearTimeout(this.silenceTimer);
    for (const done of this.held.splice(0)) done(this.reason);
  }
}

/**
 * Until Node 24 a reset that arrives with the last bytes is reported as a normal end. An empty write fails on a reset
 * connection, and has no effect on one that is only half closed.
 */
function hiddenReset(socket: Socket, write: Socket['_write']): NodeJS.ErrnoException | undefined {
  if (socket instanceof TLSSocket || !socket.writable || socket.writableLength > 0) return undefined;
  let reason: NodeJS.ErrnoException | undefined;
  write(Buffer.alloc(0), 'buffer' as BufferEncoding, (error) => (reason = error ?? undefined));
  return reason;
}

function isRefusal(error: NodeJS.ErrnoException | null | undefined): error is NodeJS.ErrnoException {
  return error?.code === 'EPIPE' || error?.code === 'ECONNRESET';
}
