import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { requestOnce } from './client.js';
import type { RedisServer } from './redis-server.js';
import { clientDialect, createUpload, type ResumableUpload } from './resumable-client.js';
import { temporaryDirectory, type TemporaryDirectory } from './temporary.js';
import { startTestOrigin, type TestOrigin } from './test-origin.js';
import { startTestApp, type TestApp } from './test-proxy.js';

/** Longer ago than any writer, node or backup could have been merely slow. */
export const LONG_AGO = new Date(Date.now() - 2 * 3_600_000);

/** As the usual times, but for tests: a sign of life comes several times in a watch. */
const QUICK = {
  orphanAgeMs: 500,
  orphanScanIntervalMs: 500,
  spoolTouchMs: 80,
  spoolWatchMs: 800,
  unknownBytesScanMs: 100,
};

/** One disk, one Redis, and proxies that come and go on them; the Redis is its owner's to stop. */
export class DiskProxies {
  readonly apps: TestApp[] = [];

  private directory = 'data';

  private constructor(
    readonly redis: RedisServer,
    private readonly disk: TemporaryDirectory,
    private readonly origin: TestOrigin,
  ) {}

  /** `redis`: any server; what it has is forgotten. */
  static async open(redis: RedisServer): Promise<DiskProxies> {
    await redis.cli('flushall');
    const origin = await startTestOrigin({ status: 201, body: 'kept' });
    const proxies = new DiskProxies(redis, await temporaryDirectory('rufh-disk-'), origin);
    await mkdir(proxies.data, { mode: 0o700 });
    return proxies;
  }

  get data(): string {
    return join(this.disk.path, this.directory);
  }

  /** Another data directory, while something is done. */
  async useDirectory<T>(name: string, task: () => Promise<T>): Promise<T> {
    const before = this.directory;
    this.directory = name;
    try {
      return await task();
    } finally {
      this.directory = before;
    }
  }

  /** A file or directory of the spool. */
  pathOf(name: string): string {
    return join(this.data, 'spool', name);
  }

  /** Whose the spool is, as its mark says. */
  mark(): Promise<string> {
    return readFile(this.pathOf('.store'), 'utf8');
  }

  async start(config: string, { database = 0, prefix = 'rufh' } = {}): Promise<TestApp> {
    const { redis, origin, data, apps } = this;
    const url = `${redis.url.replace(/\/\d+$/, '')}/${database}`;
    const store = `store: { type: redis, url: "${url}", prefix: ${prefix} }`;
    const app = await startTestApp({ origin: origin.url, config: `${store}\n${config}\n`, data, timings: QUICK });
    apps.push(app);
    return app;
  }

  async startEmbedded(config = ''): Promise<TestApp> {
    const app = await startTestApp({ origin: this.origin.url, config, data: this.data });
    this.apps.push(app);
    return app;
  }

  create(app: TestApp): Promise<ResumableUpload> {
    const send: Parameters<typeof createUpload>[1] = (request) => requestOnce(app.url, request);
    return createUpload(clientDialect('10'), send, { method: 'POST', target: '/files' });
  }

  async stopApps(): Promise<void> {
    await Promise.all(this.apps.splice(0).map((app) => app.stop()));
  }

  /** As if nobody had shared the spool: a start does not wait for a sign of life. */
  async forgetUse(): Promise<void> {
    await rm(this.pathOf('.in-use'), { force: true });
  }

  async close(): Promise<void> {
    await this.stopApps();
    await this.origin.close();
    await this.disk.remove();
  }
}
