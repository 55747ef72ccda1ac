import { spawn, type ChildProcess } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { temporaryDirectory, until, within, type TemporaryDirectory } from './temporary.js';

const BINARY = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));

export interface ProxyOptions {
  readonly origin?: string;
  /** Where records and bytes are; a temporary directory by default, removed with `stop`. */
  readonly data?: string;
  /** Text of a configuration file (YAML). */
  readonly config?: string;
  readonly listen?: string;
  readonly admin?: string;
  readonly flags?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Another Node than the one that runs the tests. */
  readonly node?: string;
  readonly nodeFlags?: readonly string[];
  /** Run in place of the built binary, with the same flags. */
  readonly program?: string;
}

/** One run of the built binary. */
export class ProxyProcess {
  /** Lines of its log so far. */
  readonly lines: string[] = [];
  readonly errors: string[] = [];
  /** Fulfilled with its exit code, or the name of the signal that ended it. */
  readonly exited: Promise<number | NodeJS.Signals>;
  private settled = false;

  private constructor(
    private readonly child: ChildProcess,
    readonly options: ProxyOptions,
    readonly data: string,
    private readonly temporary: TemporaryDirectory,
  ) {
    this.exited = new Promise((resolve) => {
      child.once('close', (code, signal) => {
        this.settled = true;
        resolve(code ?? signal ?? -1);
      });
    });
    createInterface({ input: child.stdout! }).on('line', (line) => this.lines.push(line));
    createInterface({ input: child.stderr! }).on('line', (line) => this.errors.push(line));
  }

  /** Starts it and waits for nothing: for what never comes to listen. */
  static async spawn(options: ProxyOptions): Promise<ProxyProcess> {
    const temporary = await temporaryDirectory('rufh-proxy-');
    const data = options.data ?? join(temporary.path, 'data');
    const child = spawn(options.node ?? process.execPath, await commandLine(options, data, temporary.path), {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NODE_OPTIONS: '', ...options.env },
    });
    return new ProxyProcess(child, options, data, temporary);
  }

  get pid(): number {
    return this.child.pid!;
  }

  get running(): boolean {
    return !this.settled;
  }

  /** Its log as objects, oldest first; lines that are no JSON are left out. */
  get log(): Record<string, unknown>[] {
    return this.lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  /** Where it listens, from the first line of its output. */
  get url(): string {
    return this.announced('url') ?? '';
  }

  get adminUrl(): string {
    return this.announced('adminUrl') ?? this.announced('admin') ?? '';
  }

  /** Waits until it says that it listens; fails with its output when it ends instead. */
  async listening(): Promise<this> {
    await until(() => this.url !== '' || this.settled, 'the proxy to listen', 60_000);
    if (this.url !== '') return this;
    throw new Error(`the proxy ended with ${await this.exited}:\n${[...this.lines, ...this.errors].join('\n')}`);
  }

  /** Sends a signal and waits for its end. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<number | NodeJS.Signals> {
    this.child.kill(signal);
    return within(this.exited, `the proxy to end after ${signal}`, 20_000);
  }

  /** Kills it if it runs, and starts it again on the same address and data. */
  async restart(changes: Partial<ProxyOptions> = {}): Promise<ProxyProcess> {
    const { host } = new URL(this.url);
    if (this.running) await this.kill();
    const next = await ProxyProcess.spawn({ ...this.options, data: this.data, listen: host, ...changes });
    try {
      await next.listening();
    } catch (error) {
      await next.stop();
      throw error;
    }
    next.inherited.push(this.temporary, ...this.inherited);
    return next;
  }

  /** Ends it and removes what it wrote to temporary places. */
  async stop(): Promise<void> {
    if (this.running) await this.kill();
    await Promise.all([this.temporary, ...this.inherited].map((directory) => directory.remove()));
  }

  private readonly inherited: TemporaryDirectory[] = [];

  private announced(key: string): string | undefined {
    const line = this.log.find((entry) => entry['msg'] === 'listening' && typeof entry[key] === 'string');
    return line?.[key] as string | undefined;
  }
}

/** Starts the built binary on free ports of 127.0.0.1 and waits until it listens. Needs `npm run build`. */
export async function startProxy(options: ProxyOptions): Promise<ProxyProcess> {
  const proxy = await ProxyProcess.spawn(options);
  try {
    return await proxy.listening();
  } catch (error) {
    await proxy.stop();
    throw error;
  }
}

async function commandLine(options: ProxyOptions, data: string, directory: string): Promise<string[]> {
  const line = [...(options.nodeFlags ?? []), options.program ?? BINARY, 'serve'];
  if (options.config !== undefined) {
    const file = join(directory, 'rufh-proxy.yaml');
    await writeFile(file, options.config);
    line.push('--config', file);
  }
  if (options.origin !== undefined) line.push('--origin', options.origin);
  const hasListeners = options.listen === undefined && /^listen:/m.test(options.config ?? '');
  if (!hasListeners) line.push('--listen', options.listen ?? '127.0.0.1:0');
  line.push('--admin', options.admin ?? '127.0.0.1:0');
  return [...line, '--data', data, '--log-format', 'json', ...(options.flags ?? [])];
}
