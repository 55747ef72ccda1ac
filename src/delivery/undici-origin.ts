import type { Socket } from 'node:net';
import { Readable } from 'node:stream';
import { buildConnector, Client, type Dispatcher, errors } from 'undici';
import { authenticatesConnection } from '../model/client-fields.js';
import { fieldValue, fromRawHeaders, type HeaderLine, type Headers } from '../model/headers.js';
import type { OriginInterim } from '../model/messages.js';
import { combineSmallPieces } from '../streams/small-pieces.js';
import { InvalidAnswer, type Origin, type OriginAnswer, type OriginRequest, Unanswered } from './origin.js';
import { instrumentOriginSocket, type OriginSocket, IGNORED_INTERIM_STATUS } from './undici-socket.js';

export interface UndiciOriginOptions {
  /** Certificates (PEM) that an origin's may be signed with, in place of the system's. */
  readonly ca?: string;
}

/**
 * Origins over HTTP/1.1. One exchange a connection at a time, fields in their order and case both ways, bodies untouched;
 * no redirects, no decompression, no repeating: what comes back is what the origin said.
 */
export class UndiciOrigin implements Origin {
  private readonly connections: OriginConnections;

  constructor(options: UndiciOriginOptions = {}) {
    this.connections = new OriginConnections(options);
  }

  send(
    request: OriginRequest,
    signal: AbortSignal,
    onInterim: (interim: OriginInterim) => void = () => undefined,
  ): Promise<OriginAnswer> {
    const { content } = request;
    if (signal.aborted) {
      content.body?.destroy();
      return Promise.reject(new Unanswered('never-sent', 'stopped before it was sent', signal.reason));
    }
    // A connection with a login by NTLM or Negotiate is one user's: it neither comes from those that wait nor joins them.
    let isShared = request.connection === 'kept' && !authenticatesConnection(request.headers);
    const connection = this.connections.take({ ...request, connection: isShared ? 'kept' : 'fresh' });
    return new Promise((answered, unanswered) => {
      const stop = (): void => void this.connections.end(connection, new Error('stopped', { cause: signal.reason }));
      const isOver = (): void => {
        signal.removeEventListener('abort', stop);
        content.body?.destroy();
      };
      signal.addEventListener('abort', stop, { once: true });
      const exchange = new UndiciExchange(connection, request, request.trailers, {
        interim: onInterim,
        answered: (answer) => {
          isShared &&= !authenticatesConnection(answer.headers);
          answered(answer);
        },
        unanswered,
        completed: () => {
          isOver();
          if (isShared) this.connections.giveBack(connection);
          else void this.connections.end(connection, new Error('one request a connection'));
        },
        failed: (reason) => {
          isOver();
          void this.connections.end(connection, reason);
        },
      });
      if (content.body) content.body.once('end', () => exchange.requestSent());
      else exchange.requestSent();
      connection.client.dispatch(dispatchOptions(request), exchange);
    });
  }

  close(): Promise<void> {
    return this.connections.close();
  }
}

/** `servername` is not in undici's types. Were it not the same every time, another `Host` would cost the connection. */
type DispatchOptions = Dispatcher.DispatchOptions & { readonly servername: string };

function dispatchOptions(request: OriginRequest): DispatchOptions {
  const { origin, method, target, headers, content, timeoutMs } = request;
  const { body, size } = content;
  const trailers = size === undefined || !body ? [] : (request.trailers?.() ?? []);
  // A body that can be followed by trailers has no length (RFC 9112 §7.1.2).
  const isChunked = trailers.length > 0;
  const framing: HeaderLine[] = isChunked
    ? [['Trailer', [...new Set(trailers.map(([name]) => name))].join(', ')]]
    : size
      ? [['Content-Length', String(size)]]
      : [];
  return {
    method,
    path: target,
    headers: [...headers, ...framing].flat(),
    // undici finds out the length of a short stream by itself, but not of what is only iterated.
    body: isChunked ? asIterable(body!) : body,
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    servername: new URL(origin).hostname,
  };
}

/** Its types do not tell that undici takes it. */
function asIterable(body: Readable): Readable {
  const iterable = { [Symbol.asyncIterator]: () => body[Symbol.asyncIterator]() as AsyncIterator<Uint8Array> };
  return iterable as unknown as Readable;
}

type Controller = Dispatcher.DispatchController;

interface ExchangeEvents {
  /** The final response's head is here. */
  readonly answered: (answer: OriginAnswer) => void;
  /** Before it; without those that are between the origin and us. */
  readonly interim: (interim: OriginInterim) => void;
  /** There will be none. */
  readonly unanswered: (why: Unanswered) => void;
  /** The whole response is here. */
  readonly completed: () => void;
  /** It broke off, before or within the response. */
  readonly failed: (reason: Error) => void;
}

/** Interim responses of one exchange, more than any origin has to say. */
const MAX_INTERIMS = 1000;

type AnswerBounds = Pick<OriginRequest, 'answerTimeoutMs' | 'maxAnswerSize'>;

/** Hears from undici what becomes of one request, and hands the response on as a stream with its lines as they came. */
class UndiciExchange implements Dispatcher.DispatchHandler {
  private body: Readable | undefined;
  private hasNoContent = false;
  private trailers: HeaderLine[] = [];
  private began = false;
  private wasRestarted = false;
  private hasEnded = false;
  private controller: Controller | undefined;
  private timer: NodeJS.Timeout | undefined;
  private interimCount = 0;
  private interimBytes = 0;
  private bodyBytes = 0;

  constructor(
    private readonly connection: OriginConnection,
    private readonly bounds: AnswerBounds,
    /** Of the request, asked for behind its last chunk. */
    private readonly requestTrailers: (() => Headers) | undefined,
    private readonly events: ExchangeEvents,
  ) {}

  /** Called right before the first byte is written. A second time would be a second request, which is not undici's to decide. */
  onRequestStart(controller: Controller): void {
    if (this.began) {
      this.wasRestarted = true;
      return controller.abort(new Error('the request would have been sent again'));
    }
    this.began = true;
    this.controller = controller;
    this.connection.socket?.beginExchange(this.requestTrailers);
  }

  onResponseStart(controller: Controller, status: number, _headers: unknown, reason = ''): void {
    if (status < 200) return this.onInterim(controller, status, reason);
    this.requestSent();
    const headers = linesOf(controller.rawHeaders);
    const { maxAnswerSize = Infinity } = this.bounds;
    const announced = Number(fieldValue(headers, 'content-length') ?? 0);
    if (announced > maxAnswerSize && status !== 204 && status !== 304) return controller.abort(tooLarge(maxAnswerSize));
    const body = combineSmallPieces(
      new Readable({
        read: () => controller.resume(),
        destroy: (error, done) => {
          if (!this.hasEnded) controller.abort(error ?? new Error('the answer is not wanted'));
          done(error);
        },
      }),
    );
    // It may break off while nobody reads, and again after its reader has left.
    body.on('error', () => undefined);
    this.body = body;
    this.hasNoContent = status === 204 || status === 304;
    this.events.answered({
      status,
      reason: this.connection.socket?.reasonOf(status) ?? reason,
      headers,
      body,
      trailers: () => this.trailers,
    });
  }

  onResponseData(controller: Controller, bytes: Buffer): void {
    this.bodyBytes += bytes.length;
    const { maxAnswerSize = Infinity } = this.bounds;
    if (this.bodyBytes > maxAnswerSize) controller.abort(tooLarge(maxAnswerSize));
    else if (this.body?.push(bytes) === false) controller.pause();
  }

  /** From now on the answer takes its time. */
  requestSent(): void {
    const { answerTimeoutMs } = this.bounds;
    if (answerTimeoutMs === undefined || this.timer || this.hasEnded) return;
    const problem = `the answer was not whole after ${answerTimeoutMs / 1000} s`;
    const end = (): void => this.controller?.abort(new InvalidAnswer(problem));
    this.timer = setTimeout(end, Math.min(answerTimeoutMs, LONGEST_TIMER_MS)).unref();
  }

  onResponseEnd(controller: Controller): void {
    this.end();
    this.trailers = linesOf(controller.rawTrailers);
    this.body?.push(null);
    this.events.completed();
  }

  /**
   * RFC 9112 §6.3: a 204 or 304 ends with its head, whatever length that announces. undici misses the content; only the
   * connection is over for it, where something that was sent all the same could be taken for the next answer.
   */
  onResponseError(_controller: Controller | undefined, reported: Error): void {
    this.end();
    const isHuge = (reported as NodeJS.ErrnoException).code === 'UND_ERR_HEADERS_OVERFLOW';
    const error = isHuge
      ? new InvalidAnswer(`the head of the answer is larger than ${MAX_HEAD_BYTES} bytes`, reported)
      : reported;
    if (this.body && this.hasNoContent && error instanceof errors.ResponseContentLengthMismatchError)
      this.body.push(null);
    else if (this.body) this.body.destroy(error);
    else this.events.unanswered(new Unanswered(this.wasSent() ? 'sent' : 'never-sent', describe(error), error));
    this.events.failed(error);
  }

  /** Each one makes undici forget how long it has waited, so that they have to end by themselves. */
  private onInterim(controller: Controller, status: number, reason: string): void {
    const headers = linesOf(controller.rawHeaders);
    this.interimBytes += headers.reduce((sum, [name, value]) => sum + name.length + value.length, reason.length);
    if (++this.interimCount > MAX_INTERIMS || this.interimBytes > MAX_HEAD_BYTES)
      return controller.abort(new InvalidAnswer('the origin sends interim responses without end'));
    // RFC 9110 §15.2: 100 and 101 are about this connection.
    if (status > 101 && status !== IGNORED_INTERIM_STATUS) this.events.interim({ status, reason, headers });
  }

  private end(): void {
    this.hasEnded = true;
    clearTimeout(this.timer);
  }

  private wasSent(): boolean {
    return this.wasRestarted || (this.began && this.connection.socket?.wrote !== false);
  }
}

const LONGEST_TIMER_MS = 2 ** 31 - 1;

function tooLarge(bytes: number): InvalidAnswer {
  return new InvalidAnswer(`the answer is larger than ${bytes} bytes`);
}

function linesOf(raw: Controller['rawHeaders']): HeaderLine[] {
  if (!Array.isArray(raw)) return [];
  return fromRawHeaders(raw.map((text) => (typeof text === 'string' ? text : text.toString('latin1'))));
}

/** Several addresses that all failed give an error without a message. */
function describe(error: NodeJS.ErrnoException): string {
  return error.message === '' ? `cannot be reached (${error.code ?? 'unknown'})` : error.message;
}

/** Longer than any handshake of an origin worth waiting for; a connection that never comes about may be tried again. */
const LONGEST_CONNECT_MS = 10_000;
/** Answers with larger heads are not taken. */
const MAX_HEAD_BYTES = 256 * 1024;

/** It gives back the socket on its way, which its types do not say: without it a connection attempt could not be ended. */
type Connect = (...given: Parameters<buildConnector.connector>) => Socket;

/** One connection at a time to one origin, made when it is needed. Carries one exchange at a time. */
export class OriginConnection {
  readonly client: Client;
  /** Of the newest connection; missing until one is made. */
  socket: OriginSocket | undefined;
  isOpen = false;
  private connecting: Socket | undefined;

  constructor(
    readonly key: string,
    origin: string,
    options: { readonly connectMs: number; readonly ca?: string },
    onClose: (connection: OriginConnection) => void,
  ) {
    const connect = buildConnector({ timeout: options.connectMs, ca: options.ca }) as Connect;
    this.client = new Client(origin, {
      pipelining: 1,
      maxHeaderSize: MAX_HEAD_BYTES,
      connect: (target, done) => {
        // The certificate has to be the origin's: undici would ask for the one of the `Host` that we pass on.
        this.connecting = connect({ ...target, servername: undefined }, (...result) => {
          // From now on it is undici's to end, which has to hear why: an end without a reason may be that of an answer.
          this.connecting = undefined;
          if (result[1]) this.socket = instrumentOriginSocket(result[1]);
          done(...result);
        });
      },
    });
    this.client.on('connect', () => (this.isOpen = true));
    this.client.on('disconnect', () => {
      this.isOpen = false;
      onClose(this);
    });
  }

  /** Ends the connection at once, with everything that is under way on it. */
  async destroy(reason: Error): Promise<void> {
    this.connecting?.on('error', () => undefined).destroy();
    await this.client.destroy(reason);
  }
}

type ConnectionRequest = Pick<OriginRequest, 'origin' | 'timeoutMs' | 'connection'>;

/** Connections to origins. One that carried an exchange to its end waits a little for the next (RFC 9112 §9.3). */
export class OriginConnections {
  private readonly idle = new Set<OriginConnection>();
  private readonly all = new Set<OriginConnection>();

  constructor(private readonly options: { readonly ca?: string }) {}

  /** A new one, or for a request that may be repeated one that waits. */
  take({ origin, timeoutMs, connection: wanted }: ConnectionRequest): OriginConnection {
    const connectMs = Math.min(timeoutMs, LONGEST_CONNECT_MS);
    const key = `${origin} ${connectMs}`;
    for (const connection of wanted === 'kept' ? this.idle : []) {
      if (connection.key !== key) continue;
      this.idle.delete(connection);
      return connection;
    }
    const connection = new OriginConnection(key, origin, { connectMs, ca: this.options.ca }, (closed) => {
      if (this.idle.delete(closed)) void this.end(closed, new Error('the origin closed an idle connection'));
    });
    this.all.add(connection);
    return connection;
  }

  /** The exchange is over and the connection is fit for another, if it is still open. */
  giveBack(connection: OriginConnection): void {
    if (connection.isOpen && this.all.has(connection)) this.idle.add(connection);
    else void this.end(connection, new Error('the origin closed the connection'));
  }

  /** Never rejects. */
  async end(connection: OriginConnection, reason: Error): Promise<void> {
    this.idle.delete(connection);
    this.all.delete(connection);
    await connection.destroy(reason);
  }

  async close(): Promise<void> {
    const reason = new Error('the proxy stops');
    await Promise.all([...this.all].map((connection) => this.end(connection, reason)));
  }
}
