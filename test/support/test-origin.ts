import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fieldValue, fromRawHeaders, type HeaderLine } from '../../src/model/headers.js';
import { until } from './temporary.js';

export interface OriginAnswer {
  readonly status?: number;
  readonly reason?: string;
  readonly headers?: readonly HeaderLine[];
  readonly body?: string | Uint8Array;
  /** Behind a body in chunks. */
  readonly trailers?: readonly HeaderLine[];
  /** The answer waits for it. */
  readonly after?: Promise<unknown>;
  /** Ends the connection instead of answering. */
  readonly hangUp?: boolean;
}

/** One request as a plain Node origin got it. */
export interface OriginRequest {
  readonly method: string;
  readonly target: string;
  readonly headers: readonly HeaderLine[];
  /** All lines of a field joined with ", "; undefined when there is none. */
  header(name: string): string | undefined;
  /** Counted and hashed while it arrives; `body` holds its first 4 MiB. */
  size: number;
  sha256: string;
  body: Buffer;
  trailers: readonly HeaderLine[];
  /** How its body ended; undefined while it arrives. */
  ended: 'whole' | 'cut' | undefined;
  /** The answer is written completely, or its connection is gone. */
  finished: boolean;
}

/** An answer, or what decides it from the whole request. */
export type OriginScript =
  OriginAnswer | ((request: OriginRequest, index: number) => OriginAnswer | Promise<OriginAnswer>);

const KEEP_LIMIT = 4 * 1024 * 1024;

/** A plain node:http origin that remembers its requests and answers as told, 200 "ok" by default. */
export class TestOrigin {
  /** Every request, in the order of their heads. */
  readonly requests: OriginRequest[] = [];

  constructor(
    private readonly server: Server,
    private script: OriginScript,
  ) {
    server.on('request', (message: IncomingMessage, response: ServerResponse) => void this.play(message, response));
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** From now on requests are answered like this. */
  answerWith(script: OriginScript): void {
    this.script = script;
  }

  /** The requests, as soon as `count` of them have arrived whole. */
  async waitForRequests(count: number): Promise<readonly OriginRequest[]> {
    const whole = (): OriginRequest[] => this.requests.filter((request) => request.ended === 'whole');
    return until(
      () => whole().length >= count && whole(),
      () => `${count} requests at the origin (${whole().length})`,
    );
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve));
    this.server.closeAllConnections();
    await closed;
  }

  private async play(message: IncomingMessage, response: ServerResponse): Promise<void> {
    const request = begin(message);
    const index = this.requests.push(request) - 1;
    response.once('close', () => (request.finished = true));
    await receive(message, request);
    if (request.ended === 'cut') return;
    const answer = typeof this.script === 'function' ? await this.script(request, index) : this.script;
    await answer.after;
    if (answer.hangUp) message.socket.destroy();
    else reply(response, answer);
  }
}

/** Starts an origin on a free port of 127.0.0.1. */
export async function startTestOrigin(answer: OriginScript = {}): Promise<TestOrigin> {
  // It never ends an idle connection, which could cross the next request on its way.
  const server = createServer({ requestTimeout: 0, keepAliveTimeout: 0 });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return new TestOrigin(server, answer);
}

function begin(message: IncomingMessage): OriginRequest {
  const headers = fromRawHeaders(message.rawHeaders);
  return {
    method: message.method ?? '',
    target: message.url ?? '',
    headers,
    header: (name) => fieldValue(headers, name),
    size: 0,
    sha256: '',
    body: Buffer.alloc(0),
    trailers: [],
    ended: undefined,
    finished: false,
  };
}

async function receive(message: IncomingMessage, request: OriginRequest): Promise<void> {
  const hash = createHash('sha256');
  const kept: Buffer[] = [];
  try {
    for await (const bytes of message as AsyncIterable<Buffer>) {
      if (request.size < KEEP_LIMIT) kept.push(bytes.subarray(0, KEEP_LIMIT - request.size));
      request.size += bytes.length;
      hash.update(bytes);
    }
  } catch {
    request.ended = 'cut';
    return;
  }
  request.sha256 = hash.digest('hex');
  request.body = Buffer.concat(kept);
  request.trailers = fromRawHeaders(message.rawTrailers);
  request.ended = 'whole';
}

function reply(response: ServerResponse, answer: OriginAnswer): void {
  const body = Buffer.from(answer.body ?? (answer.status === undefined ? 'ok' : ''));
  const headers = (answer.headers ?? []).flatMap(([name, value]) => [name, value]);
  const framed =
    fieldValue(answer.headers ?? [], 'transfer-encoding') ?? fieldValue(answer.headers ?? [], 'content-length');
  const bodiless = answer.status === 204 || answer.status === 304;
  if (framed === undefined && !bodiless) headers.push('Content-Length', `${body.length}`);
  response.writeHead(answer.status ?? 200, answer.reason, headers);
  if (!bodiless) response.write(body);
  if (answer.trailers) response.addTrailers(answer.trailers.map(([name, value]): [string, string] => [name, value]));
  response.end();
}
