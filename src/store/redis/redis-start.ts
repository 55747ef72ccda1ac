import { Cluster } from 'ioredis';
import type { Log } from '../../observe/log.js';
import { inTime } from './in-time.js';
import { RedisBus } from './redis-bus.js';
import { makeClient, type ClientOptions, type RedisClient } from './redis-clients.js';
import { mayPass, storeFault } from './redis-fault.js';
import { RedisKeys } from './redis-keys.js';
import { bindScripts } from './redis-scripts.js';
import type { RedisSettings } from './redis-settings.js';

/** How long one try may take, with all that is said before the first command. */
const TRY_MS = 3000;
const AGAIN_MS = 250;
const RETRY_MS = 200;
/** The first version whose clusters have channels of their own for each slot. */
const SHARDED_SINCE = 7;

export interface OpenClients {
  readonly commands: RedisClient;
  readonly bus: RedisBus;
  readonly keys: RedisKeys;
  /** Something failed: perhaps the cluster has changed. */
  readonly lookAgain: () => void;
  /** What last went wrong with the connection, since it was lost. */
  readonly lastTrouble: () => readonly unknown[];
}

/** Tries once, or as long as the settings allow where waiting can help. */
export async function patiently<T>(settings: RedisSettings, log: Log, attempt: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + (settings.waitMs ?? 0);
  for (let tries = 1; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      const fault = storeFault(error, settings);
      if (!mayPass(fault.cause ?? fault) || performance.now() + AGAIN_MS > deadline) throw fault;
      if (tries === 1) log.warn(`waiting for the store: ${fault.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

/** Both connections, ready to use; whatever fails on the way is said in words of ours. */
export async function openClients(settings: RedisSettings): Promise<OpenClients> {
  const keys = new RedisKeys(settings.prefix, settings.kind);
  const sharded = settings.kind === 'cluster' && (await recognizeCluster(settings)) >= SHARDED_SINCE;
  const opening = { tries: true };
  const retryMs = (): number | undefined => (opening.tries ? undefined : RETRY_MS);
  const commands = makeClient(settings, { role: 'commands', retryMs });
  const subscriber = (): Promise<RedisClient> => connectSubscriber(settings, { role: 'subscriber', sharded, retryMs });
  const lastTrouble = rememberTrouble(commands);
  try {
    await connect(commands, settings);
    if (settings.kind !== 'cluster') await refuseCluster(commands);
    bindScripts(commands, sharded ? 'SPUBLISH' : 'PUBLISH');
    const channels = keys.allBuckets().map((bucket) => keys.bucket(bucket).news);
    const publish = (channel: string, text: string): Promise<unknown> =>
      sharded ? commands.spublish(channel, text) : commands.publish(channel, text);
    const bus = new RedisBus({ channels, sharded, subscriber, publish });
    opening.tries = false;
    return { commands, bus, keys, lookAgain: lookAgainIn(commands), lastTrouble };
  } catch (error) {
    commands.disconnect();
    throw storeFault(error, settings);
  }
}

async function connectSubscriber(settings: RedisSettings, options: ClientOptions): Promise<RedisClient> {
  const client = makeClient(settings, options);
  rememberTrouble(client);
  try {
    await connect(client, settings);
    return client;
  } catch (error) {
    client.disconnect();
    throw error;
  }
}

/** A cluster's client does not say why it finds nobody: its seeds are asked first. Gives the version. */
async function recognizeCluster(settings: RedisSettings): Promise<number> {
  const troubles: unknown[] = [];
  for (const seed of settings.nodes) {
    const client = makeClient(
      { ...settings, kind: 'single', nodes: [seed] },
      { role: 'commands', retryMs: () => undefined },
    );
    const lastTrouble = rememberTrouble(client);
    try {
      await connect(client, settings);
      const { version, mode } = await recognizeServer(client);
      if (mode === 'cluster') return version;
      troubles.push(new Error('cluster support disabled'));
    } catch (error) {
      troubles.push(error, ...lastTrouble());
    } finally {
      client.disconnect();
    }
  }
  throw storeFault(troubles[0], settings);
}

async function refuseCluster(client: RedisClient): Promise<void> {
  if ((await recognizeServer(client)).mode === 'cluster') throw new Error('it is a cluster node');
}

async function connect(client: RedisClient, settings: RedisSettings): Promise<void> {
  // What went wrong comes as events; the promise only says that it did.
  const troubles: unknown[] = [];
  const note = (error: unknown): void => void troubles.push(error);
  const events = ['error', 'sentinelError', 'node error'];
  for (const event of events) client.on(event, note);
  try {
    await inTime(client.connect(), TRY_MS);
    // A database that does not exist is such an event too: without it we would write into another one.
    const lasting = troubles.find((trouble) => !mayPass(trouble));
    if (lasting !== undefined) throw storeFault(lasting, settings);
  } catch (error) {
    throw storeFault(error, settings, troubles);
  } finally {
    for (const event of events) client.off(event, note);
  }
}

/** `HELLO` is open to every user, unlike `INFO`. */
async function recognizeServer(client: RedisClient): Promise<{ version: number; mode: string }> {
  const reply = (await client.call('HELLO', '2')) as string[];
  const field = (name: string): string => String(reply[reply.indexOf(name) + 1]);
  return { version: Number.parseInt(field('version'), 10), mode: field('mode') };
}

/** Also keeps what a client says of itself from ending the process. */
function rememberTrouble(client: RedisClient): () => readonly unknown[] {
  let last: unknown;
  client.on('error', (error: unknown) => (last = error));
  client.on('ready', () => (last = undefined));
  return () => (last === undefined ? [] : [last]);
}

function lookAgainIn(client: RedisClient): () => void {
  return client instanceof Cluster ? () => client.refreshSlotsCache() : () => undefined;
}
