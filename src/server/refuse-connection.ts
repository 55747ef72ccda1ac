import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { type Problem, problemReply } from '../protocol/problem.js';

/** How long a client that was refused may take to read why. */
const LINGER_MS = 2000;

/** Connections whose remaining bytes mean nothing any more. */
const refused = new WeakSet<Socket>();

export function isRefused(socket: Socket): boolean {
  return refused.has(socket);
}

/** Nothing that comes on this connection from now on is acted upon. */
export function ignoreFurtherInput(socket: Socket): void {
  refused.add(socket);
}

/** Says what was wrong, where no response object exists, and ends the connection. */
export function refuseConnection(socket: Socket, problem: Problem): void {
  ignoreFurtherInput(socket);
  socket.on('error', () => undefined);
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  socket.end(Buffer.from(textOf(problem)));
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  socket.once('close', () => clearTimeout(timer));
  // Read on and forget: closing with bytes unread would reset the connection and take the answer away.
  socket.resume();
}

/** What went wrong before there was a request to answer; undefined when there is nobody to be told. */
export function problemOf(error: NodeJS.ErrnoException): Problem | undefined {
  const { code = '' } = error;
  if (code === 'HPE_HEADER_OVERFLOW') return { status: 431, detail: 'The header section is longer than 16 KiB.' };
  if (code === 'HPE_CHUNK_EXTENSIONS_OVERFLOW') return { status: 413, detail: 'The chunk extensions are too long.' };
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return { status: 408, detail: 'The header section did not arrive in time.' };
  }
  if (!code.startsWith('HPE_')) return undefined;
  return { status: 400, detail: 'The request is no valid HTTP/1.1 message.' };
}

function textOf(problem: Problem): string {
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
