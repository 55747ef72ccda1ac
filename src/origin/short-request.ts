import { Agent, type ClientRequest, type IncomingMessage, request as requestHttp } from 'node:http';
import { Agent as SecureAgent, request as requestHttps } from 'node:https';
import { authenticatesConnection } from '../model/client-fields.js';
import { fromRawHeaders, type HeaderLine, type Headers } from '../model/headers.js';
import { responseTo, toNodeHeaders, writeHeadsAsLatin1 } from '../streams/node-http.js';

/** A small question to a service beside the request itself: a head without a body. */
export interface ShortRequest {
  readonly url: string;
  /** In place of the path of `url`: sent as the octets it is, where a URL would resolve and escape it. */
  readonly target?: string;
  readonly method: string;
  readonly headers: Headers;
  /** For the whole exchange. */
  readonly timeoutMs: number;
  /** `Expect: 100-continue` was asked: a 100 is an answer too. */
  readonly expectsContinue?: boolean;
  /** Connections to ask over; without them a new one is opened and closed again. */
  readonly agents?: ShortRequestAgents;
}

/** Connections to a service that is asked for every request: opened once, used again. */
export class ShortRequestAgents {
  private readonly plain = new Agent({ keepAlive: true });
  private readonly secure = new SecureAgent({ keepAlive: true });

  for(url: string): Agent {
    return url.startsWith('https:') ? this.secure : this.plain;
  }

  /** Ends every connection. */
  close(): void {
    this.plain.destroy();
    this.secure.destroy();
  }
}

export interface ShortResponse {
  /** 100 when the other side told us to go on. */
  readonly status: number;
  readonly reason: string;
  readonly headers: HeaderLine[];
  /** At most its first 64 KiB. */
  readonly body: Buffer;
}

const MAX_BODY_BYTES = 64 * 1024;

/** Asks. Rejects when there is no answer in time. */
export function sendShortRequest(question: ShortRequest): Promise<ShortResponse> {
  return sendOver(question, AbortSignal.timeout(question.timeoutMs), question.agents);
}

function sendOver(
  question: ShortRequest,
  signal: AbortSignal,
  connections?: ShortRequestAgents,
): Promise<ShortResponse> {
  const { url, target, method, headers, expectsContinue = false } = question;
  const send = url.startsWith('https:') ? requestHttps : requestHttp;
  return new Promise((resolve, reject) => {
    const outgoing = send(url, {
      method,
      ...(target !== undefined && { path: target }),
      headers: toNodeHeaders(headers),
      agent: (!authenticatesConnection(headers) && connections?.for(url)) || false,
      signal,
    });
    outgoing.once('socket', writeHeadsAsLatin1);
    responseTo(outgoing).then(
      (response) => {
        // A login of one client on such a connection must not hold for the next.
        if (authenticatesConnection(fromRawHeaders(response.rawHeaders))) outgoing.shouldKeepAlive = false;
        readShort(response).then(resolve, reject);
      },
      (reason: unknown) => {
        const error = reason as NodeJS.ErrnoException;
        // A kept connection may be closed by the service while the question is on its way.
        if (isStale(outgoing, error)) sendOver(question, signal).then(resolve, reject);
        else reject(error);
      },
    );
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

function isStale({ reusedSocket }: ClientRequest, { code = '' }: NodeJS.ErrnoException): boolean {
  return reusedSocket && ['ECONNRESET', 'EPIPE'].includes(code);
}

async function readShort(response: IncomingMessage): Promise<ShortResponse> {
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of response as AsyncIterable<Buffer>) {
    pieces.push(piece);
    size += piece.length;
    if (size > MAX_BODY_BYTES) break;
  }
  return {
    status: response.statusCode ?? 0,
    reason: response.statusMessage ?? '',
    headers: fromRawHeaders(response.rawHeaders),
    body: Buffer.concat(pieces).subarray(0, MAX_BODY_BYTES),
  };
}
