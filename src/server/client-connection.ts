import type { IncomingMessage, ServerResponse } from 'node:http';
import { constants, type Http2ServerRequest, type Http2ServerResponse } from 'node:http2';
import type { Socket } from 'node:net';
import { fieldValue, fromRawHeaders, type Headers } from '../model/headers.js';
import { reasonPhrase, toNodeHeaders } from '../streams/node-http.js';
import { type ClientSide, discard, type DiscardLimits, lingerBeforeClosing, resetConnection } from './closing.js';
import {
  addHttp2Trailers,
  closerAfterResponse,
  destroyExchange,
  type Exchange,
  fitsClientLimits,
  HeadTooLarge,
  type Http1Exchange,
  type Http2Exchange,
  http2Status,
  isHttp2,
  writeHttp2Fields,
} from './exchange.js';
import { wasReset } from './http2-reset.js';
import { awaitsContinue, sendContinue, sendInterim } from './interim-responses.js';

/** Default limits for reading the rest of a request body after its response. */
export const DISCARD_LIMITS: DiscardLimits = { bytes: 32 * 2 ** 20, ms: 10_000 };

/** The client of an exchange, for HTTP/1.1 or HTTP/2. */
export function clientOf(exchange: Exchange, limits = DISCARD_LIMITS): ClientSide {
  return isHttp2(exchange) ? new Http2Client(exchange, limits) : new Http1Client(exchange, limits);
}

/** The client of an HTTP/1.1 or HTTP/1.0 exchange. */
export class Http1Client implements ClientSide {
  readonly closed: Promise<void>;
  hasLeft = false;
  private readonly leftListeners: (() => void)[] = [];
  private readonly request: IncomingMessage;
  private readonly response: ServerResponse;
  /** The end of the connection delimits the response. */
  private endsWithConnection = false;
  private onClosed: (() => void) | undefined;
  private openSides = 2;
  private isResponseClosed = false;

  constructor(
    private readonly exchange: Http1Exchange,
    private readonly limits: DiscardLimits,
  ) {
    this.request = exchange.req;
    this.response = exchange.res;
    // Each of many pipelined requests adds a listener to the shared socket.
    this.request.socket.setMaxListeners(0);
    this.closed = new Promise((resolve) => (this.onClosed = resolve));
    this.watchResponse();
    this.watchRequest();
  }

  get body(): IncomingMessage {
    return this.request;
  }

  get out(): ServerResponse {
    return this.response;
  }

  get headSent(): boolean {
    return this.response.headersSent;
  }

  get needsDrain(): boolean {
    return this.response.writableNeedDrain;
  }

  get awaitsContinue(): boolean {
    return awaitsContinue(this.exchange);
  }

  onLeft(listener: () => void): void {
    if (this.hasLeft) listener();
    else this.leftListeners.push(listener);
  }

  trailers(): Headers {
    return fromRawHeaders(this.request.rawTrailers);
  }

  takesTrailers(headers: Headers): boolean {
    const { method, httpVersion } = this.request;
    return httpVersion === '1.1' && method !== 'HEAD' && fieldValue(headers, 'content-length') === undefined;
  }

  sendInterim(status: number, reason: string, headers: Headers): void {
    if (status === 100) sendContinue(this.exchange);
    else sendInterim(this.exchange, { status, reason, headers });
  }

  sendHead(status: number, reason: string, headers: Headers): void {
    const { request, response } = this;
    // The client may leave out the body now (RFC 9110 §10.1.1): the next bytes could be that body or a new request.
    const lines: Headers = !request.complete && this.awaitsContinue ? [...headers, ['Connection', 'close']] : headers;
    if (!request.complete) lingerBeforeClosing(request);
    response.writeHead(status, reasonPhrase(status, reason), toNodeHeaders(lines));
    this.endsWithConnection = request.httpVersion === '1.0' && fieldValue(lines, 'content-length') === undefined;
  }

  flush(): void {
    this.response.flushHeaders();
  }

  end(trailers: Headers, lastContent?: Buffer): void {
    const { response } = this;
    if (trailers.length > 0 && response.chunkedEncoding) response.addTrailers(trailers.map(toPair));
    // Node joins a head with text, but not with bytes; each octet of this text is one character.
    if (lastContent) response.end(lastContent.toString('latin1'), 'latin1');
    else response.end();
  }

  abort(): void {
    const { response } = this;
    const end = (socket: Socket): void => {
      if (this.endsWithConnection) resetConnection(socket);
      else socket.destroy();
    };
    // A response behind a pipelined one has no socket yet, and destroying the socket now would lose the earlier
    // response.
    if (response.socket) end(response.socket);
    else response.once('socket', end);
  }

  discardBody(): void {
    const { socket } = this.request;
    discard(this.request, this.limits, (hasEnded) => {
      if (!hasEnded) socket.destroy();
    });
  }

  private watchResponse(): void {
    const { response } = this;
    response.on('close', this.onResponseClosed);
    // A response behind a pipelined one has no socket yet and gets no event when the connection ends.
    if (!response.socket) this.request.socket.on('close', this.onResponseClosed);
  }

  private readonly onResponseClosed = (): void => {
    if (this.isResponseClosed) return;
    this.isResponseClosed = true;
    this.request.socket.off('close', this.onResponseClosed);
    if (!this.response.writableFinished) this.markLeft();
    this.sideClosed();
  };

  private watchRequest(): void {
    const { request } = this;
    if (request.closed) return this.onRequestClosed();
    request.on('close', this.onRequestClosed);
    // A request whose response is finished gets no event when the connection ends either.
    request.socket.on('close', this.onConnectionLost);
  }

  private readonly onConnectionLost = (): void => void this.request.destroy();

  private readonly onRequestClosed = (): void => {
    this.request.socket.off('close', this.onConnectionLost);
    // An interrupted body never emits 'end': its request closes without it.
    if (!this.request.readableEnded) this.markLeft();
    this.sideClosed();
  };

  private sideClosed(): void {
    if (--this.openSides === 0) this.onClosed!();
  }

  private markLeft(): void {
    if (this.hasLeft) return;
    this.hasLeft = true;
    for (const listener of this.leftListeners.splice(0)) listener();
  }
}

function toPair([name, value]: Headers[number]): [string, string] {
  return [name, value];
}

/** The client of an HTTP/2 exchange: field names in lower case, no reason phrase, no connection to close. */
class Http2Client implements ClientSide {
  readonly closed: Promise<void>;
  private isMarkedLeft = false;
  private readonly leftListeners: (() => void)[] = [];
  private readonly request: Http2ServerRequest;
  private readonly response: Http2ServerResponse;

  constructor(
    private readonly exchange: Http2Exchange,
    private readonly limits: DiscardLimits,
  ) {
    this.request = exchange.req;
    this.response = exchange.res;
    const { stream } = exchange.res;
    stream.once('aborted', () => this.markLeft());
    this.closed = new Promise((resolve) => {
      const onClose = (): void => {
        const isReset = wasReset(stream) || stream.rstCode !== constants.NGHTTP2_NO_ERROR;
        if (isReset || !stream.writableFinished) this.markLeft();
        resolve();
      };
      if (stream.destroyed) onClose();
      else stream.once('close', onClose);
    });
  }

  /** True as soon as the body of a reset request seems to end, before its stream closes. */
  get hasLeft(): boolean {
    return this.isMarkedLeft || wasReset(this.response.stream);
  }

  get body(): Http2ServerRequest {
    return this.request;
  }

  get out(): Http2ServerResponse {
    return this.response;
  }

  get headSent(): boolean {
    return this.response.headersSent;
  }

  get needsDrain(): boolean {
    return this.response.stream.writableNeedDrain;
  }

  get awaitsContinue(): boolean {
    return awaitsContinue(this.exchange);
  }

  onLeft(listener: () => void): void {
    if (this.hasLeft) listener();
    else this.leftListeners.push(listener);
  }

  trailers(): Headers {
    return fromRawHeaders(this.request.rawTrailers);
  }

  takesTrailers(): boolean {
    return this.request.method !== 'HEAD';
  }

  sendInterim(status: number, reason: string, headers: Headers): void {
    if (status === 100) sendContinue(this.exchange);
    else sendInterim(this.exchange, { status, reason, headers });
  }

  sendHead(status: number, _reason: string, headers: Headers): void {
    writeHttp2Fields(headers, (fields) => {
      if (!fitsClientLimits(this.response.stream, fields)) throw new HeadTooLarge();
      this.response.writeHead(http2Status(status), fields);
    });
  }

  flush(): void {
    // A HEADERS frame is never held back.
  }

  end(trailers: Headers, lastContent?: Buffer): void {
    if (trailers.length > 0) addHttp2Trailers(this.response, trailers);
    if (lastContent) this.response.end(lastContent);
    else this.response.end();
  }

  abort(): void {
    destroyExchange(this.exchange);
  }

  discardBody(): void {
    const close = closerAfterResponse(this.response.stream);
    discard(this.request, this.limits, (hasEnded) => {
      if (!hasEnded) void close();
    });
  }

  private markLeft(): void {
    if (this.isMarkedLeft) return;
    this.isMarkedLeft = true;
    for (const listener of this.leftListeners.splice(0)) listener();
  }
}
