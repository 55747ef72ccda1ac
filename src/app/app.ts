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
import { HttpOrigin } from '../delivery/http-origin.js';
import { Authorizer } from '../handler/authorize.js';
import { Cors } from '../handler/cors.js';
import { Discovery } from '../handler/discovery.js';
import { HttpHandler } from '../handler/handler.js';
import { StatusPages, UploadRequestHandler } from '../handler/upload-handler.js';
import { UploadLookup } from '../handler/upload-lookup.js';
import { viaName } from '../model/forwarded.js';
import type { Routes } from '../model/route.js';
import type { UnknownOutcome, Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import { type MetricValues, Metrics } from '../observe/metrics.js';
import { MissingRelay, type Relay } from '../proxy/peer-relay.js';
import { ReverseProxy } from '../proxy/reverse-proxy.js';
import type { UploadSecrets } from '../secrets/upload-secrets.js';
import { clientLimits, type ConnectionGate, NumberedConnections } from '../server/connection-limits.js';
import { type Listener, startListener } from '../server/listener.js';
import { RequestRates } from '../server/slow-clients.js';
import { TrustedProxies } from '../server/trusted-proxies.js';
import { isStoreUnavailable, type Totals } from '../store/upload-store.js';
import { BodyMemory } from '../uploads/body-memory.js';
import { SteadyClock, Cleanup } from '../uploads/cleanup.js';
import { KeyRotation } from '../uploads/key-rotation.js';
import { Uploads } from '../uploads/uploads.js';
import { type Membership, type MembershipDeps, openMembership } from './membership.js';
import { openRedisStorage } from './redis-storage.js';
import { type OpenedSecrets, openSecrets } from './secrets.js';
import { type Closer, openEmbeddedStorage, type Storage, type StorageDeps, type Timings, TIMINGS } from './storage.js';

/** A running proxy. */
export interface App {
  /** The URLs of its listeners, in the order of the configuration. */
  readonly urls: readonly string[];
  readonly adminUrl?: string;
  /** The name of this node in the cluster; missing without a spool of its own. */
  readonly node?: string;
  /** The admin API without its listener, for a primary process that listens for several workers. */
  readonly admin: {
    respond(request: AdminRequest): Promise<AdminResponse>;
    metricValues(): Promise<MetricValues>;
  };
  /** For a primary process that accepts connections for this one. */
  readonly connections: {
    /** Calls `listener` with the number of each connection that ended. */
    onEnded(listener: (number: number) => void): void;
    /** Ends idle connections, when there are too many connections. */
    endIdle(): void;
  };
  /** Stops gracefully: uploads commit what they have received, deliveries may finish within the grace time. */
  stop(): Promise<void>;
}

const MEBIBYTE = 1024 * 1024;

/** Builds the proxy from its configuration and starts it: storage first, listeners last. */
export async function startApp(config: Config, log: Log, version?: string, timings = TIMINGS): Promise<App> {
  const closers: Closer[] = [];
  try {
    return await open(config, { log, metrics: new Metrics(version), timings, closers });
  } catch (error) {
    // The reason why the start failed matters more than errors while closing.
    await closeAll(closers).catch(() => undefined);
    throw error;
  }
}

/** Calls all closers, the last one first, and then rejects with the first error. */
async function closeAll(closers: Closer[]): Promise<void> {
  const failures: unknown[] = [];
  for (const close of closers.splice(0).reverse()) await close().catch((error: unknown) => failures.push(error));
  if (failures.length > 0) throw failures[0];
}

interface OpenDeps extends Pick<StorageDeps, 'log' | 'timings' | 'closers'> {
  readonly metrics: Metrics;
}

async function open(config: Config, openDeps: OpenDeps): Promise<App> {
  const { log, metrics, timings, closers } = openDeps;
  const { deps, keys, everyMs, longestAgeMs } = await openStorageDeps(config, openDeps);
  const health: Health = { isListening: false };
  const checks = [listeningCheck(health), drainingCheck(health), ...deps.checks];
  const apis: { uploads?: UploadsApi; drain?: DrainApi; keys?: KeyRotation } = {};
  const adminDeps = {
    ...{ metrics, checks, log },
    ...{ uploadsApi: () => apis.uploads, drain: () => apis.drain, keys: () => apis.keys },
  };
  const admin = config.admin && (await startAdmin({ ...config.admin, ...adminDeps }));
  if (admin) closers.push(() => admin.close());
  await deps.recover();
  const cleanup = new Cleanup({ ...deps, everyMs, longestAgeMs, orphanAgeMs: timings.orphanAgeMs });
  closers.push(() => cleanup.stop());
  const delivery = buildDelivery(config, deps);
  closers.push(() => delivery.stop());
  const trust = new TrustedProxies(config.trustedProxies);
  const onUnknownOutcomeReported = (outcome: UnknownOutcome): Promise<void> => delivery.recordClientInformed(outcome);
  const membership = await openOptionalMembership(config, { ...deps, closers, onUnknownOutcomeReported });
  const relay = membership?.relay ?? new MissingRelay(deps);
  const { handler, uploads } = buildHandler(config, { ...deps, delivery, trust, relay, closers });
  const { index } = deps.store;
  const uploadList = { list: deps.store.list.bind(deps.store), index, setAsideRecords: deps.setAsideRecords };
  apis.uploads = { ...deps, store: uploadList, uploads, delivery, nodes: deps.others?.nodes };
  apis.keys = buildKeyRotation(config, deps, keys);
  const migrator = membership?.migrator ?? noMigrator(config, deps);
  apis.drain = buildDrain({ health, handler, migrator, membership, log });
  // Other nodes treat uploads of an unannounced node as unknown, so this happens before clients can create uploads.
  const peerListener = membership && (await membership.join(handler));
  if (peerListener) closers.push(() => closeListeners([peerListener], 0));
  const listeners: Listener[] = [];
  const endIdle = (): void => listeners.forEach((listener) => listener.endIdle());
  const gate = new NumberedConnections(clientLimits({ settings: config.connections, ...deps, trust, endIdle }));
  await listen(config, { handler, gate, trust, metrics, log, listeners, closers });
  health.isListening = true;
  metrics.countConnections(() => listeners.reduce((sum, { connections }) => sum + connections, 0));
  countStored(deps, metrics);
  delivery.start();
  cleanup.start();
  void deps.recoverRest?.();
  return {
    urls: listeners.map(({ url }) => url),
    adminUrl: admin?.url,
    ...(deps.node === undefined ? {} : { node: deps.node }),
    connections: { onEnded: (listener) => gate.onEnded(listener), endIdle },
    admin: { respond: (request) => respondToAdmin(adminDeps, request), metricValues: () => metrics.values() },
    stop: async () => {
      const deadline = performance.now() + config.stop.graceMs;
      health.drainReason = 'the process is stopping';
      for (const listener of listeners) listener.stopAccepting();
      handler.drain();
      deps.leases.drain();
      await delivery.stop();
      const remainingMs = Math.max(deadline - performance.now(), MIN_CLOSE_GRACE_MS);
      await closeListeners(peerListener ? [...listeners, peerListener] : listeners, remainingMs);
      await closeAll(closers);
    },
  };
}

/** Time to send the last responses after deliveries have used up the grace time. */
const MIN_CLOSE_GRACE_MS = 500;

/** Opens the storage, and collects what most parts of the proxy need. */
async function openStorageDeps(config: Config, { log, metrics, timings, closers }: OpenDeps) {
  const { everyMs, longestAgeMs } = cleanupTimes(config);
  const monotonic = (): number => performance.now();
  const steady = new SteadyClock({ wall: Date.now, monotonic, settleMs: longestAgeMs });
  const clocks = { clock: Date.now, expiryClock: (): number => steady.now() };
  const storage = await openStorage(config, { ...clocks, log, metrics, longestAgeMs, timings, closers });
  const via = viaName(randomBytes(6).toString('hex'));
  const keys = await openSecrets(config, { log, closers });
  const { secrets } = keys;
  const routes = buildRoutes(config);
  const deps: AppDeps = { ...storage, ...clocks, monotonic, log, metrics, via, timings, routes, secrets };
  return { deps, keys, everyMs, longestAgeMs };
}

function countStored(storage: Storage, metrics: Metrics): void {
  metrics.countUploads(async () => (await totalsIn(storage))?.phases);
  metrics.countUnreadable(async () => (await storage.setAsideRecords()).length);
  metrics.countUnknown(() => storage.unknownUploads?.());
  metrics.countSpoolBytes(async () => (await totalsIn(storage))?.bytes);
}

/** Undefined while the store is unavailable, so that the other metrics can still be read. */
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

/** Undefined if all nodes share a spool or there is no cluster. */
async function openOptionalMembership(
  { cluster }: Config,
  { node, others, ...deps }: Storage & Omit<MembershipDeps, 'node' | 'others'>,
): Promise<Membership | undefined> {
  if (!cluster || node === undefined || !others) return undefined;
  return openMembership(cluster, { ...deps, node, others });
}

/** The dependencies of most parts of the proxy. */
type AppDeps = Storage & {
  readonly log: Log;
  readonly metrics: Metrics;
  /** The name of this proxy in `Via`. */
  readonly via: string;
  readonly clock: () => number;
  readonly timings: Timings;
  /** Monotonic clock in milliseconds. */
  readonly monotonic: () => number;
  readonly expiryClock: () => number;
  readonly routes: Routes;
  readonly secrets: UploadSecrets;
};

function buildKeyRotation({ store, workers }: Config, deps: AppDeps, keys: OpenedSecrets): KeyRotation {
  const credentialsOf = ({ route, request }: Upload): readonly string[] | undefined =>
    (deps.routes.byName(route) ?? deps.routes.find(request.method, request.target)).delivery.credentials;
  const isShared = store.type === 'redis' || workers > 1;
  return new KeyRotation({ ...deps, ...keys, isShared, credentialsOf });
}

function buildDelivery(config: Config, deps: AppDeps): Delivery {
  return new Delivery({
    ...deps,
    origin: new HttpOrigin(),
    worker: randomUUID(),
    claimMs: deps.timings.claimMs,
    returnGraceMs: deps.othersDeliver ? deps.timings.returnGraceMs : 0,
    random: Math.random,
    stopGraceMs: config.stop.graceMs,
  });
}

function buildUploads(config: Config, deps: HandlerDeps): Uploads {
  return new Uploads({
    ...deps,
    feeds: deps.delivery,
    newDeliveryKey: () => randomUUID(),
    pace: config.spool.sync === 'always' ? { bytes: 0, everyMs: 0 } : { bytes: 16 * MEBIBYTE, everyMs: 1000 },
  });
}

/** The parts of `AppDeps` that requests need. */
type RequestDeps = Pick<
  AppDeps,
  | 'store'
  | 'leases'
  | 'spool'
  | 'secrets'
  | 'node'
  | 'routes'
  | 'log'
  | 'metrics'
  | 'via'
  | 'clock'
  | 'expiryClock'
  | 'monotonic'
>;

/** The dependencies of the request handler, besides its configuration. */
export interface HandlerDeps extends RequestDeps, Pick<OpenDeps, 'closers'> {
  readonly delivery: Delivery;
  readonly trust: TrustedProxies;
  readonly relay: Relay;
}

/** Builds the handler of requests, and the uploads that it uses. */
export function buildHandler(config: Config, deps: HandlerDeps): { handler: HttpHandler; uploads: Uploads } {
  const { delivery, log, metrics, via, closers } = deps;
  const { path: uploadsPath, rfc104 } = config.uploads;
  const { idleTimeoutMs } = config;
  const clientFacing = clientFacingSettings(config);
  const requestRates = buildRequestRates(config, metrics);
  const bodyMemory = new BodyMemory();
  metrics.countBodyMemory(() => bodyMemory.bytes);
  const reverseProxy = new ReverseProxy({ ...clientFacing, log, metrics, via, idleTimeoutMs, requestRates });
  closers.push(() => reverseProxy.close());
  const uploads = buildUploads(config, deps);
  const authorizer = new Authorizer(log, via, clientFacing, expectedRequest);
  closers.push(() => Promise.resolve(authorizer.close()));
  const cors = new Cors(deps.routes);
  const all = { ...deps, ...clientFacing, authorizer, reverseProxy, uploads, requestRates, cors, uploadsPath };
  const handler = new HttpHandler({
    ...all,
    uploadLookup: new UploadLookup(all),
    statusPages: new StatusPages(all),
    uploadRequests: new UploadRequestHandler({ ...all, bodyMemory, idleMs: idleTimeoutMs }),
    discovery: new Discovery(all),
    onUnknownOutcomeReported: (outcome: UnknownOutcome) => delivery.recordClientInformed(outcome),
    interimMode: config.interimResponses,
    rfcInterim: rfc104,
    joinsParts: deps.node === undefined,
    newToken: () => randomBytes(24).toString('base64url'),
  });
  return { handler, uploads };
}

/** The settings for references to this proxy in the origin's answers. */
function clientFacingSettings({ uploads: { publicUrl }, altSvc }: Config): { publicUrl?: string; altSvc?: string } {
  return { publicUrl, altSvc };
}

/** The window is at least `idle_timeout`, because a body may send nothing for that long. */
function buildRequestRates({ minRate, idleTimeoutMs }: Config, metrics: Metrics): RequestRates {
  const windowMs = Math.max(minRate.windowMs, idleTimeoutMs);
  return new RequestRates({ bytesPerSecond: minRate.request ?? 0, windowMs }, () => metrics.slowClient('request'));
}

/** Responses are measured over a longer window, because buffers in between drain in large steps. */
const RESPONSE_WINDOW_FACTOR = 5;

interface ListenDeps extends Pick<AppDeps, 'log' | 'metrics'> {
  readonly handler: HttpHandler;
  readonly gate: ConnectionGate;
  readonly trust: Pick<TrustedProxies, 'trusts'>;
  /** Each listener is added when it listens. */
  readonly listeners: Listener[];
  readonly closers: Closer[];
}

async function listen(
  config: Config,
  { handler, gate, trust, metrics, log, listeners, closers }: ListenDeps,
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
        responseRate: { bytesPerSecond: minRate.response ?? 0, windowMs: minRate.windowMs * RESPONSE_WINDOW_FACTOR },
        onSlowReader: ({ remoteAddress }) => {
          metrics.slowClient('response');
          log.info({ client: remoteAddress }, 'connection closed: the client read its response too slowly');
        },
      },
      {
        onRequest: (exchange) => void handler.handle(exchange),
        onUpgrade: (req, socket, head) => handler.upgrade(req, socket, head),
      },
    );
    listeners.push(listener);
    closers.push(() => closeListeners([listener], 0));
  }
}

/** Ends idle connections immediately, others after their response, and all of them after the grace time. */
async function closeListeners(listeners: readonly Listener[], graceMs: number): Promise<void> {
  for (const listener of listeners) listener.stopAccepting();
  const deadline = setTimeout(() => listeners.forEach((listener) => listener.destroyAll()), graceMs);
  await Promise.all(listeners.map(({ closed }) => closed));
  clearTimeout(deadline);
}

/** The state of this process that decides whether it should get requests. */
interface Health {
  isListening: boolean;
  /** The reason why it should get no more requests. */
  drainReason?: string;
}

function listeningCheck(health: Health): HealthCheck {
  return { name: 'listening', check: () => Promise.resolve(health.isListening ? undefined : 'it is still starting') };
}

function drainingCheck(health: Health): HealthCheck {
  return { name: 'draining', check: () => Promise.resolve(health.drainReason) };
}

interface DrainDeps {
  readonly health: Health;
  readonly handler: HttpHandler;
  readonly membership: Membership | undefined;
  readonly migrator: DrainMigrator;
  readonly log: Log;
}

function buildDrain({ health, handler, membership, migrator, log }: DrainDeps): Drain {
  const leave = async (): Promise<void> => {
    health.drainReason ??= 'this node is being drained';
    handler.refuseNewUploads();
    await membership?.leave();
  };
  return new Drain({ leave, migrator, log });
}

function noMigrator({ spool }: Config, { store, node }: Storage): NoMigrator {
  return new NoMigrator({ store, node, shared: spool.shared });
}

/** The cleanup runs often enough that nothing outlives its expiry by much, and rarely enough to cost little. */
function cleanupTimes({ defaultRoute, routes }: Config): { readonly everyMs: number; readonly longestAgeMs: number } {
  const ages = [defaultRoute, ...routes.map(({ route }) => route)].flatMap(({ limits, delivery }) => [
    limits.maxAgeSeconds * 1000,
    delivery.keepAnswerMs,
  ]);
  return { everyMs: Math.min(60_000, Math.max(250, Math.min(...ages) / 4)), longestAgeMs: Math.max(...ages) };
}
