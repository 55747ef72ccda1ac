import type { IncomingMessage } from 'node:http';
import type { Problem } from '../protocol/problem.js';

/**
 * What is wrong with how an HTTP/1.1 message is delimited. Where two readers of one connection could disagree about its end,
 * a part of one message passes for the next one: such a connection is not used any further. Node's parser refuses most of
 * it by itself (CL with TE, repeated CL, "chunked" not last); what it lets through on Node 20 to 26 is refused here.
 */
export function framingFault({ httpVersion, headers }: IncomingMessage): Problem | undefined {
  const coding = headers['transfer-encoding'];
  if (httpVersion !== '1.1' && httpVersion !== '1.0') {
    return { status: 505, detail: 'This connection speaks HTTP/1.1. HTTP/2 begins with its own preface.' };
  }
  if (coding === undefined) return undefined;
  // RFC 9112 §6.1: HTTP/1.0 knows no transfer codings.
  if (httpVersion === '1.0') return { status: 400, detail: 'Transfer-Encoding is not understood in HTTP/1.0.' };
  if (headers['content-length'] !== undefined) {
    return { status: 400, detail: 'A request has a Content-Length or a Transfer-Encoding, not both.' };
  }
  if (coding.trim().toLowerCase() === 'chunked') return undefined;
  return { status: 501, detail: 'The only transfer coding understood is "chunked".' };
}
