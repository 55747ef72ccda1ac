import type { HeaderLine } from '../../src/model/headers.js';
import { connect, type RawClient } from './client.js';
import { type RawExchange, type RawOrigin, type RawScript, startRawOrigin } from './raw-origin.js';
import { randomBytes, until } from './temporary.js';
import { startTestApp, type TestApp } from './test-proxy.js';
import type { WireResponse } from './wire.js';

export const MIB = 2 ** 20;
export const CONTENT = randomBytes(3 * MIB);

const DRAFT: HeaderLine = ['Upload-Draft-Interop-Version', '10'];

export interface EagerProxyOptions {
  /** Within `delivery`, as YAML flow. */
  readonly delivery?: string;
  readonly eager?: string;
  readonly script?: RawScript;
}

/** The whole proxy with eager delivery in front of an origin on a bare socket. Every write is committed at once. */
export class EagerProxy {
  private readonly clients: RawClient[] = [];

  private constructor(
    readonly origin: RawOrigin,
    readonly app: TestApp,
  ) {}

  static async open({ delivery = '', eager = 'idle: 20s', script }: EagerProxyOptions = {}): Promise<EagerProxy> {
    const origin = await startRawOrigin(script);
    const config = `
interim_responses: always
spool: { sync: always }
stop: { grace: 1s }
delivery: { mode: eager, eager: { ${eager} }, retry: { first_delay: 10ms, longest_delay: 20ms }${delivery && `, ${delivery}`} }
`;
    return new EagerProxy(origin, await startTestApp({ origin: origin.url, config }));
  }

  async client(): Promise<RawClient> {
    const client = await connect(this.app.url);
    this.clients.push(client);
    return client;
  }

  /** The head of a creation; gives the path of its upload. */
  async create(client: RawClient, headers: readonly HeaderLine[], method = 'POST'): Promise<string> {
    await client.sendHead(method, '/files', [DRAFT, ['Upload-Complete', '?1'], ...headers]);
    const interim = await client.readInterim();
    return new URL(interim.header('location')!).pathname;
  }

  /** The head of the append that brings the rest. */
  async append(client: RawClient, target: string, offset: number, size: number): Promise<void> {
    await client.sendHead('PATCH', target, [
      DRAFT,
      ['Content-Type', 'application/partial-upload'],
      ['Upload-Offset', `${offset}`],
      ['Upload-Complete', '?1'],
      ['Content-Length', `${size}`],
    ]);
  }

  async head(target: string): Promise<WireResponse> {
    const client = await this.client();
    return client.request({ method: 'HEAD', target, headers: [DRAFT] });
  }

  /** The origin's request by its number, as soon as it has begun. */
  exchange(index: number): Promise<RawExchange> {
    return this.origin.exchange(index);
  }

  /** Fulfilled when the origin has so much of one request's body. */
  async got(exchange: RawExchange, bytes: number): Promise<void> {
    const connection = this.origin.connections[exchange.connectionIndex]!;
    await until(
      () => connection.receivedSize >= bytes,
      () => `${bytes} bytes at the origin (it got ${connection.receivedSize})`,
    );
  }

  async close(): Promise<void> {
    for (const client of this.clients) client.destroy();
    await this.app.stop();
    await this.origin.close();
  }
}

export function length(size: number): HeaderLine {
  return ['Content-Length', `${size}`];
}
