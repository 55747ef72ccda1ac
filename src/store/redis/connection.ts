import { randomUUID } from 'node:crypto';
import { Cluster } from 'ioredis';
import { withTimeout } from '../../concurrency/waiting.js';
import { Fault } from '../../model/fault.js';
import type { Log } from '../../observe/log.js';
import { type ClientOptions, gatheredWrites, isConnected, makeClient, type RedisClient } from './clients.js';
import { isTransient, type RedisSettings, storeFault } from './errors.js';
import { ReplyTimeout, RedisHealth, ServerClock } from './health.js';
import { RedisKeys } from './keys.js';
import { RedisBus } from './pubsub.js';
import { bindScripts, callScript } from './scripts.js';
import { warnAboutServer } from './server-check.js';

/** Raised when older versions could no longer read new data. */
const FORMAT = '1';

/** Time that replicas may take to confirm; part of the time limit of a step. */
const REPLICAS_MS = 400;

export interface OpenOptions {
  readonly clock?: () => number;
  /**
   * The longest lifetime of an upload: a change of the clock difference ends no upload within it. Unlimited by default.
   */
  readonly maxUploadAgeMs?: number;
  /** Runs before a new store is made, and prevents it by rejecting; its argument tells whether there is still none. */
  readonly beforeNew?: (isStillNew: () => Promise<boolean>) => Promise<void>;
  /** The spool to mark for the store. */
  readonly spool?: SpoolToMark;
}

/**
 * The spool as the store knows it. Making a store and marking the spool for it are two steps between which a process
 * can die, so the store records which spools are not marked yet, and the next start continues.
 */
export interface SpoolToMark {
  /** The name of the spool, different from those of other nodes. */
  readonly name: () => Promise<string>;
  /** The id of the store in the spool's mark; `''` for none. */
  readonly mark: () => Promise<string>;
}

export type ScriptArgument = string | number | Buffer;

/**
 * The connection to Redis. Every step ends within 3 seconds, with the reply of Redis or with a `Fault` that contains
 * advice. While Redis is unavailable nothing is queued, and nothing is ever sent twice.
 */
export class RedisConnection {
  readonly keys: RedisKeys;
  readonly bus: RedisBus;
  readonly clock: ServerClock;
  /** The random id of this installation's data, and whether it was made just now. */
  storeId = '';
  isNewStore = false;
  /** The store that the spool's mark named when the current store was made for it; undefined after `confirmMarked`. */
  previousMark: string | undefined;
  private readonly health: RedisHealth;
  private readonly replyTimeout = new ReplyTimeout();
  private readonly gatherWrites: () => void;
  private failedKey: string | undefined;
  private markSpool: (storeId: string) => Promise<unknown> = () => Promise.resolve();
  private isSpoolMarked = true;
  private spool: SpoolToMark | undefined;
  private closed = false;

  private constructor(
    private readonly clients: OpenClients,
    private readonly settings: RedisSettings,
    private readonly log: Log,
    clock: ServerClock,
  ) {
    this.keys = clients.keys;
    this.bus = clients.bus;
    this.gatherWrites = gatheredWrites(clients.commands);
    this.clock = clock;
    this.health = new RedisHealth(() => this.checkHealth(), log);
  }

  /** Connects, or rejects with a `Fault` that says what is wrong with the address, the permissions or the server. */
  static open(settings: RedisSettings, log: Log, options: OpenOptions = {}): Promise<RedisConnection> {
    const { clock = Date.now, beforeNew, spool } = options;
    const monotonic = (): number => performance.now();
    const newId = randomUUID();
    return connectWithRetries(settings, log, async () => {
      const connection = new RedisConnection(
        await openClients(settings),
        settings,
        log,
        new ServerClock(clock, {
          monotonic,
          get settleMs() {
            return options.maxUploadAgeMs ?? Infinity;
          },
        }),
      );
      try {
        connection.spool = spool;
        await connection.start(newId, beforeNew);
        return connection;
      } catch (error) {
        await connection.close();
        throw error;
      }
    });
  }

  /** The reason why Redis is unavailable, for humans; undefined while it is available. */
  get unavailableReason(): string | undefined {
    return this.health.unavailableReason;
  }

  /**
   * Sets the function that marks the spool for another store. It is called when Redis has other data than before, or
   * none, and repeated until it succeeds.
   */
  onStoreReplaced(markSpool: (storeId: string) => Promise<unknown>): void {
    this.markSpool = markSpool;
  }

  /**
   * Has the function of `onStoreReplaced` called for the current store too, because the start could not mark the
   * spool.
   */
  retryMarking(): void {
    this.isSpoolMarked = false;
  }

  /** Records in Redis that the spool is marked for this store. */
  async confirmMarked(): Promise<void> {
    if (!this.spool || this.previousMark === undefined) return;
    const field = `unmarked:${await this.spool.name()}`;
    await this.send(this.keys.store, (client) => client.hdel(this.keys.store, field));
    this.previousMark = undefined;
  }

  /** Whether the spool is known to be marked for this store. */
  get isMarked(): boolean {
    return this.isSpoolMarked;
  }

  /** Runs a script of `lua/`; the first key decides which server runs it. */
  run(script: string, keys: readonly string[], args: readonly ScriptArgument[]): Promise<unknown> {
    return this.call(keys[0]!, (client) => callScript(client, script, keys, args) as Promise<unknown>);
  }

  /** As `run`, but resolves only when `settings.replicas` replicas have the change. */
  async runDurably(script: string, keys: readonly string[], args: readonly ScriptArgument[]): Promise<unknown> {
    const { replicas = 0 } = this.settings;
    if (replicas === 0) return this.run(script, keys, args);
    return this.call(keys[0]!, async (client) => {
      const pipeline = client.pipeline();
      callScript(pipeline, script, keys, args);
      const [result, acknowledged] = (await pipeline.wait(replicas, REPLICAS_MS).exec())!;
      if (result![0]) throw result![0];
      if (acknowledged![0]) throw acknowledged![0];
      if ((acknowledged![1] as number) < replicas) throw new Error('too few replicas');
      return result![1];
    });
  }

  /**
   * Sends a command about a key. A failure makes Redis count as unavailable until a probe of the key's server
   * succeeds.
   */
  async call<T>(key: string, command: (client: RedisClient) => Promise<T>): Promise<T> {
    try {
      return await this.send(key, command);
    } catch (fault) {
      if (this.closed) throw fault;
      this.failedKey = key;
      this.clients.refreshTopology();
      this.health.reportFailure(fault as Fault);
      throw fault;
    }
  }

  async close(): Promise<void> {
    this.closed = true;
    this.bus.close();
    this.clients.commands.disconnect();
    await this.health.stop();
  }

  /**
   * Makes the store as the last step: a start that fails afterwards would leave a store that the next start does not
   * find new.
   */
  private async start(newId: string, beforeNew?: OpenOptions['beforeNew']): Promise<void> {
    await this.send(this.keys.store, () => this.bus.open());
    if ((await this.probe()) === undefined) await beforeNew?.(async () => (await this.probe()) === undefined);
    await this.identifyStore(newId, await this.spool?.mark(), false);
    await warnAboutServer(this.clients.commands, this.log);
    this.health.start();
  }

  /** The id of the store in Redis, undefined for none; also takes a reading of its clock. */
  private async probe(): Promise<string | undefined> {
    const sentAt = this.clock.now();
    const [seconds, micros, id] = (await this.sendScript('pulse', [this.keys.store], [])) as [string, string, string?];
    this.clock.observe(Number(seconds) * 1000 + Number(micros) / 1000, sentAt);
    return id;
  }

  private async checkHealth(): Promise<void> {
    const { failedKey } = this;
    const id = await this.probe();
    if (id !== this.storeId) await this.onDataLoss(id);
    if (!this.isSpoolMarked) {
      await this.markSpool(this.storeId);
      await this.confirmMarked();
    }
    this.isSpoolMarked = true;
    if (failedKey === undefined) return;
    await this.send(failedKey, (client) => client.set(this.keys.writeProbe(failedKey), '1', 'PX', 60_000));
    if (this.failedKey === failedKey) this.failedKey = undefined;
  }

  private async identifyStore(newId: string, mark = '', wasUsed = false): Promise<void> {
    const { store, buckets } = this.keys;
    const name = (await this.spool?.name()) ?? '';
    const args = [newId, buckets, FORMAT, name, mark, wasUsed ? '1' : ''];
    const reply = await this.sendScript('open-store', [store], args);
    const [id, foundBuckets, format, isNew, previousMark] = reply as [string, string, string, number, string | null];
    if (format !== FORMAT) throw incompatibleData(`was written in format ${format} by another version of this program`);
    if (foundBuckets !== String(buckets)) throw incompatibleData(`has ${foundBuckets} buckets instead of ${buckets}`);
    this.isNewStore = isNew === 1;
    this.previousMark = previousMark ?? undefined;
    this.storeId = id;
  }

  /** Handles the loss of all known uploads: the data found now is another store's, or a new one. */
  private async onDataLoss(foundId: string | undefined): Promise<void> {
    // Rejects if the server is a replica that is not filled yet: then nothing is lost.
    await this.identifyStore(randomUUID(), this.previousMark ?? this.storeId, true);
    this.isSpoolMarked = false;
    const what = foundId === undefined ? 'came back empty' : 'has other data than before';
    this.log.error(
      `Redis ${what}: all known uploads are lost. To prevent this, enable persistence (\`appendonly yes\` in the ` +
        'configuration of Redis) and never flush the database',
    );
  }

  private sendScript(script: string, keys: readonly string[], args: readonly ScriptArgument[]): Promise<unknown> {
    return this.send(keys[0]!, (client) => callScript(client, script, keys, args) as Promise<unknown>);
  }

  private async send<T>(key: string, command: (client: RedisClient) => Promise<T>): Promise<T> {
    const { commands, lastErrors } = this.clients;
    try {
      if (this.closed) throw new Fault('STORE_UNAVAILABLE', 'the store is closed', true);
      if (!isConnected(commands)) throw new Error('Connection is closed');
      this.gatherWrites();
      return await this.replyTimeout.wait(this.keys.hashTag(key), command(commands));
    } catch (error) {
      throw storeFault(error, this.settings, lastErrors());
    }
  }
}

function incompatibleData(how: string): Fault {
  const advice = 'choose another store.prefix, or go back to the settings and the version that made it';
  return new Fault('CONTRACT_BROKEN', `the data in Redis under this prefix ${how}: ${advice}`, false);
}

/** The limit for one attempt to connect, including the commands before the first step. */
const CONNECT_TIMEOUT_MS = 3000;
const STARTUP_RETRY_MS = 250;
const RECONNECT_MS = 200;
/** The first version whose clusters have separate channels per slot. */
const SHARDED_PUBSUB_VERSION = 7;

/** The clients of one connection, and what depends on them. */
export interface OpenClients {
  readonly commands: RedisClient;
  readonly bus: RedisBus;
  readonly keys: RedisKeys;
  /** Refreshes the map of the cluster's slots, which may have changed after a failure. */
  readonly refreshTopology: () => void;
  /** The last error of the connection since it was lost. */
  readonly lastErrors: () => readonly unknown[];
}

/** Tries once, or as long as `settings.waitMs` allows while the error may be temporary. */
async function connectWithRetries<T>(settings: RedisSettings, log: Log, attempt: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + (settings.waitMs ?? 0);
  for (let tries = 1; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      const fault = storeFault(error, settings);
      if (!isTransient(fault.cause ?? fault) || performance.now() + STARTUP_RETRY_MS > deadline) throw fault;
      if (tries === 1) log.warn(`waiting for the store: ${fault.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, STARTUP_RETRY_MS));
  }
}

/** Opens the command client and prepares the bus. Every error becomes a `Fault` with advice. */
async function openClients(settings: RedisSettings): Promise<OpenClients> {
  const keys = new RedisKeys(settings.prefix, settings.kind);
  const sharded = settings.kind === 'cluster' && (await findClusterVersion(settings)) >= SHARDED_PUBSUB_VERSION;
  const startup = { tries: true };
  const retryMs = (): number | undefined => (startup.tries ? undefined : RECONNECT_MS);
  const commands = makeClient(settings, { role: 'commands', retryMs });
  const subscriber = (): Promise<RedisClient> => connectSubscriber(settings, { role: 'subscriber', sharded, retryMs });
  const lastErrors = rememberLastError(commands);
  try {
    await connect(commands, settings);
    if (settings.kind !== 'cluster') await assertNoCluster(commands);
    bindScripts(commands, sharded ? 'SPUBLISH' : 'PUBLISH');
    const channels = keys.allBuckets().map((bucket) => keys.bucket(bucket).channel);
    const publish = (channel: string, text: string): Promise<unknown> =>
      sharded ? commands.spublish(channel, text) : commands.publish(channel, text);
    const bus = new RedisBus({ channels, sharded, subscriber, publish });
    startup.tries = false;
    return { commands, bus, keys, refreshTopology: topologyRefresher(commands), lastErrors };
  } catch (error) {
    commands.disconnect();
    throw storeFault(error, settings);
  }
}

async function connectSubscriber(settings: RedisSettings, options: ClientOptions): Promise<RedisClient> {
  const client = makeClient(settings, options);
  rememberLastError(client);
  try {
    await connect(client, settings);
    return client;
  } catch (error) {
    client.disconnect();
    throw error;
  }
}

/**
 * The version of the cluster. Its seeds are asked first, because a cluster's client does not say why it finds no
 * server.
 */
async function findClusterVersion(settings: RedisSettings): Promise<number> {
  const errors: unknown[] = [];
  for (const seed of settings.nodes) {
    const client = makeClient(
      { ...settings, kind: 'single', nodes: [seed] },
      { role: 'commands', retryMs: () => undefined },
    );
    const lastErrors = rememberLastError(client);
    try {
      await connect(client, settings);
      const { version, mode } = await serverIdentity(client);
      if (mode === 'cluster') return version;
      errors.push(new Error('cluster support disabled'));
    } catch (error) {
      errors.push(error, ...lastErrors());
    } finally {
      client.disconnect();
    }
  }
  throw storeFault(errors[0], settings);
}

async function assertNoCluster(client: RedisClient): Promise<void> {
  if ((await serverIdentity(client)).mode === 'cluster') throw new Error('it is a cluster node');
}

async function connect(client: RedisClient, settings: RedisSettings): Promise<void> {
  // The causes arrive as events; the promise only says that connecting failed.
  const errors: unknown[] = [];
  const collect = (error: unknown): void => void errors.push(error);
  const events = ['error', 'sentinelError', 'node error'];
  for (const event of events) client.on(event, collect);
  try {
    await withTimeout(client.connect(), CONNECT_TIMEOUT_MS);
    // A database that does not exist is reported by such an event only; without this check we would write into
    // another one.
    const permanentError = errors.find((trouble) => !isTransient(trouble));
    if (permanentError !== undefined) throw storeFault(permanentError, settings);
  } catch (error) {
    throw storeFault(error, settings, errors);
  } finally {
    for (const event of events) client.off(event, collect);
  }
}

/** `HELLO` needs no permission, unlike `INFO`. */
async function serverIdentity(client: RedisClient): Promise<{ version: number; mode: string }> {
  const reply = (await client.call('HELLO', '2')) as string[];
  const field = (name: string): string => String(reply[reply.indexOf(name) + 1]);
  return { version: Number.parseInt(field('version'), 10), mode: field('mode') };
}

/** Keeps the last error until the client is ready. The listener also keeps an error event from ending the process. */
function rememberLastError(client: RedisClient): () => readonly unknown[] {
  let last: unknown;
  client.on('error', (error: unknown) => (last = error));
  client.on('ready', () => (last = undefined));
  return () => (last === undefined ? [] : [last]);
}

function topologyRefresher(client: RedisClient): () => void {
  return client instanceof Cluster ? () => client.refreshSlotsCache() : () => undefined;
}
