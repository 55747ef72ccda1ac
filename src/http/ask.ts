import { request as requestHttp, type IncomingMessage } from 'node:http';
import { request as requestHttps } from 'node:https';
import { fromRawHeaders, type HeaderLine, type Headers } from '../model/headers.js';
import { toNodeLines, writeOctets } from './octets.js';

/** A small question to a service beside the request itself: a head without a body. */
export interface Question {
  readonly url: string;
  readonly method: string;
  readonly headers: Headers;
  /** For the whole exchange. */
  readonly timeoutMs: number;
  /** `Expect: 100-continue` was asked: a 100 is an answer too. */
  readonly expectsContinue?: boolean;
}

export interface ShortAnswer {
  /** 100 when the other side told us to go on. */
  readonly status: number;
  readonly reason: string;
  readonly headers: HeaderLine[];
  /** At most its first 64 KiB. */
  readonly body: Buffer;
}

const LONGEST_BODY = 64 * 1024;

/** Asks once, over a connection of its own. Rejects when there is no answer in time. */
export function ask({ url, method, headers, timeoutMs, expectsContinue = false }: Question): Promise<ShortAnswer> {
  const send = url.startsWith('https:') ? requestHttps : requestHttp;
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(timeoutMs);
    const outgoing = send(url, { method, headers: toNodeLines(headers), agent: false, signal });
    outgoing.once('socket', writeOctets);
    outgoing.once('error', reject);
    outgoing.once('response', (response) => {
      readShort(response).then(resolve, reject);
    });
    if (!expectsContinue) {
      outgoing.end();
      return;
    }
    outgoing.once('continue', () => {
      outgoing.destroy();
      resolve({ status: 100, reason: 'Continue', headers: [], body: Buffer.alloc(0) });
    });
    outgoing.flushHeaders();
  });
}

async function readShort(response: IncomingMessage): Promise<ShortAnswer> {
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of response as AsyncIterable<Buffer>) {
    pieces.push(piece);
    size += piece.length;
    if (size > LONGEST_BODY) break;
  }
  return {
    status: response.statusCode ?? 0,
    reason: response.statusMessage ?? '',
    headers: fromRawHeaders(response.rawHeaders),
    body: Buffer.concat(pieces).subarray(0, LONGEST_BODY),
  };
}
