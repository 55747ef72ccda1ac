import { fieldValue, type HeaderLine, withoutFields } from '../model/headers.js';
import type { OriginInterim } from '../model/messages.js';
import { METHODS_WITHOUT_CONTENT } from '../model/methods.js';
import type { OriginTls } from '../origin/endpoint.js';
import { OriginClient } from '../origin/origin-client.js';
import { MAX_TIMER_MS } from '../model/timer.js';
import type { NoResponse } from '../origin/streamed-request.js';
import { StreamedExchange, type StreamedRequest, type StreamedResponse } from '../origin/streamed-request.js';
import { InvalidAnswer, type Origin, type OriginAnswer, type OriginRequest, Unanswered } from './origin.js';

/** Sends deliveries over HTTP/1.1. A request is never sent twice. */
export class HttpOrigin implements Origin {
  private readonly client: OriginClient;

  constructor(tls?: OriginTls) {
    this.client = new OriginClient(tls);
  }

  async send(
    request: OriginRequest,
    signal: AbortSignal,
    onInterim: (interim: OriginInterim) => void = () => undefined,
  ): Promise<OriginAnswer> {
    if (signal.aborted) {
      request.content.body?.destroy();
      throw new Unanswered('never-sent', 'stopped before it was sent', signal.reason);
    }
    return new Delivery(this.client, request, signal, onInterim).answer();
  }

  close(): Promise<void> {
    this.client.close();
    return Promise.resolve();
  }
}

/** Longer than the handshake of a working origin. An attempt that fails to connect may be repeated. */
const LONGEST_CONNECT_MS = 10_000;

/** One request with the limits of its answer. */
class Delivery {
  private readonly exchange: StreamedExchange;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    client: OriginClient,
    private readonly request: OriginRequest,
    private readonly signal: AbortSignal,
    onInterim: (interim: OriginInterim) => void,
  ) {
    const stop = (): void => this.exchange.end(new Error('stopped', { cause: signal.reason }));
    signal.addEventListener('abort', stop, { once: true });
    this.exchange = new StreamedExchange(client, streamedRequest(request), {
      // RFC 9110 §15.2: 100 concerns only this connection.
      onInterim: ({ status, reason, headers }) =>
        status !== 100 && onInterim({ status, reason, headers: [...headers] }),
      // An origin may answer before it has the whole request, and need not take the rest.
      onHead: () => this.startTimer(),
      checkContent: (totalBytes) => this.checkSize(totalBytes),
      onSent: () => this.startTimer(),
      onClosed: () => {
        clearTimeout(this.timer);
        signal.removeEventListener('abort', stop);
      },
    });
  }

  /** The answer, whose content still arrives. Rejects with `Unanswered`. */
  async answer(): Promise<OriginAnswer> {
    let response: StreamedResponse;
    try {
      response = await this.exchange.response;
    } catch (error) {
      throw unanswered(error as NoResponse);
    }
    const { status, reason, headers, contentLength, body, trailers } = response;
    const problem = status === 204 || status === 304 ? undefined : this.checkSize(contentLength ?? 0);
    if (problem) {
      this.exchange.end(problem);
      throw new Unanswered('sent', problem.message, problem);
    }
    return { status, reason, headers: [...headers], body, trailers: () => [...trailers()] };
  }

  private checkSize(totalBytes: number): InvalidAnswer | undefined {
    const { maxAnswerSize = Infinity } = this.request;
    return totalBytes > maxAnswerSize
      ? new InvalidAnswer(`the answer is larger than ${maxAnswerSize} bytes`)
      : undefined;
  }

  /** Starts the time limit of the answer. */
  private startTimer(): void {
    const { answerTimeoutMs } = this.request;
    if (answerTimeoutMs === undefined || this.timer) return;
    const problem = `the answer was not complete after ${answerTimeoutMs / 1000} s`;
    const end = (): void => this.exchange.end(new InvalidAnswer(problem));
    this.timer = setTimeout(end, Math.min(answerTimeoutMs, MAX_TIMER_MS)).unref();
  }
}

const HOST: ReadonlySet<string> = new Set(['host']);

function streamedRequest(request: OriginRequest): StreamedRequest {
  const { origin, method, target, content, timeoutMs, connection } = request;
  const { body, size } = content;
  const host = fieldValue(request.headers, 'host') ?? new URL(origin).host;
  const others = withoutFields(request.headers, HOST);
  const trailers = size === undefined || !body ? [] : (request.trailers?.() ?? []);
  // Trailers need a chunked body, which has no length (RFC 9112 §7.1.2).
  const announced: HeaderLine[] =
    trailers.length > 0 ? [['Trailer', [...new Set(trailers.map(([name]) => name))].join(', ')]] : [];
  const isChunked = body !== undefined && (size === undefined || trailers.length > 0);
  const announcedSize = (body ? size : undefined) ?? (METHODS_WITHOUT_CONTENT.has(method) ? undefined : 0);
  const framing: HeaderLine[] = isChunked
    ? [['transfer-encoding', 'chunked']]
    : announcedSize !== undefined
      ? [['content-length', `${announcedSize}`]]
      : [];
  return {
    origin,
    method,
    target,
    headers: [['host', host], ['connection', 'keep-alive'], ...others, ...announced, ...framing],
    connection,
    connectTimeoutMs: Math.min(timeoutMs, LONGEST_CONNECT_MS),
    maxSilenceMs: timeoutMs,
    ...(body && { body }),
    ...(size !== undefined && { bodySize: size }),
    ...(isChunked && request.trailers && { trailers: request.trailers }),
  };
}

/** Codes of responses that exceed a limit of the parser. */
const LIMIT_CODES: ReadonlySet<string | undefined> = new Set(['HPE_HEADER_OVERFLOW', 'HPE_TOO_MANY_INTERIMS']);

function unanswered({ cause, neverSent }: NoResponse): Unanswered {
  const reason = cause as NodeJS.ErrnoException;
  const error = LIMIT_CODES.has(reason.code) ? new InvalidAnswer(reason.message, reason) : reason;
  return new Unanswered(neverSent ? 'never-sent' : 'sent', describe(error), error);
}

/** If all addresses of a host fail, Node's error has no message. */
function describe(error: NodeJS.ErrnoException): string {
  return error.message === '' ? `cannot be reached (${error.code ?? 'unknown'})` : error.message;
}
