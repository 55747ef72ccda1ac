import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import {
  fieldValue,
  forwardableHeaders,
  forwardableTrailers,
  type Headers,
  withAnnouncedTrailers,
} from '../model/headers.js';
import { isIdempotent, type RequestHead } from '../model/request-head.js';
import { MAX_TIMER_MS } from '../model/timer.js';
import { type Framing, framingOf } from '../origin/headers.js';
import type { OutgoingRequest } from '../origin/origin-client.js';
import type { ExchangeListener, OriginExchange } from '../origin/origin-exchange.js';
import type { ResponseHead } from '../origin/response-head.js';
import { problemReply } from '../protocol/problem.js';
import type { Reply } from '../protocol/protocol.js';
import type { ClientSide } from '../server/closing.js';
import type { WatchedBody } from '../server/slow-clients.js';
import { releaseWhenWritten } from '../streams/release-memory.js';
import { sinceReadHeldMs } from '../streams/small-pieces.js';
import { type AwaitedSide, StallDetector, type StallLimits } from '../origin/stall.js';

/** Limits for reading the rest of a replaced answer, which keeps the connection to the origin. */
const REPLACED_ANSWER_LIMITS = { bytes: 64 * 1024, ms: 2000 };

/** A longer end of a content is written by itself, so that its memory is released as early as that of other pieces. */
const MAX_LAST_BYTES = 8 * 1024;

/** The head of a final response. */
export interface AnswerHead {
  readonly status: number;
  readonly reason: string;
  readonly headers: Headers;
}

/** The origin's answer with another head, or a reply that replaces it. */
export type RewrittenAnswer = AnswerHead | { readonly replacement: Reply };

/** The reason why an exchange failed, and the response to its client (RFC 9110 §15.5.9, §15.6). */
export interface ExchangeFailure {
  readonly status: 408 | 413 | 501 | 502 | 504;
  /** For people; contains no addresses of the internal network. */
  readonly detail: string;
  /** For metrics. */
  readonly code: string;
  /** For logs. */
  readonly cause?: unknown;
}

/** One request with its client, and the rules for passing it and its answer on. */
export interface ExchangeOptions {
  readonly head: RequestHead;
  readonly client: ClientSide;
  readonly outgoing: Omit<OutgoingRequest, 'connection'>;
  /** Opens the request to the origin; called again when a reused connection turns out to be closed. */
  readonly open: (outgoing: OutgoingRequest, listener: ExchangeListener) => OriginExchange;
  readonly stallLimits: StallLimits;
  /** Limits the time from the end of the request to the head of the answer; without it only silence is limited. */
  readonly headTimeoutMs?: number;
  /** Called at most once, before the client gets the reply to the failure. */
  readonly onFailure: (failure: ExchangeFailure) => void;
  /** Starts watching the rate of the client's body; returns a function that stops it. */
  readonly watchBody?: (body: WatchedBody) => () => void;
  /** A longer body is refused, or cut off where its length was not known, so that the origin never gets all of it. */
  readonly maxBodyBytes?: number;
  /** Selects the response fields that the client gets; without it all of them. */
  readonly fieldsForClient?: (headers: Headers, kind: 'interim' | 'final' | 'trailers') => Headers;
  /** Changes or replaces a final answer, after `fieldsForClient`. */
  readonly rewrite?: (answer: AnswerHead) => RewrittenAnswer;
  /** Selects the client's trailers that the origin gets; without it all of them. */
  readonly trailersForOrigin?: (trailers: Headers) => Headers;
  /**
   * Makes the reply to a failure before the answer began, or has the client's connection ended; without it the client
   * gets a problem document.
   */
  readonly failureReply?: (failure: ExchangeFailure) => Reply | 'cut';
  /** Returns the failure that replaces an answer which the client must not get. */
  readonly checkAnswer?: (answer: ResponseHead) => ExchangeFailure | undefined;
  /** Called when the origin has accepted a protocol switch: both connections no longer speak HTTP. */
  readonly onSwitched?: (answer: ResponseHead, socket: Socket, early: Buffer) => void;
}

/** Streams one request to the origin and its answer to the client. */
export class ProxiedExchange implements ExchangeListener {
  private readonly client: ClientSide;
  private readonly framing: Framing;
  private exchange: OriginExchange | undefined;
  private stallDetector: StallDetector | undefined;
  private headTimer: NodeJS.Timeout | undefined;
  private bodyBytes = 0;
  private stopWatching: (() => void) | undefined;
  private answer: ResponseHead | undefined;
  /** Bytes of a replaced answer that may still be read; undefined while the answer goes to the client. */
  private discardableBytes: number | undefined;
  /** The end of a short content, which is written together with the end of the response. */
  private lastContent: Buffer | undefined;
  private listensForDrain = false;
  /** The origin has sent a response, interim or final, and so must have seen the request. */
  private hasOriginResponded = false;
  private isFinished = false;
  private onExchangeClosed: (() => void) | undefined;

  constructor(private readonly options: ExchangeOptions) {
    this.client = options.client;
    this.framing = framingOf(options.head);
  }

  /** Runs the exchange. Resolves when nothing more is sent in either direction; never rejects. */
  async run(): Promise<void> {
    const { client } = this;
    client.onLeft(() => this.stop());
    client.body.on('error', ignore);
    client.out.on('error', ignore);
    if (!client.hasLeft) this.begin();
    await client.closed;
    clearTimeout(this.headTimer);
    if (this.exchange && !this.exchange.isClosed)
      await new Promise<void>((resolve) => (this.onExchangeClosed = resolve));
    this.stallDetector?.stop();
    this.stopWatching?.();
  }

  /** Ends the exchange for both sides, unless the whole request body was sent or the answer has begun. */
  interrupt(): void {
    if (this.isFinished || this.isBodySent || this.client.headSent) return;
    this.stop();
    this.client.abort();
  }

  /** Fails the exchange, unless its answer has begun. */
  failUnlessAnswered(failure: ExchangeFailure): void {
    if (!this.answer) this.fail(failure);
  }

  private begin(): void {
    const coding = fieldValue(this.options.head.headers, 'transfer-encoding') ?? 'chunked';
    const { maxBodyBytes = Infinity, head } = this.options;
    if (!isChunked(coding)) this.fail(unknownCoding(coding));
    else if ((head.contentLength ?? 0) > maxBodyBytes) this.fail(bodyTooLarge(maxBodyBytes));
    else this.attempt('kept');
  }

  private attempt(connection: 'kept' | 'fresh'): void {
    const { open, outgoing, stallLimits } = this.options;
    let exchange: OriginExchange;
    try {
      const { origin, method, target, client, connectTimeoutMs } = outgoing;
      const headers = withAnnouncedTrailers(outgoing.headers, (trailers) => this.trailersToOrigin(trailers));
      exchange = open({ origin, method, target, headers, client, connectTimeoutMs, connection }, this);
    } catch (error) {
      return this.fail(badGateway('The request cannot be passed on to the origin.', error));
    }
    this.exchange = exchange;
    this.stallDetector?.stop();
    this.stallDetector = new StallDetector(exchange, stallLimits, this);
    this.sendBody(exchange);
  }

  private sendBody(exchange: OriginExchange): void {
    const { body } = this.client;
    if (this.framing === 'none') {
      body.resume();
      exchange.end();
      this.onBodySent();
      return;
    }
    this.stopWatching ??= this.options.watchBody?.({
      isAwaited: () => !this.isFinished && this.awaitedSide() === 'client',
      onSlow: () => this.fail(bodyTooSlow()),
    });
    body.on('data', this.onBody).on('end', this.onBodyEnd);
  }

  private readonly onBody = (bytes: Buffer): void => {
    const { maxBodyBytes } = this.options;
    // A body with a length was checked before; excess bytes must not complete one without.
    if (maxBodyBytes !== undefined && this.framing === 'chunked') {
      this.bodyBytes += bytes.length;
      if (this.bodyBytes > maxBodyBytes) return this.fail(bodyTooLarge(maxBodyBytes));
    }
    if (!this.exchange!.write(bytes, releaseWhenWritten(bytes))) this.client.body.pause();
  };

  private readonly onBodyEnd = (): void => {
    const exchange = this.exchange!;
    this.stopWatching?.();
    // An HTTP/2 stream emits 'end' even after a reset.
    if (this.client.hasLeft || exchange.isClosed) return;
    exchange.end(this.framing === 'chunked' ? this.trailersToOrigin(this.client.trailers()) : []);
    this.onBodySent();
  };

  onDrain(): void {
    if (this.isFinished) return;
    if (this.isBodySent) this.startHeadTimer();
    else this.client.body.resume();
  }

  private trailersToOrigin(received: Headers): Headers {
    const trailers = forwardableTrailers(received);
    return this.options.trailersForOrigin?.(trailers) ?? trailers;
  }

  private onBodySent(): void {
    if (!this.exchange!.needsDrain) this.startHeadTimer();
  }

  /** Starts the limit for the final head, which interim responses do not extend. */
  private startHeadTimer(): void {
    const { headTimeoutMs } = this.options;
    if (headTimeoutMs === undefined || this.headTimer || this.answer || this.isFinished) return;
    const fail = (): void =>
      this.fail(badGateway(`The origin did not come to its answer within ${headTimeoutMs / 1000} s.`));
    this.headTimer = setTimeout(fail, Math.min(headTimeoutMs, MAX_TIMER_MS));
  }

  onInterim({ status, reason, headers }: ResponseHead): void {
    if (this.isFinished) return;
    this.hasOriginResponded = true;
    this.client.sendInterim(status, reason, this.fieldsToClient(forwardableHeaders(headers, false), 'interim'));
  }

  onSwitched(answer: ResponseHead, socket: Socket, early: Buffer): void {
    const { onSwitched } = this.options;
    if (onSwitched && !this.isFinished) {
      this.isFinished = true;
      this.stallDetector?.stop();
      onSwitched(answer, socket, early);
    } else {
      socket.destroy();
      this.fail(badGateway('The origin switched protocols without being asked to.'));
    }
    this.onExchangeClosed?.();
  }

  onHead(answer: ResponseHead, contentIsLate: boolean): void {
    if (this.isFinished) return;
    this.hasOriginResponded = true;
    const failure = this.options.checkAnswer?.(answer);
    if (failure) return this.fail(failure);
    this.answer = answer;
    clearTimeout(this.headTimer);
    const rewritten = this.rewriteHead(answer);
    if ('replacement' in rewritten) this.replace(rewritten.replacement);
    else if (this.sendHead(rewritten) && contentIsLate) this.client.flush();
  }

  onContent(bytes: Buffer, isLast: boolean): void {
    if (this.discardableBytes !== undefined) {
      this.discardableBytes -= bytes.length;
      if (this.discardableBytes < 0) this.exchange!.destroy();
    } else if (isLast && bytes.length <= MAX_LAST_BYTES) {
      this.lastContent = bytes;
    } else if (!this.isFinished && !this.client.out.write(bytes, releaseWhenWritten(bytes))) {
      this.exchange!.pause();
      if (!this.listensForDrain) this.client.out.on('drain', this.onClientDrain);
      this.listensForDrain = true;
    }
  }

  private readonly onClientDrain = (): void => this.exchange!.resume();

  onEnd(trailers: Headers): void {
    const exchange = this.exchange!;
    if (this.listensForDrain) this.client.out.off('drain', this.onClientDrain);
    if (this.isFinished) return;
    // An origin that keeps the connection open may want the rest of the body; one that closes it does not.
    if (!exchange.isSent && this.answer?.isPersistent === false) this.abandonBody();
    this.client.end(this.trailersToClient(trailers), this.lastContent);
  }

  onClosed(error: Error | undefined): void {
    this.onExchangeClosed?.();
    if (this.isFinished) return;
    if (!this.answer && error && this.mayRepeat(error)) this.attempt('fresh');
    else if (error) this.fail(failureOf(error));
    else if (!this.isBodySent) this.abandonBody();
  }

  private rewriteHead({ status, reason, headers: received }: ResponseHead): RewrittenAnswer {
    const fields = this.fieldsToClient(forwardableHeaders(received, this.client.takesTrailers(received)), 'final');
    const headers = withAnnouncedTrailers(fields, (trailers) => this.trailersToClient(trailers));
    const head = { status, reason, headers };
    return this.options.rewrite?.(head) ?? head;
  }

  /** Sends our reply instead of the answer; a short rest of the answer is read to keep the connection to the origin. */
  private replace(reply: Reply): void {
    const exchange = this.exchange!;
    if (exchange.isSent) {
      this.isFinished = true;
      this.stallDetector?.stop();
      this.discardableBytes = REPLACED_ANSWER_LIMITS.bytes;
      setTimeout(() => exchange.destroy(), REPLACED_ANSWER_LIMITS.ms).unref();
    } else this.abandonBody();
    this.sendReply(reply);
  }

  private sendHead({ status, reason, headers }: AnswerHead): boolean {
    try {
      this.client.sendHead(status, reason, headers);
      return true;
    } catch (error) {
      this.fail(badGateway("The origin's answer has header fields that cannot be passed on.", error));
      return false;
    }
  }

  private fieldsToClient(headers: Headers, kind: 'interim' | 'final' | 'trailers'): Headers {
    return this.options.fieldsForClient?.(headers, kind) ?? headers;
  }

  private trailersToClient(trailers: Headers): Headers {
    if (trailers.length === 0) return trailers;
    return this.fieldsToClient(forwardableTrailers(trailers), 'trailers');
  }

  /** RFC 9110 §9.2.2: the origin may close an idle connection while the request is being sent over it. */
  private mayRepeat(error: Error): boolean {
    const isRepeatable = this.framing === 'none' && isIdempotent(this.options.head);
    return this.exchange!.isReused && isRepeatable && !this.hasOriginResponded && isBrokenConnection(error);
  }

  private fail(failure: ExchangeFailure): void {
    if (this.isFinished) return;
    this.options.onFailure(failure);
    const { client, options } = this;
    const hasBegun = client.headSent;
    const reply = hasBegun ? undefined : (options.failureReply ?? problemReplyOf)(failure);
    if (reply === 'cut' || (hasBegun && !this.exchange?.isAnswered)) {
      this.stop();
      client.abort();
      return;
    }
    this.abandonBody();
    if (reply) this.sendReply(reply);
  }

  private sendReply({ status, reason = STATUS_CODES[status]!, headers, body }: Reply): void {
    const bytes = Buffer.from(typeof body === 'string' ? body : '');
    this.client.sendHead(status, reason, [...headers, ['Content-Length', `${bytes.length}`]]);
    if (this.options.head.method !== 'HEAD') this.client.out.write(bytes);
    this.client.end([]);
  }

  private get isBodySent(): boolean {
    return this.exchange?.isSent ?? false;
  }

  /**
   * A client that waits for 100 waits for the origin. Neither side is blamed while the client reads slowly or the proxy
   * holds back what it reads.
   */
  awaitedSide(): AwaitedSide | undefined {
    const { exchange, answer, client } = this;
    if (answer && !exchange!.isAnswered) return client.needsDrain ? undefined : 'origin';
    if (exchange!.isSent || exchange!.needsDrain || client.awaitsContinue) return 'origin';
    return isHeldBack(client.body) ? undefined : 'client';
  }

  onStall(side: AwaitedSide): void {
    const { origin, client } = this.options.stallLimits;
    this.fail(side === 'origin' ? originSilent(origin!) : bodyStopped(client!));
  }

  /** Discards the rest of the body, because the client may need time to notice the response. */
  private abandonBody(): void {
    this.stop();
    if (!this.client.hasLeft) this.client.discardBody();
  }

  private stop(): void {
    this.isFinished = true;
    this.stallDetector?.stop();
    clearTimeout(this.headTimer);
    if (!this.exchange) return;
    const { body } = this.client;
    body.off('data', this.onBody).off('end', this.onBodyEnd);
    if (this.framing !== 'none') body.pause();
    this.exchange.destroy();
  }
}

function ignore(): void {
  // A broken connection is seen by its end.
}

function isChunked(coding: string): boolean {
  return coding === 'chunked' || /^\s*chunked\s*$/i.test(coding);
}

function isHeldBack(body: Readable): boolean {
  return sinceReadHeldMs(body) === 0;
}

function problemReplyOf({ status, detail }: ExchangeFailure): Reply {
  return problemReply({ status, detail });
}

const CONNECTION_REFUSED = 'The origin refused the connection. It may be down or restarting; try again later.';
const UNREACHABLE = 'The origin could not be reached over the network.';
const UNKNOWN_NAME = "The origin's name could not be resolved.";
const CONNECTION_LOST =
  'The origin closed the connection without an answer. It is not known whether it processed the request.';

const DETAILS: ReadonlyMap<string, string> = new Map([
  ['ECONNREFUSED', CONNECTION_REFUSED],
  ['EHOSTUNREACH', UNREACHABLE],
  ['ENETUNREACH', UNREACHABLE],
  ['ENOTFOUND', UNKNOWN_NAME],
  ['EAI_AGAIN', UNKNOWN_NAME],
  ['ECONNRESET', CONNECTION_LOST],
  ['EPIPE', CONNECTION_LOST],
  ['HPE_TOO_MANY_INTERIMS', 'The origin sends interim responses without end.'],
  ['HPE_INVALID_TRANSFER_ENCODING', "The origin's answer has a transfer coding that nobody asked for."],
]);

/** The failure that an error of a request to the origin means. */
function failureOf(error: unknown): ExchangeFailure {
  const code = codeOf(error);
  if (code === 'ETIMEDOUT') {
    return { status: 504, code, detail: 'The origin did not accept a connection in time.', cause: error };
  }
  return { status: 502, code, detail: DETAILS.get(code) ?? detailOf(code), cause: error };
}

/** A failure because the answer, or the request itself, cannot be forwarded. */
function badGateway(detail: string, cause?: unknown): ExchangeFailure {
  return { status: 502, code: codeOf(cause), detail, cause };
}

/** RFC 9112 §6.1: the body has a transfer coding that the proxy would have to decode and cannot. */
function unknownCoding(coding: string): ExchangeFailure {
  return {
    status: 501,
    code: 'CODING',
    detail: `The transfer coding ${JSON.stringify(coding)} is not supported; use "chunked".`,
  };
}

/** No byte moved while the proxy waited for the origin. */
function originSilent(limitMs: number): ExchangeFailure {
  return { status: 504, code: 'ETIMEDOUT', detail: `The origin was silent for more than ${limitMs / 1000} s.` };
}

/** The client has stopped sending the body that it announced. */
function bodyStopped(limitMs: number): ExchangeFailure {
  const detail = `Nothing came of the request's body for more than ${limitMs / 1000} s.`;
  return { status: 408, code: 'BODY_STOPPED', detail };
}

/** The body arrives so slowly that it could keep a connection forever. */
function bodyTooSlow(): ExchangeFailure {
  return { status: 408, code: 'BODY_TOO_SLOW', detail: "The request's body came too slowly." };
}

/** RFC 9110 §15.5.14: the body exceeds the route's `max_size`. */
function bodyTooLarge(maxBytes: number): ExchangeFailure {
  return { status: 413, code: 'BODY_TOO_LARGE', detail: `A request may have at most ${maxBytes} bytes here.` };
}

/** Whether the error is a connection that the origin closed. */
function isBrokenConnection(error: unknown): boolean {
  return ['ECONNRESET', 'EPIPE'].includes(codeOf(error));
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === 'string' ? code : 'other';
}

function detailOf(code: string): string {
  if (code.startsWith('HPE_')) return "The origin's answer is not valid HTTP/1.1.";
  if (/CERT|SSL|TLS|SIGNATURE|ALTNAME/.test(code)) return 'A secure connection to the origin could not be established.';
  return 'The exchange with the origin failed.';
}
