import { Agent, type ClientRequest, type IncomingMessage, request as requestHttp } from 'node:http';
import { Agent as SecureAgent, request as requestHttps } from 'node:https';
import { authenticatesConnection } from '../model/client-fields.js';
import { fromRawHeaders, type HeaderLine, type Headers } from '../model/headers.js';
import { responseTo, toNodeHeaders, writeHeadsAsLatin1 } from '../streams/node-http.js';

/** A request without a body to another service, for example for authorization. */
export interface ShortRequest {
  readonly url: string;
  /** Replaces the path of `url`; sent as is, while a URL would be normalized and escaped. */
  readonly target?: string;
  readonly method: string;
  readonly headers: Headers;
  /** Time limit of the entire exchange. */
  readonly timeoutMs: number;
  /** The request has `Expect: 100-continue`, so a 100 counts as the response. */
  readonly expectsContinue?: boolean;
  /** Agents with kept connections; without them a connection is opened for this request only. */
  readonly agents?: ShortRequestAgents;
}

/** Keeps connections to a service that is asked for every request. */
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

/** A response whose body is read completely, up to a limit. */
export interface ShortResponse {
  /** 100 if the service sent `100 Continue` to an `expectsContinue` request. */
  readonly status: number;
  readonly reason: string;
  readonly headers: HeaderLine[];
  /** At most the first 64 KiB. */
  readonly body: Buffer;
}

const MAX_BODY_BYTES = 64 * 1024;

/** Sends a short request. Rejects if the response is not complete in time. */
export function sendShortRequest(request: ShortRequest): Promise<ShortResponse> {
  return sendOver(request, AbortSignal.timeout(request.timeoutMs), request.agents);
}

function sendOver(request: ShortRequest, signal: AbortSignal, agents?: ShortRequestAgents): Promise<ShortResponse> {
  const { url, target, method, headers, expectsContinue = false } = request;
  const send = url.startsWith('https:') ? requestHttps : requestHttp;
  return new Promise((resolve, reject) => {
    const outgoing = send(url, {
      method,
      ...(target !== undefined && { path: target }),
      headers: toNodeHeaders(headers),
      agent: (!authenticatesConnection(headers) && agents?.for(url)) || false,
      signal,
    });
    outgoing.once('socket', writeHeadsAsLatin1);
    responseTo(outgoing).then(
      (response) => {
        // The login of one client must not apply to the next one on this connection.
        if (authenticatesConnection(fromRawHeaders(response.rawHeaders))) outgoing.shouldKeepAlive = false;
        readShort(response).then(resolve, reject);
      },
      (reason: unknown) => {
        const error = reason as NodeJS.ErrnoException;
        // The service may close a kept connection while the request is on its way.
        if (isStale(outgoing, error)) sendOver(request, signal).then(resolve, reject);
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

/** The request failed because the service had closed the kept connection. */
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
