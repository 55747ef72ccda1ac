import { constants, type Http2ServerRequest, type Http2ServerResponse, type OutgoingHttpHeaders } from 'node:http2';
import { fromRawHeaders, type Headers } from '../model/headers.js';
import { discard, type ClientSide, type DiscardLimits } from './client-side.js';

/** Frames that may wait in a session before interim responses are left out: they have no backpressure of their own. */
const MOST_WAITING_FRAMES = 64;

/** A client that speaks HTTP/2: fields in lower case, no reason phrase, no connection to close. */
export class Http2Client implements ClientSide {
  readonly over: Promise<void>;
  isGone = false;
  private readonly whenGone: (() => void)[] = [];

  constructor(
    private readonly request: Http2ServerRequest,
    private readonly response: Http2ServerResponse,
    private mayContinue: boolean,
    private readonly limits: DiscardLimits,
  ) {
    const { stream } = response;
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

  get out(): NodeJS.WritableStream {
    return this.response;
  }

  get answered(): boolean {
    return this.response.headersSent;
  }

  get isBehind(): boolean {
    return this.response.stream.writableNeedDrain;
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

  sendInterim(status: number, _reason: string, headers: Headers): void {
    const { stream } = this.response;
    if (this.answered || this.isGone || stream.destroyed) return;
    if (status === 100 && !this.mayContinue) return;
    if (status === 100) this.mayContinue = false;
    const waiting = stream.session?.state.outboundQueueSize ?? 0;
    if (waiting <= MOST_WAITING_FRAMES) stream.additionalHeaders({ ':status': status, ...byName(headers) });
  }

  sendHead(status: number, _reason: string, headers: Headers): void {
    const fields = byName(headers);
    try {
      this.response.writeHead(status, fields);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ERR_HTTP2_HEADER_SINGLE_VALUE') throw error;
      // Node refuses to repeat some fields. One joined line says the same (RFC 9110 §5.3).
      this.response.writeHead(status, joined(fields));
    }
  }

  flush(): void {
    // A HEADERS frame waits for nothing.
  }

  end(trailers: Headers): void {
    if (trailers.length > 0) this.response.addTrailers(byName(trailers));
    this.response.end();
  }

  breakOff(): void {
    // Not close(): it would end the content in good order first.
    this.response.stream.destroy(new Error('the origin broke off its answer'));
  }

  discardBody(): void {
    const { stream } = this.response;
    discard(this.request, this.limits, (ended) => {
      // RFC 9113 §8.1: the answer is whole, the rest of the request is not wanted.
      if (!ended && !stream.destroyed) stream.close(constants.NGHTTP2_NO_ERROR);
    });
  }

  private leave(): void {
    if (this.isGone) return;
    this.isGone = true;
    for (const listener of this.whenGone.splice(0)) listener();
  }
}

/** Names in lower case (RFC 9113 §8.2), repeated lines as a list. */
function byName(headers: Headers): OutgoingHttpHeaders {
  const fields = new Map<string, string[]>();
  for (const [name, value] of headers) {
    const lower = name.toLowerCase();
    const values = fields.get(lower);
    if (values) values.push(value);
    else fields.set(lower, [value]);
  }
  return Object.fromEntries([...fields].map(([name, values]) => [name, values.length === 1 ? values[0] : values]));
}

function joined(fields: OutgoingHttpHeaders): OutgoingHttpHeaders {
  const single = Object.entries(fields).map(([name, value]) => {
    return [name, Array.isArray(value) && name !== 'set-cookie' ? value.join(', ') : value];
  });
  return Object.fromEntries(single) as OutgoingHttpHeaders;
}
