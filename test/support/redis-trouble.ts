import { openRequest, type OpenRequest, requestOnce } from './client.js';
import { CuttingProxy } from './network.js';
import { type ProxyProcess, startProxy } from './proxy-process.js';
import { type RedisServer, startRedis } from './redis-server.js';
import { appendLines, clientDialect, createUpload, type ResumableUpload } from './resumable-client.js';
import { until } from './temporary.js';
import { startTestOrigin, type TestOrigin } from './test-origin.js';
import type { WireRequest, WireResponse } from './wire.js';

const DIALECT = clientDialect('8');
/** An answer may have to wait until Redis is away, is back, and is used again. */
const PATIENCE_MS = 60_000;

export interface RedisTroubleOptions {
  /** Of the server; it writes everything down at once by default. */
  readonly redis?: readonly string[];
  /** More settings of the proxy, as YAML. */
  readonly config?: string;
}

/** One built proxy with an origin and a Redis: what happens to that server, and to the way to it, is ours to say. */
export class RedisTrouble {
  private constructor(
    readonly redis: RedisServer,
    readonly network: CuttingProxy,
    readonly origin: TestOrigin,
    readonly proxy: ProxyProcess,
  ) {}

  static async open({ redis: settings, config = '' }: RedisTroubleOptions = {}): Promise<RedisTrouble> {
    const redis = await startRedis({ settings: settings ?? ['appendonly yes', 'appendfsync always'] });
    const network = await CuttingProxy.start(redis.port);
    const origin = await startTestOrigin();
    try {
      const store = `store: { type: redis, url: 'redis://127.0.0.1:${network.port}' }\nspool: { shared: true }\n`;
      const proxy = await startProxy({ origin: origin.url, config: store + config });
      return new RedisTrouble(redis, network, origin, proxy);
    } catch (error) {
      await Promise.all([redis.stop(), network.stop(), origin.close()]);
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.proxy.stop();
    await Promise.all([this.network.stop(), this.redis.stop(), this.origin.close()]);
  }

  readonly send = (request: WireRequest): Promise<WireResponse> => requestOnce(this.proxy.url, request);

  /** An upload that has these bytes, and more to come. */
  upload(target: string, body: Uint8Array): Promise<ResumableUpload> {
    return createUpload(DIALECT, this.send, { method: 'POST', target, body });
  }

  /** The last append of an upload, whose body is to follow. */
  beginEnd({ target }: ResumableUpload, offset: number, length: number): Promise<OpenRequest> {
    const headers = appendLines(DIALECT, { offset, complete: true });
    const framed = [...headers, ['Content-Length', `${length - offset}`] as const];
    const head = { method: 'PATCH', target, headers: framed };
    return openRequest('HTTP/1.1', this.proxy.url, head, { deadlineMs: PATIENCE_MS });
  }

  /** What balancers and operators are told. */
  async readiness(): Promise<{ readonly status: number; readonly problem?: string }> {
    const { status, body } = await this.ask('/readyz');
    const { checks } = JSON.parse(body.toString()) as { checks: { name: string; problem?: string }[] };
    return { status, problem: checks.find(({ name }) => name === 'store')?.problem };
  }

  async untilReady(): Promise<void> {
    await until(async () => (await this.readiness()).status === 200, 'the proxy to be ready');
  }

  /** One figure of `/metrics`. */
  async figure(name: string): Promise<number> {
    const text = (await this.ask('/metrics')).body.toString();
    return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1] ?? 0);
  }

  /** On a connection of its own: one that was kept could be gone just when it is used again. */
  private ask(target: string): Promise<WireResponse> {
    return requestOnce(this.proxy.adminUrl, { method: 'GET', target });
  }
}
