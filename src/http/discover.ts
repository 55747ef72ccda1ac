import type { ClientRequest, IncomingMessage } from 'node:http';
import { endToEnd, fromRawHeaders, withoutFields, type Headers } from '../model/headers.js';

/** The origin's own answer to OPTIONS; its content is not kept. */
export interface DiscoveredAnswer {
  readonly status: number;
  /** End-to-end fields, without those that describe the content. */
  readonly headers: Headers;
}

const ABOUT_CONTENT = new Set(['content-length', 'content-type', 'content-encoding', 'content-language']);
/** An answer with more content than this is not read to its end: its connection is not worth that much. */
const MOST_CONTENT_BYTES = 64 * 1024;

/** Asks the origin; undefined when it gives no answer within `timeoutMs`. */
export function discover(request: ClientRequest, timeoutMs: number): Promise<DiscoveredAnswer | undefined> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => request.destroy(), timeoutMs);
    request.on('error', () => undefined);
    request.on('upgrade', (_, socket) => socket.destroy());
    request.on('response', (answer) => {
      resolve({
        status: answer.statusCode!,
        headers: withoutFields(endToEnd(fromRawHeaders(answer.rawHeaders)), ABOUT_CONTENT),
      });
      skimContent(answer, request);
    });
    request.on('close', () => {
      clearTimeout(timer);
      resolve(undefined);
    });
    request.end();
  });
}

function skimContent(answer: IncomingMessage, request: ClientRequest): void {
  let size = 0;
  answer.on('error', () => undefined);
  answer.on('data', (bytes: Buffer) => {
    size += bytes.length;
    if (size > MOST_CONTENT_BYTES) request.destroy();
  });
}
