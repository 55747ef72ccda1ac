import type { Socket } from 'node:net';
import { Readable } from 'node:stream';
import type { HeaderLine, Headers } from '../model/headers.js';
import { releaseWhenWritten } from '../streams/release-memory.js';
import { combineSmallPieces } from '../streams/small-pieces.js';
import type { OriginClient, OutgoingRequest } from './origin-client.js';
import type { ExchangeListener, OriginExchange } from './origin-exchange.js';
import type { ResponseHead } from './response-head.js';
import { type AwaitedSide, StallDetector } from './stall.js';

/** A request whose content is a stream. */
export interface StreamedRequest extends OutgoingRequest {
  /** Destroyed when the exchange ends early. Its buffers belong to the exchange, which releases them when they are written. */
  readonly body?: Readable;
  /** The head announces content that is never sent: the request only asks whether it would be accepted. */
  readonly withholdsBody?: boolean;
  /** The size of `body`; with any other size the connection ends, so that the request never looks complete. */
  readonly bodySize?: number;
  /** Trailers of chunked content, read after its end. */
  readonly trailers?: () => Headers;
  /** Longest silence of the origin while it is awaited. */
  readonly maxSilenceMs?: number;
}

/** A response whose content is a stream. */
export interface StreamedResponse extends ResponseHead {
  /** Fails with the reason if the response breaks off. Destroying it ends the exchange. */
  readonly body: Readable;
  /** Known when `body` has ended. */
  readonly trailers: () => readonly HeaderLine[];
}

/** The events of a streamed exchange beside its response. */
export interface StreamedEvents {
  readonly onInterim?: (head: ResponseHead) => void;
  /** The final head has arrived, maybe before the request was written completely. */
  readonly onHead?: () => void;
  /** Called with the size of the content received so far; an error ends the exchange. */
  readonly checkContent?: (totalBytes: number) => Error | undefined;
  /** The request was written completely. */
  readonly onSent?: () => void;
  /** The exchange is over. */
  readonly onClosed?: () => void;
}

/** There was no response. */
export class NoResponse extends Error {
  constructor(
    reason: Error,
    /** No byte of the request was sent. */
    readonly neverSent: boolean,
    /** The connection had carried a request before, so the server may just have closed it. */
    readonly wasReused: boolean,
  ) {
    super(reason.message, { cause: reason });
    this.name = 'NoResponse';
  }
}

/** The limit of silence was reached. */
class SilentOrigin extends Error {
  readonly code = 'ETIMEDOUT';

  constructor(limitMs: number) {
    super(`Timeout: silent for more than ${limitMs / 1000} s`);
  }
}

/** Sends requests whose content and responses are streams. */
export class StreamedExchange implements ExchangeListener {
  /** Resolves with the head of the response, which may come before the request is complete. Rejects with `NoResponse`. */
  readonly response: Promise<StreamedResponse>;
  private resolve!: (response: StreamedResponse) => void;
  private reject!: (reason: NoResponse) => void;
  private exchange: OriginExchange | undefined;
  private stallDetector: StallDetector | undefined;
  private isOver = false;
  private content: Readable | undefined;
  private trailers: readonly HeaderLine[] = [];
  private sentBytes = 0;
  private receivedBytes = 0;
  private error: Error | undefined;

  constructor(
    private readonly client: OriginClient,
    private readonly request: StreamedRequest,
    private readonly events: StreamedEvents = {},
  ) {
    this.response = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    const { body, withholdsBody = false } = request;
    if (!body) {
      if (withholdsBody) this.open();
      else this.finishRequest();
      return;
    }
    body.on('data', this.onBody).once('end', this.onBodyEnd);
    body.on('error', (error) => this.end(error));
    body.once('close', () => !body.readableEnded && this.end(new Error('the body of the request ended early')));
  }

  /** Every byte of the body was written. */
  get hasSentBody(): boolean {
    return this.exchange?.isSent === true || this.sentBytes === this.request.bodySize;
  }

  /** Ends the exchange; `reason` is the error of the response or of its content. */
  end(reason: Error): void {
    this.error ??= reason;
    if (this.exchange) this.exchange.destroy(reason);
    else this.onClosed(reason);
  }

  /** The head of the request, sent with its first content: an unreadable body must not reach the origin at all. */
  private open(): OriginExchange | undefined {
    if (this.isOver) return undefined;
    if (this.exchange) return this.exchange;
    const { maxSilenceMs } = this.request;
    try {
      this.exchange = this.client.open(this.request, this);
    } catch (error) {
      this.end(error as Error);
      return undefined;
    }
    if (maxSilenceMs !== undefined)
      this.stallDetector = new StallDetector(this.exchange, { origin: maxSilenceMs, client: undefined }, this);
    return this.exchange;
  }

  private readonly onBody = (bytes: Uint8Array): void => {
    const { body, bodySize = Infinity } = this.request;
    this.sentBytes += bytes.length;
    if (this.sentBytes > bodySize) return this.end(new Error('the body of the request is longer than announced'));
    const exchange = this.open();
    if (exchange?.write(toBuffer(bytes), releaseWhenWritten(bytes)) === false) body!.pause();
  };

  private readonly onBodyEnd = (): void => {
    const { bodySize = this.sentBytes } = this.request;
    if (this.sentBytes === bodySize) this.finishRequest();
    else this.end(new Error('the body of the request is shorter than announced'));
  };

  private finishRequest(): void {
    this.open()?.end(this.request.trailers?.());
    if (!this.isOver) this.events.onSent?.();
  }

  onDrain(): void {
    this.request.body?.resume();
  }

  onInterim(head: ResponseHead): void {
    this.events.onInterim?.(head);
  }

  onHead(head: ResponseHead): void {
    const exchange = this.exchange!;
    this.events.onHead?.();
    const content = new Readable({
      read: () => exchange.resume(),
      destroy: (error, done) => {
        if (!exchange.isAnswered) this.end(error ?? new Error('the response is not wanted'));
        done(error);
      },
    });
    // The content may fail while it has no reader.
    content.on('error', () => undefined);
    this.content = combineSmallPieces(content);
    this.resolve({ ...head, body: this.content, trailers: () => this.trailers });
  }

  onContent(bytes: Buffer): void {
    this.receivedBytes += bytes.length;
    const problem = this.events.checkContent?.(this.receivedBytes);
    if (problem) this.end(problem);
    else if (!this.content!.push(bytes)) this.exchange!.pause();
  }

  onEnd(trailers: readonly HeaderLine[]): void {
    this.trailers = trailers;
    this.content!.push(null);
    // Without the rest of the request the connection cannot be used again.
    if (!this.exchange!.isSent) this.exchange!.destroy();
  }

  onSwitched(_head: ResponseHead, socket: Socket): void {
    socket.destroy();
    this.onClosed(new Error('the server switched to another protocol, although no upgrade was requested'));
  }

  onClosed(error: Error | undefined): void {
    if (this.isOver) return;
    this.isOver = true;
    const { exchange, content } = this;
    this.stallDetector?.stop();
    this.request.body?.off('data', this.onBody).destroy();
    const reason = this.error ?? error;
    if (content && error) content.destroy(reason);
    else if (reason && !content)
      this.reject(new NoResponse(reason, exchange?.isConnected !== true, exchange?.isReused === true));
    this.events.onClosed?.();
  }

  awaitedSide(): AwaitedSide | undefined {
    const { content, exchange } = this;
    if (content) return content.readableLength > content.readableHighWaterMark / 2 ? undefined : 'origin';
    return exchange!.isSent || exchange!.needsDrain ? 'origin' : undefined;
  }

  onStall(): void {
    this.end(new SilentOrigin(this.request.maxSilenceMs!));
  }
}

function toBuffer({ buffer, byteOffset, length }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, length);
}
