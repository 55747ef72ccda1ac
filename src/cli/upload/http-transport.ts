import { Agent as HttpAgent, type ClientRequest, type IncomingMessage, request as requestHttp } from 'node:http';
import { Agent as HttpsAgent, request as requestHttps } from 'node:https';
import { buffer } from 'node:stream/consumers';
import type { Transport } from '../../client/transport.js';
import { reasonPhrase, responseTo } from '../../streams/node-http.js';
import type { ReadablePiece } from './content.js';

/** Blocks of this size are read from the file and written to the socket. */
const BLOCK_BYTES = 512 * 1024;
/** One block is read while the others are written. */
const BLOCKS = 3;

const NULL_BODY_STATUSES: ReadonlySet<number> = new Set([204, 205, 304]);

/** Sends requests with node:http and node:https, and reads responses completely. */
export class HttpTransport {
  private readonly http = new HttpAgent({ keepAlive: true });
  private readonly https: HttpsAgent;

  /** `ca`: certificates (PEM) that are trusted in place of the usual ones. */
  constructor({ ca }: { readonly ca?: string }) {
    this.https = new HttpsAgent({ keepAlive: true, ca });
  }

  readonly send: Transport<ReadablePiece> = async ({ url, method, headers, body, signal, onProgress }) => {
    const hasLength = body !== undefined || !(method === 'HEAD' || method === 'OPTIONS' || method === 'DELETE');
    const lines = { ...Object.fromEntries(headers), ...(hasLength && { 'content-length': String(body?.size ?? 0) }) };
    const isTls = new URL(url).protocol === 'https:';
    const options = { method, headers: lines, signal };
    const request = isTls
      ? requestHttps(url, { ...options, agent: this.https })
      : requestHttp(url, { ...options, agent: this.http });
    const responding = responseTo(request);
    const exchange = { isAnswered: false, isOver: false };
    // The system reports bytes even after the end, which must not count as news of this request.
    if (body) void sendBody(request, body, exchange, (sent) => exchange.isOver || onProgress(sent));
    else request.end();
    try {
      const incoming = await responding;
      exchange.isAnswered = true;
      return await receive(incoming, request);
    } finally {
      exchange.isOver = true;
    }
  };

  close(): void {
    this.http.destroy();
    this.https.destroy();
  }
}

/** Writes the piece without copying it: a block is read again only when the system has taken its bytes. */
async function sendBody(
  request: ClientRequest,
  piece: ReadablePiece,
  exchange: { readonly isAnswered: boolean },
  onProgress: (sent: number) => unknown,
): Promise<void> {
  const blocks = Array.from({ length: Math.min(BLOCKS, Math.ceil(piece.size / BLOCK_BYTES)) }, () => ({
    bytes: Buffer.allocUnsafeSlow(Math.min(BLOCK_BYTES, piece.size)),
    written: Promise.resolve(),
  }));
  onProgress(0);
  try {
    let at = 0;
    for (let turn = 0; at < piece.size; turn += 1) {
      const block = blocks[turn % blocks.length]!;
      await block.written;
      // The server wants no more; the connection is closed when its response is read.
      if (exchange.isAnswered || request.destroyed) return;
      const size = await piece.read(block.bytes.subarray(0, piece.size - at), at);
      at += size;
      const sent = at;
      block.written = new Promise((resolve) => {
        request.write(block.bytes.subarray(0, size), (error) => {
          if (!error) onProgress(sent);
          resolve();
        });
      });
    }
    request.end();
  } catch (error) {
    // The content cannot be read: the request fails with this reason.
    request.destroy(error as Error);
  }
}

async function receive(incoming: IncomingMessage, request: ClientRequest): Promise<Response> {
  const status = incoming.statusCode ?? 0;
  const content = await buffer(incoming);
  if (!request.writableEnded) request.destroy();
  const headers = new Headers();
  for (let at = 0; at < incoming.rawHeaders.length; at += 2)
    headers.append(incoming.rawHeaders[at]!, incoming.rawHeaders[at + 1]!);
  return new Response(NULL_BODY_STATUSES.has(status) ? null : content, {
    status,
    statusText: reasonPhrase(status, incoming.statusMessage),
    headers,
  });
}
