import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { serverPort, temporaryDirectory, type TemporaryDirectory, until, within } from './temporary.js';

const cached = (path: string): string => fileURLToPath(new URL(`../../.cache/${path}`, import.meta.url));

/** The servers we are tested with; `test/install-needs` brings them. */
export const REDIS_PROGRAMS = {
  'Redis 7': 'redis-server',
  'Redis 6.2': cached('redis-6/redis-server'),
  Valkey: cached('valkey/valkey-server'),
} as const;

export interface RedisOptions {
  /** One of `REDIS_PROGRAMS`; the system's own by default. */
  readonly program?: string;
  /** Lines of its configuration file, as `appendonly yes`. Nothing is written to disk by default. */
  readonly settings?: readonly string[];
  /** Started with `--sentinel`. */
  readonly isSentinel?: boolean;
  /** What `redis-cli` needs to get in, as `['-a', 'secret']` or `['--tls', '--cacert', file]`. */
  readonly cliArgs?: readonly string[];
}

/** A real server on 127.0.0.1 with a directory of its own, whatever happens to it. */
export class RedisServer {
  private child: ChildProcess | undefined;
  /** What it said so far. */
  readonly lines: string[] = [];

  private constructor(
    private readonly options: RedisOptions,
    private readonly directory: TemporaryDirectory,
    readonly port: number,
  ) {}

  /** Starts one and waits until it takes commands. */
  static async start(options: RedisOptions = {}): Promise<RedisServer> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await RedisServer.startOn(await serverPort(), options);
      } catch (error) {
        // Another server may have got the port since we looked.
        if (attempt === 3 || !/already in use/.test(String(error))) throw error;
      }
    }
  }

  private static async startOn(port: number, options: RedisOptions): Promise<RedisServer> {
    const directory = await temporaryDirectory('rufh-redis-');
    const server = new RedisServer(options, directory, port);
    try {
      await server.writeSettings();
      await server.run();
      return server;
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  get pid(): number {
    return this.child!.pid!;
  }

  get running(): boolean {
    return this.child !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  /** What `redis-cli` says to a command; fails where the server does. */
  async cli(...command: string[]): Promise<string> {
    const line = ['-e', '-h', '127.0.0.1', '-p', `${this.port}`, ...(this.options.cliArgs ?? []), ...command];
    const { stdout } = await promisify(execFile)('redis-cli', line, { timeout: 20_000, maxBuffer: 2 ** 26 });
    return stdout.trimEnd();
  }

  /** It stays connected and says nothing more, as a machine that hangs. */
  pause(): void {
    this.child!.kill('SIGSTOP');
  }

  resume(): void {
    this.child!.kill('SIGCONT');
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (!this.running) return;
    const ended = once(this.child!, 'exit');
    this.child!.kill(signal);
    await within(ended, `the server to end after ${signal}`);
  }

  /** Kills it where it runs, and starts it again on the same port and data. */
  async restart(): Promise<void> {
    await this.kill();
    await this.run();
  }

  /** Ends it and removes its directory. */
  async stop(): Promise<void> {
    await this.kill();
    await this.directory.remove();
  }

  private async writeSettings(): Promise<void> {
    const { settings = [], isSentinel } = this.options;
    const data = join(this.directory.path, 'data');
    await mkdir(data);
    const own = [`port ${this.port}`, 'bind 127.0.0.1', `dir ${data}`];
    const quick = isSentinel ? [] : ['save ""', 'repl-diskless-sync-delay 0'];
    await writeFile(this.settingsFile, [...own, ...quick, ...settings, ''].join('\n'));
  }

  private get settingsFile(): string {
    return join(this.directory.path, 'server.conf');
  }

  private async run(): Promise<void> {
    const { program = REDIS_PROGRAMS['Redis 7'], isSentinel } = this.options;
    const line = [this.settingsFile, ...(isSentinel ? ['--sentinel'] : [])];
    this.child = spawn(program, line, { stdio: ['ignore', 'pipe', 'pipe'] });
    await within(this.ready(this.child), `${program} to take commands`, 60_000);
  }

  private ready(child: ChildProcess): Promise<void> {
    const from = this.lines.length;
    return new Promise((resolve, reject) => {
      createInterface({ input: child.stdout! }).on('line', (line) => {
        this.lines.push(line);
        if (/Ready to accept connections|\+monitor/.test(line)) resolve();
      });
      createInterface({ input: child.stderr! }).on('line', (line) => this.lines.push(line));
      child.once('error', reject);
      child.once('close', () => reject(new Error(`the server ended:\n${this.lines.slice(from).join('\n')}`)));
    });
  }
}

/** One real server, ready. */
export function startRedis(options: RedisOptions = {}): Promise<RedisServer> {
  return RedisServer.start(options);
}

export interface RedisCluster {
  readonly masters: readonly RedisServer[];
  readonly replicas: readonly RedisServer[];
  /** URLs of all masters, to begin with. */
  readonly urls: readonly string[];
  stop(): Promise<void>;
}

const SLOTS = 16_384;

/** Those that a test kills are missed soon; where none is to be, one that only stands still for a moment is no loss. */
const MISSED_AFTER_MS = 1000;

interface Watching {
  /** How long a server says nothing before the others take it for dead. */
  readonly missedAfterMs?: number;
}

/** A cluster that serves every slot; replicas are in step with their masters. */
export async function startRedisCluster(
  options: RedisOptions & Watching & { readonly masters?: number; readonly replicas?: number } = {},
): Promise<RedisCluster> {
  const { masters = 3, replicas = 0, missedAfterMs = MISSED_AFTER_MS, ...rest } = options;
  const settings = ['cluster-enabled yes', `cluster-node-timeout ${missedAfterMs}`, ...(rest.settings ?? [])];
  const servers = await startAll(masters * (1 + replicas), () => RedisServer.start({ ...rest, settings }));
  try {
    await joinCluster(servers, masters);
  } catch (error) {
    await stopAll(servers);
    throw error;
  }
  return {
    masters: servers.slice(0, masters),
    replicas: servers.slice(masters),
    urls: servers.slice(0, masters).map(({ url }) => url),
    stop: () => stopAll(servers),
  };
}

export interface SentinelSet {
  /** The data servers; which of them is the master changes. */
  readonly servers: readonly RedisServer[];
  readonly sentinels: readonly RedisServer[];
  readonly name: string;
  readonly urls: readonly string[];
  /** Whom the first sentinel that runs calls the master now. */
  master(): Promise<RedisServer>;
  stop(): Promise<void>;
}

/** A master, its replicas, and sentinels that replace it within a few seconds. */
export async function startSentinels(
  options: RedisOptions & Watching & { readonly replicas?: number; readonly sentinels?: number } = {},
): Promise<SentinelSet> {
  const { replicas = 1, sentinels = 3, missedAfterMs = MISSED_AFTER_MS, ...rest } = options;
  const name = 'mymaster';
  const first = await RedisServer.start(rest);
  const servers = [first];
  const watchers: RedisServer[] = [];
  const stop = (): Promise<void> => stopAll([...watchers, ...servers]);
  const following = { ...rest, settings: [...(rest.settings ?? []), `replicaof 127.0.0.1 ${first.port}`] };
  const watching = {
    program: rest.program,
    isSentinel: true,
    settings: watchSettings(name, first.port, sentinels, missedAfterMs),
  };
  try {
    servers.push(...(await startAll(replicas, () => RedisServer.start(following))));
    await eachSays(servers.slice(1), ['info', 'replication'], /master_link_status:up/);
    watchers.push(...(await startAll(sentinels, () => RedisServer.start(watching))));
    await eachSays(watchers, ['sentinel', 'master', name], knowsAll(replicas, sentinels - 1));
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    servers,
    sentinels: watchers,
    name,
    urls: watchers.map(({ url }) => url),
    master: () => masterOf(watchers, servers, name),
    stop,
  };
}

async function joinCluster(servers: readonly RedisServer[], masters: number): Promise<void> {
  await Promise.all(servers.slice(0, masters).map((server, at) => server.cli(...slotsOf(at, masters))));
  await Promise.all(servers.map((server, at) => server.cli('cluster', 'set-config-epoch', `${at + 1}`)));
  for (const server of servers.slice(1)) await servers[0]!.cli('cluster', 'meet', '127.0.0.1', `${server.port}`);
  const whole = new RegExp(`cluster_state:ok[^]*cluster_known_nodes:${servers.length}\\s`);
  await eachSays(servers.slice(0, masters), ['cluster', 'info'], whole);
  await eachSays(servers, ['cluster', 'info'], whole);
  const ids = await Promise.all(servers.slice(0, masters).map((server) => server.cli('cluster', 'myid')));
  const replicas = servers.slice(masters);
  await Promise.all(replicas.map((server, at) => server.cli('cluster', 'replicate', ids[at % masters]!)));
  await eachSays(replicas, ['info', 'replication'], /master_link_status:up/);
  for (const id of ids.slice(0, replicas.length))
    await eachSays(servers, ['cluster', 'nodes'], new RegExp(`slave ${id}`));
}

/** One by one, because Redis 6 knows no ranges. */
function slotsOf(at: number, masters: number): string[] {
  const [from, to] = [at, at + 1].map((edge) => Math.floor((SLOTS * edge) / masters));
  return ['cluster', 'addslots', ...Array.from({ length: to! - from! }, (_, slot) => `${from! + slot}`)];
}

function watchSettings(name: string, port: number, sentinels: number, missedAfterMs: number): string[] {
  return [
    `sentinel monitor ${name} 127.0.0.1 ${port} ${Math.floor(sentinels / 2) + 1}`,
    `sentinel down-after-milliseconds ${name} ${missedAfterMs}`,
    `sentinel failover-timeout ${name} 3000`,
  ];
}

/** A sentinel that does not know its fellows, or the replicas, replaces nobody. */
function knowsAll(replicas: number, others: number): RegExp {
  return new RegExp(`num-slaves\n${replicas}\n[^]*num-other-sentinels\n${others}\n`);
}

async function masterOf(
  sentinels: readonly RedisServer[],
  servers: readonly RedisServer[],
  name: string,
): Promise<RedisServer> {
  const asked = sentinels.find(({ running }) => running)!;
  const [, port] = (await asked.cli('sentinel', 'get-master-addr-by-name', name)).split('\n');
  return servers.find((server) => `${server.port}` === port)!;
}

async function eachSays(servers: readonly RedisServer[], command: string[], expected: RegExp): Promise<void> {
  let last = '';
  const said = async (server: RedisServer): Promise<boolean> => expected.test((last = await server.cli(...command)));
  for (const server of servers)
    await until(
      () => said(server),
      () => `${command.join(' ')} at ${server.port} says ${String(expected)}:\n${last}`,
      60_000,
    );
}

/** All of them, or none. */
async function startAll(count: number, start: () => Promise<RedisServer>): Promise<RedisServer[]> {
  const starting = await Promise.allSettled(Array.from({ length: count }, start));
  const started = starting.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  const failed = starting.find((result) => result.status === 'rejected');
  if (!failed) return started;
  await stopAll(started);
  throw failed.reason;
}

async function stopAll(servers: readonly RedisServer[]): Promise<void> {
  await Promise.all(servers.map((server) => server.stop()));
}
