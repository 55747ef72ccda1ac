import { createLog } from '../../src/observe/log.js';
import { RedisConnection } from '../../src/store/redis/connection.js';
import type { RedisSettings } from '../../src/store/redis/errors.js';
import { RedisStore } from '../../src/store/redis/redis-store.js';

export interface LogLine {
  readonly level: string;
  readonly msg: string;
}

/** A connection to one server of a test, all it said in its log, and a store on it. */
export interface OpenedRedis {
  readonly connection: RedisConnection;
  readonly store: RedisStore;
  readonly lines: readonly LogLine[];
  close(): Promise<void>;
}

/** Where a server of a test is, as a setting. */
export function settingsFor(port: number, over: Partial<RedisSettings> = {}): RedisSettings {
  return { kind: 'single', nodes: [{ host: '127.0.0.1', port }], prefix: 'rufh', ...over };
}

/** What it says before it is open can be seen in `lines`. */
export async function openRedis(settings: RedisSettings, node = '', lines: LogLine[] = []): Promise<OpenedRedis> {
  const destination = { write: (line: string) => void lines.push(JSON.parse(line) as LogLine) };
  const log = createLog({ level: 'info', format: 'json', destination });
  const connection = await RedisConnection.open(settings, log);
  const store = new RedisStore({ connection, node });
  const close = async (): Promise<void> => {
    await store.close();
    await connection.close();
  };
  return { connection, store, lines, close };
}
