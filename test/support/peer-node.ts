import { randomBytes, randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Migrator, type MigratorOptions } from '../../src/cluster/migrator.js';
import { OwnerCache } from '../../src/cluster/owner-cache.js';
import { PeerFiles, PeerFilesClient } from '../../src/cluster/peer-files.js';
import { loadConfig } from '../../src/config/load.js';
import { buildRoutes } from '../../src/config/route-table.js';
import { Delivery } from '../../src/delivery/delivery.js';
import { UndiciOrigin } from '../../src/delivery/undici-origin.js';
import { Authorizer } from '../../src/handler/authorize.js';
import { Cors } from '../../src/handler/cors.js';
import { Discovery } from '../../src/handler/discovery.js';
import { HttpHandler, type HandlerOptions } from '../../src/handler/handler.js';
import { StatusPages, UploadRequestHandler } from '../../src/handler/upload-handler.js';
import { UploadLookup } from '../../src/handler/upload-lookup.js';
import { createLog, type Log } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { PeerSignature } from '../../src/proxy/peer-auth.js';
import { startPeerListener } from '../../src/proxy/peer-listener.js';
import { PeerRelay } from '../../src/proxy/peer-relay.js';
import { ReverseProxy } from '../../src/proxy/reverse-proxy.js';
import type { Exchange } from '../../src/server/exchange.js';
import { type Listener, startListener } from '../../src/server/listener.js';
import { TrustedProxies } from '../../src/server/trusted-proxies.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import type { EmbeddedLeases, EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { Uploads } from '../../src/uploads/uploads.js';
import type { FakeNodes } from './fake-nodes.js';
import { SECRET } from './peer-front.js';

const UPLOADS_PATH = '/.uploads/';
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
  entry!: HttpHandler;
  relay!: PeerRelay;
  private delivery!: Delivery;
  private passThrough!: ReverseProxy;
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
    await this.delivery.stop();
    await this.passThrough.close();
    this.relay.close();
  }

  private async start(): Promise<void> {
    const { cluster, logger: log, store, spool, signature, name } = this;
    const { leases, ownerTimeoutMs, nodes, origin } = cluster;
    const file = join(cluster.directory, `${name}.yaml`);
    await writeFile(file, 'delivery: { client_keys: true }\n');
    const loaded = loadConfig({ file, env: {}, flags: { origin, data: this.data, listen: '127.0.0.1:0' } });
    if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors));
    const { config } = loaded;
    const metrics = new Metrics();
    const deps = {
      store,
      leases,
      spool,
      log,
      metrics,
      clock: Date.now,
      monotonic: () => performance.now(),
      routes: buildRoutes(config),
      node: name,
    };
    this.delivery = new Delivery({ ...deps, origin: new UndiciOrigin(), worker: randomUUID(), random: Math.random });
    this.passThrough = new ReverseProxy({ log });
    const clientKnows: HandlerOptions['onUnknownOutcomeReported'] = (end) => this.delivery.recordClientInformed(end);
    const owners = new OwnerCache(nodes, () => performance.now(), 0);
    this.relay = new PeerRelay({
      self: name,
      owners,
      signature,
      ownerTimeoutMs,
      onUnknownOutcomeReported: clientKnows,
      log,
    });
    const uploads = new Uploads({
      ...deps,
      delivery: this.delivery,
      newId: () => randomBytes(24).toString('base64url'),
      newDeliveryKey: () => randomUUID(),
      pace: { bytes: 65_536, everyMs: 20 },
    });
    const access = new Authorizer(log);
    const cors = new Cors(config.cors);
    this.entry = new HttpHandler({
      ...deps,
      authorizer: access,
      reverseProxy: this.passThrough,
      relay: this.relay,
      uploadLookup: new UploadLookup({ ...deps, uploads, authorizer: access, uploadsPath: UPLOADS_PATH }),
      statusPages: new StatusPages({ uploads }),
      uploadRequests: new UploadRequestHandler({
        ...deps,
        uploads,
        authorizer: access,
        idleMs: 30_000,
        uploadsPath: UPLOADS_PATH,
      }),
      discovery: new Discovery({ reverseProxy: this.passThrough, cors }),
      trust: new TrustedProxies([]),
      cors,
      onUnknownOutcomeReported: clientKnows,
      uploadsPath: UPLOADS_PATH,
      interimMode: 'auto',
      rfcInterim: false,
    });
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
