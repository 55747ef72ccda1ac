import type { EventEmitter } from 'node:events';
import type { Http2ServerResponse, OutgoingHttpHeaders } from 'node:http2';
import { Readable, type Writable } from 'node:stream';
import { fieldValue, forwardableHeaders, type Headers, withoutFields } from '../model/headers.js';
import { problemReply } from '../protocol/problem.js';
import type { Reply } from '../protocol/protocol.js';
import { reasonPhrase, toNodeHeaders } from '../streams/node-http.js';
import { discard, type DiscardLimits, lingerBeforeClosing, resetConnection } from './closing.js';
import {
  addHttp2Trailers,
  closerAfterResponse,
  destroyExchange,
  type Exchange,
  fitsClientLimits,
  HeadTooLarge,
  type Http2Exchange,
  http2Status,
  type HttpResponse,
  isHttp2,
  writeHttp2Fields,
} from './exchange.js';
import { awaitsContinue } from './interim-responses.js';

/** The result of sending a response: only a `complete` one was passed to the connection completely. */
export type SendResult = 'complete' | 'client-left' | 'cut';

/**
 * Writes a final response exactly as it is: status, reason, lines in order and case, body with backpressure. If the
 * body fails or its length differs from the announced one, the connection or stream is ended visibly incomplete.
 */
export async function sendReply(exchange: Exchange, reply: Reply): Promise<SendResult> {
  const watcher = new ResponseWatcher(exchange);
  try {
    if (watcher.hasClientLeft) return 'client-left';
    const lines = linesOf(reply, exchange);
    let result: SendResult | 'not-started';
    try {
      result = await writeBody(exchange, reply, lines, watcher);
    } catch (error) {
      if (!(error instanceof HeadTooLarge)) throw error;
      if (typeof reply.body === 'object') cancelSource(reply.body);
      return await sendReply(exchange, problemReply({ status: 502, detail: LARGE_HEAD }));
    }
    if (result === 'not-started') return await sendReply(exchange, problemReply({ status: 502, detail: NO_CONTENT }));
    if (result === 'cut') abortResponse(exchange, lines);
    return result === 'complete' ? await watcher.finished() : result;
  } finally {
    watcher.stop();
    if (typeof reply.body === 'object' && !exchange.res.headersSent) cancelSource(reply.body);
  }
}

const LARGE_HEAD = 'The header fields of the answer are larger than this client takes over HTTP/2.';

const NO_CONTENT =
  'The answer broke off before any of its content was here. What was asked for may have been done all the same.';

/** Limits for reading an unwanted body, so that the client has time to read the response. */
const UNWANTED_BODY_LIMITS: DiscardLimits = { bytes: 16 * 1024 * 1024, ms: 5000 };

/**
 * Sends a final response while the request body may still be arriving. The connection is not closed with unread bytes,
 * which would reset it and discard the response (RFC 9112 §9.6), and an endless body cannot keep it.
 */
export async function respondEarly(
  exchange: Exchange,
  reply: Reply,
  limits: DiscardLimits = UNWANTED_BODY_LIMITS,
): Promise<SendResult> {
  if (isHttp2(exchange)) return respondEarlyOverHttp2(exchange, sendReply(exchange, reply));
  const { req, res } = exchange;
  if (req.readableEnded) return sendReply(exchange, reply);
  // The client may leave out the body now (RFC 9110 §10.1.1): the next bytes could be that body or a new request.
  if (awaitsContinue(exchange)) res.shouldKeepAlive = false;
  if (!req.complete) lingerBeforeClosing(req);
  const sent = sendReply(exchange, reply);
  discard(req, limits, (hasEnded) => {
    if (!hasEnded) req.socket.destroy();
  });
  return sent;
}

async function respondEarlyOverHttp2(
  { req, res: { stream } }: Http2Exchange,
  sending: Promise<SendResult>,
): Promise<SendResult> {
  const close = closerAfterResponse(stream);
  const sent = await sending;
  if (stream.destroyed || stream.readableEnded) return sent;
  // Unread bytes would keep the stream, and with it the session, forever (seen on Node 20).
  req.resume();
  if (sent === 'complete') await close();
  return sent;
}

/** The header lines to send. `Trailer` is removed unless the body is chunked. */
function linesOf(reply: Reply, exchange: Exchange): Headers {
  const { method, httpVersion } = exchange.req;
  const isBodiless = method === 'HEAD' || reply.status === 204 || reply.status === 304;
  const mayBeChunked = httpVersion === '1.1' && !isBodiless && typeof reply.body === 'object';
  const lines = framedLines(reply, method, mayBeChunked);
  const isChunked = mayBeChunked && fieldValue(lines, 'content-length') === undefined;
  return isChunked ? lines : withoutFields(lines, TRAILER);
}

/**
 * The header lines with the real size of the body as Content-Length, except where the response has no body but
 * announces a size, or where trailers follow.
 */
function framedLines(
  { status, headers, body, bodySize, trailers }: Reply,
  method: string | undefined,
  mayBeChunked: boolean,
): Headers {
  const lines = forwardableHeaders(headers, true);
  // RFC 9110 §8.6: a 204 has no Content-Length.
  if (status === 204) return withoutFields(lines, CONTENT_LENGTH);
  const size = typeof body === 'object' ? bodySize : Buffer.byteLength(body ?? '');
  // A known size means that the answer is complete, and so are its trailers, which can follow chunks only (RFC 9112
  // §7.1.2).
  if (mayBeChunked && size !== undefined && trailers && trailers().length > 0)
    return withoutFields(lines, CONTENT_LENGTH);
  const announced = fieldValue(lines, 'content-length');
  const describesNoBody = method === 'HEAD' || status === 304;
  if (size === undefined || (describesNoBody && (announced !== undefined || size === 0))) return lines;
  if (announced === `${size}`) return lines;
  return [...withoutFields(lines, CONTENT_LENGTH), ['Content-Length', `${size}`]];
}

const CONTENT_LENGTH: ReadonlySet<string> = new Set(['content-length']);
const TRAILER: ReadonlySet<string> = new Set(['trailer']);

function writeHead({ res }: Exchange, { status, reason }: Reply, lines: Headers): void {
  if ('stream' in res) writeHttp2Fields(lines, (fields) => writeHttp2Head(res, status, fields));
  else res.writeHead(status, reasonPhrase(status, reason), toNodeHeaders(lines));
}

function writeHttp2Head(res: Http2ServerResponse, status: number, fields: OutgoingHttpHeaders): void {
  if (!fitsClientLimits(res.stream, fields)) throw new HeadTooLarge();
  // An earlier writeHead() that failed has left its fields behind.
  for (const name of res.getHeaderNames()) res.removeHeader(name);
  res.writeHead(http2Status(status), fields);
}

async function writeBody(
  exchange: Exchange,
  reply: Reply,
  lines: Headers,
  watcher: ResponseWatcher,
): Promise<SendResult | 'not-started'> {
  const { req, res } = exchange;
  const { status, body, trailers } = reply;
  const begin = (): void => writeHead(exchange, reply, lines);
  const isBodiless = req.method === 'HEAD' || status === 204 || status === 304;
  if (typeof body !== 'object' || isBodiless) {
    begin();
    if (typeof body === 'object') cancelSource(body);
    endResponse(res, typeof body === 'object' || isBodiless ? '' : (body ?? ''));
    return 'complete';
  }
  const announced = fieldValue(lines, 'content-length');
  const announcedSize = announced === undefined ? undefined : Number(announced);
  const result = await pump({ body, res, watcher, announcedSize, begin });
  if (result !== 'complete') return result;
  const trailerLines = trailers?.() ?? [];
  if (trailerLines.length > 0) addTrailers(res, trailerLines);
  res.end();
  return 'complete';
}

/** Uses a single call, so that a short response is one packet. */
function endResponse(res: HttpResponse, body: string): void {
  if (body === '') res.end();
  else res.end(Buffer.from(body));
}

function addTrailers(res: HttpResponse, trailers: Headers): void {
  if ('stream' in res) addHttp2Trailers(res, trailers);
  else if (res.chunkedEncoding) res.addTrailers(trailers.map(([name, value]): [string, string] => [name, value]));
}

function abortResponse(exchange: Exchange, lines: Headers): void {
  if (isHttp2(exchange)) return destroyExchange(exchange);
  const { chunkedEncoding, socket } = exchange.res;
  const endsWithConnection = !chunkedEncoding && fieldValue(lines, 'content-length') === undefined;
  // For such a body the end of the connection is the regular end; only a reset shows that it is incomplete.
  if (endsWithConnection && socket) resetConnection(socket);
  else destroyExchange(exchange);
}

/**
 * Detects a client that leaves before its response is complete. The first event decides, because both cases end with
 * 'close'.
 */
class ResponseWatcher {
  private outcome: 'complete' | 'client-left' | undefined;
  private wake: (() => void) | undefined;
  private readonly emitters: EventEmitter[];
  private readonly out: Writable;

  constructor(exchange: Exchange) {
    const overHttp2 = isHttp2(exchange);
    this.out = overHttp2 ? exchange.res.stream : exchange.res;
    // An HTTP/1.1 response behind a pipelined one has no socket yet and gets no event when the connection ends.
    this.emitters = overHttp2 ? [this.out] : [this.out, exchange.req.socket];
    for (const emitter of this.emitters) emitter.once('close', this.onClosed).once('aborted', this.onClosed);
    this.out.once('finish', this.onFinish);
    // A failed write is followed by 'close', which is handled.
    this.out.on('error', () => undefined);
    const isDestroyed = overHttp2
      ? exchange.res.stream.destroyed || exchange.res.stream.aborted
      : exchange.req.socket.destroyed;
    if (isDestroyed) this.onClosed();
  }

  get hasClientLeft(): boolean {
    return this.outcome === 'client-left';
  }

  /** Settles like `step`, or resolves to undefined as soon as the client has left. */
  until<T>(step: Promise<T>): Promise<T | undefined> {
    return new Promise((resolve, reject) => {
      if (this.hasClientLeft) return resolve(undefined);
      this.wake = () => resolve(undefined);
      step.then(resolve, reject);
    });
  }

  /** Resolves when the response was passed to the connection completely, or the client has left. */
  finished(): Promise<'complete' | 'client-left'> {
    return new Promise((resolve) => {
      if (this.outcome) return resolve(this.outcome);
      this.wake = () => resolve(this.outcome!);
    });
  }

  stop(): void {
    for (const emitter of this.emitters) emitter.off('close', this.onClosed).off('aborted', this.onClosed);
    this.out.off('finish', this.onFinish);
  }

  private readonly onClosed = (): void => this.settle('client-left');

  private readonly onFinish = (): void => this.settle('complete');

  private settle(outcome: 'complete' | 'client-left'): void {
    this.outcome ??= outcome;
    this.wake?.();
  }
}

interface PumpOptions {
  readonly body: AsyncIterable<Uint8Array>;
  readonly res: NodeJS.WritableStream;
  readonly watcher: ResponseWatcher;
  readonly announcedSize: number | undefined;
  /** Writes the head; called with the first bytes, or at the end of an empty body. */
  readonly begin: () => void;
}

/**
 * Copies `body` into the response at the client's pace. `cut` and `not-started`: the body failed or had another size
 * than announced, after or before its first bytes.
 */
async function pump({
  body,
  res,
  watcher,
  announcedSize,
  begin,
}: PumpOptions): Promise<'complete' | 'client-left' | 'cut' | 'not-started'> {
  const source = body[Symbol.asyncIterator]();
  let size = 0;
  let hasBegun = false;
  try {
    for (;;) {
      // The source of the body reports why it failed; the client can only see that it did.
      const step = await watcher.until(source.next()).catch(() => 'failed' as const);
      if (!step) return 'client-left';
      if (step !== 'failed' && !step.done) size += step.value.length;
      const hasWrongSize =
        announcedSize !== undefined && (size > announcedSize || (isEnd(step) && size < announcedSize));
      if (step === 'failed' || hasWrongSize) return hasBegun ? 'cut' : 'not-started';
      if (!hasBegun) begin();
      hasBegun = true;
      if (step.done) return 'complete';
      if (!res.write(step.value)) await watcher.until(drained(res));
    }
  } finally {
    stopSource(body, source);
  }
}

function isEnd(step: IteratorResult<Uint8Array> | 'failed'): boolean {
  return step !== 'failed' && step.done === true;
}

/** Ends a body that nothing will read. */
function cancelSource(body: AsyncIterable<Uint8Array>): void {
  stopSource(body, body[Symbol.asyncIterator]());
}

/** Ends the source without waiting, because one that waits for its next bytes may react late. */
function stopSource(body: AsyncIterable<Uint8Array>, source: AsyncIterator<Uint8Array>): void {
  // Ending the iterator of a stream that was never read does not destroy the stream.
  if (body instanceof Readable) body.on('error', () => undefined).destroy();
  else source.return?.().catch(() => undefined);
}

function drained(res: NodeJS.WritableStream): Promise<void> {
  return new Promise((resolve) => res.once('drain', () => resolve()));
}
