import type { Socket } from 'node:net';
import type { Headers } from '../model/headers.js';

type Done = (error?: Error | null) => void;

interface State {
  wrote: boolean;
  /** The origin takes no more bytes. */
  refusesWrites: boolean;
  trailers?: () => Headers;
}

/** What is known of one connection to an origin, beside what undici knows. */
export interface OriginSocket {
  /** The next exchange begins: nothing of it has been written. The trailers are asked for behind the last chunk. */
  beginExchange(trailers?: () => Headers): void;
  /** Something of the current exchange was handed to the operating system. */
  readonly wrote: boolean;
  /** The reason phrase of the final response, as its octets; undefined when it is not known. */
  reasonOf(status: number): string | undefined;
}

/**
 * Makes a connected socket patient. An origin that has heard enough answers and closes while we still send; the write
 * that fails then must not destroy the socket, because its answer is waiting in the receive buffer (413, 401 …). So a
 * failed write is never reported: sending stands still, and reading on brings the answer, or the end, or the reset itself.
 */
export function instrumentOriginSocket(socket: Socket): OriginSocket {
  const heads = new ResponseHeads();
  const state: State = { wrote: false, refusesWrites: false };
  const patiently = (done: Done): Done => {
    state.wrote = true;
    return (error) => {
      if (!error || !isWriteRefusal(error)) done(error);
      else state.refusesWrites = true;
    };
  };
  overrideLastChunk(socket, () => state.trailers?.() ?? []);
  overrideWriting(socket, patiently);
  overrideReading(socket, heads);
  overrideDestroying(socket, () => !state.refusesWrites && socket.writableLength === 0);
  return {
    beginExchange(trailers) {
      state.wrote = false;
      state.trailers = trailers;
      heads.expectHead();
    },
    get wrote() {
      return state.wrote;
    },
    reasonOf: (status) => heads.reasonOf(status),
  };
}

/** How undici ends a chunked body. It writes content as bytes, so that no content is this string. */
const LAST_CHUNK = '\r\n0\r\n\r\n';

/** undici knows no trailers of requests (RFC 9112 §7.1.2); not needed once it does. */
function overrideLastChunk(socket: Socket, trailers: () => Headers): void {
  const write = socket.write.bind(socket) as (data: unknown, ...rest: readonly unknown[]) => boolean;
  socket.write = (data: unknown, ...rest: readonly unknown[]) => {
    if (data !== LAST_CHUNK) return write(data, ...rest);
    const lines = trailers().map(([name, value]) => `${name}: ${value}\r\n`);
    return write(Buffer.from(`\r\n0\r\n${lines.join('')}\r\n`, 'latin1'));
  };
}

/** Through the methods that a stream's maker provides: the same for plain and TLS sockets. */
function overrideWriting(socket: Socket, patiently: (done: Done) => Done): void {
  const write = socket._write.bind(socket);
  const writeAll = socket._writev!.bind(socket);
  socket._write = (piece, encoding, done) => write(piece, encoding, patiently(done));
  socket._writev = (pieces, done) => writeAll(pieces, patiently(done));
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
 * undici takes a reset for the end of an answer whose end is the end of the connection. That is right when the origin did
 * not want the rest of our request; otherwise the answer was cut (RFC 9112 §8).
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

/** The status that stands in the place of 100. */
export const IGNORED_INTERIM_STATUS = 199;

const INTERIM = 'HTTP/1.1 1';
const STATUS_LINE_START = 'HTTP/1.1 100'.length;
/** Longer interim heads than this are left to the parser, which has its own limit. */
const MAX_HELD_BYTES = 64 * 1024;
/** More of a status line is not looked at. */
const MAX_STATUS_LINE_BYTES = 8 * 1024;

/**
 * Looks at the heads of responses before undici does, which has two faults there; not needed once it has neither.
 * It breaks the connection off at a `100 Continue` that nobody asked for, although a client must be able to skip one
 * (RFC 9110 §15.2): such a 100 becomes `OTHER_INTERIM`, which means nothing to anybody. And it decodes the reason phrase as
 * UTF-8 and forgets what came of it in an earlier packet: its octets are noted here.
 */
export class ResponseHeads {
  private awaitingFinal = false;
  /** The begin of a head that is not whole yet. */
  private held: Buffer | undefined;
  /** The begin of the final head, up to the end of its first line. */
  private statusLine = '';
  private awaitingStatusLine = false;

  /** A request is about to be written: the next bytes are the head of a response to it. */
  expectHead(): void {
    this.awaitingFinal = true;
    this.held = undefined;
    this.statusLine = '';
    this.awaitingStatusLine = false;
  }

  /** The reason phrase of the final response, one code unit an octet; undefined when its status line was not seen whole. */
  reasonOf(status: number): string | undefined {
    const [, code, reason = ''] = /^HTTP\/\d\.\d (\d{3})(?: ([^\r\n]*))?\r?\n/.exec(this.statusLine) ?? [];
    return Number(code) === status ? reason : undefined;
  }

  /** What of these bytes, and of those held so far, may be parsed now. */
  filter(bytes: Buffer): Buffer {
    if (this.awaitingStatusLine) this.noteStatusLine(bytes);
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

  /** What is still held when the connection ends. */
  flush(): Buffer | undefined {
    const { held } = this;
    this.held = undefined;
    return held;
  }

  private finalHead(all: Buffer, at: number): Buffer {
    this.awaitingFinal = false;
    this.noteStatusLine(all.subarray(at));
    return all;
  }

  private noteStatusLine(bytes: Buffer): void {
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
