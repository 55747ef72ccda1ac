import { Readable } from 'node:stream';
import { type Dispatcher, errors } from 'undici';
import { fromRawHeaders, type HeaderLine, type Headers } from '../model/headers.js';
import { Unanswered, type OriginAnswer } from './origin.js';
import { gatherSmallPieces } from '../streams/gather.js';
import type { OriginConnection } from './undici-connections.js';

type Controller = Dispatcher.DispatchController;

export interface ExchangeEnds {
  /** The final response's head is here. */
  readonly answered: (answer: OriginAnswer) => void;
  /** There will be none. */
  readonly unanswered: (why: Unanswered) => void;
  /** The whole response is here. */
  readonly whole: () => void;
  /** It broke off, before or within the response. */
  readonly broken: (reason: Error) => void;
}

/** Hears from undici what becomes of one request, and hands the response on as a stream with its lines as they came. */
export class UndiciExchange implements Dispatcher.DispatchHandler {
  private body: Readable | undefined;
  private hasNoContent = false;
  private trailers: HeaderLine[] = [];
  private began = false;
  private beganTwice = false;
  private isOver = false;

  constructor(
    private readonly connection: OriginConnection,
    /** Of the request, asked for behind its last chunk. */
    private readonly requestTrailers: (() => Headers) | undefined,
    private readonly ends: ExchangeEnds,
  ) {}

  /** Called right before the first byte is written. A second time would be a second request, which is not undici's to decide. */
  onRequestStart(controller: Controller): void {
    if (this.began) {
      this.beganTwice = true;
      return controller.abort(new Error('the request would have been sent again'));
    }
    this.began = true;
    this.connection.socket?.beginExchange(this.requestTrailers);
  }

  onResponseStart(controller: Controller, status: number, _headers: unknown, reason = ''): void {
    // An origin's interim responses are not for our client: it asked for an upload, not for this request.
    if (status < 200) return;
    const body = gatherSmallPieces(
      new Readable({
        read: () => controller.resume(),
        destroy: (error, done) => {
          if (!this.isOver) controller.abort(error ?? new Error('the answer is not wanted'));
          done(error);
        },
      }),
    );
    // It may break off while nobody reads, and again after its reader has left.
    body.on('error', () => undefined);
    this.body = body;
    this.hasNoContent = status === 204 || status === 304;
    this.ends.answered({
      status,
      reason: this.connection.socket?.reasonOf(status) ?? reason,
      headers: linesOf(controller.rawHeaders),
      body,
      trailers: () => this.trailers,
    });
  }

  onResponseData(controller: Controller, bytes: Buffer): void {
    if (this.body?.push(bytes) === false) controller.pause();
  }

  onResponseEnd(controller: Controller): void {
    this.isOver = true;
    this.trailers = linesOf(controller.rawTrailers);
    this.body?.push(null);
    this.ends.whole();
  }

  /**
   * RFC 9112 §6.3: a 204 or 304 ends with its head, whatever length that announces. undici misses the content; only the
   * connection is over for it, where something that was sent all the same could be taken for the next answer.
   */
  onResponseError(_controller: Controller | undefined, error: Error): void {
    this.isOver = true;
    if (this.body && this.hasNoContent && error instanceof errors.ResponseContentLengthMismatchError)
      this.body.push(null);
    else if (this.body) this.body.destroy(error);
    else this.ends.unanswered(new Unanswered(this.wasSent() ? 'sent' : 'never-sent', describe(error), error));
    this.ends.broken(error);
  }

  private wasSent(): boolean {
    return this.beganTwice || (this.began && this.connection.socket?.wrote !== false);
  }
}

function linesOf(raw: Controller['rawHeaders']): HeaderLine[] {
  if (!Array.isArray(raw)) return [];
  return fromRawHeaders(raw.map((text) => (typeof text === 'string' ? text : text.toString('latin1'))));
}

/** Several addresses that all failed give an error without a message. */
function describe(error: NodeJS.ErrnoException): string {
  return error.message === '' ? `cannot be reached (${error.code ?? 'unknown'})` : error.message;
}
