import type { Socket } from 'node:net';
import type { Headers } from '../model/headers.js';
import { releaseWhenWritten } from '../streams/release-memory.js';

type Done = (error?: Error | null) => void;

interface State {
  hasWritten: boolean;
  /** The origin accepts no more bytes. */
  refusesWrites: boolean;
  trailers?: () => Headers;
}

/** Facts about a connection to an origin that undici does not provide. */
export interface OriginSocket {
  /** Starts the next exchange, of which nothing is written yet. `trailers` is called after the last chunk. */
  beginExchange(trailers?: () => Headers): void;
  /** Bytes of the current exchange were handed to the operating system. */
  readonly hasWritten: boolean;
  /** The reason phrase of the final response, one code unit per octet; undefined if it is not known. */
  reasonOf(status: number): string | undefined;
}

/**
 * Prepares a connected socket for undici. An origin may answer (413, 401 …) and close while we still send; the refused write
 * must not destroy the socket, because the answer is still in the receive buffer. Refused writes are therefore never
 * reported: sending stops, and reading continues to the answer, the end or the reset.
 */
export function instrumentOriginSocket(socket: Socket): OriginSocket {
  const heads = new ResponseHeads();
  const state: State = { hasWritten: false, refusesWrites: false };
  const withoutRefusal = (done: Done): Done => {
    state.hasWritten = true;
    return (error) => {
      if (!error || !isWriteRefusal(error)) done(error);
      else state.refusesWrites = true;
    };
  };
  overrideWrites(socket, () => state.trailers?.() ?? []);
  overrideWriting(socket, withoutRefusal);
  overrideReading(socket, heads);
  overrideDestroying(socket, () => !state.refusesWrites && socket.writableLength === 0);
  return {
    beginExchange(trailers) {
      state.hasWritten = false;
      state.trailers = trailers;
      heads.expectHead();
    },
    get hasWritten() {
      return state.hasWritten;
    },
    reasonOf: (status) => heads.reasonOf(status),
  };
}

/** The string with which undici ends a chunked body. It writes content as bytes, so content is never this string. */
const LAST_CHUNK = '\r\n0\r\n\r\n';

/**
 * Releases content that is written, and adds trailers (RFC 9112 §7.1.2), because undici supports neither. It passes nothing
 * but content as bytes, and without a callback.
 */
function overrideWrites(socket: Socket, trailers: () => Headers): void {
  const write = socket.write.bind(socket) as (data: unknown, ...rest: readonly unknown[]) => boolean;
  socket.write = (data: unknown, ...rest: readonly unknown[]) => {
    if (data instanceof Uint8Array) return write(data, releaseWhenWritten(data));
    if (data !== LAST_CHUNK) return write(data, ...rest);
    const lines = trailers().map(([name, value]) => `${name}: ${value}\r\n`);
    return write(Buffer.from(`\r\n0\r\n${lines.join('')}\r\n`, 'latin1'));
  };
}

/** Overrides the internal stream methods, which are the same for plain and TLS sockets. */
function overrideWriting(socket: Socket, withoutRefusal: (done: Done) => Done): void {
  const write = socket._write.bind(socket);
  const writeAll = socket._writev!.bind(socket);
  socket._write = (piece, encoding, done) => write(piece, encoding, withoutRefusal(done));
  socket._writev = (pieces, done) => writeAll(pieces, withoutRefusal(done));
}

function overrideReading(socket: Socket, heads: ResponseHeads): void {
  const push = socket.push.bind(socket);
  socket.push = (bytes: Buffer | null) => {
    if (bytes !== null) return push(heads.filter(bytes));
    const rest = heads.flush();
    if (rest) push(rest);
    return push(null);
  };
}

/**
 * undici regards a reset as the end of an answer that the close of the connection delimits. That is right if the origin
 * refused the rest of our request; otherwise the answer was cut (RFC 9112 §8), and the reset must be reported as another
 * error.
 */
function overrideDestroying(socket: Socket, wasSent: () => boolean): void {
  const destroy = socket.destroy.bind(socket);
  socket.destroy = (error?: NodeJS.ErrnoException) => {
    if (error?.code !== 'ECONNRESET' || !wasSent()) return destroy(error);
    return destroy(new Error('the origin reset the connection', { cause: error }));
  };
}

function isWriteRefusal(error: NodeJS.ErrnoException): boolean {
  return error.code === 'EPIPE' || error.code === 'ECONNRESET';
}

/** Replaces status 100; no software gives it a meaning. */
export const IGNORED_INTERIM_STATUS = 199;

const INTERIM = 'HTTP/1.1 1';
const STATUS_LINE_START = 'HTTP/1.1 100'.length;
/** Longer interim heads are left to the parser, which has its own limit. */
const MAX_HELD_BYTES = 64 * 1024;
/** The part of a status line that is examined. */
const MAX_STATUS_LINE_BYTES = 8 * 1024;

/**
 * Filters the heads of responses before undici parses them; not needed once undici has neither of two faults. It closes the
 * connection at an unrequested `100 Continue`, which a client must be able to skip (RFC 9110 §15.2), so 100 becomes
 * `IGNORED_INTERIM_STATUS`. It decodes the reason phrase as UTF-8 and loses the part in an earlier packet, so the octets are
 * kept here.
 */
export class ResponseHeads {
  private awaitingFinal = false;
  /** The beginning of an incomplete head. */
  private held: Buffer | undefined;
  /** The beginning of the final head, up to the end of its first line. */
  private statusLine = '';
  private awaitingStatusLine = false;

  /** A request is about to be written; the next bytes read are the head of a response. */
  expectHead(): void {
    this.awaitingFinal = true;
    this.held = undefined;
    this.statusLine = '';
    this.awaitingStatusLine = false;
  }

  /**
   * The reason phrase of the final response, one code unit per octet; undefined if its status line was not seen
   * completely.
   */
  reasonOf(status: number): string | undefined {
    const [, code, reason = ''] = /^HTTP\/\d\.\d (\d{3})(?: ([^\r\n]*))?\r?\n/.exec(this.statusLine) ?? [];
    return Number(code) === status ? reason : undefined;
  }

  /** The part of these bytes and the held ones that may be parsed now. */
  filter(bytes: Buffer): Buffer {
    if (this.awaitingStatusLine) this.addToStatusLine(bytes);
    if (!this.awaitingFinal) return bytes;
    const all = this.held ? Buffer.concat([this.held, bytes]) : bytes;
    this.held = undefined;
    for (let at = 0; at < all.length;) {
      const start = all.toString('latin1', at, at + STATUS_LINE_START);
      const end = all.indexOf('\r\n\r\n', at);
      if (!couldBeInterim(start) || all.length - at > MAX_HELD_BYTES) return this.finalHead(all, at);
      if (start.length < STATUS_LINE_START || end === -1) return this.hold(all, at);
      if (start === 'HTTP/1.1 100') all.write(`${IGNORED_INTERIM_STATUS}`, at + STATUS_LINE_START - 3, 'latin1');
      at = end + 4;
    }
    return all;
  }

  /** The bytes that are still held when the connection ends. */
  flush(): Buffer | undefined {
    const { held } = this;
    this.held = undefined;
    return held;
  }

  private finalHead(all: Buffer, at: number): Buffer {
    this.awaitingFinal = false;
    this.addToStatusLine(all.subarray(at));
    return all;
  }

  private addToStatusLine(bytes: Buffer): void {
    this.statusLine += bytes.toString('latin1', 0, MAX_STATUS_LINE_BYTES);
    this.awaitingStatusLine = !this.statusLine.includes('\n') && this.statusLine.length < MAX_STATUS_LINE_BYTES;
  }

  private hold(all: Buffer, at: number): Buffer {
    this.held = all.subarray(at);
    return all.subarray(0, at);
  }
}

function couldBeInterim(start: string): boolean {
  return start.startsWith(INTERIM) || INTERIM.startsWith(start);
}
