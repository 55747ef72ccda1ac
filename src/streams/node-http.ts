import { type ClientRequest, type IncomingMessage, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Headers } from '../model/headers.js';

/**
 * The answer to a request of ours. Fails when there is none, also with 101: Node ends such a request without an error, and
 * then no time counts for it any more.
 */
export function responseTo(request: ClientRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request.once('response', resolve);
    request.once('error', reject);
    request.once('upgrade', (_answer, socket) => {
      socket.destroy();
      reject(new Error('the answer is a switch to another protocol, which nobody asked for'));
    });
    request.once('close', () => reject(new Error('the connection has ended without an answer')));
  });
}

/**
 * Makes Node write heads on this socket as the octets they are. Node writes a head as Latin-1 or as UTF-8 depending on what
 * is written with it; with this encoding as the default it is always the former. Content has to be written as bytes.
 */
export function writeHeadsAsLatin1<T extends Socket>(socket: T): T {
  socket.setDefaultEncoding('latin1');
  return socket;
}

/**
 * Lines as `writeHead()` and `http.request()` take them. Node decodes a `Content-Disposition` behind a `Content-Length` as
 * UTF-8 (seen on 20 to 26), which loses its octets; a value that is encoded beforehand comes out of that unchanged.
 */
export function toNodeHeaders(lines: Headers): string[] {
  let hasLength = false;
  return lines.flatMap(([name, value]) => {
    const field = name.toLowerCase();
    if (field === 'content-length') hasLength = Number(value) > 0;
    const isDecoded = hasLength && field === 'content-disposition';
    return [name, isDecoded ? Buffer.from(value, 'utf8').toString('latin1') : value];
  });
}

/** What may follow a status code (RFC 9112 §4). */
const PHRASE = /^[\t\x20-\x7e\x80-\xff]*$/;

/**
 * A reason phrase as it can be written. Records of older versions have it decoded as UTF-8, which is undone; a phrase with
 * control characters is replaced, because it must never cost anybody the answer.
 */
export function reasonPhrase(status: number, reason = STATUS_CODES[status] ?? ''): string {
  const octets = /[^\0-\xff]/.test(reason) ? Buffer.from(reason, 'utf8').toString('latin1') : reason;
  return PHRASE.test(octets) ? octets : (STATUS_CODES[status] ?? '');
}
