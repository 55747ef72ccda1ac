import { Cluster, type Redis } from 'ioredis';
import type { Log } from '../../observe/log.js';
import type { RedisClient } from './clients.js';

/** Says what in the server's configuration puts uploads at risk, as far as it lets us look. */
export async function warnAboutServer(client: RedisClient, log: Log): Promise<void> {
  const server = client instanceof Cluster ? client.nodes('master')[0] : client;
  if (!server) return;
  const policy = await readSetting(server, 'maxmemory-policy');
  const [appendOnly, save] = [await readSetting(server, 'appendonly'), await readSetting(server, 'save')];
  if (policy === undefined || appendOnly === undefined)
    return log.warn(
      'the settings of Redis cannot be seen (CONFIG GET needs the right +config|get): nothing warns of it when they put ' +
        'uploads at risk. It has to have `appendonly yes` and `maxmemory-policy noeviction`',
    );
  if (policy !== 'noeviction')
    log.warn(
      `Redis may throw uploads away when its memory is full: set its maxmemory-policy to noeviction (it is ${policy})`,
    );
  if (appendOnly === 'no' && save === '')
    log.warn(
      'Redis writes nothing to disk: its restart loses all uploads. `appendonly yes` in its configuration prevents it',
    );
}

/** Undefined where the user may not ask, or the provider does not tell. */
async function readSetting(server: Redis, name: string): Promise<string | undefined> {
  try {
    const [, value] = await server.config('GET', name);
    return value;
  } catch {
    return undefined;
  }
}
