import { type ServerResponse, STATUS_CODES, validateHeaderName, validateHeaderValue } from 'node:http';
import { endToEnd, type Headers } from '../model/headers.js';
import type { RequestHead } from '../model/request-head.js';
import type { Reply } from '../protocol/protocol.js';
import { reasonPhrase } from '../streams/node-http.js';
import { type Exchange, fitsClientLimits, type Http2Exchange, isHttp2, toHttp2Fields } from './exchange.js';

/** What may wait for a client that does not read before interim responses are left out: they have no backpressure. */
const MAX_WAITING_BYTES = 16 * 1024;
const MAX_WAITING_FRAMES = 64;

/** Interim responses a request gets at most, 100 included: some intermediaries give up at the sixth. */
const MAX_INTERIMS = 4;

/** Of an origin's own interim responses, beside ours: those it would have sent without us. */
const MAX_RELAYED = 16;

/** Between one interim response and the next progress; then `SPACING_GROWTH` times as long each time. */
const FIRST_SPACING_MS = 1000;
const SPACING_GROWTH = 8;

/** Node does not know its reason phrase. */
STATUS_CODES[104] ??= 'Upload Resumption Supported';

/** Exchanges that were told to go on with their body. */
const continued = new WeakSet<object>();

/**
 * Sends a 1xx response other than 100; false when it was left out: there is a final response already, nobody is left, the
 * client does not read, or an earlier response on the connection is not finished.
 */
export function sendInterim(exchange: Exchange, reply: Reply): boolean {
  if (!canSendInterim(exchange)) return false;
  // Raw text has no other guard against line breaks in a value.
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

/** Sends 100 to a client that waits for it, once; also after a 104, which clients need not take for it (RUFH §4.2.1). */
export function sendContinue(exchange: Exchange): boolean {
  if (!expectsContinue(exchange) || continued.has(exchange.req) || !canSendInterim(exchange)) return false;
  continued.add(exchange.req);
  exchange.res.writeContinue();
  return true;
}

/** The client holds its body back until it is told to go on, and was not told. */
export function awaitsContinue(exchange: Exchange): boolean {
  return expectsContinue(exchange) && !continued.has(exchange.req) && !exchange.req.readableDidRead;
}

export interface InterimOptions {
  /** `auto`: where interim responses are known to get through. */
  readonly mode: 'auto' | 'always' | 'never';
  /** Milliseconds by a clock that nobody sets. */
  readonly monotonic: () => number;
}

/** The interim responses of one request: few, ever farther apart, and none where they do harm. */
export class InterimResponses {
  private sent = 0;
  private relayed = 0;
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

  /** What the client must know now. `reply` is asked for only if it can be sent. */
  announce(reply: () => Reply | undefined): boolean {
    return this.hasQuota && this.send(reply());
  }

  /** What the client likes to know: left out until it is due again. */
  progress(reply: () => Reply | undefined): boolean {
    return this.isDue && this.send(reply());
  }

  /** What the origin says before its answer. */
  relay(reply: Reply): void {
    if (this.isAllowed && this.relayed < MAX_RELAYED && sendInterim(this.exchange, reply)) this.relayed++;
  }

  /** Whether progress would be told now. */
  get isDue(): boolean {
    return this.hasQuota && this.options.monotonic() >= this.dueAt;
  }

  /** 100, if this client waits for it: to be called when its body is wanted. */
  continue(): void {
    if (!this.owesContinue) return;
    this.owesContinue = false;
    if (sendContinue(this.exchange)) this.sent++;
  }

  private get hasQuota(): boolean {
    // One is kept for the 100: without it some clients wait for ever.
    return this.isAllowed && this.sent + (this.owesContinue ? 1 : 0) < MAX_INTERIMS;
  }

  private send(reply: Reply | undefined): boolean {
    if (!reply || !sendInterim(this.exchange, reply)) return false;
    this.sent++;
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
  // A late one would stand in the middle of the final response's body.
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

/** As text of its own: writeInformation() of Node 26 takes no reason phrase. */
function writeInterim(res: ServerResponse, { status, reason }: Reply, lines: Headers): boolean {
  const text = lines.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  res.socket!.write(`HTTP/1.1 ${status} ${reasonPhrase(status, reason)}\r\n${text}\r\n`, 'latin1');
  return true;
}
