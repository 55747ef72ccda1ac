import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { fieldValue, fromRawHeaders, type Headers } from '../model/headers.js';
import { discard, type ClientSide, type DiscardLimits } from './client-side.js';
import type { Http1Exchange } from './exchange.js';
import { holdsBodyBack, sendContinue, sendInterim } from './interim.js';
import { lingerBeforeClosing } from './lingering-close.js';
import { reasonPhrase, toNodeLines } from './octets.js';
import { resetConnection } from './reset-connection.js';

/** A client that speaks HTTP/1.1, or HTTP/1.0. */
export class Http1Client implements ClientSide {
  readonly over: Promise<void>;
  isGone = false;
  private readonly whenGone: (() => void)[] = [];
  private readonly request: IncomingMessage;
  private readonly response: ServerResponse;
  /** The answer lasts until the connection ends. */
  private endsByClose = false;

  constructor(
    private readonly exchange: Http1Exchange,
    private readonly limits: DiscardLimits,
  ) {
    this.request = exchange.req;
    this.response = exchange.res;
    // Each of many pipelined requests listens for the end of their connection.
    this.request.socket.setMaxListeners(0);
    this.over = Promise.all([this.responseOver(), this.requestOver()]).then(() => undefined);
  }

  get body(): IncomingMessage {
    return this.request;
  }

  get out(): ServerResponse {
    return this.response;
  }

  get answered(): boolean {
    return this.response.headersSent;
  }

  get isBehind(): boolean {
    return this.response.writableNeedDrain;
  }

  get holdsBodyBack(): boolean {
    return holdsBodyBack(this.exchange);
  }

  onGone(listener: () => void): void {
    if (this.isGone) listener();
    else this.whenGone.push(listener);
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
    const lines = [...headers];
    // The body need not come now (RFC 9110 §10.1.1): the next bytes could be that body or a new request.
    if (!request.complete && this.holdsBodyBack) lines.push(['Connection', 'close']);
    if (!request.complete) lingerBeforeClosing(request);
    response.writeHead(status, reasonPhrase(status, reason), toNodeLines(lines));
    this.endsByClose = request.httpVersion === '1.0' && fieldValue(lines, 'content-length') === undefined;
  }

  flush(): void {
    this.response.flushHeaders();
  }

  end(trailers: Headers): void {
    if (trailers.length > 0 && this.response.chunkedEncoding) this.response.addTrailers(trailers.map(toPair));
    this.response.end();
  }

  breakOff(): void {
    const { response } = this;
    const end = (socket: Socket): void => {
      if (this.endsByClose) resetConnection(socket);
      else socket.destroy();
    };
    // Behind a pipelined response it has none yet, and that one is not to be lost.
    if (response.socket) end(response.socket);
    else response.once('socket', end);
  }

  discardBody(): void {
    const { socket } = this.request;
    discard(this.request, this.limits, (ended) => {
      if (!ended) socket.destroy();
    });
  }

  private responseOver(): Promise<void> {
    const { response } = this;
    // A response that waits behind a pipelined one has no socket yet, and does not hear of its end.
    const connection = response.socket ? response : this.request.socket;
    return new Promise((resolve) => {
      const close = (): void => {
        connection.off('close', close);
        response.off('close', close);
        if (!response.writableFinished) this.leave();
        resolve();
      };
      connection.once('close', close);
      response.once('close', close);
    });
  }

  private requestOver(): Promise<void> {
    const { request } = this;
    const { socket } = request;
    // A body does not hear of it either, once its response is given.
    const connectionLost = (): void => void request.destroy();
    return new Promise((resolve) => {
      const close = (): void => {
        socket.off('close', connectionLost);
        // A body that breaks off never ends: only then is it closed with its end unseen.
        if (!request.readableEnded) this.leave();
        resolve();
      };
      if (request.closed) return close();
      request.once('close', close);
      socket.once('close', connectionLost);
    });
  }

  private leave(): void {
    if (this.isGone) return;
    this.isGone = true;
    for (const listener of this.whenGone.splice(0)) listener();
  }
}

function toPair([name, value]: Headers[number]): [string, string] {
  return [name, value];
}
