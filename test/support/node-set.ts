import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Haproxy } from './haproxy.js';
import { startProxy, type ProxyProcess } from './proxy.js';
import { startRedis } from './redis-servers.js';
import type { RedisServer } from './redis-server.js';
import { serverPort } from './server-port.js';
import { spooledBytes } from './spooled.js';
import type { StagedProxy } from './stage.js';
import { temporaryDirectory, until, type TemporaryDirectory } from './temporary.js';

/** Where nodes keep the bytes: in one directory that all of them see, or each in its own. */
export type Bytes = 'shared' | 'node-local';

export interface NodeSetOptions {
  readonly origin: string;
  readonly nodes: number;
  readonly bytes: Bytes;
  /** `cluster.owner_timeout`. */
  readonly ownerTimeout?: string;
  /** More settings of every node, as YAML. */
  readonly config?: string;
  /** Where the bytes are; removed with `stop` unless it was given. */
  readonly data?: string;
}

/** Several built proxies behind HAProxy, which gives every request to the next one, with one Redis. */
export class NodeSet implements StagedProxy {
  readonly isRelayed = true;

  private constructor(
    readonly redis: RedisServer,
    readonly haproxy: Haproxy,
    /** Named `n1`, `n2` and so on. */
    private readonly nodes: Map<string, ProxyProcess>,
    readonly data: string,
    private readonly temporary: TemporaryDirectory,
  ) {}

  static async start(options: NodeSetOptions): Promise<NodeSet> {
    const temporary = await temporaryDirectory('rufh-nodes-');
    const data = options.data ?? join(temporary.path, 'data');
    const closing: (() => Promise<unknown>)[] = [() => temporary.remove()];
    try {
      const redis = await startRedis({ settings: ['appendonly yes', 'appendfsync always'] });
      closing.push(() => redis.stop());
      const nodes = new Map<string, ProxyProcess>();
      for (const name of namesOf(options.nodes)) {
        const node = await startNode(name, { ...options, data }, redis.url);
        nodes.set(name, node);
        closing.push(() => node.stop());
      }
      return new NodeSet(redis, await Haproxy.start(backendsOf(nodes)), nodes, data, temporary);
    } catch (error) {
      for (const close of closing.reverse()) await close();
      throw error;
    }
  }

  get url(): string {
    return this.haproxy.url;
  }

  get names(): string[] {
    return [...this.nodes.keys()];
  }

  /** What all of them logged. */
  get log(): Record<string, unknown>[] {
    return [...this.nodes.values()].flatMap(({ log }) => log);
  }

  node(name: string): ProxyProcess {
    return this.nodes.get(name)!;
  }

  /** Waits until so many bytes of an upload have reached a disk, committed or not. */
  async untilSpooled(upload: { readonly target: string }, bytes: number): Promise<void> {
    await until(async () => (await this.spooled(upload)).some((size) => size >= bytes), `${bytes} bytes in a spool`);
  }

  /** Waits until no disk has a byte of an upload. */
  async untilGone(upload: { readonly target: string }): Promise<void> {
    await until(async () => (await this.spooled(upload)).every((size) => size === 0), 'an upload to be gone');
  }

  /** The nodes with bytes of an upload in directories of their own. */
  async holdersOf(upload: { readonly target: string }): Promise<string[]> {
    const [, ...sizes] = await this.spooled(upload);
    return this.names.filter((_, at) => sizes[at]! > 0);
  }

  /** Whatever a node was about to do is not done any more; HAProxy has noticed. */
  async kill(name: string, signal: NodeJS.Signals = 'SIGKILL'): Promise<number | NodeJS.Signals> {
    const end = await this.node(name).kill(signal);
    await this.haproxy.untilNoticed(name, 'DOWN');
    return end;
  }

  /** It stays connected and does nothing until it is told to go on. */
  pause(name: string): void {
    process.kill(this.node(name).pid, 'SIGSTOP');
  }

  resume(name: string): void {
    process.kill(this.node(name).pid, 'SIGCONT');
  }

  /** Kills it where it runs, and starts it again as the same node; HAProxy has noticed. */
  async restart(name: string): Promise<void> {
    const node = this.node(name);
    this.nodes.set(name, await node.restart());
    await this.haproxy.untilNoticed(name, 'UP');
  }

  async stop(): Promise<void> {
    await this.haproxy.stop();
    await Promise.all([...this.nodes.values()].map((node) => node.stop()));
    await this.redis.stop();
    await this.temporary.remove();
  }

  /** How many bytes of an upload each directory has. */
  private spooled({ target }: { readonly target: string }): Promise<number[]> {
    const directories = [this.data, ...this.names.map((name) => join(this.data, name))];
    return Promise.all(directories.map((directory) => spooledBytes(directory, target.split('/').at(-1)!)));
  }
}

function namesOf(count: number): string[] {
  return Array.from({ length: count }, (_, at) => `n${at + 1}`);
}

async function startNode(
  name: string,
  options: NodeSetOptions & { readonly data: string },
  redis: string,
): Promise<ProxyProcess> {
  const { origin, bytes, data, config = '' } = options;
  const own = bytes === 'shared' ? data : join(data, name);
  await mkdir(own, { recursive: true });
  // It comes back on the same ports, which nobody may get while it is away.
  const [listen, admin] = [`127.0.0.1:${await serverPort()}`, `127.0.0.1:${await serverPort()}`];
  return startProxy({ origin, data: own, listen, admin, config: `${await settings(options, redis)}${config}` });
}

async function settings({ bytes, ownerTimeout = '10m' }: NodeSetOptions, redis: string): Promise<string> {
  return `
store: { type: redis, url: '${redis}' }
spool: { shared: ${bytes === 'shared'} }
trusted_proxies: [{ cidr: 127.0.0.1, relays_interim: true }]
${bytes === 'shared' ? '' : await clusterSettings(ownerTimeout)}
`;
}

async function clusterSettings(ownerTimeout: string): Promise<string> {
  const port = await serverPort();
  const address = `listen: 127.0.0.1:${port}, advertise: 'http://127.0.0.1:${port}'`;
  return `cluster: { ${address}, secret: for-tests-only-7f1c93, owner_timeout: ${ownerTimeout} }`;
}

function backendsOf(nodes: ReadonlyMap<string, ProxyProcess>) {
  return [...nodes].map(([name, { url, adminUrl }]) => ({
    name,
    address: new URL(url).host,
    admin: new URL(adminUrl).host,
  }));
}
