import type { HeaderLine } from '../../src/model/headers.js';
import { startTestApp, type TestApp, type TestAppOptions } from './app.js';
import {
  startFakeOrigin,
  type FakeAnswer,
  type FakeOrigin,
  type FakeScript,
  type OriginRequest,
} from './fake-origin.js';
import { exchangeOver, openRequest, type OpenRequest, type Transport } from './open-request.js';
import { until } from './temporary.js';
import type { WireRequest, WireResponse } from './wire-response.js';

/** An origin and the whole proxy in front of it. Flows on one stage are told apart by their targets. */
export class Stage {
  private readonly answers = new Map<string, FakeScript>();
  private readonly opened: OpenRequest[] = [];

  private constructor(
    readonly origin: FakeOrigin,
    public app: TestApp,
    private readonly options: Omit<TestAppOptions, 'origin'>,
  ) {}

  static async open(options: Omit<TestAppOptions, 'origin'> = {}): Promise<Stage> {
    const origin = await startFakeOrigin();
    const stage = new Stage(origin, await startTestApp({ ...options, origin: origin.url }), options);
    origin.answerWith((request, index) => stage.answerTo(request, index));
    return stage;
  }

  get host(): string {
    return new URL(this.app.url).host;
  }

  /** From now on requests for this target are answered like this. */
  answer(target: string, script: FakeScript): void {
    this.answers.set(target, script);
  }

  /** What the origin got for a target so far. */
  requestsFor(target: string): OriginRequest[] {
    return this.origin.requests.filter((request) => request.target === target);
  }

  /** The first request for a target, as soon as it is there as a whole. */
  async requestFor(target: string): Promise<OriginRequest> {
    return until(
      () => this.requestsFor(target).find(({ ended }) => ended === 'whole'),
      `a whole request for ${target} at the origin`,
    );
  }

  /** One whole request on a connection of its own. */
  send(transport: Transport, request: WireRequest): Promise<WireResponse> {
    return exchangeOver(transport, this.app.url, request);
  }

  /** A request that is sent step by step; ends with the stage at the latest. */
  async begin(transport: Transport, head: Omit<WireRequest, 'body'>): Promise<OpenRequest> {
    const request = await openRequest(transport, this.app.url, head);
    this.opened.push(request);
    return request;
  }

  /** Stops the proxy and starts it again on the same data. Needs a `data` directory of its own. */
  async restart(): Promise<void> {
    await this.app.stop();
    this.app = await startTestApp({ ...this.options, origin: this.origin.url });
  }

  async close(): Promise<void> {
    await Promise.all(this.opened.map((request) => request.close()));
    await this.app.stop();
    await this.origin.close();
  }

  private answerTo(request: OriginRequest, index: number): FakeAnswer | Promise<FakeAnswer> {
    const script = this.answers.get(request.target) ?? { status: 200, body: 'ok' };
    return typeof script === 'function' ? script(request, index) : script;
  }
}

/** What the origin's Node adds to an answer of its script, in that order. */
export function framed(lines: readonly HeaderLine[], body: string): HeaderLine[] {
  return [...lines, ['Content-Length', `${body.length}`], ['Date', '<now>']];
}

/** The header lines of the one request the origin gets, when the client sent `lines` over `transport`. */
export function replayedLines(
  transport: Transport,
  { host, lines, length }: { readonly host: string; readonly lines: readonly HeaderLine[]; readonly length: number },
): HeaderLine[] {
  const isHttp1 = transport === 'HTTP/1.1';
  return [
    ['host', host],
    ['connection', 'keep-alive'],
    ...lines.map(([name, value]): HeaderLine => [isHttp1 ? name : name.toLowerCase(), value]),
    ['Forwarded', `for=127.0.0.1;host="${host}";proto=http`],
    ['X-Forwarded-For', '127.0.0.1'],
    ['X-Forwarded-Host', host],
    ['X-Forwarded-Proto', 'http'],
    ['Via', `${isHttp1 ? '1.1' : '2.0'} rufh-proxy`],
    ['Idempotency-Key', '<key>'],
    ['content-length', `${length}`],
  ];
}

/** A request's header lines with the key that is another one each time named instead; it must look like one. */
export function receivedLines({ headers }: OriginRequest): HeaderLine[] {
  return headers.map(([name, value]) => {
    const isKey = name === 'Idempotency-Key' && /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(value);
    return isKey ? [name, '<key>'] : [name, value];
  });
}
