import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { uploadTag } from '../../src/observe/log.js';
import { spooledBytes } from './disk.js';
import { Haproxy } from './front-proxies.js';
import { CuttingProxy } from './network.js';
import { ProxyProcess, type ProxyOptions } from './proxy-process.js';
import { type RedisServer, startRedis } from './redis-server.js';
import type { ResumableUpload } from './resumable-client.js';
import { serverPort, temporaryDirectory, type TemporaryDirectory, until } from './temporary.js';
import { type RunningProxy, TestProxy } from './test-proxy.js';
import { only } from './thoroughness.js';
import { storedIdOf } from './stored-id.js';

/** Where nodes keep the bytes: in one directory that all of them see, or each in its own. */
export const SPOOLS = ['shared', 'node-local'] as const;
export type Bytes = (typeof SPOOLS)[number];

/** Every number of nodes and place of the bytes that flows are tried on. */
const ALL_SETS = [2, 3].flatMap((nodes) => SPOOLS.map((bytes) => ({ nodes, bytes })));

export const SETS = only(ALL_SETS, ({ nodes }) => nodes === 2);

export interface TestNodesOptions {
  readonly origin: string;
  readonly nodes: number;
  readonly bytes: Bytes;
  /** `cluster.owner_timeout`. */
  readonly ownerTimeout?: string;
  /** More settings of every node, as YAML. */
  readonly config?: string;
  readonly flags?: readonly string[];
  readonly program?: ProxyOptions['program'];
  /** Where the bytes are; removed with `stop` unless it was given. */
  readonly data?: string;
  /**
   * Each node reaches Redis over a network that can be cut, and clients ask the node of their choice. Without it HAProxy
   * gives every request to the next node.
   */
  readonly isCuttable?: boolean;
}

/** With `everysec` a Redis that is killed may lose two seconds: it replies before it writes while its disk is busy. */
const DURABLE = ['appendonly yes', 'appendfsync always'];

const SECRET = 'for-tests-only-7f1c93';

const MOST_STARTS = 5;

/** One node: what stays when its process ends. It comes back on the same ports, which nobody else gets meanwhile. */
interface Member {
  readonly name: string;
  readonly data: string;
  readonly ports: { readonly listen: number; readonly peers: number; readonly admin: number };
  readonly network?: CuttingProxy;
  process?: ProxyProcess;
}

/** A node by its name (`n1`, `n2` …) or by its number, from 0. */
type Which = string | number;

/** The nodes of one cluster as processes of the built binary, with one Redis. */
export class TestNodes implements RunningProxy {
  private readonly members: Member[] = [];
  private balancer: Haproxy | undefined;

  private constructor(
    readonly redis: RedisServer,
    private readonly temporary: TemporaryDirectory,
    private readonly options: TestNodesOptions,
  ) {}

  static async start(options: TestNodesOptions): Promise<TestNodes> {
    const redis = await startRedis({ settings: DURABLE });
    const nodes = new TestNodes(redis, await temporaryDirectory('rufh-nodes-'), options);
    try {
      for (let at = 0; at < options.nodes; at++) await nodes.add(`n${at + 1}`);
      if (!options.isCuttable) nodes.balancer = await Haproxy.start(nodes.backends());
      return nodes;
    } catch (error) {
      await nodes.stop();
      throw error;
    }
  }

  /** Where HAProxy listens. */
  get url(): string {
    return this.haproxy.url;
  }

  get haproxy(): Haproxy {
    return this.balancer!;
  }

  get isRelayed(): boolean {
    return this.balancer !== undefined;
  }

  get names(): string[] {
    return this.members.map(({ name }) => name);
  }

  get data(): string {
    return this.options.data ?? join(this.temporary.path, 'data');
  }

  /** Where bytes are: one directory, or one a node. */
  get dataDirectories(): string[] {
    return [...new Set(this.members.map(({ data }) => data))];
  }

  /** What all of them logged. */
  get log(): Record<string, unknown>[] {
    return this.members.flatMap(({ process: { log } = { log: [] } }) => log);
  }

  /** Where a node listens, whether it runs or not. */
  urlOf(which: Which): string {
    return `http://127.0.0.1:${this.member(which).ports.listen}`;
  }

  /** The process that is the node now. */
  node(which: Which): ProxyProcess {
    return this.member(which).process!;
  }

  /** The node's way to Redis. */
  network(which: Which): CuttingProxy {
    return this.member(which).network!;
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
    const sizes = await this.spooled(upload);
    return this.names.filter((_, at) => sizes[at]! > 0);
  }

  /** So many requests were for this upload, counting its creation, and each went to another node than the one before. */
  async expectSpread(upload: ResumableUpload, creation: string, count: number): Promise<void> {
    const used = await this.haproxy.untilRelayed([creation, upload.target], count);
    const isSpread = used.every((node, at) => node !== used[at - 1] && this.names.some((name) => name === node));
    if (used.length !== count || !isSpread)
      throw new Error(`${count} requests were not spread over ${this.names.join(', ')}: ${used.join(', ')}`);
  }

  /** Whatever a node was about to do is not done any more; HAProxy has noticed. */
  async kill(which: Which, signal: NodeJS.Signals = 'SIGKILL'): Promise<number | NodeJS.Signals> {
    const end = await this.node(which).kill(signal);
    await this.balancer?.untilNoticed(this.member(which).name, 'DOWN');
    return end;
  }

  /** It stays connected and does nothing until it is told to go on. */
  pause(which: Which): void {
    process.kill(this.node(which).pid, 'SIGSTOP');
  }

  resume(which: Which): void {
    process.kill(this.node(which).pid, 'SIGCONT');
  }

  /** Kills it where it runs, and starts it again as the same node, as its supervisor does; HAProxy has noticed. */
  async restart(which: Which, changes: Partial<ProxyOptions> = {}): Promise<void> {
    const member = this.member(which);
    for (let tries = 1; ; tries++) {
      await member.process?.stop();
      member.process = await ProxyProcess.spawn({ ...this.processOptions(member), ...changes });
      try {
        await member.process.listening();
        break;
      } catch (error) {
        // A start may fail while Redis does.
        if (tries === MOST_STARTS || !String(error).includes('Redis at')) throw error;
      }
    }
    await this.balancer?.untilNoticed(member.name, 'UP');
  }

  /** The settings of one node. */
  configOf(which: Which, more = this.options.config ?? ''): string {
    const { bytes, isCuttable = false, ownerTimeout = '10m' } = this.options;
    const { network, ports } = this.member(which);
    const redis = network ? `'redis://127.0.0.1:${network.port}', wait: 60s` : `'${this.redis.url}'`;
    const peers = `listen: '127.0.0.1:${ports.peers}', advertise: 'http://127.0.0.1:${ports.peers}'`;
    return [
      `store: { type: redis, url: ${redis} }`,
      `spool: { shared: ${bytes === 'shared'} }`,
      ...(isCuttable ? [] : ['trusted_proxies: [{ cidr: 127.0.0.1, relays_interim: true }]']),
      ...(bytes === 'shared' ? [] : [`cluster: { ${peers}, secret: ${SECRET}, owner_timeout: ${ownerTimeout} }`]),
      more,
    ].join('\n');
  }

  async stop(): Promise<void> {
    await this.balancer?.stop();
    await Promise.all(this.members.map(async ({ process: running }) => running?.stop()));
    await Promise.all(this.members.map(async ({ network }) => network?.stop()));
    await this.redis.stop();
    await this.temporary.remove();
  }

  private async add(name: string): Promise<void> {
    const data = this.options.bytes === 'shared' ? this.data : join(this.data, name);
    await mkdir(data, { recursive: true });
    const ports = { listen: await serverPort(), peers: await serverPort(), admin: await serverPort() };
    const network = this.options.isCuttable ? await CuttingProxy.start(this.redis.port) : undefined;
    const member: Member = { name, data, ports, network };
    this.members.push(member);
    member.process = await ProxyProcess.spawn(this.processOptions(member));
    await member.process.listening();
  }

  private processOptions({ name, data, ports }: Member): ProxyOptions {
    const { origin, flags, program } = this.options;
    const listeners = { listen: `127.0.0.1:${ports.listen}`, admin: `127.0.0.1:${ports.admin}` };
    return { origin, data, flags, program, ...listeners, config: this.configOf(name) };
  }

  private member(which: Which): Member {
    return this.members.find(({ name }, at) => which === name || which === at)!;
  }

  private backends() {
    return this.members.map(({ name, ports }) => ({
      name,
      address: `127.0.0.1:${ports.listen}`,
      admin: `127.0.0.1:${ports.admin}`,
    }));
  }

  /** How many bytes of an upload each directory has. */
  private spooled({ target }: { readonly target: string }): Promise<number[]> {
    return Promise.all(this.dataDirectories.map((directory) => spooledBytes(directory, storedIdOf(target))));
  }
}

/** An origin and several nodes in front of it, behind HAProxy; closing the proxy ends the nodes. */
export async function openNodes(
  options: Omit<TestNodesOptions, 'origin' | 'data'>,
): Promise<{ readonly proxy: TestProxy; readonly nodes: TestNodes }> {
  let nodes: TestNodes | undefined;
  const proxy = await TestProxy.open(
    {},
    async ({ origin, data }) => (nodes = await TestNodes.start({ ...options, origin, data })),
  );
  return { proxy, nodes: nodes! };
}

/** What nodes have said at last that should not have happened, and how often what may. */
export class NodesLog {
  readonly counts: Record<string, number> = {};
  /** Requests that were ended because a newer one had come. */
  takeovers = 0;
  private readonly faults: string[] = [];
  private readonly lines: string[] = [];
  private readonly undelivered: Record<string, number> = {};

  /** Takes in all that a process said; it has to have ended. */
  read(node: ProxyProcess): void {
    this.faults.push(...node.errors);
    this.lines.push(...node.lines);
    for (const line of node.log) this.note(line);
  }

  /** How often an upload was given up without an answer: each time its client may ask for another delivery. */
  givenUp(id: string): number {
    return this.undelivered[uploadTag(id)] ?? 0;
  }

  /** What was said of an upload, by those who have ended and by these who run. */
  about(id: string, running: readonly ProxyProcess[]): string[] {
    const tag = uploadTag(id);
    const all = [...this.lines, ...running.flatMap(({ lines }) => lines)].filter((line) => line.includes(tag));
    return all.sort((a, b) => timeOf(a).localeCompare(timeOf(b)));
  }

  /** Fails with what no broken network excuses. */
  check(): void {
    if (this.faults.length > 0) throw new Error(`the nodes complained:\n${this.faults.join('\n')}`);
  }

  private note(line: Record<string, unknown>): void {
    const { level, msg, err, interrupted, phase, upload } = line;
    if (interrupted === 'taken-over') this.takeovers += 1;
    if (phase === 'undelivered') this.undelivered[String(upload)] = (this.undelivered[String(upload)] ?? 0) + 1;
    if (level === 'warn' || level === 'error') this.count(String(msg).split(':')[0]!);
    const isExcused =
      (err as { code?: string } | undefined)?.code === 'STORE_UNAVAILABLE' ||
      /^(Redis is not available|the store does not answer)/.test(String(msg)) ||
      /^(Redis|the Redis) /.test(String(line['reason']));
    if (level === 'fatal' || (level === 'error' && !isExcused)) this.faults.push(JSON.stringify(line));
  }

  private count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }
}

function timeOf(line: string): string {
  return /"time":"([^"]*)"/.exec(line)?.[1] ?? '';
}
