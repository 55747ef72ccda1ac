import { type ChildProcess, spawn } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { temporaryDirectory, type TemporaryDirectory, until, within } from './temporary.js';

const BINARY = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));
const PROGRAM = fileURLToPath(new URL('proxy-program.mjs', import.meta.url));

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
  /** Another checkout's binary. */
  readonly binary?: string;
  /** One of the variants in `proxy-program.mjs`, run in place of the built binary. */
  readonly program?: 'own-uploads' | 'short-claims';
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
      env: { ...process.env, NODE_OPTIONS: '', TEST_PROXY: options.program ?? '', ...options.env },
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
    const next = await startProxy({ ...this.options, data: this.data, listen: host, ...changes });
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
  return listeningOrStopped(await ProxyProcess.spawn(options));
}

async function listeningOrStopped(proxy: ProxyProcess): Promise<ProxyProcess> {
  try {
    return await proxy.listening();
  } catch (error) {
    await proxy.stop();
    throw error;
  }
}

async function commandLine(options: ProxyOptions, data: string, directory: string): Promise<string[]> {
  const program = options.program ? [PROGRAM] : [options.binary ?? BINARY];
  const line = [...(options.nodeFlags ?? []), ...program, 'serve'];
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

export interface WorkerPoolOptions extends ProxyOptions {
  readonly workers?: number;
  /** This worker's process throws while it starts, or ends with code 7. */
  readonly failing?: number;
  readonly ending?: number;
  /** Its directory is for these workers alone. */
  readonly ownSpool?: boolean;
}

/** Several processes of the proxy with one in front, each with uploads of its own; waits for nothing. */
export function spawnWorkers({
  workers = 2,
  failing,
  ending,
  ownSpool = false,
  config = '',
  ...options
}: WorkerPoolOptions): Promise<ProxyProcess> {
  // The program never asks this server.
  const store = 'store: { type: redis, url: redis://127.0.0.1:1 }\n';
  const spool = `spool: { shared: ${!ownSpool} }\n`;
  return ProxyProcess.spawn({
    program: 'own-uploads',
    ...options,
    config: `workers: ${workers}\n${store}${spool}${config}`,
    env: {
      ...options.env,
      ...(failing === undefined ? {} : { FAILING_WORKER: String(failing) }),
      ...(ending === undefined ? {} : { ENDING_WORKER: String(ending) }),
    },
  });
}

/** Waits until all of them listen. */
export async function startWorkers(options: WorkerPoolOptions): Promise<ProxyProcess> {
  return listeningOrStopped(await spawnWorkers(options));
}

/** Pids of the processes that have been workers, oldest first. */
export function workerPids(pool: ProxyProcess, worker?: number): number[] {
  const said = [...pool.errors, ...pool.lines].filter((line) => line.startsWith('{'));
  return said
    .map((line) => JSON.parse(line) as { msg: string; worker: number; workerPid: number })
    .filter((line) => line.msg === 'worker listening' && (worker === undefined || line.worker === worker))
    .map(({ workerPid }) => workerPid);
}

export async function untilGone(pids: readonly number[]): Promise<void> {
  await until(() => !pids.some(runs), `the processes ${pids.join(', ')} to end`, 20_000);
}

/** Waits for a state of the process: `T` when it stands still, `Z` when it has died and nobody has heard of it. */
export async function untilState(pid: number, state: 'T' | 'Z'): Promise<void> {
  const stat = (): Promise<string> => readFile(`/proc/${pid}/stat`, 'utf8');
  await until(async () => (await stat()).split(') ')[1]!.startsWith(state), `process ${pid} to be in state ${state}`);
}

function runs(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
