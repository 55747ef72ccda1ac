import { Cluster, type Redis } from 'ioredis';
import type { Log } from '../../observe/log.js';
import type { RedisClient } from './clients.js';

/** Warns about server settings that put uploads at risk, as far as they can be read. */
export async function warnAboutServer(client: RedisClient, log: Log): Promise<void> {
  const server = client instanceof Cluster ? client.nodes('master')[0] : client;
  if (!server) return;
  const policy = await readSetting(server, 'maxmemory-policy');
  const [appendOnly, save] = [await readSetting(server, 'appendonly'), await readSetting(server, 'save')];
  if (policy === undefined || appendOnly === undefined)
    return log.warn(
      'the settings of Redis cannot be read (CONFIG GET needs the permission +config|get), so risky settings cannot be ' +
        'reported. Redis must have `appendonly yes` and `maxmemory-policy noeviction`',
    );
  if (policy !== 'noeviction')
    log.warn(
      `Redis may evict uploads when its memory is full: set its maxmemory-policy to noeviction (it is ${policy})`,
    );
  if (appendOnly === 'no' && save === '')
    log.warn('Redis writes nothing to disk: a restart loses all uploads. Set `appendonly yes` in its configuration');
}

/** A setting of the server; undefined if the user or the provider does not allow reading it. */
async function readSetting(server: Redis, name: string): Promise<string | undefined> {
  try {
    const [, value] = await server.config('GET', name);
    return value;
  } catch {
    return undefined;
  }
}
