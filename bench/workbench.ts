import { rmSync } from 'node:fs';
import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ProxyOptions, type ProxyProcess, startProxy } from '../test/support/proxy-process.js';
import { cpuSeconds, forgetHighestMemory, residentMemory } from './process-figures.js';

export const KIB = 1024;
export const MIB = 1024 ** 2;
export const GIB = 1024 ** 3;

/** How thoroughly is measured, and where. */
export interface Thoroughness {
  readonly isQuick: boolean;
  readonly rounds: number;
  /** Where all servers keep their bytes; the system's temporary directory when not given. */
  readonly data?: string;
  /** More flags for `rufh-proxy serve`. */
  readonly proxyFlags: readonly string[];
}

/** All load comes from one address. */
export const UNLIMITED_CLIENTS = 'limits: { uploads: { total: null, per_client: null, rate: null } }\n';

/** What a contest is held with: directories and servers that end with it. */
export class Bench {
  private readonly closers: (() => Promise<unknown>)[] = [];
  private directories = 0;

  constructor(
    readonly thoroughness: Thoroughness,
    private readonly root: string,
  ) {}

  get isQuick(): boolean {
    return this.thoroughness.isQuick;
  }

  /** A number for a whole run, and a smaller one for a quick one. */
  either<T>(whole: T, quick: T): T {
    return this.isQuick ? quick : whole;
  }

  /** A new empty directory on the disk that is measured. */
  async directory(): Promise<string> {
    const path = join(this.root, `${this.directories++}`);
    await mkdir(path);
    return path;
  }

  /** Waits until something has started, and stops it when the contest is over. */
  async use<T extends { stop(): Promise<unknown> }>(starting: Promise<T>): Promise<T> {
    const started = await starting;
    this.closers.push(() => started.stop());
    return started;
  }

  /** The built proxy. It logs warnings only: none of the peers writes a line for each request. */
  async startOurs(options: ProxyOptions): Promise<ProxyProcess> {
    const flags = ['--log-level', 'warn', ...this.thoroughness.proxyFlags];
    const data = options.data ?? (await this.directory());
    return startProxy({ flags, ...options, data, config: `${options.config ?? ''}\n${UNLIMITED_CLIENTS}` });
  }

  /** The same, until the contest is over. */
  useOurs(options: ProxyOptions): Promise<ProxyProcess> {
    return this.use(this.startOurs(options));
  }

  async close(): Promise<void> {
    for (const close of this.closers.reverse()) await close();
  }
}

/** Holds a contest, or whatever else needs servers, and ends them all. */
export async function withBench<T>(thoroughness: Thoroughness, task: (bench: Bench) => Promise<T>): Promise<T> {
  const root = await mkdtemp(join(thoroughness.data ?? tmpdir(), 'rufh-bench-'));
  const remove = (): void => rmSync(root, { recursive: true, force: true, maxRetries: 5 });
  process.once('exit', remove);
  const bench = new Bench(thoroughness, root);
  try {
    return await task(bench);
  } finally {
    await bench.close();
    remove();
    process.off('exit', remove);
  }
}

/** What a client's work costs a server: CPU seconds of its processes, and their highest resident memory meanwhile. */
export async function costOf<T>(
  { pid }: { readonly pid: number },
  work: () => Promise<T>,
): Promise<{ readonly value: T; readonly cpuSeconds: number; readonly peakMib: number }> {
  forgetHighestMemory(pid);
  const before = cpuSeconds(pid);
  const value = await work();
  return { value, cpuSeconds: cpuSeconds(pid) - before, peakMib: (residentMemory(pid)?.highest ?? Number.NaN) / MIB };
}
