import { type ClientRequest, type IncomingMessage, type InformationEvent, STATUS_CODES } from 'node:http';
import { Socket } from 'node:net';
import type { Duplex, Readable } from 'node:stream';
import {
  fieldValue,
  forwardableHeaders,
  forwardableTrailers,
  fromRawHeaders,
  type Headers,
  withAnnouncedTrailers,
} from '../model/headers.js';
import { isIdempotent, type RequestHead } from '../model/request-head.js';
import { type Framing, framingOf } from '../origin/headers.js';
import type { OutgoingRequest } from '../origin/origin-client.js';
import { problemReply } from '../protocol/problem.js';
import type { Reply } from '../protocol/protocol.js';
import { type ClientSide, discard, type DiscardLimits } from '../server/closing.js';
import type { WatchedBody } from '../server/slow-clients.js';
import { limitSmallPieces, sinceReadHeldMs } from '../streams/small-pieces.js';
import { type AwaitedSide, StallDetector, type StallLimits } from './stall.js';

/** Stands for a connection that closed without an error event. */
const CONNECTION_CLOSED = Object.assign(new Error('connection closed'), { code: 'ECONNRESET' });

/** Limits for reading the rest of a replaced answer, which keeps the connection to the origin. */
const REPLACED_ANSWER_LIMITS: DiscardLimits = { bytes: 64 * 1024, ms: 2000 };

/** Limits of the interim responses in one exchange, against an origin that never stops sending them. */
const MAX_INTERIMS = 1000;
const MAX_INTERIM_BYTES = 256 * 1024;

/** Node's limit; a longer timer would fire immediately. */
const MAX_TIMER_MS = 2 ** 31 - 1;

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
  readonly open: (outgoing: OutgoingRequest) => ClientRequest;
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
  readonly checkAnswer?: (answer: IncomingMessage) => ExchangeFailure | undefined;
  /** Called when the origin has accepted a protocol switch: both connections no longer speak HTTP. */
  readonly onSwitched?: (answer: IncomingMessage, socket: Socket, early: Buffer) => void;
}

/** Streams one request to the origin and its answer to the client. */
export class ProxiedExchange {
  private readonly client: ClientSide;
  private readonly framing: Framing;
  private request: ClientRequest | undefined;
  private stallDetector: StallDetector | undefined;
  private headTimer: NodeJS.Timeout | undefined;
  private interimCount = 0;
  private interimBytes = 0;
  private stopWatching: (() => void) | undefined;
  private answer: IncomingMessage | undefined;
  /** The origin has sent a response, interim or final, and so must have seen the request. */
  private hasOriginResponded = false;
  private isFinished = false;

  constructor(private readonly options: ExchangeOptions) {
    this.client = options.client;
    this.framing = framingOf(options.head);
  }

  /** Runs the exchange. Resolves when nothing more is sent in either direction; never rejects. */
  async run(): Promise<void> {
    const { client } = this;
    client.onLeft(() => this.stop());
    client.body.on('error', () => undefined);
    client.out.on('error', () => undefined);
    if (!client.hasLeft) this.begin();
    await client.closed;
    clearTimeout(this.headTimer);
    if (this.request) await requestClosed(this.request);
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
    if (!/^\s*chunked\s*$/i.test(coding)) this.fail(unknownCoding(coding));
    else if ((head.contentLength ?? 0) > maxBodyBytes) this.fail(bodyTooLarge(maxBodyBytes));
    else this.attempt('kept');
  }

  private attempt(connection: 'kept' | 'fresh'): void {
    const { open, outgoing, stallLimits } = this.options;
    let request: ClientRequest;
    try {
      const headers = withAnnouncedTrailers(outgoing.headers, (trailers) => this.trailersToOrigin(trailers));
      request = open({ ...outgoing, headers, connection });
    } catch (error) {
      return this.fail(badGateway('The request cannot be passed on to the origin.', error));
    }
    this.request = request;
    this.stallDetector?.stop();
    this.stallDetector = new StallDetector(request, stallLimits, this.awaitedSide, (side) => {
      this.fail(side === 'origin' ? originSilent(stallLimits.origin!) : bodyStopped(stallLimits.client!));
    });
    request.on('information', (interim) => this.relayInterim(interim));
    request.on('finish', () => request === this.request && this.startHeadTimer());
    request.on('response', (answer) => this.relayAnswer(answer));
    request.on('upgrade', (answer, socket, early) => this.switchProtocols(answer, socket, early));
    request.on('error', (error) => request === this.request && this.onRequestEnded(request, error));
    request.on('close', () => request === this.request && this.onRequestEnded(request));
    this.sendBody(request);
  }

  private sendBody(request: ClientRequest): void {
    const { body } = this.client;
    if (this.framing === 'none') {
      body.resume();
      request.end();
      return;
    }
    this.limitBody();
    this.stopWatching ??= this.options.watchBody?.({
      isAwaited: () => !this.isFinished && this.awaitedSide() === 'client',
      onSlow: () => this.fail(bodyTooSlow()),
    });
    body.pipe(request, { end: false });
    body.once('end', () => this.endBody(request));
    // The head is sent alone when the body has no bytes yet.
    setImmediate(() => !body.readableDidRead && !request.destroyed && request.flushHeaders());
  }

  /** Counts the body before it is piped on, so that excess bytes cannot complete it. */
  private limitBody(): void {
    const { maxBodyBytes } = this.options;
    if (maxBodyBytes === undefined || this.framing === 'length') return;
    let bodyBytes = 0;
    this.client.body.on('data', (bytes: Buffer) => {
      bodyBytes += bytes.length;
      if (bodyBytes > maxBodyBytes) this.fail(bodyTooLarge(maxBodyBytes));
    });
  }

  private endBody(request: ClientRequest): void {
    this.stopWatching?.();
    // An HTTP/2 stream emits 'end' even after a reset.
    if (this.client.hasLeft || request.destroyed) return;
    if (this.framing === 'chunked') {
      const trailers = this.trailersToOrigin(this.client.trailers());
      if (trailers.length > 0) request.addTrailers(trailers.map(([name, value]): [string, string] => [name, value]));
    }
    request.end();
  }

  private trailersToOrigin(received: Headers): Headers {
    const trailers = forwardableTrailers(received);
    return this.options.trailersForOrigin?.(trailers) ?? trailers;
  }

  /** Starts the limit for the final head, which interim responses do not extend. */
  private startHeadTimer(): void {
    const { headTimeoutMs } = this.options;
    if (headTimeoutMs === undefined || this.answer || this.isFinished) return;
    const fail = (): void =>
      this.fail(badGateway(`The origin did not come to its answer within ${headTimeoutMs / 1000} s.`));
    this.headTimer = setTimeout(fail, Math.min(headTimeoutMs, MAX_TIMER_MS));
  }

  private relayInterim({ statusCode, statusMessage, rawHeaders }: InformationEvent): void {
    this.hasOriginResponded = true;
    this.interimBytes += rawHeaders.reduce((sum, { length }) => sum + length, statusMessage.length);
    if (++this.interimCount > MAX_INTERIMS || this.interimBytes > MAX_INTERIM_BYTES)
      return this.fail(badGateway('The origin sends interim responses without end.'));
    this.client.sendInterim(
      statusCode,
      statusMessage,
      this.fieldsToClient(forwardableHeaders(fromRawHeaders(rawHeaders), false), 'interim'),
    );
  }

  private switchProtocols(answer: IncomingMessage, socket: Duplex, early: Buffer): void {
    const { onSwitched } = this.options;
    if (onSwitched && socket instanceof Socket && !this.isFinished) {
      this.isFinished = true;
      this.stallDetector?.stop();
      onSwitched(answer, socket, early);
    } else {
      socket.destroy();
      this.fail(badGateway('The origin switched protocols without being asked to.'));
    }
  }

  private relayAnswer(answer: IncomingMessage): void {
    const { client } = this;
    this.hasOriginResponded = true;
    const failure = this.options.checkAnswer?.(answer);
    if (failure) return this.fail(failure);
    if (!/^\s*chunked\s*$/i.test(answer.headers['transfer-encoding'] ?? 'chunked')) {
      return this.fail(badGateway("The origin's answer has a transfer coding that nobody asked for."));
    }
    this.answer = answer;
    clearTimeout(this.headTimer);
    limitSmallPieces(answer, answer.socket);
    answer.on('error', () => undefined);
    const rewritten = this.rewriteHead(answer);
    if ('replacement' in rewritten) return this.replace(answer, rewritten.replacement);
    if (!this.sendHead(rewritten)) return;
    answer.pipe(client.out, { end: false });
    answer.once('end', () => this.endAnswer(answer));
    answer.once('close', () => !answer.readableEnded && this.fail(failureOf(CONNECTION_CLOSED)));
    setImmediate(() => !answer.readableDidRead && !answer.readableEnded && client.flush());
  }

  private rewriteHead({ statusCode, statusMessage, rawHeaders }: IncomingMessage): RewrittenAnswer {
    const lines = fromRawHeaders(rawHeaders);
    const fields = this.fieldsToClient(forwardableHeaders(lines, this.client.takesTrailers(lines)), 'final');
    const headers = withAnnouncedTrailers(fields, (trailers) => this.trailersToClient(trailers));
    const head = { status: statusCode!, reason: statusMessage ?? '', headers };
    return this.options.rewrite?.(head) ?? head;
  }

  /** Sends our reply instead of the answer; a short rest of the answer is read to keep the connection to the origin. */
  private replace(answer: IncomingMessage, reply: Reply): void {
    const request = this.request!;
    if (this.isBodySent) {
      this.isFinished = true;
      this.stallDetector?.stop();
      discard(answer, REPLACED_ANSWER_LIMITS, (hasEnded) => !hasEnded && request.destroy());
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
    return this.fieldsToClient(forwardableTrailers(trailers), 'trailers');
  }

  private endAnswer(answer: IncomingMessage): void {
    const request = this.request!;
    if (!this.isBodySent) {
      // An origin that keeps the connection open may want the rest of the body; one that closes it does not.
      if (!request.shouldKeepAlive || request.destroyed) this.abandonBody();
      else keepDraining(request);
    }
    this.client.end(this.trailersToClient(fromRawHeaders(answer.rawTrailers)));
  }

  private onRequestEnded(request: ClientRequest, error: Error = CONNECTION_CLOSED): void {
    if (this.isFinished) return;
    if (!this.answer && this.mayRepeat(request, error)) this.attempt('fresh');
    // Node ends an answer without a length when its connection breaks; the client must not take that for its end.
    else if (!this.answer?.complete) this.fail(failureOf(error));
    else if (this.answer.readableEnded && !this.isBodySent) this.abandonBody();
  }

  /** RFC 9110 §9.2.2: the origin may close an idle connection while the request is being sent over it. */
  private mayRepeat({ reusedSocket }: ClientRequest, error: Error): boolean {
    const isRepeatable = this.framing === 'none' && isIdempotent(this.options.head);
    return reusedSocket && isRepeatable && !this.hasOriginResponded && isBrokenConnection(error);
  }

  private fail(failure: ExchangeFailure): void {
    if (this.isFinished) return;
    this.options.onFailure(failure);
    const { client, options } = this;
    const hasBegun = client.headSent;
    const reply = hasBegun ? undefined : (options.failureReply ?? problemReplyOf)(failure);
    if (reply === 'cut' || (hasBegun && !this.answer?.readableEnded)) {
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
    return this.request?.writableEnded ?? false;
  }

  /**
   * A client that waits for 100 waits for the origin. Neither side is blamed while the client reads slowly or the proxy
   * holds back what it reads.
   */
  private readonly awaitedSide = (): AwaitedSide | undefined => {
    const { request, answer, client } = this;
    if (answer && !answer.readableEnded) return client.needsDrain || isHeldBack(answer) ? undefined : 'origin';
    const isBlocked = (answer ? request!.socket?.writableNeedDrain : request!.writableNeedDrain) === true;
    if (request!.writableEnded || isBlocked || client.awaitsContinue) return 'origin';
    return isHeldBack(client.body) ? undefined : 'client';
  };

  /** Discards the rest of the body, because the client may need time to notice the response. */
  private abandonBody(): void {
    this.stop();
    if (!this.client.hasLeft) this.client.discardBody();
  }

  private stop(): void {
    this.isFinished = true;
    this.stallDetector?.stop();
    clearTimeout(this.headTimer);
    if (!this.request) return;
    this.client.body.unpipe(this.request);
    this.request.destroy();
  }
}

function isHeldBack(body: Readable): boolean {
  return sinceReadHeldMs(body) === 0;
}

function problemReplyOf({ status, detail }: ExchangeFailure): Reply {
  return problemReply({ status, detail });
}

/** Node stops passing the socket's 'drain' to a request at the end of its answer; this continues it. */
function keepDraining(request: ClientRequest): void {
  const { socket } = request;
  const drained = (): void => void request.emit('drain');
  socket?.on('drain', drained);
  request.once('close', () => socket?.off('drain', drained));
}

function requestClosed(request: ClientRequest): Promise<void> {
  return new Promise((resolve) => {
    if (request.closed) resolve();
    else request.once('close', () => resolve());
  });
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
