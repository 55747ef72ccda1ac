import { spawnSync } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type ProxyProcess, startProxy } from '../test/support/proxy-process.js';
import { type RedisServer, startRedis } from '../test/support/redis-server.js';
import { freePort, temporaryDirectory } from '../test/support/temporary.js';
import { UNLIMITED_CLIENTS } from './workbench.js';

export interface RedisNodesOptions {
  readonly origin: string;
  readonly nodes: number;
  readonly bytes: 'shared' | 'node-local';
  readonly workers?: number;
  readonly flags: readonly string[];
  /** In place of a server of their own. */
  readonly redisUrl: string;
  /** Keeps them apart from others at the same server. */
  readonly prefix?: string;
}

export interface RedisNodes {
  readonly proxies: readonly ProxyProcess[];
  stop(): Promise<void>;
}

/** Redis as our docs want it; undefined where it is not installed. */
export async function startBenchRedis(): Promise<RedisServer | undefined> {
  if (spawnSync('redis-server', ['--version']).status === 0)
    return startRedis({ settings: ['appendonly yes', 'appendfsync everysec'] });
  console.log('\nNot measured: there is no redis-server on this machine.');
  return undefined;
}

/** Built proxies that share what they know in one Redis, with a spool they share or one each. */
export async function startRedisNodes(options: RedisNodesOptions): Promise<RedisNodes> {
  const directory = await temporaryDirectory('rufh-bench-nodes-');
  const proxies: ProxyProcess[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(proxies.map((proxy) => proxy.stop()));
    await directory.remove();
  };
  try {
    for (let at = 0; at < options.nodes; at++) {
      const data = join(directory.path, options.bytes === 'shared' ? 'data' : `data-${at}`);
      await mkdir(data, { recursive: true });
      proxies.push(await startProxy({ ...options, data, config: await settings(options) }));
    }
    return { proxies, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function settings({ redisUrl, prefix = 'bench', bytes, workers = 1 }: RedisNodesOptions): Promise<string> {
  const port = await freePort();
  const cluster = `cluster: { listen: '127.0.0.1:${port}', advertise: 'http://127.0.0.1:${port}', secret: for-benches-only }`;
  return [
    `store: { type: redis, url: '${redisUrl}', prefix: ${prefix} }`,
    `spool: { shared: ${bytes === 'shared'} }`,
    `workers: ${workers}`,
    bytes === 'shared' ? '' : cluster,
    UNLIMITED_CLIENTS,
  ].join('\n');
}
