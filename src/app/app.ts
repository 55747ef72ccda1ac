import { randomBytes, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { AdminResponse, AdminRequest } from '../admin/admin-http.js';
import { respondToAdmin, type DrainApi, type HealthCheck, startAdmin } from '../admin/admin.js';
import type { UploadsApi } from '../admin/uploads-api.js';
import { Drain, type DrainMigrator, NoMigrator } from '../cluster/drain.js';
import type { Config } from '../config/config.js';
import { buildRoutes } from '../config/route-table.js';
import { Delivery } from '../delivery/delivery.js';
import { expectedRequest } from '../delivery/origin-request.js';
import { UndiciOrigin } from '../delivery/undici-origin.js';
import { Authorizer } from '../handler/authorize.js';
import { Cors } from '../handler/cors.js';
import { Discovery } from '../handler/discovery.js';
import { HttpHandler, type HandlerOptions } from '../handler/handler.js';
import { StatusPages, UploadRequestHandler } from '../handler/upload-handler.js';
import { UploadLookup } from '../handler/upload-lookup.js';
import { viaName } from '../model/forwarded.js';
import type { Routes } from '../model/route.js';
import type { UnknownOutcome } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import { type MetricValues, Metrics } from '../observe/metrics.js';
import { MissingRelay, type Relay } from '../proxy/peer-relay.js';
import { ReverseProxy } from '../proxy/reverse-proxy.js';
import { clientLimits, type ConnectionGate, NumberedConnections } from '../server/connection-limits.js';
import { type Listener, startListener } from '../server/listener.js';
import { RequestRates } from '../server/slow-clients.js';
import { TrustedProxies } from '../server/trusted-proxies.js';
import { isStoreUnavailable, type Totals } from '../store/upload-store.js';
import { SteadyClock, Sweep } from '../uploads/cleanup.js';
import { Uploads } from '../uploads/uploads.js';
import { type Membership, type MembershipDeps, openMembership } from './membership.js';
import { openRedisStorage } from './redis-storage.js';
import { type Closer, openEmbeddedStorage, type Storage, type StorageDeps, type Timings, TIMINGS } from './storage.js';

/** A running proxy. */
export interface App {
  /** Where its listeners can be reached, in the order of the configuration. */
  readonly urls: readonly string[];
  readonly adminUrl?: string;
  /** The name by which others know this node; missing where it has none. */
  readonly node?: string;
  /** What its admin listener would answer: for a process that listens for several proxies. */
  readonly admin: {
    respond(request: AdminRequest): Promise<AdminResponse>;
    metricValues(): Promise<MetricValues>;
  };
  /** For a process that takes connections for this one: which of them have ended, and that there are too many. */
  readonly connections: {
    whenEnded(listener: (number: number) => void): void;
    endIdle(): void;
  };
  /** Drains: requests that feed uploads commit what they have, deliveries under way may end within the grace time. */
  stop(): Promise<void>;
}

/** For what the last deliveries have come to, when they took all the time there was. */
const LAST_WORDS_MS = 500;

const MEBIBYTE = 1024 * 1024;

/** Builds every room from the configuration and starts them: records and bytes first, listeners last. */
export async function startApp(config: Config, log: Log, version?: string, timings = TIMINGS): Promise<App> {
  const opened: Closer[] = [];
  try {
    return await open(config, { log, metrics: new Metrics(version), timings, opened });
  } catch (error) {
    // Why it did not start is what is to be told.
    await closeAll(opened).catch(() => undefined);
    throw error;
  }
}

/** Closes last what was opened first, and all of it; then fails with what failed first. */
async function closeAll(opened: Closer[]): Promise<void> {
  const failures: unknown[] = [];
  for (const close of opened.splice(0).reverse()) await close().catch((error: unknown) => failures.push(error));
  if (failures.length > 0) throw failures[0];
}

interface Opening extends Pick<StorageDeps, 'log' | 'timings' | 'opened'> {
  readonly metrics: Metrics;
}

async function open(config: Config, { log, metrics, timings, opened }: Opening): Promise<App> {
  const { everyMs, longestAgeMs } = sweepTimes(config);
  const monotonic = (): number => performance.now();
  const steady = new SteadyClock({ wall: Date.now, monotonic, settleMs: longestAgeMs });
  const expiryClock = (): number => steady.now();
  const storage = await openStorage(config, {
    log,
    metrics,
    clock: Date.now,
    expiryClock,
    longestAgeMs,
    timings,
    opened,
  });
  const via = viaName(randomBytes(6).toString('hex'));
  const clocks = { clock: Date.now, monotonic, expiryClock };
  const deps = { ...storage, ...clocks, log, metrics, via, timings, routes: buildRoutes(config) };
  const health: Health = { isListening: false };
  const checks = [listeningCheck(health), drainingCheck(health), ...storage.checks];
  const operators: { uploadsApi?: UploadsApi; drain?: DrainApi } = {};
  const adminDeps = { metrics, checks, uploadsApi: () => operators.uploadsApi, drain: () => operators.drain, log };
  const admin = config.admin && (await startAdmin({ ...config.admin, ...adminDeps }));
  if (admin) opened.push(() => admin.close());
  await storage.recover();
  const sweep = new Sweep({ ...deps, everyMs, longestAgeMs, orphanAgeMs: timings.orphanAgeMs });
  opened.push(() => sweep.stop());
  const delivery = buildDelivery(config, deps);
  opened.push(() => delivery.stop());
  const requestRates = buildRequestRates(config, metrics);
  const reverseProxy = new ReverseProxy({
    ...clientFacingSettings(config),
    log,
    metrics,
    via,
    idleTimeoutMs: config.idleTimeoutMs,
    requestRates,
  });
  opened.push(() => reverseProxy.close());
  const uploads = buildUploads(config, { ...deps, delivery });
  const onUnknownOutcomeReported = (end: UnknownOutcome): Promise<void> => delivery.recordClientInformed(end);
  const membership = await openCluster(config, { ...deps, opened, onUnknownOutcomeReported });
  const relay = membership?.relay ?? new MissingRelay(deps);
  const trust = new TrustedProxies(config.trustedProxies);
  const authorizer = new Authorizer(log, via, clientFacingSettings(config), expectedRequest);
  opened.push(() => Promise.resolve(authorizer.close()));
  const entry = buildHandler(config, {
    ...deps,
    authorizer,
    delivery,
    reverseProxy,
    uploads,
    relay,
    requestRates,
    trust,
    onUnknownOutcomeReported,
  });
  const listing = { list: storage.store.list.bind(storage.store), setAsideRecords: storage.setAside };
  operators.uploadsApi = { ...deps, store: listing, uploads, delivery, nodes: storage.others?.nodes };
  operators.drain = buildDrain({
    health,
    entry,
    migrator: membership?.migrator ?? noMigrator(config, storage),
    membership,
    log,
  });
  // First: an upload of a node that the others do not know is no upload to them.
  const internal = membership && (await membership.join(entry));
  if (internal) opened.push(() => untilClosed([internal], 0));
  const listeners: Listener[] = [];
  const endIdle = (): void => listeners.forEach((listener) => listener.endIdle());
  const gate = new NumberedConnections(clientLimits({ settings: config.connections, ...deps, trust, endIdle }));
  await listen(config, { entry, gate, trust, metrics, log, listeners, opened });
  health.isListening = true;

  metrics.countConnections(() => listeners.reduce((sum, { connections }) => sum + connections, 0));
  metrics.countUploads(async () => (await totalsIn(storage))?.phases);
  metrics.countUnreadable(async () => (await storage.setAside()).length);
  metrics.countUnknown(() => storage.unknownUploads?.());
  metrics.countSpoolBytes(async () => (await totalsIn(storage))?.bytes);
  delivery.start();
  sweep.start();
  return {
    urls: listeners.map(({ url }) => url),
    adminUrl: admin?.url,
    ...(storage.node === undefined ? {} : { node: storage.node }),
    connections: { whenEnded: (listener) => gate.onEnded(listener), endIdle },
    admin: { respond: (request) => respondToAdmin(adminDeps, request), metricValues: () => metrics.values() },
    stop: async () => {
      const until = performance.now() + config.stop.graceMs;
      health.why = 'the process is stopping';
      for (const listener of listeners) listener.stopAccepting();
      entry.drain();
      storage.leases.drain();
      await delivery.stop();
      const remainingMs = Math.max(until - performance.now(), LAST_WORDS_MS);
      await untilClosed(internal ? [...listeners, internal] : listeners, remainingMs);
      await closeAll(opened);
    },
  };
}

/** Undefined while the store is away: that must not keep operators from all other figures. */
async function totalsIn({ store }: Storage): Promise<Totals | undefined> {
  try {
    return await store.totals();
  } catch (error) {
    if (isStoreUnavailable(error)) return undefined;
    throw error;
  }
}

function openStorage(config: Config, deps: StorageDeps): Promise<Storage> {
  const { store } = config;
  return store.type === 'redis' ? openRedisStorage({ ...config, store }, deps) : openEmbeddedStorage(config, deps);
}

/** Undefined where every node reaches the bytes, and for a node that is alone. */
async function openCluster(
  { cluster }: Config,
  { node, others, ...deps }: Storage & Omit<MembershipDeps, 'node' | 'others'>,
): Promise<Membership | undefined> {
  if (!cluster || node === undefined || !others) return undefined;
  return openMembership(cluster, { ...deps, node, others });
}

type DeliveryContext = Storage & {
  readonly log: Log;
  readonly metrics: Metrics;
  /** The name by which this proxy knows itself again. */
  readonly via: string;
  readonly clock: () => number;
  readonly timings: Timings;
  /** Milliseconds by a clock that nobody sets. */
  readonly monotonic: () => number;
  readonly expiryClock: () => number;
  readonly routes: Routes;
};

function buildDelivery(config: Config, deps: DeliveryContext): Delivery {
  return new Delivery({
    ...deps,
    origin: new UndiciOrigin(),
    worker: randomUUID(),
    claimMs: deps.timings.claimMs,
    returnGraceMs: deps.othersDeliver ? deps.timings.returnGraceMs : 0,
    random: Math.random,
    stopGraceMs: config.stop.graceMs,
  });
}

function buildUploads(config: Config, deps: DeliveryContext & { readonly delivery: Delivery }): Uploads {
  return new Uploads({
    ...deps,
    feeds: deps.delivery,
    newId: () => randomBytes(24).toString('base64url'),
    newDeliveryKey: () => randomUUID(),
    pace: config.spool.sync === 'always' ? { bytes: 0, everyMs: 0 } : { bytes: 16 * MEBIBYTE, everyMs: 1000 },
  });
}

function buildHandler(
  config: Config,
  deps: DeliveryContext & {
    readonly authorizer: Authorizer;
    readonly delivery: Delivery;
    readonly reverseProxy: ReverseProxy;
    readonly uploads: Uploads;
    readonly relay: Relay;
    readonly requestRates: RequestRates;
    readonly trust: TrustedProxies;
    readonly onUnknownOutcomeReported: HandlerOptions['onUnknownOutcomeReported'];
  },
): HttpHandler {
  const { path: uploadsPath, rfc104 } = config.uploads;
  const cors = new Cors(config.cors);
  return new HttpHandler({
    ...deps,
    uploadLookup: new UploadLookup({ ...deps, uploadsPath }),
    statusPages: new StatusPages({ ...deps, ...clientFacingSettings(config) }),
    uploadRequests: new UploadRequestHandler({
      ...deps,
      ...clientFacingSettings(config),
      idleMs: config.idleTimeoutMs,
      uploadsPath,
    }),
    discovery: new Discovery({ ...deps, cors }),
    cors,
    uploadsPath,
    interimMode: config.interimResponses,
    rfcInterim: rfc104,
  });
}

/** The settings that decide how answers of origins name this proxy to clients. */
function clientFacingSettings({ uploads: { publicUrl }, altSvc }: Config): { publicUrl?: string; altSvc?: string } {
  return { publicUrl, altSvc };
}

/** A body that sends nothing at all has `idle_timeout`, so that it is never given less. */
function buildRequestRates({ minRate, idleTimeoutMs }: Config, metrics: Metrics): RequestRates {
  const windowMs = Math.max(minRate.windowMs, idleTimeoutMs);
  return new RequestRates({ bytesPerSecond: minRate.request ?? 0, windowMs }, () => metrics.slowClient('request'));
}

/** How many times as long a client may take its answer too slowly: the buffers on the way move in large steps. */
const RESPONSE_WINDOWS = 5;

interface ListenDeps extends Pick<DeliveryContext, 'log' | 'metrics'> {
  readonly entry: HttpHandler;
  readonly gate: ConnectionGate;
  readonly trust: Pick<TrustedProxies, 'trusts'>;
  /** Those that listen so far. */
  readonly listeners: Listener[];
  readonly opened: Closer[];
}

async function listen(
  config: Config,
  { entry, gate, trust, metrics, log, listeners, opened }: ListenDeps,
): Promise<void> {
  const { minRate, headTimeoutMs } = config;
  for (const { address, tls, http2, mode, keepAliveMs } of config.listeners) {
    const listener = await startListener(
      {
        address: address.kind === 'unix' ? { ...address, mode } : address,
        http2,
        tls: tls && { cert: await readFile(tls.cert), key: await readFile(tls.key) },
        windows: { stream: config.http2.streamWindowBytes, session: config.http2.sessionWindowBytes },
        maxConcurrentStreams: config.http2.maxStreams,
        keepAliveTimeoutMs: keepAliveMs,
        headersTimeoutMs: headTimeoutMs,
        gate,
        isSharedPeer: (address) => trust.trusts(address),
        responseRate: { bytesPerSecond: minRate.response ?? 0, windowMs: minRate.windowMs * RESPONSE_WINDOWS },
        onSlowReader: ({ remoteAddress }) => {
          metrics.slowClient('response');
          log.info({ client: remoteAddress }, 'a client is given up: it does not take its answer');
        },
      },
      {
        onRequest: (exchange) => void entry.handle(exchange),
        onUpgrade: (req, socket, head) => entry.upgrade(req, socket, head),
      },
    );
    listeners.push(listener);
    opened.push(() => untilClosed([listener], 0));
  }
}

/** Connections that nothing is under way on end at once, the others with their response, all of them at the deadline. */
async function untilClosed(listeners: readonly Listener[], graceMs: number): Promise<void> {
  for (const listener of listeners) listener.stopAccepting();
  const deadline = setTimeout(() => listeners.forEach((listener) => listener.destroyAll()), graceMs);
  await Promise.all(listeners.map(({ closed }) => closed));
  clearTimeout(deadline);
}

/** Whether this process should get requests, as far as it is its own will. */
interface Health {
  isListening: boolean;
  /** Why no more of them. */
  why?: string;
}

function listeningCheck(health: Health): HealthCheck {
  return { name: 'listening', check: () => Promise.resolve(health.isListening ? undefined : 'it is still starting') };
}

function drainingCheck(health: Health): HealthCheck {
  return { name: 'draining', check: () => Promise.resolve(health.why) };
}

interface DrainDeps {
  readonly health: Health;
  readonly entry: HttpHandler;
  readonly membership: Membership | undefined;
  readonly migrator: DrainMigrator;
  readonly log: Log;
}

function buildDrain({ health, entry, membership, migrator, log }: DrainDeps): Drain {
  const leave = async (): Promise<void> => {
    health.why ??= 'this node is being drained';
    entry.refuseNewUploads();
    await membership?.leave();
  };
  return new Drain({ leave, migrator, log });
}

function noMigrator({ spool }: Config, { store, node }: Storage): NoMigrator {
  return new NoMigrator({ store, node, shared: spool.shared });
}

/** Often enough that nothing outlives its time by much, seldom enough that nobody notices. */
function sweepTimes({ defaultRoute, routes }: Config): { readonly everyMs: number; readonly longestAgeMs: number } {
  const ages = [defaultRoute, ...routes.map(({ route }) => route)].flatMap(({ limits, delivery }) => [
    limits.maxAgeSeconds * 1000,
    delivery.keepAnswerMs,
  ]);
  return { everyMs: Math.min(60_000, Math.max(250, Math.min(...ages) / 4)), longestAgeMs: Math.max(...ages) };
}
