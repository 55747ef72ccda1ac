import { type ServerResponse, STATUS_CODES, validateHeaderName, validateHeaderValue } from 'node:http';
import { endToEnd, type Headers } from '../model/headers.js';
import type { RequestHead } from '../model/request-head.js';
import type { Reply } from '../protocol/protocol.js';
import { reasonPhrase } from '../streams/node-http.js';
import { type Exchange, fitsClientLimits, type Http2Exchange, isHttp2, toHttp2Fields } from './exchange.js';

/**
 * Maximum number of bytes that may wait for a client that does not read; beyond it interim responses are left out,
 * because they have no backpressure.
 */
const MAX_WAITING_BYTES = 16 * 1024;
const MAX_WAITING_FRAMES = 64;

/** The most interim responses of our own to one request, 100 included: some intermediaries give up at the sixth. */
const MAX_INTERIMS = 4;

/** The most interim responses relayed from an origin, in addition to ours. */
const MAX_RELAYED = 16;

/**
 * The time from one interim response to the next progress; each is `SPACING_GROWTH` times as long as the one before.
 */
const FIRST_SPACING_MS = 1000;
const SPACING_GROWTH = 8;

/** Node has no reason phrase for 104. */
STATUS_CODES[104] ??= 'Upload Resumption Supported';

/** Requests whose client got a 100. */
const continued = new WeakSet<object>();

/**
 * Sends a 1xx response other than 100. False if it was left out: the final response has begun, the client has left or
 * does not read, or an earlier response on the connection is not finished.
 */
export function sendInterim(exchange: Exchange, reply: Reply): boolean {
  if (!canSendInterim(exchange)) return false;
  // The response is written as raw text, so that nothing else rejects line breaks in a value.
  for (const [name, value] of reply.headers) {
    validateHeaderName(name);
    validateHeaderValue(name, value);
  }
  const lines = endToEnd(reply.headers);
  if (!isHttp2(exchange)) return writeInterim(exchange.res, reply, lines);
  const fields = toHttp2Fields(lines);
  if (!fitsClientLimits(exchange.res.stream, fields)) return false;
  exchange.res.stream.additionalHeaders({ ':status': reply.status, ...fields });
  return true;
}

/**
 * Sends 100 once to a client that waits for it, also after a 104, which need not make the client continue (RUFH
 * §4.2.1).
 */
export function sendContinue(exchange: Exchange): boolean {
  if (!expectsContinue(exchange) || continued.has(exchange.req) || !canSendInterim(exchange)) return false;
  continued.add(exchange.req);
  exchange.res.writeContinue();
  return true;
}

/** The client waits for a 100 that it has not got. */
export function awaitsContinue(exchange: Exchange): boolean {
  return expectsContinue(exchange) && !continued.has(exchange.req) && !exchange.req.readableDidRead;
}

export interface InterimOptions {
  /** `auto`: only where interim responses are known to reach the client. */
  readonly mode: 'auto' | 'always' | 'never';
  /** Monotonic clock in milliseconds. */
  readonly monotonic: () => number;
}

/** The interim responses of one request: few, at growing intervals, and none where the client may not understand them. */
export class InterimResponses {
  private sentCount = 0;
  private relayedCount = 0;
  private spacingMs = FIRST_SPACING_MS;
  private dueAt: number;
  private readonly isAllowed: boolean;
  private owesContinue: boolean;

  constructor(
    private readonly exchange: Exchange,
    head: Pick<RequestHead, 'httpVersion' | 'expectsContinue' | 'connection'>,
    private readonly options: InterimOptions,
  ) {
    const { mode } = options;
    // RFC 9110 §15.2: HTTP/1.0 knows no interim responses.
    this.isAllowed =
      head.httpVersion !== '1.0' && (mode === 'always' || (mode === 'auto' && head.connection.relaysInterim));
    this.owesContinue = head.expectsContinue && head.httpVersion !== '1.0';
    this.dueAt = options.monotonic() + FIRST_SPACING_MS;
  }

  /** Sends an interim response that the client needs now. Calls `reply` only if it can be sent. */
  announce(reply: () => Reply | undefined): boolean {
    return this.hasQuota && this.send(reply());
  }

  /** Sends an optional interim response, unless it comes too soon after the last one. */
  progress(reply: () => Reply | undefined): boolean {
    return this.isDue && this.send(reply());
  }

  /** Relays an interim response of the origin. */
  relay(reply: Reply): void {
    if (this.isAllowed && this.relayedCount < MAX_RELAYED && sendInterim(this.exchange, reply)) this.relayedCount++;
  }

  /** Whether `progress` would send something now. */
  get isDue(): boolean {
    return this.hasQuota && this.options.monotonic() >= this.dueAt;
  }

  /** Sends 100 if this client waits for it; to be called when its body is wanted. */
  continue(): void {
    if (!this.owesContinue) return;
    this.owesContinue = false;
    if (sendContinue(this.exchange)) this.sentCount++;
  }

  private get hasQuota(): boolean {
    // One is reserved for the 100: without it some clients wait forever.
    return this.isAllowed && this.sentCount + (this.owesContinue ? 1 : 0) < MAX_INTERIMS;
  }

  private send(reply: Reply | undefined): boolean {
    if (!reply || !sendInterim(this.exchange, reply)) return false;
    this.sentCount++;
    this.dueAt = this.options.monotonic() + this.spacingMs;
    this.spacingMs *= SPACING_GROWTH;
    return true;
  }
}

/** RFC 9110 §10.1.1: an expectation in HTTP/1.0 is ignored. */
function expectsContinue({ req }: Exchange): boolean {
  return req.httpVersion !== '1.0' && req.headers.expect?.trim().toLowerCase() === '100-continue';
}

function canSendInterim(exchange: Exchange): boolean {
  const { res } = exchange;
  // An interim response sent now would end up inside the body of the final one.
  if (res.headersSent || res.writableEnded) return false;
  if (isHttp2(exchange)) return canTakeFrames(exchange);
  if (exchange.req.httpVersion === '1.0') return false;
  // A pipelined response has no socket before its predecessor is finished.
  const { socket } = res;
  return !!socket && !socket.destroyed && socket.writableLength <= MAX_WAITING_BYTES;
}

function canTakeFrames({ res: { stream } }: Http2Exchange): boolean {
  if (stream.destroyed || stream.closed || stream.aborted) return false;
  return (stream.session?.state.outboundQueueSize ?? 0) <= MAX_WAITING_FRAMES;
}

/** Written as raw text, because writeInformation() of Node 26 takes no reason phrase. */
function writeInterim(res: ServerResponse, { status, reason }: Reply, lines: Headers): boolean {
  const text = lines.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  res.socket!.write(`HTTP/1.1 ${status} ${reasonPhrase(status, reason)}\r\n${text}\r\n`, 'latin1');
  return true;
}
