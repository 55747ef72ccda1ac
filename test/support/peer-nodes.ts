import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from '@jest/globals';
import { buildHandler } from '../../src/app/app.js';
import { Migrator, type MigratorOptions } from '../../src/cluster/migrator.js';
import { OwnerCache } from '../../src/cluster/owner-cache.js';
import { PeerFiles, PeerFilesClient } from '../../src/cluster/peer-files.js';
import { loadConfig } from '../../src/config/load.js';
import { buildRoutes } from '../../src/config/route-table.js';
import { Delivery } from '../../src/delivery/delivery.js';
import { HttpOrigin } from '../../src/delivery/http-origin.js';
import type { CurrentHandler } from '../../src/app/current-handler.js';
import type { UnknownOutcome } from '../../src/model/upload.js';
import { createLog, type Log, silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { PeerSignature } from '../../src/proxy/peer-auth.js';
import { startPeerListener } from '../../src/proxy/peer-listener.js';
import { PeerRelay } from '../../src/proxy/peer-relay.js';
import type { Exchange } from '../../src/server/exchange.js';
import { type Listener, startListener } from '../../src/server/listener.js';
import { TrustedProxies } from '../../src/server/trusted-proxies.js';
import { DiskSpace } from '../../src/spool/disk-space.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { EmbeddedLeases } from '../../src/store/embedded/embedded-leases.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { requestOnce } from './client.js';
import { FakeNodes } from './fake-admin.js';
import { appendLines, clientDialect, creationLines } from './resumable-client.js';
import { temporaryDirectory, type TemporaryDirectory, until } from './temporary.js';
import { SECRET } from './test-listener.js';
import { startTestOrigin, type TestOrigin } from './test-origin.js';
import type { WireResponse } from './wire.js';
import { storedIdOf } from './stored-id.js';
import { testSecrets } from './secrets.js';

/** Nodes with disks of their own around one store, and an origin behind them. */
export class PeerNodes {
  private readonly open: PeerNode[] = [];

  private constructor(
    readonly cluster: Cluster,
    readonly origin: TestOrigin,
    private readonly directory: TemporaryDirectory,
  ) {}

  static async open(ownerTimeoutMs = 60_000): Promise<PeerNodes> {
    const directory = await temporaryDirectory('rufh-peers-');
    const store = await EmbeddedStore.open({
      directory: join(directory.path, 'store'),
      sync: 'none',
      log: silentLog(),
    });
    const origin = await startTestOrigin();
    const nodes = new FakeNodes();
    // Whoever is asked for a lease gives it back, or the test does not end.
    const leases = new EmbeddedLeases(store, { graceMs: 60_000 });
    const shared = { store, leases, nodes, ownerTimeoutMs, directory: directory.path, origin: origin.url };
    return new PeerNodes(shared, origin, directory);
  }

  async node(name: string): Promise<PeerNode> {
    const node = await PeerNode.open(name, this.cluster);
    this.open.push(node);
    return node;
  }

  async close(): Promise<void> {
    await Promise.all(this.open.map((node) => node.stop()));
    await this.origin.close();
    await this.cluster.store.close();
    await this.directory.remove();
  }
}

const FREE_PORT = { kind: 'tcp', host: '127.0.0.1', port: 0 } as const;

/** What all nodes of a cluster share: what is known of uploads, who may write them, and who is there. */
export interface Cluster {
  readonly store: EmbeddedStore;
  readonly leases: EmbeddedLeases;
  readonly nodes: FakeNodes;
  readonly directory: string;
  readonly origin: string;
  readonly ownerTimeoutMs: number;
}

/** One node of a cluster in this process: its own disk, its own listeners. */
export class PeerNode {
  readonly log: Record<string, unknown>[] = [];
  readonly data: string;
  readonly spool: LocalSpool;
  readonly signature: PeerSignature;
  readonly store: UploadStore;
  readonly logger: Log;
  /** Stands before what other nodes leave here. */
  onFiles: (exchange: Exchange, take: () => Promise<void>) => unknown = (_, take) => take();
  isLeaving = false;
  migrator: Migrator | undefined;
  entry!: CurrentHandler;
  relay!: PeerRelay;
  private readonly closers: (() => Promise<unknown>)[] = [];
  private listener!: Listener;
  private peers!: Listener;

  private constructor(
    readonly name: string,
    readonly cluster: Cluster,
  ) {
    this.data = join(cluster.directory, name);
    this.spool = new LocalSpool({ directory: this.data, sync: 'none' });
    this.signature = new PeerSignature(SECRET, name, Date.now);
    this.store = storeFor(name, cluster.store);
    const write = (line: string): void => void this.log.push(JSON.parse(line) as Record<string, unknown>);
    this.logger = createLog({ level: 'info', format: 'json', destination: { write } });
  }

  static async open(name: string, cluster: Cluster): Promise<PeerNode> {
    const node = new PeerNode(name, cluster);
    await node.spool.open();
    await node.start();
    return node;
  }

  get url(): string {
    return this.listener.url;
  }

  get peerUrl(): string {
    return this.peers.url;
  }

  /** Gives its uploads to the others. */
  startMoving(over: Partial<MigratorOptions> = {}): Migrator {
    this.isLeaving = true;
    this.entry.refuseNewUploads();
    const { store, spool, name: self, signature, logger: log } = this;
    const { leases, nodes } = this.cluster;
    nodes.set(self, { isLeaving: true });
    const files = new PeerFilesClient({ signature, idleMs: 2000 });
    const told = { log, metrics: new Metrics(), clock: Date.now };
    const deps = { self, store, leases, spool, nodes, files, ...told };
    this.migrator = new Migrator({ ...deps, ...over, pauseMs: 20, minAgeMs: 0 });
    this.migrator.start();
    return this.migrator;
  }

  /** Files on its disk, as `upload/name`. */
  async files(): Promise<string[]> {
    const names: string[] = [];
    for await (const { id, name } of this.spool.list()) names.push(`${id}/${name}`);
    return names.sort();
  }

  /** Nothing of it answers any more; its disk stays. */
  async stop(): Promise<void> {
    await this.migrator?.stop();
    for (const listener of [this.listener, this.peers]) listener.destroyAll();
    await Promise.all([this.listener.closed, this.peers.closed]);
    for (const close of this.closers.reverse()) await close();
  }

  private async start(): Promise<void> {
    const { cluster, logger: log, signature, name: self, closers } = this;
    const { origin, ownerTimeoutMs, nodes } = cluster;
    const file = join(cluster.directory, `${self}.yaml`);
    await writeFile(file, 'delivery: { client_keys: true }\n');
    const loaded = loadConfig({ file, env: {}, flags: { origin, data: this.data, listen: '127.0.0.1:0' } });
    if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors));
    const { config } = loaded;
    const clocks = { clock: Date.now, expiryClock: Date.now, monotonic: () => performance.now() };
    const routes = buildRoutes(config);
    const shared = { log, metrics: new Metrics(), routes, via: `rufh-proxy-${self}`, node: self };
    const deps = {
      ...clocks,
      ...shared,
      space: new DiskSpace({ directory: this.data, monotonic: clocks.monotonic }),
      secrets: testSecrets(),
      store: this.store,
      spool: this.spool,
      leases: cluster.leases,
    };
    const delivery = new Delivery({
      ...deps,
      origin: new HttpOrigin(),
      worker: randomUUID(),
      random: Math.random,
    });
    closers.push(() => delivery.stop());
    const owners = new OwnerCache(nodes, clocks.monotonic, 0);
    const onUnknownOutcomeReported = (end: UnknownOutcome): Promise<void> => delivery.recordClientInformed(end);
    const relay = new PeerRelay({ self, owners, signature, ownerTimeoutMs, onUnknownOutcomeReported, log });
    closers.push(() => Promise.resolve(relay.close()));
    this.relay = relay;
    const trust = new TrustedProxies([]);
    ({ handler: this.entry } = buildHandler({ config, routes, trust }, { ...deps, delivery, relay, closers }));
    await this.listen(log);
  }

  private async listen(log: Log): Promise<void> {
    const { entry, signature, name, store, spool } = this;
    const files = new PeerFiles({ self: name, store, spool, isLeaving: () => this.isLeaving, log });
    this.listener = await startListener(
      {
        address: FREE_PORT,
        http2: true,
        windows: { stream: 1 << 20, session: 1 << 20 },
        maxConcurrentStreams: 100,
      },
      {
        onRequest: (exchange) => void entry.handle(exchange),
        onUpgrade: (req, socket, head) => entry.upgrade(req, socket, head),
      },
    );
    this.peers = await startPeerListener(
      { address: FREE_PORT, signature, log },
      {
        onRequest: (exchange, client) => void entry.handle(exchange, client),
        onFiles: (exchange) => this.onFiles(exchange, () => files.respond(exchange)),
      },
    );
    this.cluster.nodes.set(name, { url: this.peers.url });
  }
}

/** A store as one node sees it: it looks after that node's uploads alone. */
function storeFor(node: string, store: EmbeddedStore): UploadStore {
  const isOurs = async (id: string): Promise<boolean> => (await store.get(id))?.node === node;
  const ours = async (ids: readonly string[]): Promise<string[]> => {
    const owned = await Promise.all(ids.map(isOurs));
    return ids.filter((_, at) => owned[at]);
  };
  const own: Partial<UploadStore> = {
    dueDeliveries: async (now) => ours(await store.dueDeliveries(now)),
    expired: async (now) => ours(await store.expired(now)),
  };
  return Object.assign(Object.create(store) as UploadStore, own);
}

const dialect = clientDialect('10');

/** A node named `old` that is going to give its uploads to one named `other`. */
export class MigrationNodes {
  private constructor(
    readonly peers: PeerNodes,
    readonly old: PeerNode,
    readonly other: PeerNode,
    /** The bytes of every upload. */
    readonly bytes: Buffer,
  ) {}

  static async open(bytes: Buffer): Promise<MigrationNodes> {
    const peers = await PeerNodes.open();
    return new MigrationNodes(peers, await peers.node('old'), await peers.node('other'), bytes);
  }

  close(): Promise<void> {
    return this.peers.close();
  }

  /** An upload with the old node that has so many bytes; gives its path. */
  async uploadWith(count: number, target = '/files'): Promise<string> {
    const headers = creationLines(dialect, { complete: false, length: this.bytes.length });
    const body = this.bytes.subarray(0, count);
    const created = await requestOnce(this.old.url, { method: 'POST', target, headers, body });
    expect(created.status).toBe(201);
    return new URL(created.header('Location')!).pathname;
  }

  idOf(path: string): string {
    return storedIdOf(path);
  }

  async nodeOf(path: string): Promise<string | undefined> {
    return (await this.peers.cluster.store.get(this.idOf(path)))?.node;
  }

  async phaseOf(path: string): Promise<string | undefined> {
    return (await this.peers.cluster.store.get(this.idOf(path)))?.phase;
  }

  head(path: string, node: PeerNode): Promise<WireResponse> {
    const headers = [['Upload-Draft-Interop-Version', '10']] as const;
    return requestOnce(node.url, { method: 'HEAD', target: path, headers });
  }

  append(path: string, node: PeerNode, from: number, to = this.bytes.length): Promise<WireResponse> {
    const headers = appendLines(dialect, { offset: from, complete: to === this.bytes.length });
    return requestOnce(node.url, { method: 'PATCH', target: path, headers, body: this.bytes.subarray(from, to) });
  }

  async done(migrator: Migrator): Promise<void> {
    await until(
      () => migrator.progress.isDone,
      () => `the end of the moves: ${JSON.stringify(migrator.progress)}`,
    );
  }

  /** What the origin has got as a whole. */
  received(target: string): { size: number; sum: string }[] {
    const whole = this.peers.origin.requests.filter(
      (request) => request.target === target && request.ended === 'whole',
    );
    return whole.map(({ size, sha256: sum }) => ({ size, sum }));
  }
}
