import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { type Problem, problemReply } from '../protocol/problem.js';

/** Time that a refused client has to read the response. */
const LINGER_MS = 2000;

/** Connections whose further input is ignored. */
const ignored = new WeakSet<Socket>();

/** Whether `ignoreFurtherInput` was called for this connection. */
export function isIgnored(socket: Socket): boolean {
  return ignored.has(socket);
}

/** Ignores everything that arrives on this connection from now on. */
export function ignoreFurtherInput(socket: Socket): void {
  ignored.add(socket);
}

/** Writes a problem response where no response object exists, and ends the connection. */
export function refuseConnection(socket: Socket, problem: Problem): void {
  ignoreFurtherInput(socket);
  socket.on('error', () => undefined);
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  socket.end(Buffer.from(responseText(problem)));
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  socket.once('close', () => clearTimeout(timer));
  // Reads on and discards: closing with unread bytes would reset the connection and discard the response.
  socket.resume();
}

/** The problem behind a parser error; undefined if there is no client to tell. */
export function parseProblem(error: NodeJS.ErrnoException): Problem | undefined {
  const { code = '' } = error;
  if (code === 'HPE_HEADER_OVERFLOW') return { status: 431, detail: 'The header section is longer than 16 KiB.' };
  if (code === 'HPE_CHUNK_EXTENSIONS_OVERFLOW') return { status: 413, detail: 'The chunk extensions are too long.' };
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return { status: 408, detail: 'The header section did not arrive in time.' };
  }
  if (!code.startsWith('HPE_')) return undefined;
  return { status: 400, detail: 'The request is no valid HTTP/1.1 message.' };
}

function responseText(problem: Problem): string {
  const { status, headers, body } = problemReply(problem);
  const lines = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}`,
    ...headers.map(([name, value]) => `${name}: ${value}`),
    `Content-Length: ${Buffer.byteLength(body as string)}`,
    `Date: ${new Date().toUTCString()}`,
    'Connection: close',
  ];
  return `${lines.join('\r\n')}\r\n\r\n${body as string}`;
}
