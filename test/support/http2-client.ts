import { once } from 'node:events';
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  constants,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type Settings,
} from 'node:http2';
import { connect as connectTcp, type NetConnectOpts, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { fromRawHeaders, type HeaderLine } from '../../src/model/headers.js';
import { until, within } from './temporary.js';
import { ResponseHead, type WireRequest, wireResponse, type WireResponse } from './wire.js';

/** What Node 20's types do not tell: the lines as they came, before those of one name are joined. */
type HeadEvent = [headers: IncomingHttpHeaders, flags: number, raw: string[]];

/** For steps that no test measures; far enough for a machine with much else to do. */
const PATIENCE_MS = 60_000;

/** One request over HTTP/2, sent and read step by step. */
export class H2Exchange {
  /** Interim responses so far. */
  readonly interims: ResponseHead[] = [];
  /** Fulfilled when the stream is gone, however. */
  readonly closed: Promise<void>;
  private interimsRead = 0;
  private head: ResponseHead | undefined;
  private trailers: HeaderLine[] = [];
  private readonly body: Buffer[] = [];
  private failure: Error | undefined;

  constructor(
    readonly stream: ClientHttp2Stream,
    private readonly deadlineMs: number,
  ) {
    this.closed = new Promise((resolve) => stream.once('close', () => resolve()));
    stream.on('headers', (...[, , raw]: HeadEvent) => this.interims.push(toHead(raw)));
    stream.on('response', (...event) => (this.head = toHead((event as unknown as HeadEvent)[2])));
    stream.on('trailers', (...[, , raw]: HeadEvent) => (this.trailers = toLines(raw)));
    stream.on('data', (bytes: Buffer) => this.body.push(bytes));
    stream.on('error', (error: Error) => (this.failure = error));
  }

  /** Sends a part of the body, and waits while the other side does not read. */
  async send(bytes: string | Uint8Array): Promise<void> {
    if (this.stream.destroyed || this.stream.writableEnded) return;
    if (this.stream.write(bytes)) return;
    const drained = Promise.race([once(this.stream, 'drain').catch(() => undefined), this.closed]);
    await within(drained, 'the other side to read on', PATIENCE_MS);
  }

  /** Ends the body in good order, with END_STREAM. */
  end(): void {
    this.stream.end();
  }

  /** The next interim response not read yet. */
  async readInterim(): Promise<ResponseHead> {
    const at = this.interimsRead++;
    const waiting = (): ResponseHead | boolean =>
      this.interims[at] ?? (this.stream.destroyed || this.head !== undefined);
    const found = await until(waiting, 'an interim response', this.deadlineMs);
    if (found === true)
      throw new Error(`no interim response came, but ${this.head?.status ?? this.failure?.message ?? 'the end'}`);
    return found;
  }

  /** The head of the final response, as soon as it is here. */
  async readHead(): Promise<ResponseHead> {
    await until(() => this.head ?? this.stream.destroyed, 'a response head', this.deadlineMs);
    if (!this.head) throw new Error('the stream was closed instead of answered', { cause: this.failure });
    return this.head;
  }

  /** The whole final response. Fails when the stream is reset before it is complete. */
  async readFinal(): Promise<WireResponse> {
    const head = await this.readHead();
    await until(() => this.stream.readableEnded || this.stream.destroyed, 'the end of the response', this.deadlineMs);
    if (!this.stream.readableEnded)
      throw new Error('the stream was reset within the response', { cause: this.failure });
    return wireResponse(head, { interims: this.interims, body: Buffer.concat(this.body), trailers: this.trailers });
  }

  /** The code of the RST_STREAM that ended it, 0 when it ended in good order. */
  async ended(): Promise<number> {
    await within(this.closed, 'the stream to end', this.deadlineMs);
    return this.stream.rstCode;
  }

  /** Gives the request up with RST_STREAM, in the middle of its body. */
  reset(): void {
    // stream.close() would send END_STREAM first, and a body without Content-Length would look whole.
    this.stream.destroy(new Error('given up by the test'));
  }
}

/** An HTTP/2 connection: cleartext with prior knowledge for `http:`, TLS with ALPN for `https:`. */
export class H2Client {
  constructor(
    readonly session: ClientHttp2Session,
    /** What a session shows of its socket cannot be ended. */
    private readonly socket: Socket,
    private readonly deadlineMs: number,
  ) {}

  /** Starts a request whose body is sent step by step; end it with `end()`. */
  start(request: Omit<WireRequest, 'body'>, options: { readonly endStream?: boolean } = {}): H2Exchange {
    const stream = this.session.request(toH2Headers(request), { endStream: options.endStream ?? false });
    return new H2Exchange(stream, this.deadlineMs);
  }

  /** Sends a whole request and reads its final response. */
  async request(request: WireRequest): Promise<WireResponse> {
    const exchange = this.start(request, { endStream: request.body === undefined });
    if (request.body !== undefined) exchange.stream.end(request.body);
    const response = await exchange.readFinal();
    exchange.stream.close();
    return response;
  }

  /** Ends the TCP connection at once, without GOAWAY. */
  cut(): void {
    this.socket.destroy();
  }

  async close(): Promise<void> {
    if (this.session.destroyed) return;
    const closed = once(this.session, 'close');
    this.session.destroy();
    await within(closed, 'the session to close', PATIENCE_MS);
  }
}

export interface H2ClientOptions {
  /** What it tells the server of itself. */
  readonly settings?: Settings;
  /** A read that gets nothing for this long fails. */
  readonly deadlineMs?: number;
  /** Connects to a Unix socket instead of the URL's host. */
  readonly socketPath?: string;
}

/** Connects with HTTP/2; any certificate is good enough. */
export async function connectH2(url: string, options: H2ClientOptions = {}): Promise<H2Client> {
  const socket = openSocket(new URL(url), options.socketPath);
  const { settings } = options;
  const session = connect(url, { createConnection: () => socket, ...(settings && { settings }) });
  await within(once(session, 'connect'), `an HTTP/2 session at ${url}`, PATIENCE_MS);
  // A session that is cut tells so through its streams; without a listener the process would die of it.
  session.on('error', () => undefined);
  return new H2Client(session, socket, options.deadlineMs ?? 20_000);
}

function openSocket({ protocol, hostname, port }: URL, socketPath: string | undefined): Socket {
  const host = hostname.replace(/^\[|\]$/g, '');
  const secure = protocol === 'https:';
  const target: NetConnectOpts =
    socketPath === undefined ? { host, port: Number(port || (secure ? 443 : 80)) } : { path: socketPath };
  return secure ? connectTls({ ...target, rejectUnauthorized: false, ALPNProtocols: ['h2'] }) : connectTcp(target);
}

function toH2Headers(request: Omit<WireRequest, 'body'>): OutgoingHttpHeaders {
  const { HTTP2_HEADER_METHOD, HTTP2_HEADER_PATH, HTTP2_HEADER_AUTHORITY } = constants;
  const headers: OutgoingHttpHeaders = { [HTTP2_HEADER_METHOD]: request.method, [HTTP2_HEADER_PATH]: request.target };
  for (const [name, value] of request.headers ?? []) {
    const key = name.toLowerCase() === 'host' ? HTTP2_HEADER_AUTHORITY : name.toLowerCase();
    const before = headers[key];
    headers[key] = before === undefined ? value : [before, value].flat().map(String);
  }
  return headers;
}

function toHead(raw: readonly string[]): ResponseHead {
  const status = raw[raw.indexOf(constants.HTTP2_HEADER_STATUS) + 1];
  return new ResponseHead(Number(status), '', toLines(raw));
}

function toLines(raw: readonly string[]): HeaderLine[] {
  return fromRawHeaders(raw).filter(([name]) => !name.startsWith(':'));
}
