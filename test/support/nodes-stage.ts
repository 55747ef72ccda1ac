import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CuttingProxy } from './cutting-proxy.js';
import type { SpoolKind } from './nodes-plan.js';
import { ProxyProcess, type ProxyOptions } from './proxy.js';
import type { RedisServer } from './redis-server.js';
import { startRedis } from './redis-servers.js';
import { serverPort } from './server-port.js';
import { temporaryDirectory, type TemporaryDirectory } from './temporary.js';

export interface NodesStageOptions {
  readonly origin: string;
  readonly spool: SpoolKind;
  readonly nodes: number;
  /** Settings besides those of the store, the spool and the cluster, as YAML. */
  readonly config?: string;
  readonly flags?: readonly string[];
  /** What the nodes run in place of the built binary. */
  readonly program?: Pick<ProxyOptions, 'program' | 'nodeFlags'>;
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
    const stage = new NodesStage(redis, await temporaryDirectory('rufh-nodes-'), options);
    try {
      for (let at = 0; at < options.nodes; at++) await stage.add(at);
      return stage;
    } catch (error) {
      await stage.close();
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
      ...program,
      origin,
      data,
      flags,
      listen: `127.0.0.1:${ports[0]}`,
      admin: `127.0.0.1:${ports[2]}`,
      config: this.configOf(at),
    };
  }
}
