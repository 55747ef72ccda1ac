import type { HeaderLine, Headers } from '../model/headers.js';
import type { OriginClient } from './origin-client.js';
import { NoResponse, StreamedExchange, type StreamedResponse } from './streamed-request.js';

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
  /** `fresh`: a connection for this request only. */
  readonly connection: 'kept' | 'fresh';
}

/** A response whose body is read completely, up to a limit. */
export interface ShortResponse {
  /** 100 if the service sent `100 Continue` to an `expectsContinue` request. */
  readonly status: number;
  readonly reason: string;
  readonly headers: readonly HeaderLine[];
  /** At most the first 64 KiB. */
  readonly body: Buffer;
}

const MAX_BODY_BYTES = 64 * 1024;

/** Sends a short request. Rejects if the response is not complete in time. */
export async function sendShortRequest(client: OriginClient, request: ShortRequest): Promise<ShortResponse> {
  const signal = AbortSignal.timeout(request.timeoutMs);
  try {
    return await sendOnce(client, request, signal);
  } catch (error) {
    // The service may close a kept connection while the request is on its way.
    if (!isStale(error)) throw error;
    signal.throwIfAborted();
    return await sendOnce(client, { ...request, connection: 'fresh' }, signal);
  }
}

async function sendOnce(client: OriginClient, request: ShortRequest, signal: AbortSignal): Promise<ShortResponse> {
  const { expectsContinue = false } = request;
  const url = new URL(request.url);
  const target = request.target ?? url.pathname + url.search;
  let onContinue: (() => void) | undefined;
  const continued = new Promise<'continue'>((resolve) => (onContinue = () => resolve('continue')));
  const exchange = new StreamedExchange(
    client,
    { ...request, origin: url.origin, target, withholdsBody: expectsContinue },
    { onInterim: ({ status }) => expectsContinue && status === 100 && onContinue!() },
  );
  const stop = (): void => exchange.end(signal.reason as Error);
  signal.addEventListener('abort', stop, { once: true });
  try {
    const response = await Promise.race([exchange.response, continued]);
    if (response !== 'continue') return await readShort(response);
    exchange.response.catch(() => undefined);
    exchange.end(new Error('the content is not sent'));
    return { status: 100, reason: 'Continue', headers: [], body: Buffer.alloc(0) };
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** The request failed because the service had closed the kept connection. */
function isStale(error: unknown): boolean {
  if (!(error instanceof NoResponse) || !error.wasReused) return false;
  return ['ECONNRESET', 'EPIPE'].includes((error.cause as NodeJS.ErrnoException).code ?? '');
}

async function readShort({ status, reason, headers, body }: StreamedResponse): Promise<ShortResponse> {
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of body as AsyncIterable<Buffer>) {
    pieces.push(piece);
    size += piece.length;
    if (size > MAX_BODY_BYTES) break;
  }
  return { status, reason, headers, body: Buffer.concat(pieces).subarray(0, MAX_BODY_BYTES) };
}
