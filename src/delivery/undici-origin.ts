import type { Socket } from 'node:net';
import { Readable } from 'node:stream';
import { buildConnector, Client, type Dispatcher, errors } from 'undici';
import { authenticatesConnection } from '../model/client-fields.js';
import { fieldValue, fromRawHeaders, type HeaderLine, type Headers } from '../model/headers.js';
import type { OriginInterim } from '../model/messages.js';
import { combineSmallPieces } from '../streams/small-pieces.js';
import { InvalidAnswer, type Origin, type OriginAnswer, type OriginRequest, Unanswered } from './origin.js';
import { instrumentOriginSocket, type OriginSocket, IGNORED_INTERIM_STATUS } from './undici-socket.js';

/** Options of an `UndiciOrigin`. */
export interface UndiciOriginOptions {
  /** CA certificates (PEM) that are trusted instead of the system's. */
  readonly ca?: string;
}

/**
 * Sends requests over HTTP/1.1 with undici, one at a time on a connection. Order and case of fields and all bodies are kept
 * in both directions; redirects, decompression and retries are off.
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
    // A connection with an NTLM or Negotiate login belongs to one user, so it is not taken from or returned to the idle ones.
    let isShared = request.connection === 'kept' && !authenticatesConnection(request.headers);
    const connection = this.connections.take({ ...request, connection: isShared ? 'kept' : 'fresh' });
    return new Promise((resolve, reject) => {
      const stop = (): void => void this.connections.end(connection, new Error('stopped', { cause: signal.reason }));
      const cleanUp = (): void => {
        signal.removeEventListener('abort', stop);
        content.body?.destroy();
      };
      signal.addEventListener('abort', stop, { once: true });
      const exchange = new UndiciExchange(connection, request, request.trailers, {
        interim: onInterim,
        answered: (answer) => {
          isShared &&= !authenticatesConnection(answer.headers);
          resolve(answer);
        },
        unanswered: reject,
        completed: () => {
          cleanUp();
          if (isShared) this.connections.giveBack(connection);
          else void this.connections.end(connection, new Error('one request per connection'));
        },
        failed: (reason) => {
          cleanUp();
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

/** undici's types lack `servername`. It is set because undici would open a new connection for a different `Host`. */
type DispatchOptions = Dispatcher.DispatchOptions & { readonly servername: string };

function dispatchOptions(request: OriginRequest): DispatchOptions {
  const { origin, method, target, headers, content, timeoutMs } = request;
  const { body, size } = content;
  const trailers = size === undefined || !body ? [] : (request.trailers?.() ?? []);
  // Trailers need a chunked body, which has no length (RFC 9112 §7.1.2).
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
    // undici would find out the length of a short stream, but not that of an iterable.
    body: isChunked ? asIterable(body!) : body,
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    servername: new URL(origin).hostname,
  };
}

/** undici accepts an iterable as a body, although its types do not include one. */
function asIterable(body: Readable): Readable {
  const iterable = { [Symbol.asyncIterator]: () => body[Symbol.asyncIterator]() as AsyncIterator<Uint8Array> };
  return iterable as unknown as Readable;
}

type Controller = Dispatcher.DispatchController;

/** Each exchange ends with `completed` or `failed`. */
interface ExchangeEvents {
  /** The head of the final response has arrived. */
  readonly answered: (answer: OriginAnswer) => void;
  /** An interim response has arrived that is not only about this connection. */
  readonly interim: (interim: OriginInterim) => void;
  /** There will be no final response. */
  readonly unanswered: (reason: Unanswered) => void;
  /** The response is complete. */
  readonly completed: () => void;
  /** The exchange broke off before the end of the response. */
  readonly failed: (reason: Error) => void;
}

/** Limit of interim responses in one exchange, more than any origin needs (docs/decisions/0024). */
const MAX_INTERIMS = 1000;

type AnswerBounds = Pick<OriginRequest, 'answerTimeoutMs' | 'maxAnswerSize'>;

/** Handles undici's events of one request and passes the response on as a stream, with its fields as received. */
class UndiciExchange implements Dispatcher.DispatchHandler {
  private body: Readable | undefined;
  private hasNoContent = false;
  private trailers: HeaderLine[] = [];
  private hasBegun = false;
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
    /** Trailers of the request, read after its last chunk. */
    private readonly requestTrailers: (() => Headers) | undefined,
    private readonly events: ExchangeEvents,
  ) {}

  /** Called right before the first byte is written. A second call would be a retry, which undici must not decide. */
  onRequestStart(controller: Controller): void {
    if (this.hasBegun) {
      this.wasRestarted = true;
      return controller.abort(new Error('undici would have sent the request again'));
    }
    this.hasBegun = true;
    this.controller = controller;
    this.connection.socket?.beginExchange(this.requestTrailers);
  }

  onResponseStart(controller: Controller, status: number, _headers: unknown, reason = ''): void {
    if (status < 200) return this.onInterim(controller, status, reason);
    this.requestSent();
    const headers = headersOf(controller.rawHeaders);
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
    // The body may fail while it has no reader.
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

  /** The request is sent: starts the time limit of the answer. */
  requestSent(): void {
    const { answerTimeoutMs } = this.bounds;
    if (answerTimeoutMs === undefined || this.timer || this.hasEnded) return;
    const problem = `the answer was not complete after ${answerTimeoutMs / 1000} s`;
    const abort = (): void => this.controller?.abort(new InvalidAnswer(problem));
    this.timer = setTimeout(abort, Math.min(answerTimeoutMs, LONGEST_TIMER_MS)).unref();
  }

  onResponseEnd(controller: Controller): void {
    this.end();
    this.trailers = headersOf(controller.rawTrailers);
    this.body?.push(null);
    this.events.completed();
  }

  /**
   * RFC 9112 §6.3: a 204 or 304 ends with its head, whatever length it announces. undici reports missing content,
   * although the answer is complete; content that the origin may still send makes the connection unusable.
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

  /** Limits interim responses, because each one restarts undici's timeout. */
  private onInterim(controller: Controller, status: number, reason: string): void {
    const headers = headersOf(controller.rawHeaders);
    this.interimBytes += headers.reduce((sum, [name, value]) => sum + name.length + value.length, reason.length);
    if (++this.interimCount > MAX_INTERIMS || this.interimBytes > MAX_HEAD_BYTES)
      return controller.abort(new InvalidAnswer('the origin sends too many interim responses'));
    // RFC 9110 §15.2: 100 and 101 concern only this connection.
    if (status > 101 && status !== IGNORED_INTERIM_STATUS) this.events.interim({ status, reason, headers });
  }

  private end(): void {
    this.hasEnded = true;
    clearTimeout(this.timer);
  }

  private wasSent(): boolean {
    return this.wasRestarted || (this.hasBegun && this.connection.socket?.hasWritten !== false);
  }
}

/** The longest delay of a Node timer. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

function tooLarge(bytes: number): InvalidAnswer {
  return new InvalidAnswer(`the answer is larger than ${bytes} bytes`);
}

function headersOf(raw: Controller['rawHeaders']): HeaderLine[] {
  if (!Array.isArray(raw)) return [];
  return fromRawHeaders(raw.map((text) => (typeof text === 'string' ? text : text.toString('latin1'))));
}

/** If all addresses of a host fail, Node's error has no message. */
function describe(error: NodeJS.ErrnoException): string {
  return error.message === '' ? `cannot be reached (${error.code ?? 'unknown'})` : error.message;
}

/** Longer than the handshake of a working origin. An attempt that fails to connect may be repeated. */
const LONGEST_CONNECT_MS = 10_000;
/** Answers with larger heads are rejected. */
const MAX_HEAD_BYTES = 256 * 1024;

/** undici's connector returns the connecting socket, which its types omit; it is needed to end a connection attempt. */
type Connect = (...args: Parameters<buildConnector.connector>) => Socket;

/** A connection to one origin that is opened when needed and carries one exchange at a time. */
export class OriginConnection {
  readonly client: Client;
  /** The socket of the newest connection; undefined before the first. */
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
        // The certificate must be the origin's; undici would check it against the `Host` that is passed on.
        this.connecting = connect({ ...target, servername: undefined }, (...result) => {
          // From now on undici ends the connection, with a reason: an end without one could be taken for the end of an answer.
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

  /** Ends the connection immediately, together with its exchange. */
  async destroy(reason: Error): Promise<void> {
    this.connecting?.on('error', () => undefined).destroy();
    await this.client.destroy(reason);
  }
}

type ConnectionRequest = Pick<OriginRequest, 'origin' | 'timeoutMs' | 'connection'>;

/** Connections to origins. A connection whose exchange completed is kept for a short time for the next one (RFC 9112 §9.3). */
export class OriginConnections {
  private readonly idle = new Set<OriginConnection>();
  private readonly all = new Set<OriginConnection>();

  constructor(private readonly options: { readonly ca?: string }) {}

  /** An idle connection for a request that may be repeated, otherwise a new one. */
  take({ origin, timeoutMs, connection: kind }: ConnectionRequest): OriginConnection {
    const connectMs = Math.min(timeoutMs, LONGEST_CONNECT_MS);
    const key = `${origin} ${connectMs}`;
    for (const connection of kind === 'kept' ? this.idle : []) {
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

  /** Keeps the connection for another exchange if it is still open. */
  giveBack(connection: OriginConnection): void {
    if (connection.isOpen && this.all.has(connection)) this.idle.add(connection);
    else void this.end(connection, new Error('the origin closed the connection'));
  }

  /** Ends a connection immediately. Never rejects. */
  async end(connection: OriginConnection, reason: Error): Promise<void> {
    this.idle.delete(connection);
    this.all.delete(connection);
    await connection.destroy(reason);
  }

  async close(): Promise<void> {
    const reason = new Error('the proxy is being stopped');
    await Promise.all([...this.all].map((connection) => this.end(connection, reason)));
  }
}
