import type { RedisSettings } from '../../src/store/redis/errors.js';
import { type LogLine, type OpenedRedis, openRedis } from './opened-redis.js';
import { RedisServer } from './redis-server.js';

/** Keeps what one test starts and opens, and ends it after the test, the newest first. */
export class RedisRoom {
  private readonly ends: (() => unknown)[] = [];

  /** A server with these lines in its configuration. */
  readonly start = async (...settings: string[]): Promise<RedisServer> => {
    const server = await RedisServer.start({ settings });
    this.endsWith(() => server.stop());
    return server;
  };

  readonly opened = async (settings: RedisSettings, lines?: LogLine[]): Promise<OpenedRedis> => {
    const redis = await openRedis(settings, '', lines);
    this.endsWith(() => redis.close());
    return redis;
  };

  endsWith(end: () => unknown): void {
    this.ends.push(end);
  }

  async close(): Promise<void> {
    for (const end of this.ends.splice(0).reverse()) await end();
  }
}
