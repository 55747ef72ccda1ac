import { Readable } from 'node:stream';
import { type Dispatcher, errors } from 'undici';
import { fieldValue, fromRawHeaders, type HeaderLine, type Headers } from '../model/headers.js';
import type { OriginInterim } from '../model/outcome.js';
import { InvalidAnswer, Unanswered, type OriginAnswer, type OriginRequest } from './origin.js';
import { gatherSmallPieces } from '../streams/gather.js';
import { LARGEST_HEAD, type OriginConnection } from './undici-connections.js';
import { OTHER_INTERIM } from './undici-heads.js';

type Controller = Dispatcher.DispatchController;

export interface ExchangeEnds {
  /** The final response's head is here. */
  readonly answered: (answer: OriginAnswer) => void;
  /** Before it; without those that are between the origin and us. */
  readonly interim: (interim: OriginInterim) => void;
  /** There will be none. */
  readonly unanswered: (why: Unanswered) => void;
  /** The whole response is here. */
  readonly whole: () => void;
  /** It broke off, before or within the response. */
  readonly broken: (reason: Error) => void;
}

/** Interim responses of one exchange, more than any origin has to say. */
const MOST_INTERIMS = 1000;

type AnswerBounds = Pick<OriginRequest, 'answerTimeoutMs' | 'maxAnswerSize'>;

/** Hears from undici what becomes of one request, and hands the response on as a stream with its lines as they came. */
export class UndiciExchange implements Dispatcher.DispatchHandler {
  private body: Readable | undefined;
  private hasNoContent = false;
  private trailers: HeaderLine[] = [];
  private began = false;
  private beganTwice = false;
  private isOver = false;
  private controller: Controller | undefined;
  private timer: NodeJS.Timeout | undefined;
  private interims = 0;
  private interimBytes = 0;
  private bodyBytes = 0;

  constructor(
    private readonly connection: OriginConnection,
    private readonly bounds: AnswerBounds,
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
    this.controller = controller;
    this.connection.socket?.beginExchange(this.requestTrailers);
  }

  onResponseStart(controller: Controller, status: number, _headers: unknown, reason = ''): void {
    if (status < 200) return this.hearInterim(controller, status, reason);
    this.requestSent();
    const headers = linesOf(controller.rawHeaders);
    const { maxAnswerSize = Infinity } = this.bounds;
    const announced = Number(fieldValue(headers, 'content-length') ?? 0);
    if (announced > maxAnswerSize && status !== 204 && status !== 304) return controller.abort(tooLarge(maxAnswerSize));
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
    if (answerTimeoutMs === undefined || this.timer || this.isOver) return;
    const problem = `the answer was not whole after ${answerTimeoutMs / 1000} s`;
    const end = (): void => this.controller?.abort(new InvalidAnswer(problem));
    this.timer = setTimeout(end, Math.min(answerTimeoutMs, LONGEST_TIMER_MS)).unref();
  }

  onResponseEnd(controller: Controller): void {
    this.end();
    this.trailers = linesOf(controller.rawTrailers);
    this.body?.push(null);
    this.ends.whole();
  }

  /**
   * RFC 9112 §6.3: a 204 or 304 ends with its head, whatever length that announces. undici misses the content; only the
   * connection is over for it, where something that was sent all the same could be taken for the next answer.
   */
  onResponseError(_controller: Controller | undefined, met: Error): void {
    this.end();
    const isHuge = (met as NodeJS.ErrnoException).code === 'UND_ERR_HEADERS_OVERFLOW';
    const error = isHuge ? new InvalidAnswer(`the head of the answer is larger than ${LARGEST_HEAD} bytes`, met) : met;
    if (this.body && this.hasNoContent && error instanceof errors.ResponseContentLengthMismatchError)
      this.body.push(null);
    else if (this.body) this.body.destroy(error);
    else this.ends.unanswered(new Unanswered(this.wasSent() ? 'sent' : 'never-sent', describe(error), error));
    this.ends.broken(error);
  }

  /** Each one makes undici forget how long it has waited, so that they have to end by themselves. */
  private hearInterim(controller: Controller, status: number, reason: string): void {
    const headers = linesOf(controller.rawHeaders);
    this.interimBytes += headers.reduce((sum, [name, value]) => sum + name.length + value.length, reason.length);
    if (++this.interims > MOST_INTERIMS || this.interimBytes > LARGEST_HEAD)
      return controller.abort(new InvalidAnswer('the origin sends interim responses without end'));
    // RFC 9110 §15.2: 100 and 101 are about this connection.
    if (status > 101 && status !== OTHER_INTERIM) this.ends.interim({ status, reason, headers });
  }

  private end(): void {
    this.isOver = true;
    clearTimeout(this.timer);
  }

  private wasSent(): boolean {
    return this.beganTwice || (this.began && this.connection.socket?.wrote !== false);
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
