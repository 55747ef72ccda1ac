import { join } from 'node:path';
import type { HeaderLine } from '../../src/model/headers.js';
import { startTestApp, type TestAppOptions } from './app.js';
import {
  startFakeOrigin,
  type FakeAnswer,
  type FakeOrigin,
  type FakeScript,
  type OriginRequest,
} from './fake-origin.js';
import { exchangeOver, nameOf, openRequest, type OpenRequest, type Transport } from './open-request.js';
import { temporaryDirectory, until, type TemporaryDirectory } from './temporary.js';
import type { WireRequest, WireResponse } from './wire-response.js';

/** The proxy of a stage: in this process, or the built binary in one of its own. */
export interface StagedProxy {
  readonly url: string;
  readonly data: string;
  /** What it logged, as objects. */
  readonly log: readonly Record<string, unknown>[];
  /** Clients reach it through another proxy, which writes names in lower case and connections of its own. */
  readonly isRelayed?: boolean;
  /** In good order, or by `kill -9`: that is up to whoever started it. */
  stop(): Promise<void>;
}

/** An origin and the whole proxy in front of it. Flows on one stage are told apart by their targets. */
export class Stage {
  private readonly answers = new Map<string, FakeScript>();
  private readonly opened: OpenRequest[] = [];

  private constructor(
    readonly origin: FakeOrigin,
    public app: StagedProxy,
    private readonly start: () => Promise<StagedProxy>,
    private readonly directory: TemporaryDirectory,
  ) {}

  static async open(
    { config }: { readonly config?: string } = {},
    startProxy: (options: TestAppOptions) => Promise<StagedProxy> = startTestApp,
  ): Promise<Stage> {
    const origin = await startFakeOrigin();
    const directory = await temporaryDirectory('rufh-stage-');
    const start = () => startProxy({ origin: origin.url, config, data: join(directory.path, 'data') });
    const stage = new Stage(origin, await start(), start, directory);
    origin.answerWith((request, index) => stage.answerTo(request, index));
    return stage;
  }

  /** What clients call the proxy. */
  get base(): string {
    return nameOf(this.app.url);
  }

  get host(): string {
    return new URL(this.base).host;
  }

  /** From now on requests for this target are answered like this. */
  answer(target: string, script: FakeScript): void {
    this.answers.set(target, script);
  }

  /** What the origin got for a target so far. */
  requestsFor(target: string): OriginRequest[] {
    return this.origin.requests.filter((request) => request.target === target);
  }

  /** One whole request on a connection of its own. */
  send(transport: Transport, request: WireRequest): Promise<WireResponse> {
    return exchangeOver(transport, this.app.url, request);
  }

  /** The first request for a target, as soon as it is there as a whole. */
  async requestFor(target: string): Promise<OriginRequest> {
    return (await this.requestsWhole(target, 1))[0]!;
  }

  /** The first `count` requests for a target, as soon as they are there as a whole. */
  async requestsWhole(target: string, count: number): Promise<OriginRequest[]> {
    const whole = (): OriginRequest[] => this.requestsFor(target).filter(({ ended }) => ended === 'whole');
    return until(
      () => whole().length >= count && whole(),
      () => `${count} whole request(s) for ${target} at the origin (${whole().length})`,
    );
  }

  /** A request that is sent step by step; ends with the stage at the latest. */
  async begin(transport: Transport, head: Omit<WireRequest, 'body'>): Promise<OpenRequest> {
    const request = await openRequest(transport, this.app.url, head);
    this.opened.push(request);
    return request;
  }

  /** Stops the proxy and starts it again on the same data, at another address. */
  async restart(): Promise<void> {
    await this.app.stop();
    this.app = await this.start();
  }

  async close(): Promise<void> {
    await Promise.all(this.opened.map((request) => request.close()));
    await this.app.stop();
    await this.origin.close();
    await this.directory.remove();
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
    ['Via', `${isHttp1 ? '1.1' : '2.0'} rufh-proxy-<id>`],
    ['Idempotency-Key', '<key>'],
    ['content-length', `${length}`],
  ];
}

/** A request's header lines; the key and the end of the proxy's name, new each time, are replaced if they look right. */
export function receivedLines({ headers }: OriginRequest): HeaderLine[] {
  return headers.map(([name, value]) => {
    const isKey = name === 'Idempotency-Key' && /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(value);
    if (isKey) return [name, '<key>'];
    return name === 'Via' ? [name, value.replace(/-[0-9a-f]{12}$/, '-<id>')] : [name, value];
  });
}
