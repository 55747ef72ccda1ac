import type { Readable } from 'node:stream';
import type { Dispatcher } from 'undici';
import { authenticatesConnection } from '../model/connection-auth.js';
import type { HeaderLine } from '../model/headers.js';
import type { OriginInterim } from '../model/outcome.js';
import { Unanswered, type Origin, type OriginAnswer, type OriginRequest } from './origin.js';
import { OriginConnections } from './undici-connections.js';
import { UndiciExchange } from './undici-exchange.js';

export interface UndiciOriginOptions {
  /** Certificates (PEM) that an origin's may be signed with, in place of the system's. */
  readonly ca?: string;
}

/**
 * Origins over HTTP/1.1. One exchange a connection at a time, fields in their order and case both ways, bodies untouched;
 * no redirects, no decompression, no repeating: what comes back is what the origin said.
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
    // A connection with a login by NTLM or Negotiate is one user's: it neither comes from those that wait nor joins them.
    let isShared = request.connection === 'kept' && !authenticatesConnection(request.headers);
    const connection = this.connections.take({ ...request, connection: isShared ? 'kept' : 'fresh' });
    return new Promise((answered, unanswered) => {
      const stop = (): void => void this.connections.end(connection, new Error('stopped', { cause: signal.reason }));
      const isOver = (): void => {
        signal.removeEventListener('abort', stop);
        content.body?.destroy();
      };
      signal.addEventListener('abort', stop, { once: true });
      const exchange = new UndiciExchange(connection, request, request.trailers, {
        interim: onInterim,
        answered: (answer) => {
          isShared &&= !authenticatesConnection(answer.headers);
          answered(answer);
        },
        unanswered,
        whole: () => {
          isOver();
          if (isShared) this.connections.giveBack(connection);
          else void this.connections.end(connection, new Error('one request a connection'));
        },
        broken: (reason) => {
          isOver();
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

/** `servername` is not in undici's types. Were it not the same every time, another `Host` would cost the connection. */
type DispatchOptions = Dispatcher.DispatchOptions & { readonly servername: string };

function dispatchOptions(request: OriginRequest): DispatchOptions {
  const { origin, method, target, headers, content, timeoutMs } = request;
  const { body, size } = content;
  const trailers = size === undefined || !body ? [] : (request.trailers?.() ?? []);
  // A body that can be followed by trailers has no length (RFC 9112 §7.1.2).
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
    // undici finds out the length of a short stream by itself, but not of what is only iterated.
    body: isChunked ? iterated(body!) : body,
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    servername: new URL(origin).hostname,
  };
}

/** Its types do not tell that undici takes it. */
function iterated(body: Readable): Readable {
  const iterable = { [Symbol.asyncIterator]: () => body[Symbol.asyncIterator]() as AsyncIterator<Uint8Array> };
  return iterable as unknown as Readable;
}
