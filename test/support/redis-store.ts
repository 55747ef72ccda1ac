import { randomBytes } from 'node:crypto';
import { createLog, silentLog } from '../../src/observe/log.js';
import { RedisConnection } from '../../src/store/redis/connection.js';
import type { RedisSettings } from '../../src/store/redis/errors.js';
import { type LeaseConnection, type LeaseTimes, RedisLeases } from '../../src/store/redis/leases.js';
import { RedisStore } from '../../src/store/redis/redis-store.js';
import {
  REDIS_PROGRAMS,
  type RedisOptions,
  RedisServer,
  startRedis,
  startRedisCluster,
  startSentinels,
} from './redis-server.js';
import { until } from './temporary.js';
import { only } from './thoroughness.js';

/** Somewhere a store can be: real servers, in one of the ways they are run. */
export interface RedisSetup {
  /** How to get there. Each prefix is a world of its own. */
  settings(prefix?: string): RedisSettings;
  stop(): Promise<void>;
}

/** Every way that we support; what holds in one has to hold in all. */
const REDIS_SETUPS: Readonly<Record<string, () => Promise<RedisSetup>>> = {
  'Redis 7': () => single(),
  'Redis 6.2': () => single({ program: REDIS_PROGRAMS['Redis 6.2'] }),
  Valkey: () => single({ program: REDIS_PROGRAMS.Valkey }),
  'Redis 7, three masters': () => cluster(),
  'Redis 6.2, three masters': () => cluster({ program: REDIS_PROGRAMS['Redis 6.2'] }),
  'Redis 7 with sentinels': () => sentinels(),
};

/** Those that a contract suite runs on: the oldest server and the most that a client has to find its way through, or all. */
export const CONTRACT_SETUPS = only(
  Object.entries(REDIS_SETUPS),
  ([name]) => name === 'Redis 6.2' || name === 'Redis 7, three masters',
);

/** No server is killed there: one that is late because the machine is busy keeps its place, and a start waits for it. */
const NEVER_MISSED_MS = 5_000;
const WAIT_MS = 30_000;

async function single(options: RedisOptions = {}): Promise<RedisSetup> {
  const server = await startRedis(options);
  return {
    settings: (prefix = 'rufh') => ({
      kind: 'single',
      nodes: [{ host: '127.0.0.1', port: server.port }],
      prefix,
      waitMs: WAIT_MS,
    }),
    stop: () => server.stop(),
  };
}

async function cluster(options: RedisOptions = {}): Promise<RedisSetup> {
  const servers = await startRedisCluster({ ...options, missedAfterMs: NEVER_MISSED_MS });
  // The others are found by themselves.
  const nodes = servers.masters.slice(0, 1).map(({ port }) => ({ host: '127.0.0.1', port }));
  return {
    settings: (prefix = 'rufh') => ({ kind: 'cluster', nodes, prefix, waitMs: WAIT_MS }),
    stop: () => servers.stop(),
  };
}

async function sentinels(): Promise<RedisSetup> {
  const set = await startSentinels({ missedAfterMs: NEVER_MISSED_MS });
  const nodes = set.sentinels.map(({ port }) => ({ host: '127.0.0.1', port }));
  return {
    settings: (prefix = 'rufh') => ({ kind: 'sentinel', nodes, masterName: set.name, prefix, waitMs: WAIT_MS }),
    stop: () => set.stop(),
  };
}

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

/** Keeps what one test starts and opens, and ends it after the test, the newest first. */
export class RedisResources {
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

/** What another process has of its own: connections, a store, and leases. */
export interface LeaseProcess {
  readonly leases: RedisLeases;
  readonly store: RedisStore;
  readonly gate: ScriptGate;
  /** The last ticket that was drawn for an upload, 0 before the first. */
  lastTicket(id: string): Promise<number>;
  /** Its connections are gone, and nothing was given back. */
  die(): Promise<void>;
}

export interface ProcessOptions extends Partial<LeaseTimes> {
  /** No message reaches it. */
  readonly isDeaf?: boolean;
}

/** Holds back what a process asks of Redis, as if it were paused at that moment. */
class ScriptGate {
  private readonly scripts = new Set<string>();
  private readonly waiting: { readonly script: string; readonly go: () => void }[] = [];

  hold(script: string): void {
    this.scripts.add(script);
  }

  open(): void {
    this.scripts.clear();
    for (const { go } of this.waiting.splice(0)) go();
  }

  /** Fulfilled when somebody waits here. */
  async arrived(script: string): Promise<void> {
    await until(() => this.waiting.some((held) => held.script === script), `${script} to be called`);
  }

  /** The same connection, with this gate in front of its scripts. */
  before(connection: RedisConnection): Pick<LeaseConnection, 'run' | 'runDurably'> {
    const gated = (run: LeaseConnection['run']): LeaseConnection['run'] => {
      return async (script, keys, args) => {
        if (this.scripts.has(script)) await new Promise<void>((go) => this.waiting.push({ script, go }));
        return run(script, keys, args);
      };
    };
    return {
      run: gated((...call) => connection.run(...call)),
      runDurably: gated((...call) => connection.runDurably(...call)),
    };
  }
}

/** Processes that share one store, which nobody else sees. */
export class LeaseProcesses {
  private readonly members: LeaseProcess[] = [];
  private readonly prefix = randomBytes(6).toString('hex');

  constructor(private readonly settingsOf: (prefix: string) => RedisSettings) {}

  async join({ isDeaf = false, ...times }: ProcessOptions = {}): Promise<LeaseProcess> {
    const connection = await RedisConnection.open(this.settingsOf(this.prefix), silentLog());
    const gate = new ScriptGate();
    const bus = isDeaf ? deafBus(connection) : connection.bus;
    const leases = new RedisLeases({ ...gate.before(connection), keys: connection.keys, bus }, times);
    const store = new RedisStore({ connection, node: '' });
    let isDead = false;
    const die = async (): Promise<void> => {
      if (isDead) return;
      isDead = true;
      leases.close();
      await store.close();
      await connection.close();
    };
    const lastTicket = async (id: string): Promise<number> => {
      const { lease } = connection.keys.upload(id);
      return Number(await connection.call(lease, (client) => client.hget(lease, 'last')));
    };
    const member = { leases, store, gate, lastTicket, die };
    this.members.push(member);
    return member;
  }

  async dispose(): Promise<void> {
    for (const member of this.members) {
      member.gate.open();
      await member.die();
    }
  }
}

function deafBus({ bus }: RedisConnection): RedisConnection['bus'] {
  const nothing = (): void => undefined;
  return Object.create(bus, { on: { value: nothing }, off: { value: nothing } }) as RedisConnection['bus'];
}
