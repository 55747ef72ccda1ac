import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from '@jest/globals';
import { spooledBytes } from './disk.js';
import { Haproxy } from './front-proxies.js';
import { CuttingProxy } from './network.js';
import type { SpoolKind } from './nodes-campaign.js';
import { type ProxyOptions, ProxyProcess, startProxy } from './proxy-process.js';
import { type RedisServer, startRedis } from './redis-server.js';
import type { ResumableUpload } from './resumable-client.js';
import { serverPort, temporaryDirectory, type TemporaryDirectory, until } from './temporary.js';
import { type RunningProxy, TestProxy } from './test-proxy.js';
import { only } from './thoroughness.js';

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
export class NodeSet implements RunningProxy {
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

/** Every number of nodes and place of the bytes that flows are tried on. */
const ALL_SETS: readonly { readonly nodes: number; readonly bytes: Bytes }[] = [
  { nodes: 2, bytes: 'shared' },
  { nodes: 2, bytes: 'node-local' },
  { nodes: 3, bytes: 'shared' },
  { nodes: 3, bytes: 'node-local' },
];

export const SETS = only(ALL_SETS, ({ nodes }) => nodes === 2);

/** A stage whose proxy is several nodes behind HAProxy. */
export class NodeStage {
  private constructor(
    readonly proxy: TestProxy,
    readonly set: NodeSet,
  ) {}

  static async open(options: Omit<NodeSetOptions, 'origin' | 'data'>): Promise<NodeStage> {
    let set: NodeSet | undefined;
    const proxy = await TestProxy.open({}, async ({ origin, data }) => {
      return (set = await NodeSet.start({ ...options, origin, data }));
    });
    return new NodeStage(proxy, set!);
  }

  /** So many requests were for this upload, counting its creation, and each went to another node than the one before. */
  async expectSpread(upload: ResumableUpload, creation: string, count: number): Promise<void> {
    const nodes = await this.set.haproxy.untilRelayed(
      [new URL(creation, this.proxy.base).pathname, upload.target],
      count,
    );
    expect(nodes).toHaveLength(count);
    expect(nodes.filter((node, at) => node === nodes[at - 1])).toEqual([]);
    for (const node of nodes) expect(this.set.names).toContain(node);
  }

  /** The node that has an upload's bytes on its disk. */
  async ownerOf(upload: ResumableUpload): Promise<string> {
    return (await this.set.holdersOf(upload))[0]!;
  }

  close(): Promise<void> {
    return this.proxy.close();
  }
}

export interface NodesStageOptions {
  readonly origin: string;
  readonly spool: SpoolKind;
  readonly nodes: number;
  /** Settings besides those of the store, the spool and the cluster, as YAML. */
  readonly config?: string;
  readonly flags?: readonly string[];
  /** What the nodes run in place of the built binary. */
  readonly program?: ProxyOptions['program'];
}

/** With `everysec` a Redis that is killed may lose two seconds: it replies before it writes while its disk is busy. */
const AOF = ['appendonly yes', 'appendfsync always'];

const MOST_STARTS = 5;

const SECRET = 'a secret of these nodes only';

/** One node, its own way to Redis, and where it is told to be. */
interface Place {
  readonly network: CuttingProxy;
  /** Of the public listener, the internal one and the admin's. */
  readonly ports: readonly [number, number, number];
  readonly data: string;
  proxy?: ProxyProcess;
}

/** Nodes of one cluster as processes, Redis, and a network between them that can be cut. */
export class NodesStage {
  private readonly places: Place[] = [];

  private constructor(
    readonly redis: RedisServer,
    private readonly directory: TemporaryDirectory,
    private readonly options: NodesStageOptions,
  ) {}

  static async open(options: NodesStageOptions): Promise<NodesStage> {
    const redis = await startRedis({ settings: AOF });
    const nodes = new NodesStage(redis, await temporaryDirectory('rufh-nodes-'), options);
    try {
      for (let at = 0; at < options.nodes; at++) await nodes.add(at);
      return nodes;
    } catch (error) {
      await nodes.close();
      throw error;
    }
  }

  get size(): number {
    return this.places.length;
  }

  /** Where the node listens, whether it runs or not. */
  url(at: number): string {
    return `http://127.0.0.1:${this.places[at]!.ports[0]}`;
  }

  adminAddress(at: number): string {
    return `127.0.0.1:${this.places[at]!.ports[2]}`;
  }

  /** The process that is the node now. */
  node(at: number): ProxyProcess {
    return this.places[at]!.proxy!;
  }

  /** The node's way to Redis. */
  network(at: number): CuttingProxy {
    return this.places[at]!.network;
  }

  /** Where bytes are: one directory, or one a node. */
  get dataDirectories(): string[] {
    return [...new Set(this.places.map(({ data }) => data))];
  }

  /** Starts the node again on its address and its disk, as its supervisor does; it has to have ended. */
  async revive(at: number, changes: Partial<ProxyOptions> = {}): Promise<ProxyProcess> {
    const place = this.places[at]!;
    for (let tries = 1; ; tries++) {
      await place.proxy?.stop();
      place.proxy = await ProxyProcess.spawn({ ...this.processOptions(at, place), ...changes });
      try {
        return await place.proxy.listening();
      } catch (error) {
        // A start may fail while Redis does.
        if (tries === MOST_STARTS || !String(error).includes('Redis at')) throw error;
      }
    }
  }

  /** The settings of one node. */
  configOf(at: number, more = this.options.config ?? ''): string {
    const { network, ports } = this.places[at]!;
    const isShared = this.options.spool === 'shared';
    const cluster = `cluster: { listen: '127.0.0.1:${ports[1]}', advertise: 'http://127.0.0.1:${ports[1]}', secret: '${SECRET}' }`;
    return [
      `store: { type: redis, url: 'redis://127.0.0.1:${network.port}', wait: 60s }`,
      `spool: { shared: ${isShared} }`,
      ...(isShared ? [] : [cluster]),
      more,
    ].join('\n');
  }

  async close(): Promise<void> {
    for (const { proxy } of this.places) await proxy?.stop();
    await Promise.all(this.places.map(({ network }) => network.stop()));
    await this.redis.stop();
    await this.directory.remove();
  }

  private async add(at: number): Promise<void> {
    const network = await CuttingProxy.start(this.redis.port);
    const ports = [await serverPort(), await serverPort(), await serverPort()] as const;
    const data = join(this.directory.path, this.options.spool === 'shared' ? 'data' : `data-${at}`);
    await mkdir(data, { recursive: true });
    const place: Place = { network, ports, data };
    this.places.push(place);
    place.proxy = await ProxyProcess.spawn(this.processOptions(at, place));
    await place.proxy.listening();
  }

  private processOptions(at: number, { ports, data }: Place): ProxyOptions {
    const { origin, flags, program } = this.options;
    return {
      program,
      origin,
      data,
      flags,
      listen: `127.0.0.1:${ports[0]}`,
      admin: `127.0.0.1:${ports[2]}`,
      config: this.configOf(at),
    };
  }
}
