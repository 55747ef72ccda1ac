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

/** Raised when older programs could no longer read what we write. */
const FORMAT = '1';

/** How long the replicas may take; part of the time a step has. */
const REPLICAS_MS = 400;

export interface OpenOptions {
  readonly clock?: () => number;
  /** How long an upload may live: so long a new difference of the clocks ends none. For ever when it is missing. */
  readonly maxUploadAgeMs?: number;
  /** Before a store is made where none is; when it fails, none is. Asks whether that still holds. */
  readonly beforeNew?: (isStillNew: () => Promise<boolean>) => Promise<void>;
  /** The spool that is to be marked for the store. */
  readonly spool?: SpoolToMark;
}

/**
 * Making a store and marking the spool for it are two steps, and a process can end between them: the store remembers which
 * spool is not marked for it yet, so that the next start can go on.
 */
export interface SpoolToMark {
  /** Tells it from the spools of other nodes. */
  readonly name: () => Promise<string>;
  /** The store that its mark names now; `''` for none. */
  readonly mark: () => Promise<string>;
}

export type ScriptArgument = string | number | Buffer;

/**
 * The way to Redis: every step is answered within a second, by what Redis says or by a `Fault` that says what to do.
 * Nothing is queued while it is away, and nothing is sent twice.
 */
export class RedisConnection {
  readonly keys: RedisKeys;
  readonly bus: RedisBus;
  readonly clock: ServerClock;
  /** The random name of this installation's data, and whether it was made just now. */
  storeId = '';
  isNewStore = false;
  /** The store that the mark of the spool named when this one was made for it; undefined once `noteMarked` was called. */
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

  /** Connects, or fails with a `Fault` that says what is wrong with the address, the rights or the server. */
  static open(settings: RedisSettings, log: Log, options: OpenOptions = {}): Promise<RedisConnection> {
    const { clock = Date.now, maxUploadAgeMs = Infinity, beforeNew, spool } = options;
    const monotonic = (): number => performance.now();
    const newId = randomUUID();
    return connectWithRetries(settings, log, async () => {
      const connection = new RedisConnection(
        await openClients(settings),
        settings,
        log,
        new ServerClock(clock, { monotonic, settleMs: maxUploadAgeMs }),
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

  /** What is wrong with Redis right now, for people; undefined when it is ready. */
  get unavailableReason(): string | undefined {
    return this.health.unavailableReason;
  }

  /** What has to be done when Redis is found with other data than before, or with none; done again until it succeeds. */
  onStoreReplaced(markSpool: (storeId: string) => Promise<unknown>): void {
    this.markSpool = markSpool;
  }

  /** What `onOtherStore` was given has to be done for this store too, which a start could not do. */
  retryMarking(): void {
    this.isSpoolMarked = false;
  }

  /** The spool is marked for this store. */
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

  /** One step of a script of `lua/`: the first key decides which server does it. */
  run(script: string, keys: readonly string[], args: readonly ScriptArgument[]): Promise<unknown> {
    return this.call(keys[0]!, (client) => callScript(client, script, keys, args) as Promise<unknown>);
  }

  /** The same, and fulfilled only when as many replicas have it as the settings want. */
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

  /** One command, about a key. */
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

  /** What makes the store comes last: a start that fails after that would leave none to the next one that it finds new. */
  private async start(newId: string, beforeNew?: OpenOptions['beforeNew']): Promise<void> {
    await this.send(this.keys.store, () => this.bus.open());
    if ((await this.probe()) === undefined) await beforeNew?.(async () => (await this.probe()) === undefined);
    await this.identifyStore(newId, await this.spool?.mark(), false);
    await warnAboutServer(this.clients.commands, this.log);
    this.health.start();
  }

  /** Which store it knows; and what time it has. */
  private async probe(): Promise<string | undefined> {
    const askedAt = this.clock.now();
    const [seconds, micros, id] = (await this.sendScript('pulse', [this.keys.store], [])) as [string, string, string?];
    this.clock.observe(Number(seconds) * 1000 + Number(micros) / 1000, askedAt);
    return id;
  }

  private async checkHealth(): Promise<void> {
    const { failedKey } = this;
    const id = await this.probe();
    if (id !== this.storeId) await this.handleDataLoss(id);
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
    const [id, foundBuckets, format, isNew, unfinished] = reply as [string, string, string, number, string | null];
    if (format !== FORMAT) throw incompatibleData(`was written in format ${format} by another version of this program`);
    if (foundBuckets !== String(buckets)) throw incompatibleData(`has ${foundBuckets} buckets in place of ${buckets}`);
    this.isNewStore = isNew === 1;
    this.previousMark = unfinished ?? undefined;
    this.storeId = id;
  }

  /** The data we knew is gone: whatever is found now, the uploads of before are not in it. */
  private async handleDataLoss(foundId: string | undefined): Promise<void> {
    // Fails where it is only a replica that is not filled yet: then nothing is lost.
    await this.identifyStore(randomUUID(), this.previousMark ?? this.storeId, true);
    this.isSpoolMarked = false;
    const what = foundId === undefined ? 'came back empty' : 'has other data than before';
    this.log.error(
      `Redis ${what}: all uploads that were known are lost. This is prevented by persistence (\`appendonly yes\` in the ` +
        'configuration of Redis), and by nobody flushing the database',
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

/** How long one try may take, with all that is said before the first command. */
const CONNECT_TIMEOUT_MS = 3000;
const STARTUP_RETRY_MS = 250;
const RECONNECT_MS = 200;
/** The first version whose clusters have channels of their own for each slot. */
const SHARDED_PUBSUB_VERSION = 7;

export interface OpenClients {
  readonly commands: RedisClient;
  readonly bus: RedisBus;
  readonly keys: RedisKeys;
  /** Something failed: perhaps the cluster has changed. */
  readonly refreshTopology: () => void;
  /** What last went wrong with the connection, since it was lost. */
  readonly lastErrors: () => readonly unknown[];
}

/** Tries once, or as long as the settings allow where waiting can help. */
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

/** Both connections, ready to use; whatever fails on the way is said in words of ours. */
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

/** A cluster's client does not say why it finds nobody: its seeds are asked first. Gives the version. */
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
  // What went wrong comes as events; the promise only says that it did.
  const errors: unknown[] = [];
  const collect = (error: unknown): void => void errors.push(error);
  const events = ['error', 'sentinelError', 'node error'];
  for (const event of events) client.on(event, collect);
  try {
    await withTimeout(client.connect(), CONNECT_TIMEOUT_MS);
    // A database that does not exist is such an event too: without it we would write into another one.
    const permanentError = errors.find((trouble) => !isTransient(trouble));
    if (permanentError !== undefined) throw storeFault(permanentError, settings);
  } catch (error) {
    throw storeFault(error, settings, errors);
  } finally {
    for (const event of events) client.off(event, collect);
  }
}

/** `HELLO` is open to every user, unlike `INFO`. */
async function serverIdentity(client: RedisClient): Promise<{ version: number; mode: string }> {
  const reply = (await client.call('HELLO', '2')) as string[];
  const field = (name: string): string => String(reply[reply.indexOf(name) + 1]);
  return { version: Number.parseInt(field('version'), 10), mode: field('mode') };
}

/** Also keeps what a client says of itself from ending the process. */
function rememberLastError(client: RedisClient): () => readonly unknown[] {
  let last: unknown;
  client.on('error', (error: unknown) => (last = error));
  client.on('ready', () => (last = undefined));
  return () => (last === undefined ? [] : [last]);
}

function topologyRefresher(client: RedisClient): () => void {
  return client instanceof Cluster ? () => client.refreshSlotsCache() : () => undefined;
}
