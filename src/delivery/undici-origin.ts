import type { Dispatcher } from 'undici';
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

  send(request: OriginRequest, signal: AbortSignal): Promise<OriginAnswer> {
    const { content } = request;
    if (signal.aborted) {
      content.body?.destroy();
      return Promise.reject(new Unanswered('never-sent', 'stopped before it was sent', signal.reason));
    }
    const connection = this.connections.take(request);
    return new Promise((answered, unanswered) => {
      const stop = (): void => void this.connections.end(connection, new Error('stopped', { cause: signal.reason }));
      const isOver = (): void => {
        signal.removeEventListener('abort', stop);
        content.body?.destroy();
      };
      signal.addEventListener('abort', stop, { once: true });
      const exchange = new UndiciExchange(connection, {
        answered,
        unanswered,
        whole: () => {
          isOver();
          if (request.connection === 'kept') this.connections.giveBack(connection);
          else void this.connections.end(connection, new Error('one request a connection'));
        },
        broken: (reason) => {
          isOver();
          void this.connections.end(connection, reason);
        },
      });
      connection.client.dispatch(dispatchOptions(request), exchange);
    });
  }

  close(): Promise<void> {
    return this.connections.close();
  }
}

/** `servername` is not in undici's types. Were it not the same every time, another `Host` would cost the connection. */
type DispatchOptions = Dispatcher.DispatchOptions & { readonly servername: string };

function dispatchOptions({ origin, method, target, headers, content, timeoutMs }: OriginRequest): DispatchOptions {
  const length = content.size ? [['Content-Length', String(content.size)] as const] : [];
  return {
    method,
    path: target,
    headers: [...headers, ...length].flat(),
    body: content.body,
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    servername: new URL(origin).hostname,
  };
}
