import { once } from 'node:events';
import { connect as connectTcp, type NetConnectOpts, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { fieldValue, type HeaderLine } from '../../src/model/headers.js';
import { connectH2, type H2Client, type H2Exchange } from './http2-client.js';
import { within } from './temporary.js';
import {
  ConnectionClosed,
  framingOf,
  ResponseHead,
  WireBody,
  WireReader,
  type WireRequest,
  wireResponse,
  type WireResponse,
} from './wire.js';

/** How a client may reach the proxy. */
export const TRANSPORTS = ['HTTP/1.1', 'HTTP/2'] as const;
export type Transport = (typeof TRANSPORTS)[number];

/** How a client leaves: the end of its connection in good order, or a reset of the connection (HTTP/2: the stream). */
type Leaving = 'end' | 'reset';

/** One request on a connection of its own, sent and read step by step, over either version of HTTP. */
export interface OpenRequest {
  /** Sends a part of the body. */
  send(bytes: string | Uint8Array): Promise<void>;
  /** Ends a body whose length was not announced. */
  end(): Promise<void>;
  readInterim(): Promise<ResponseHead>;
  /** The whole final response with every interim one before it. */
  readFinal(): Promise<WireResponse>;
  /** Ends the request in the middle of whatever it is at. */
  leave(how: Leaving): void;
  /** Fulfilled when the other side ended the exchange without having answered it; fails when it answers. */
  givenUp(): Promise<void>;
  /** To be called at last, whatever has become of it. */
  close(): Promise<void>;
}

/** Sends a head whose body is to follow; without `Content-Length` its length stays unknown. */
export async function openRequest(
  transport: Transport,
  url: string,
  head: Omit<WireRequest, 'body'>,
  { deadlineMs }: Pick<RawClientOptions, 'deadlineMs'> = {},
): Promise<OpenRequest> {
  const [base, place] = reach(url);
  const options = { ...place, deadlineMs };
  if (transport === 'HTTP/2') return new OverHttp2(await connectH2(base, options), head);
  const { method, target, headers = [] } = head;
  const isChunked = fieldValue(headers, 'content-length') === undefined;
  const client = await connect(base, options);
  await client.sendHead(method, target, isChunked ? [...headers, ['Transfer-Encoding', 'chunked']] : headers);
  return new OverHttp1(client, isChunked);
}

/** Sends a whole request on a connection of its own and reads the final response. */
export async function exchangeOver(transport: Transport, url: string, request: WireRequest): Promise<WireResponse> {
  const [base, options] = reach(url);
  if (transport === 'HTTP/1.1') return requestOnce(base, request, options);
  const client = await connectH2(base, options);
  try {
    return await client.request({ ...request, headers: [...(request.headers ?? []), ...lengthLine(request)] });
  } finally {
    await client.close();
  }
}

/** What a client calls a proxy that listens at `url`: those at a Unix socket have no name of their own. */
export function nameOf(url: string): string {
  return url.startsWith('unix:') ? 'http://proxy.example:8080' : url;
}

function reach(url: string): [base: string, options: { readonly socketPath?: string }] {
  return [nameOf(url), url.startsWith('unix:') ? { socketPath: url.slice('unix:'.length) } : {}];
}

/** HTTP/1.1 clients announce what they have in their hands; so do these over HTTP/2. */
function lengthLine({ headers = [], body }: WireRequest): HeaderLine[] {
  const isKnown = body === undefined || fieldValue(headers, 'content-length') !== undefined;
  return isKnown ? [] : [['Content-Length', `${Buffer.byteLength(body)}`]];
}

class OverHttp1 implements OpenRequest {
  private readonly interims: ResponseHead[] = [];

  constructor(
    private readonly client: RawClient,
    private readonly isChunked: boolean,
  ) {}

  send(bytes: string | Uint8Array): Promise<void> {
    return this.isChunked ? this.client.sendChunk(bytes) : this.client.send(Buffer.from(bytes));
  }

  async end(): Promise<void> {
    if (this.isChunked) await this.client.endChunks();
  }

  async readInterim(): Promise<ResponseHead> {
    const interim = await this.client.readInterim();
    this.interims.push(interim);
    return interim;
  }

  async readFinal(): Promise<WireResponse> {
    const final = await this.client.readFinal();
    return wireResponse(final, { ...final, interims: [...this.interims, ...final.interims] });
  }

  leave(how: Leaving): void {
    if (how === 'end') this.client.end();
    else this.client.reset();
  }

  async givenUp(): Promise<void> {
    for (let head = await this.headOrEnd(); head; head = await this.headOrEnd())
      if (head.status >= 200) throw new Error(`answered with ${head.statusLine}`);
    await this.client.ended();
  }

  async close(): Promise<void> {
    this.client.destroy();
    await this.client.closed;
  }

  /** A request that took a while may be told of its progress before it is given up. */
  private headOrEnd(): Promise<ResponseHead | undefined> {
    return this.client.readHead().catch((error: unknown) => {
      if (!(error instanceof ConnectionClosed)) throw error;
      return undefined;
    });
  }
}

class OverHttp2 implements OpenRequest {
  private readonly exchange: H2Exchange;

  constructor(
    private readonly client: H2Client,
    head: Omit<WireRequest, 'body'>,
  ) {
    this.exchange = client.start(head);
  }

  send(bytes: string | Uint8Array): Promise<void> {
    return this.exchange.send(bytes);
  }

  end(): Promise<void> {
    this.exchange.end();
    return Promise.resolve();
  }

  readInterim(): Promise<ResponseHead> {
    return this.exchange.readInterim();
  }

  readFinal(): Promise<WireResponse> {
    return this.exchange.readFinal();
  }

  leave(how: Leaving): void {
    if (how === 'end') this.client.cut();
    else this.exchange.reset();
  }

  async givenUp(): Promise<void> {
    const code = await this.exchange.ended();
    if (code === 0) throw new Error('the stream ended in good order');
  }

  close(): Promise<void> {
    return this.client.close();
  }
}

export interface RawClientOptions {
  /** A read that gets nothing for this long fails. */
  readonly deadlineMs?: number;
  /** Connects to a Unix socket instead of the URL's host. */
  readonly socketPath?: string;
}

/** For steps that no test measures; far enough for a machine with much else to do. */
const PATIENCE_MS = 60_000;

const KEEP_LIMIT = 64 * 1024 * 1024;

/** HTTP/1.1 on a bare socket: sends exactly the bytes it is given, and reads the responses one by one. */
export class RawClient {
  /** Fulfilled when the connection is gone, however. */
  readonly closed: Promise<void>;
  private readonly reader: WireReader;
  /** Methods of the requests still without a final response: a response to HEAD has no body. */
  private readonly methods: string[] = [];

  constructor(
    readonly socket: Socket,
    private readonly host: string,
    private readonly deadlineMs: number,
  ) {
    this.reader = new WireReader(socket, { deadlineMs });
    this.closed = new Promise((resolve) => socket.once('close', () => resolve()));
  }

  /** Sends bytes as they are, and waits while the other side does not read. A cut connection is no failure here. */
  async send(bytes: string | Uint8Array): Promise<void> {
    if (typeof bytes === 'string') this.noteMethod(bytes);
    if (this.socket.destroyed || this.socket.writableEnded) return;
    const sent = typeof bytes === 'string' ? this.socket.write(bytes, 'latin1') : this.socket.write(bytes);
    if (sent) return;
    const drained = Promise.race([once(this.socket, 'drain').catch(() => undefined), this.closed]);
    await within(drained, 'the other side to read on', PATIENCE_MS);
  }

  /** Sends a request's head; `Host` is added when it is missing, nothing else is. */
  async sendHead(method: string, target: string, headers: readonly HeaderLine[] = []): Promise<void> {
    const host: HeaderLine[] = fieldValue(headers, 'host') === undefined ? [['Host', this.host]] : [];
    const lines = [...host, ...headers].map(([name, value]) => `${name}: ${value}\r\n`).join('');
    await this.send(`${method} ${target} HTTP/1.1\r\n${lines}\r\n`);
  }

  /** Sends one chunk of a chunked body. */
  async sendChunk(bytes: string | Uint8Array): Promise<void> {
    const chunk = Buffer.from(bytes);
    await this.send(Buffer.concat([Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, Buffer.from('\r\n')]));
  }

  /** Ends a chunked body. */
  async endChunks(trailers: readonly HeaderLine[] = []): Promise<void> {
    const lines = trailers.map(([name, value]) => `${name}: ${value}\r\n`).join('');
    await this.send(Buffer.from(`0\r\n${lines}\r\n`, 'latin1'));
  }

  /** Sends a whole request; `Content-Length` is added when there is a body and no framing. */
  async sendRequest(request: WireRequest): Promise<void> {
    const headers = [...(request.headers ?? [])];
    const framed = ['content-length', 'transfer-encoding'].some((name) => fieldValue(headers, name) !== undefined);
    if (request.body !== undefined && !framed) headers.push(['Content-Length', `${Buffer.byteLength(request.body)}`]);
    await this.sendHead(request.method, request.target, headers);
    if (request.body !== undefined) await this.send(Buffer.from(request.body));
  }

  /** Sends a whole request and reads its final response. */
  async request(request: WireRequest): Promise<WireResponse> {
    // The body may outlive the answer: an early final response must be readable while the body is still being sent.
    const sending = this.sendRequest(request);
    const response = await this.readFinal();
    await sending;
    return response;
  }

  /** The next response head, interim or final; undefined when the connection ended in good order before it. */
  async readHead(): Promise<ResponseHead | undefined> {
    const head = await this.reader.readHead();
    if (!head) return undefined;
    const [, status = '', reason = ''] = /^HTTP\/1\.[01] (\d{3}) ?(.*)$/.exec(head.startLine) ?? [];
    if (status === '') throw new Error(`no status line: ${JSON.stringify(head.startLine)}`);
    return new ResponseHead(Number(status), reason, head.headerLines, head.startLine);
  }

  /** The next response, which must be an interim one. */
  async readInterim(): Promise<ResponseHead> {
    const head = await this.readHead();
    if (!head) throw new ConnectionClosed('connection closed instead of an interim response');
    if (head.status < 200 && head.status !== 101) return head;
    const body = await this.bodyOf(head).readAll();
    throw new Error(`expected an interim response, got ${head.statusLine}: ${body.toString('utf8').slice(0, 500)}`);
  }

  /** The next final response, with the interim ones that came before it; `onHead` hears of each as soon as it comes. */
  async readFinal(onHead?: (head: ResponseHead) => void): Promise<WireResponse> {
    const interims: ResponseHead[] = [];
    for (;;) {
      const head = await this.readHead();
      if (!head) throw new ConnectionClosed('connection closed instead of a response');
      onHead?.(head);
      if (head.status >= 200 || head.status === 101) return this.finish(head, interims);
      interims.push(head);
    }
  }

  /** The body of a head got from `readHead`, to be read piece by piece. */
  bodyOf(head: ResponseHead): WireBody {
    const method = this.methods.shift();
    const none = method === 'HEAD' || head.status < 200 || head.status === 204 || head.status === 304;
    return new WireBody(this.reader, none ? { length: 0 } : framingOf(head.headerLines, 'until-close'), KEEP_LIMIT);
  }

  /** Reads bytes beyond any framing: for what follows an upgrade. */
  readRaw(size: number): Promise<Buffer> {
    return this.reader.read(size);
  }

  /** Fulfilled when the other side ended the connection, in good order or not; fails when it does not. */
  async ended(): Promise<void> {
    await within(this.closed, 'the connection to end', this.deadlineMs);
  }

  /** Ends our direction in good order (FIN). */
  end(): void {
    this.socket.end();
  }

  /** Ends the connection with RST. */
  reset(): void {
    this.socket.resetAndDestroy();
  }

  /** Ends the connection and forgets it: FIN, or RST when something was left unread. */
  destroy(): void {
    this.socket.destroy();
  }

  private async finish(head: ResponseHead, interims: readonly ResponseHead[]): Promise<WireResponse> {
    const body = this.bodyOf(head);
    await body.readAll();
    return wireResponse(head, { interims, body: body.bytes, trailers: body.trailers });
  }

  private noteMethod(text: string): void {
    const method = /^([A-Z]+) \S+ HTTP\/1\.[01]\r\n/.exec(text)?.[1];
    if (method !== undefined) this.methods.push(method);
  }
}

/** Connects to an `http:` or `https:` URL; any certificate is good enough. */
export async function connect(url: string, options: RawClientOptions = {}): Promise<RawClient> {
  const { protocol, hostname, port, host } = new URL(url);
  const address = hostname.replace(/^\[|\]$/g, '');
  const secure = protocol === 'https:';
  const target: NetConnectOpts =
    options.socketPath === undefined
      ? { host: address, port: Number(port || (secure ? 443 : 80)) }
      : { path: options.socketPath };
  const socket = secure
    ? connectTls({ ...target, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] })
    : connectTcp(target);
  await within(once(socket, secure ? 'secureConnect' : 'connect'), `a connection to ${url}`, PATIENCE_MS);
  socket.setNoDelay(true);
  return new RawClient(socket, host, options.deadlineMs ?? 20_000);
}

/** One request on a connection of its own. */
export async function requestOnce(
  url: string,
  request: WireRequest,
  options: RawClientOptions = {},
): Promise<WireResponse> {
  const client = await connect(url, options);
  try {
    return await client.request(request);
  } finally {
    client.destroy();
  }
}

/** The fields of a request to switch to WebSocket. */
export const WANTED: HeaderLine[] = [
  ['Connection', 'keep-alive, Upgrade'],
  ['Upgrade', 'websocket'],
  ['Sec-WebSocket-Key', 'dGhlIHNhbXBsZSBub25jZQ=='],
  ['sec-websocket-protocol', 'a'],
  ['Sec-WebSocket-Protocol', 'b'],
];

/** Asks to switch; `early` are bytes of the new protocol that do not wait for the answer. */
export async function openTunnel(url: string, early = '', target = '/chat'): Promise<RawClient> {
  const client = await connect(url);
  const lines = [['Host', 'x'] as const, ...WANTED].map(([name, value]) => `${name}: ${value}\r\n`).join('');
  await client.send(`GET ${target} HTTP/1.1\r\n${lines}\r\n${early}`);
  return client;
}

/** The ways a client can leave. */
export const LEAVING: [string, (client: RawClient) => void][] = [
  ['FIN', (client) => client.destroy()],
  ['RST', (client) => client.reset()],
];
