import type { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { fieldValue, fromRawHeaders, type Headers } from '../model/headers.js';
import { resetConnection } from './reset-connection.js';
import { discard, type ClientSide, type DiscardLimits } from './client-side.js';

/** What may wait in a socket before interim responses are left out: they have no backpressure of their own. */
const MOST_WAITING_BYTES = 16 * 1024;

/** A client that speaks HTTP/1.1, or HTTP/1.0. */
export class Http1Client implements ClientSide {
  readonly over: Promise<void>;
  isGone = false;
  private readonly whenGone: (() => void)[] = [];
  /** The answer lasts until the connection ends. */
  private endsByClose = false;
  private mayContinue: boolean;

  constructor(
    private readonly request: IncomingMessage,
    private readonly response: ServerResponse,
    expectsContinue: boolean,
    private readonly limits: DiscardLimits,
  ) {
    this.mayContinue = expectsContinue;
    // Each of many pipelined requests listens for the end of their connection.
    request.socket.setMaxListeners(0);
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
    // RFC 9110 §15.2: HTTP/1.0 knows no interim responses.
    if (this.answered || this.isGone || this.request.httpVersion !== '1.1') return;
    if (status === 100) this.sendContinue();
    else this.writeInterim(`HTTP/1.1 ${status} ${reason}\r\n${headers.map(toText).join('')}\r\n`);
  }

  sendHead(status: number, reason: string, headers: Headers): void {
    const { request, response } = this;
    const lines = [...headers];
    // The client holds its body back and need not send it now (RFC 9110 §10.1.1): the connection's next bytes could be
    // that body or a new request.
    if (this.mayContinue && !request.complete && !request.readableDidRead) lines.push(['Connection', 'close']);
    if (!request.complete) this.closeWithoutReset();
    response.writeHead(status, reason, lines.flat());
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
    const { socket } = this.response;
    if (!socket) return;
    if (this.endsByClose) resetConnection(socket);
    else socket.destroy();
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

  private sendContinue(): void {
    if (this.mayContinue) this.response.writeContinue();
    this.mayContinue = false;
  }

  /** Needed until Node 26 is our oldest: it has response.writeInformation(). */
  private writeInterim(text: string): void {
    const { socket } = this.response;
    if (socket && socket.writableLength <= MOST_WAITING_BYTES) socket.write(text, 'latin1');
  }

  /**
   * Where the connection ends with the answer, Node closes it at once. A client that is still sending gets a reset for
   * that, and may lose the answer over it: the end is sent, the closing waits for `discardBody`.
   */
  private closeWithoutReset(): void {
    const { socket } = this.request;
    const close = (): void => Socket.prototype.destroySoon.call(socket);
    socket.destroySoon = () => {
      if (this.request.readableEnded || this.request.destroyed) return close();
      socket.end();
      this.request.once('close', close);
    };
  }

  private leave(): void {
    if (this.isGone) return;
    this.isGone = true;
    for (const listener of this.whenGone.splice(0)) listener();
  }
}

function toText([name, value]: Headers[number]): string {
  return `${name}: ${value}\r\n`;
}

function toPair([name, value]: Headers[number]): [string, string] {
  return [name, value];
}
