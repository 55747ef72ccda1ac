import type { Socket } from 'node:net';
import type { Headers } from '../model/headers.js';
import { ResponseHeads } from './undici-heads.js';

type Done = (error?: Error | null) => void;

interface State {
  wrote: boolean;
  /** The origin takes no more bytes. */
  isDeaf: boolean;
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
export function makePatient(socket: Socket): OriginSocket {
  const heads = new ResponseHeads();
  const state: State = { wrote: false, isDeaf: false };
  const patiently = (done: Done): Done => {
    state.wrote = true;
    return (error) => {
      if (!error || !isGone(error)) done(error);
      else state.isDeaf = true;
    };
  };
  overrideLastChunk(socket, () => state.trailers?.() ?? []);
  overrideWriting(socket, patiently);
  overrideReading(socket, heads);
  overrideDestroying(socket, () => !state.isDeaf && socket.writableLength === 0);
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
    if (bytes !== null) return push(heads.pass(bytes));
    const rest = heads.rest();
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

function isGone(error: NodeJS.ErrnoException): boolean {
  return error.code === 'EPIPE' || error.code === 'ECONNRESET';
}
