import { constants, type Http2ServerRequest, type Http2ServerResponse } from 'node:http2';
import { fromRawHeaders, type Headers } from '../model/headers.js';
import { discard, type ClientSide, type DiscardLimits } from './client-side.js';
import { closingBehindAnswer, destroyExchange, type Http2Exchange } from './exchange.js';
import { addHttp2Trailers, fits, HeadTooLarge, http2Status, writeHttp2Fields } from './http2-fields.js';
import { holdsBodyBack, sendContinue, sendInterim } from './interim.js';

/** A client that speaks HTTP/2: fields in lower case, no reason phrase, no connection to close. */
export class Http2Client implements ClientSide {
  readonly over: Promise<void>;
  isGone = false;
  private readonly whenGone: (() => void)[] = [];
  private readonly request: Http2ServerRequest;
  private readonly response: Http2ServerResponse;

  constructor(
    private readonly exchange: Http2Exchange,
    private readonly limits: DiscardLimits,
  ) {
    this.request = exchange.req;
    this.response = exchange.res;
    const { stream } = exchange.res;
    // A reset stream may say "end" and "finish" afterwards: only these two tell that it was one.
    stream.once('aborted', () => this.leave());
    this.over = new Promise((resolve) => {
      const close = (): void => {
        if (stream.rstCode !== constants.NGHTTP2_NO_ERROR || !stream.writableFinished) this.leave();
        resolve();
      };
      if (stream.destroyed) close();
      else stream.once('close', close);
    });
  }

  get body(): Http2ServerRequest {
    return this.request;
  }

  get out(): Http2ServerResponse {
    return this.response;
  }

  get answered(): boolean {
    return this.response.headersSent;
  }

  get isBehind(): boolean {
    return this.response.stream.writableNeedDrain;
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

  takesTrailers(): boolean {
    return this.request.method !== 'HEAD';
  }

  sendInterim(status: number, reason: string, headers: Headers): void {
    if (status === 100) sendContinue(this.exchange);
    else sendInterim(this.exchange, { status, reason, headers });
  }

  sendHead(status: number, _reason: string, headers: Headers): void {
    writeHttp2Fields(headers, (fields) => {
      if (!fits(this.response.stream, fields)) throw new HeadTooLarge();
      this.response.writeHead(http2Status(status), fields);
    });
  }

  flush(): void {
    // A HEADERS frame waits for nothing.
  }

  end(trailers: Headers): void {
    if (trailers.length > 0) addHttp2Trailers(this.response, trailers);
    this.response.end();
  }

  breakOff(): void {
    destroyExchange(this.exchange);
  }

  discardBody(): void {
    const close = closingBehindAnswer(this.response.stream);
    discard(this.request, this.limits, (ended) => {
      if (!ended) void close();
    });
  }

  private leave(): void {
    if (this.isGone) return;
    this.isGone = true;
    for (const listener of this.whenGone.splice(0)) listener();
  }
}
