import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Controls } from './controls.js';
import type { DemoEvent, OriginView } from './events.js';
import { ExampleOrigin } from './origin.js';
import { readPageFiles } from './page-files.js';
import { ProxyProcess } from './proxy-process.js';
import { Relay } from './relay.js';

/** An address to listen on; port 0 picks a free one. */
export interface TcpAddress {
  readonly host: string;
  readonly port: number;
}

/** How a demo runs. */
export interface DemoOptions {
  /** Where browsers find the page. */
  readonly listen: TcpAddress;
  /** Where the buttons of the page listen. */
  readonly controls: TcpAddress;
  /** Where the proxy keeps uploads; a temporary directory that is removed at the end by default. */
  readonly data?: string;
  readonly version: string;
  /** A monotonic clock, in milliseconds. */
  readonly clock: () => number;
  /** Called with everything that happens, as pages get it. */
  readonly onEvent: (event: DemoEvent) => void;
  /** Called when the proxy has ended by itself or does not start again. */
  readonly onFailure: (reason: string) => void;
}

/** A running demo. */
export interface Demo {
  readonly port: number;
  readonly proxyUrl: string;
  readonly originUrl: string;
  readonly data: string;
  stop(): Promise<void>;
}

/** Long enough to see it, short enough for every client to come back. */
const OUTAGE_MS = 2_000;
const FIRST_RATE = 4 * 1024 * 1024;
const POLL_MS = 200;

/**
 * Starts an example API with a page, a proxy in front of it, and a relay between browsers and the proxy. The page has
 * buttons that cut the relay's connections and kill the proxy.
 * Reasons: docs/decisions/0040.
 */
export async function startDemo(options: DemoOptions): Promise<Demo> {
  const closers: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const close of closers.splice(0).reverse()) await close();
  };
  try {
    return { ...(await startParts(options, (close) => closers.push(close))), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

type OnStop = (close: () => Promise<unknown>) => void;

async function startParts(options: DemoOptions, onStop: OnStop): Promise<Omit<Demo, 'stop'>> {
  const directory = await mkdtemp(join(tmpdir(), 'rufh-demo-'));
  onStop(() => rm(directory, { recursive: true, force: true, maxRetries: 5 }));
  const running: { controls?: Controls } = {};
  const tell = (event: DemoEvent): void => {
    options.onEvent(event);
    running.controls?.tell(event);
  };
  const origin = await ExampleOrigin.listen({
    files: await readPageFiles(),
    pageHeaders: () => ({ 'Content-Security-Policy': securityPolicy(running.controls?.port ?? 0) }),
    settings: () => ({ controlsPort: running.controls?.port, version: options.version }),
    onBegan: (request) => tell({ kind: 'origin-began', ...viewOf(request) }),
    onReceived: (request) => tell({ kind: 'origin-received', ...viewOf(request) }),
  });
  onStop(() => origin.close());
  const data = options.data ?? join(directory, 'data');
  const proxy = new ProxyProcess({
    originUrl: origin.url,
    data,
    directory,
    onUnexpectedEnd: (output) => options.onFailure(`the proxy has ended by itself:\n${output}`),
  });
  onStop(() => proxy.stop());
  await proxy.start();
  const relay = new Relay({ target: proxy.port, bytesPerSecond: FIRST_RATE, clock: options.clock });
  const plug = new Plug(relay, proxy, options, tell);
  onStop(() => plug.close());
  const controls = (running.controls = await Controls.listen({
    listen: options.controls,
    pagePort: () => relay.port,
    actions: plug,
    firstEvents: () => [plug.state],
  }));
  onStop(() => controls.close());
  onStop(reportUploads(proxy, controls));
  // Last, so that no page can be loaded before its buttons work.
  await relay.listen(options.listen);
  onStop(() => relay.close());
  return { port: relay.port, proxyUrl: `http://127.0.0.1:${proxy.port}`, originUrl: origin.url, data };
}

/** The parts of the demo that the buttons act on. */
class Plug {
  private restart: NodeJS.Timeout | undefined;
  private rate: number | undefined = FIRST_RATE;
  private isLineDown = false;
  private starting: Promise<void> = Promise.resolve();

  constructor(
    private readonly relay: Relay,
    private readonly proxy: ProxyProcess,
    private readonly options: Pick<DemoOptions, 'clock' | 'onFailure'>,
    private readonly tell: (event: DemoEvent) => void,
  ) {}

  get state(): DemoEvent {
    const { isLineDown, rate = 0 } = this;
    return { kind: 'state', line: isLineDown ? 'down' : 'up', proxy: this.proxy.isRunning ? 'up' : 'down', rate };
  }

  cut(): void {
    this.isLineDown = true;
    // Pages get the reason before they notice the effect.
    this.tell({ kind: 'cut', connections: this.relay.connections, outageMs: OUTAGE_MS });
    this.tell(this.state);
    this.relay.cut(OUTAGE_MS, () => {
      this.isLineDown = false;
      this.tell({ kind: 'restored' });
      this.tell(this.state);
    });
  }

  kill(): boolean {
    const { pid } = this.proxy;
    if (pid === undefined) return false;
    const killedAt = this.options.clock();
    this.tell({ kind: 'killed', pid, outageMs: OUTAGE_MS });
    this.starting = this.proxy.kill();
    this.tell(this.state);
    this.restart = setTimeout(() => {
      this.starting = this.startAgain(killedAt);
    }, OUTAGE_MS);
    return true;
  }

  slowDown(bytesPerSecond: number | undefined): void {
    this.rate = this.relay.bytesPerSecond = bytesPerSecond;
    this.tell(this.state);
  }

  async close(): Promise<void> {
    clearTimeout(this.restart);
    await this.starting;
  }

  private async startAgain(killedAt: number): Promise<void> {
    try {
      await this.proxy.start();
      this.tell({ kind: 'started', pid: this.proxy.pid ?? 0, tookMs: Math.round(this.options.clock() - killedAt) });
      this.tell(this.state);
    } catch (error) {
      this.options.onFailure((error as Error).message);
    }
  }
}

/** Tells pages how much of each upload the proxy has. Returns what ends it. */
function reportUploads(proxy: ProxyProcess, controls: Controls): () => Promise<void> {
  let last = '';
  let polling: Promise<void> = Promise.resolve();
  const poll = async (): Promise<void> => {
    if (!controls.hasPages) return;
    const uploads = (await proxy.uploads()).map(({ target, phase, offset, length }) => {
      return { target, phase, offset, length };
    });
    const text = JSON.stringify(uploads);
    if (text !== last && uploads.length > 0) controls.tell({ kind: 'uploads', uploads });
    last = text;
  };
  let timer: NodeJS.Timeout | undefined;
  const next = (): void => {
    timer = setTimeout(() => void (polling = poll().then(next)), POLL_MS);
  };
  next();
  return async () => {
    clearTimeout(timer);
    await polling;
    clearTimeout(timer);
  };
}

/** Without the members that only the origin needs. */
function viewOf({ method, target, size, contentLength, sha256 }: OriginView): OriginView {
  return { method, target, size, contentLength, sha256 };
}

/** The page loads nothing from elsewhere and talks to nothing but its own server and the buttons. */
function securityPolicy(controlsPort: number): string {
  const controls = ['127.0.0.1', 'localhost'].map((host) => `http://${host}:${controlsPort}`).join(' ');
  return [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data: blob:",
    `connect-src 'self' ${controls}`,
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ');
}
