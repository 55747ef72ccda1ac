import { type ClientRequest, type IncomingMessage, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Headers } from '../model/headers.js';

/**
 * Waits for the response to a request that this process sent. Fails without a response and also for 101: Node ends such
 * a request without an error, and its timeouts no longer apply.
 */
export function responseTo(request: ClientRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request.once('response', resolve);
    request.once('error', reject);
    request.once('upgrade', (_response, socket) => {
      socket.destroy();
      reject(new Error('the server switched to another protocol, although no upgrade was requested'));
    });
    request.once('close', () => reject(new Error('the connection ended without a response')));
  });
}

/**
 * Makes Node write heads on this socket as Latin-1, so that field values keep their octets. By default Node chooses
 * Latin-1 or UTF-8 depending on the data that is written together with the head. Content must be written as bytes.
 * Reasons: docs/decisions/0022.
 */
export function writeHeadsAsLatin1<T extends Socket>(socket: T): T {
  socket.setDefaultEncoding('latin1');
  return socket;
}

/**
 * Converts lines for `writeHead()` and `http.request()`. Node 20 to 26 decode a `Content-Disposition` after a
 * `Content-Length` as UTF-8 and lose octets; encoding the value beforehand cancels that out.
 */
export function toNodeHeaders(lines: Headers): string[] {
  let hasLength = false;
  const flat: string[] = [];
  for (const [name, value] of lines) {
    if (isNamed(name, 'content-length')) hasLength = Number(value) > 0;
    const isDecoded = hasLength && isNamed(name, 'content-disposition');
    flat.push(name, isDecoded ? Buffer.from(value, 'utf8').toString('latin1') : value);
  }
  return flat;
}

function isNamed(name: string, field: string): boolean {
  return name.length === field.length && name.toLowerCase() === field;
}

/** Characters of a reason phrase (RFC 9112 §4). */
const PHRASE = /^[\t\x20-\x7e\x80-\xff]*$/;

/**
 * A reason phrase that Node accepts. Records of older versions have it decoded as UTF-8, which is undone; a phrase with
 * control characters is replaced, because Node would refuse to send the answer.
 */
export function reasonPhrase(status: number, reason = STATUS_CODES[status] ?? ''): string {
  const octets = /[^\0-\xff]/.test(reason) ? Buffer.from(reason, 'utf8').toString('latin1') : reason;
  return PHRASE.test(octets) ? octets : (STATUS_CODES[status] ?? '');
}
