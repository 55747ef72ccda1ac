import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { serverPort } from './server-port.js';
import { temporaryDirectory, within, type TemporaryDirectory } from './temporary.js';

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
