import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type App, startApp } from '../../src/app/app.js';
import { TIMINGS, type Timings } from '../../src/app/storage.js';
import type { ConfigSource, ReloadResult } from '../../src/app/reload.js';
import { loadConfig, settingError } from '../../src/config/load.js';
import type { HeaderLine } from '../../src/model/headers.js';
import { createLog, type Log, type LogOptions } from '../../src/observe/log.js';
import { exchangeOver, nameOf, openRequest, type OpenRequest, type Transport } from './client.js';
import { replaceFile, temporaryDirectory, type TemporaryDirectory, until } from './temporary.js';
import {
  type OriginAnswer,
  type OriginRequest,
  type OriginScript,
  startTestOrigin,
  type TestOrigin,
} from './test-origin.js';
import type { WireRequest, WireResponse } from './wire.js';

/** A whole proxy: in this process, the built binary in its own, or several nodes of it. */
export interface RunningProxy {
  readonly url: string;
  readonly data: string;
  /** What it logged, as objects. */
  readonly log: readonly Record<string, unknown>[];
  /** Clients reach it through another proxy, which writes names in lower case and connections of its own. */
  readonly isRelayed?: boolean;
  /** In good order, or by `kill -9`: that is up to whoever started it. */
  stop(): Promise<void>;
}

/** An origin and the whole proxy in front of it. Flows through one proxy are told apart by their targets. */
export class TestProxy {
  private readonly answers = new Map<string, OriginScript>();
  private readonly opened: OpenRequest[] = [];

  private constructor(
    readonly origin: TestOrigin,
    public app: RunningProxy,
    private readonly start: () => Promise<RunningProxy>,
    private readonly directory: TemporaryDirectory,
  ) {}

  /** By default the app runs in this process; `startProxy` may start programs instead, as `openNodes` does. */
  static async open(
    { config }: { readonly config?: string } = {},
    startProxy: (options: TestAppOptions & { readonly origin: string }) => Promise<RunningProxy> = startTestApp,
  ): Promise<TestProxy> {
    const origin = await startTestOrigin();
    const directory = await temporaryDirectory('rufh-test-proxy-');
    const start = () => startProxy({ origin: origin.url, config, data: join(directory.path, 'data') });
    const proxy = new TestProxy(origin, await start(), start, directory);
    origin.answerWith((request, index) => proxy.answerTo(request, index));
    return proxy;
  }

  /** What clients call the proxy. */
  get base(): string {
    return nameOf(this.app.url);
  }

  get host(): string {
    return new URL(this.base).host;
  }

  /** From now on requests for this target are answered like this. */
  answer(target: string, script: OriginScript): void {
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

  /** A request that is sent step by step; ends with the proxy at the latest. */
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

  private answerTo(request: OriginRequest, index: number): OriginAnswer | Promise<OriginAnswer> {
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

export interface TestAppOptions {
  /** Missing if `config` names it. */
  readonly origin?: string;
  /** More settings, as YAML. */
  readonly config?: string;
  readonly data?: string;
  readonly timings?: Partial<Timings>;
}

/** The whole proxy in this process, on a free port and the embedded default. */
export interface TestApp {
  readonly url: string;
  readonly urls: readonly string[];
  /** Missing unless `config` has an `admin` section. */
  readonly adminUrl?: string;
  readonly data: string;
  /** What it logged, as objects. */
  readonly log: readonly Record<string, unknown>[];
  readonly operators: App['admin'];
  /** Writes this configuration to its file and reloads. */
  reload(config: string): Promise<ReloadResult>;
  stop(): Promise<void>;
}

/**
 * Starts the app from a configuration, which is loaded as `serve` does; `stop` removes its data unless the directory was
 * given. The text may set `origin`, `listen`, `data` and `admin` itself.
 */
export async function startTestApp({ origin, config = '', data, timings }: TestAppOptions): Promise<TestApp> {
  const directory = await temporaryDirectory('rufh-app-');
  const file = join(directory.path, 'rufh-proxy.yaml');
  await writeFile(file, config);
  const dataDirectory = data ?? join(directory.path, 'data');
  const names = (setting: string): boolean => new RegExp(`^${setting}:`, 'm').test(config);
  const flags = {
    ...(origin === undefined ? {} : { origin }),
    ...(names('data') ? {} : { data: dataDirectory }),
    ...(names('listen') ? {} : { listen: '127.0.0.1:0' }),
    ...(names('admin') ? {} : { admin: 'false' }),
  };
  const sources = { file, env: {}, flags };
  const loaded = loadConfig(sources);
  if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors, undefined, 2));
  const log: Record<string, unknown>[] = [];
  const source: ConfigSource = {
    settings: loaded.settings,
    load: () => loadConfig(sources),
    locate: (path, problem) => settingError(sources, path, problem),
  };
  const logging = collecting(log, loaded.config.log.level);
  const app = await startApp(loaded.config, logging, undefined, { ...TIMINGS, refusalDelayMs: 0, ...timings }, source);
  const { urls, adminUrl, admin: operators } = app;
  const reload = async (text: string): Promise<ReloadResult> => {
    await replaceFile(file, text);
    return app.reload!();
  };
  const started = { url: urls[0]!, urls, data: loaded.config.data, log, operators, reload };
  return { ...started, ...(adminUrl === undefined ? {} : { adminUrl }), stop: () => stop(app, directory) };
}

function collecting(lines: Record<string, unknown>[], level: LogOptions['level']): Log {
  const write = (line: string): void => void lines.push(JSON.parse(line) as Record<string, unknown>);
  return createLog({ level, format: 'json', destination: { write } });
}

async function stop(app: App, directory: TemporaryDirectory): Promise<void> {
  await app.stop();
  await directory.remove();
}
