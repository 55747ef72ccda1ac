import { fieldValue, type HeaderLine } from '../../src/model/headers.js';
import { connectH2, type H2Client, type H2Exchange } from './h2-client.js';
import { connect, requestOnce, type RawClient, type RawClientOptions } from './raw-client.js';
import { ConnectionClosed } from './wire-reader.js';
import { wireResponse, type ResponseHead, type WireRequest, type WireResponse } from './wire-response.js';

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
