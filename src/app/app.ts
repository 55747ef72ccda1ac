import { randomBytes, randomUUID } from 'node:crypto';
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
import { HttpHandler, type RefusedWork } from '../handler/handler.js';
import { StatusPages, UploadRequestHandler } from '../handler/upload-handler.js';
import { UploadLookup } from '../handler/upload-lookup.js';
import { viaName } from '../model/forwarded.js';
import type { Routes } from '../model/route.js';
import type { UnknownOutcome, Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import { Metrics } from '../observe/metrics.js';
import type { MetricValues } from '../observe/process-metrics.js';
import { OriginClient } from '../origin/origin-client.js';
import { MissingRelay, type Relay } from '../proxy/peer-relay.js';
import { ReverseProxy } from '../proxy/reverse-proxy.js';
import type { UploadSecrets } from '../secrets/upload-secrets.js';
import { clientLimits, limitsFrom, NumberedConnections } from '../server/connection-limits.js';
import { RequestRates } from '../server/slow-clients.js';
import { TrustedProxies } from '../server/trusted-proxies.js';
import { DiskSpace } from '../spool/disk-space.js';
import { Admission } from '../uploads/admission.js';
import { BodyMemory } from '../uploads/body-memory.js';
import { SteadyClock, Cleanup } from '../uploads/cleanup.js';
import { KeyRotation } from '../uploads/key-rotation.js';
import { Uploads } from '../uploads/uploads.js';
import { type CompiledConfig, CurrentConfig } from './current-config.js';
import { CurrentHandler, type RequestSettings } from './current-handler.js';
import { watchCertificates, watchDisk, watchOrigins, watchStore } from './gauges.js';
import { ClientListeners, closeListeners } from './listening.js';
import { type Membership, type MembershipDeps, openMembership } from './membership.js';
import { openRedisStorage } from './redis-storage.js';
import { type ConfigSource, type Reload, Reloader } from './reload.js';
import { type OpenedSecrets, openSecrets } from './secrets.js';
import { buildStatus, type StatusApi } from './status.js';
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
  /** Loads the configuration again from its source; missing without one. */
  readonly reload?: Reload;
  /**
   * Prepares another configuration, whose fixed settings are the same (`FIXED_SETTINGS`), and returns the function that
   * puts it into use. Requests in progress end under the one that applied when they began. Rejects if it cannot be used.
   */
  prepare(config: Config): Promise<() => void>;
  /** Stops gracefully: uploads commit what they have received, deliveries may finish within the grace time. */
  stop(): Promise<void>;
}

const MEBIBYTE = 1024 * 1024;

/**
 * Builds the proxy from its configuration and starts it: storage first, listeners last. With a `source` it can load its
 * configuration again.
 */
export async function startApp(
  config: Config,
  log: Log,
  version?: string,
  timings = TIMINGS,
  source?: ConfigSource,
): Promise<App> {
  const closers: Closer[] = [];
  try {
    return await open(config, { log, version, metrics: new Metrics(version), timings, closers, source });
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
  readonly version?: string;
  readonly metrics: Metrics;
  readonly source?: ConfigSource;
}

async function open(config: Config, openDeps: OpenDeps): Promise<App> {
  const { log, metrics, closers } = openDeps;
  const current = new CurrentConfig(compile(config));
  const { deps, keys } = await openStorageDeps(config, current, openDeps);
  const health: Health = { isListening: false };
  const checks = [listeningCheck(health), drainingCheck(health), ...deps.checks];
  const apis: { uploads?: UploadsApi; drain?: DrainApi; keys?: KeyRotation; reload?: Reload; status?: StatusApi } = {};
  const adminDeps = {
    ...{ version: openDeps.version, metrics, checks, log },
    ...{ uploadsApi: () => apis.uploads, drain: () => apis.drain },
    ...{ keys: () => apis.keys, reload: () => apis.reload, status: () => apis.status },
  };
  const admin = config.admin && (await startAdmin({ ...config.admin, ...adminDeps }));
  if (admin) closers.push(() => admin.close());
  await deps.recover();
  const cleanup = buildCleanup(current, deps);
  closers.push(() => cleanup.stop());
  const delivery = buildDelivery(deps);
  closers.push(() => delivery.stop());
  const onUnknownOutcomeReported = (outcome: UnknownOutcome): Promise<void> => delivery.recordClientInformed(outcome);
  const membership = await openOptionalMembership(config, { ...deps, closers, onUnknownOutcomeReported });
  const relay = membership?.relay ?? new MissingRelay(deps);
  const { handler, uploads } = buildHandler(current.now, { ...deps, delivery, relay, closers });
  const { index } = deps.store;
  const uploadList = { list: deps.store.list.bind(deps.store), index, setAsideRecords: deps.setAsideRecords };
  apis.uploads = { ...deps, store: uploadList, uploads, delivery, nodes: deps.others?.nodes };
  apis.keys = buildKeyRotation(config, deps, keys);
  const migrator = membership?.migrator ?? noMigrator(config, deps);
  apis.drain = buildDrain({ health, handler, migrator, membership, log });
  // Other nodes treat uploads of an unannounced node as unknown, so this happens before clients can create uploads.
  const peerListener = membership && (await membership.join(handler));
  if (peerListener) closers.push(() => closeListeners([peerListener], 0));
  const endIdle = (): void => listeners.endIdle();
  const { trust } = current.now;
  const limits = clientLimits({ settings: config.connections, ...deps, trust, endIdle });
  const gate = new NumberedConnections(limits);
  const listeners = buildListeners(current, { ...deps, handler, gate });
  closers.push(() => listeners.stop());
  await listeners.start(config);
  health.isListening = true;
  metrics.countConnections(() => listeners.all.reduce((sum, { connections }) => sum + connections, 0));
  watchStore(metrics, deps);
  watchDisk(metrics, deps.space);
  watchOrigins(metrics, delivery);
  watchCertificates(metrics, listeners);
  delivery.start();
  cleanup.start();
  void deps.recoverRest?.();
  let configAppliedAt = deps.clock();
  const isDraining = (): boolean => health.isDrained ?? false;
  const { version } = openDeps;
  const observed = { version, delivery, listeners, isDraining, configAppliedAt: () => configAppliedAt };
  apis.status = buildStatus({ ...deps, ...observed });
  const prepare = async (next: Config): Promise<() => void> => {
    const compiled = compile(next);
    const useListeners = await listeners.prepare(next);
    if (health.isStopping) throw new Error(STOPPING);
    return () => {
      if (health.isStopping) return;
      current.use(compiled);
      configAppliedAt = deps.clock();
      handler.use(compiled);
      limits.setLimits(limitsFrom({ settings: next.connections, trust: compiled.trust, log }));
      useListeners();
      cleanup.setInterval(compiled.cleanupEveryMs);
      delivery.useNewRoutes();
      if (next.admin) admin?.setRules(next.admin);
      log.setLevel?.(next.log.level);
    };
  };
  apis.reload = openDeps.source && buildReload(openDeps.source, prepare, openDeps);
  return {
    urls: listeners.all.map(({ url }) => url),
    adminUrl: admin?.url,
    ...(deps.node === undefined ? {} : { node: deps.node }),
    connections: { onEnded: (listener) => gate.onEnded(listener), endIdle },
    admin: { respond: (request) => respondToAdmin(adminDeps, request), metricValues: () => metrics.values() },
    ...(apis.reload && { reload: apis.reload }),
    prepare,
    stop: async () => {
      const { graceMs } = current.now.config.stop;
      const deadline = performance.now() + graceMs;
      health.isStopping = true;
      for (const listener of listeners.all) listener.stopAccepting();
      handler.drain();
      deps.leases.drain();
      await delivery.stop(graceMs);
      const remainingMs = Math.max(deadline - performance.now(), MIN_CLOSE_GRACE_MS);
      await closeListeners(peerListener ? [...listeners.all, peerListener] : listeners.all, remainingMs);
      await closeAll(closers);
    },
  };
}

/** Time to send the last responses after deliveries have used up the grace time. */
const MIN_CLOSE_GRACE_MS = 500;

const STOPPING = 'the proxy is stopping';

function compile(config: Config): CompiledConfig {
  const trust = new TrustedProxies(config.trustedProxies);
  return { config, routes: buildRoutes(config), trust, ...cleanupTimes(config) };
}

/** Opens the storage, and collects what most parts of the proxy need. */
async function openStorageDeps(
  config: Config,
  current: CurrentConfig,
  { log, metrics, timings, closers }: OpenDeps,
): Promise<{ readonly deps: AppDeps; readonly keys: OpenedSecrets }> {
  const monotonic = (): number => performance.now();
  const longestAgeMs = (): number => current.longestAgeMs;
  const steady = new SteadyClock({
    wall: Date.now,
    monotonic,
    get settleMs() {
      return longestAgeMs();
    },
  });
  const clocks = { clock: Date.now, expiryClock: (): number => steady.now() };
  const { keepFree } = config.spool;
  const space = new DiskSpace({ directory: config.data, ...(keepFree && { keepFree }), monotonic });
  const storage = await openStorage(config, { ...clocks, space, log, metrics, longestAgeMs, timings, closers });
  const via = viaName(randomBytes(6).toString('hex'));
  const keys = await openSecrets(config, { log, closers });
  const { secrets } = keys;
  const { routes } = current;
  return { deps: { ...storage, ...clocks, space, monotonic, log, metrics, via, timings, routes, secrets }, keys };
}

function buildCleanup(current: CurrentConfig, deps: AppDeps): Cleanup {
  return new Cleanup({
    ...deps,
    everyMs: current.now.cleanupEveryMs,
    orphanAgeMs: deps.timings.orphanAgeMs,
    get longestAgeMs() {
      return current.longestAgeMs;
    },
  });
}

interface ListenerDeps extends Pick<AppDeps, 'log' | 'metrics' | 'timings'> {
  readonly handler: CurrentHandler;
  readonly gate: NumberedConnections;
}

function buildListeners(current: CurrentConfig, { handler, ...deps }: ListenerDeps): ClientListeners {
  return new ClientListeners({
    ...deps,
    handlers: {
      onRequest: (exchange) => void handler.handle(exchange),
      onUpgrade: (req, socket, head) => handler.upgrade(req, socket, head),
    },
    isSharedPeer: (address) => current.now.trust.trusts(address),
    certificatePollMs: deps.timings.certificatePollMs,
  });
}

function buildReload(source: ConfigSource, prepare: App['prepare'], { metrics, log }: OpenDeps): Reload {
  const onReload = metrics.countReloads();
  const apply = async (config: Config): Promise<void> => (await prepare(config))();
  return new Reloader({ source, apply, onReload, log }).reload;
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
  /** The disk of the data. */
  readonly space: DiskSpace;
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

function buildDelivery(deps: AppDeps): Delivery {
  return new Delivery({
    ...deps,
    origin: new HttpOrigin(),
    worker: randomUUID(),
    claimMs: deps.timings.claimMs,
    returnGraceMs: deps.othersDeliver ? deps.timings.returnGraceMs : 0,
    random: Math.random,
  });
}

function buildUploads(config: Config, deps: HandlerDeps): Uploads {
  return new Uploads({
    ...deps,
    feeds: deps.delivery,
    admission: buildAdmission(config, deps),
    newDeliveryKey: () => randomUUID(),
    pace: config.spool.sync === 'always' ? { bytes: 0, everyMs: 0 } : { bytes: 16 * MEBIBYTE, everyMs: 1000 },
  });
}

function buildAdmission({ admission: limits }: Config, deps: HandlerDeps): Admission {
  const { routes, space, metrics, log, monotonic, timings } = deps;
  const { refusalDelayMs = TIMINGS.refusalDelayMs } = timings ?? {};
  return new Admission({ limits, routes, space, metrics, log, monotonic, refusalDelayMs });
}

/** The parts of `AppDeps` that requests need. */
type RequestDeps = Pick<
  AppDeps,
  | 'store'
  | 'leases'
  | 'spool'
  | 'secrets'
  | 'story'
  | 'space'
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
  readonly timings?: Pick<Timings, 'refusalDelayMs'>;
  readonly delivery: Delivery;
  readonly relay: Relay;
}

/**
 * Builds the handler of requests, and the uploads that it uses. What requests share outlives a reload: uploads in
 * progress, the memory of bodies and the connections to origins.
 */
export function buildHandler(first: RequestSettings, deps: HandlerDeps): { handler: CurrentHandler; uploads: Uploads } {
  const { delivery, log, metrics, via, closers, relay } = deps;
  const bodyMemory = new BodyMemory();
  metrics.countBodyMemory(() => bodyMemory.bytes);
  const shared = { ...deps, proxy: new ReverseProxy({ log, metrics, via }), uploads: buildUploads(first.config, deps) };
  closers.push(() => shared.proxy.close());
  const serviceClient = new OriginClient();
  closers.push(() => Promise.resolve(serviceClient.close()));
  const build = ({ config, routes, trust }: RequestSettings, refused: Readonly<RefusedWork>): HttpHandler => {
    const { idleTimeoutMs } = config;
    const { path: uploadsPath, rfc104 } = config.uploads;
    const clientFacing = clientFacingSettings(config);
    const requestRates = buildRequestRates(config, metrics);
    const reverseProxy = shared.proxy.withSettings({ ...clientFacing, idleTimeoutMs, requestRates });
    const authorizer = new Authorizer(log, via, clientFacing, expectedRequest, serviceClient);
    const cors = new Cors(routes);
    const parts = { authorizer, reverseProxy, requestRates, cors, uploadsPath, routes, trust };
    const all = { ...shared, ...clientFacing, ...parts };
    return new HttpHandler({
      ...all,
      refused,
      uploadLookup: new UploadLookup(all),
      statusPages: new StatusPages(all),
      uploadRequests: new UploadRequestHandler({ ...all, bodyMemory, idleMs: idleTimeoutMs }),
      discovery: new Discovery(all),
      onUnknownOutcomeReported: (outcome: UnknownOutcome) => delivery.recordClientInformed(outcome),
      interimMode: config.interimResponses,
      maxHeadBytes: config.maxHeadBytes,
      rfcInterim: rfc104,
      joinsParts: deps.node === undefined,
      newToken: () => randomBytes(24).toString('base64url'),
    });
  };
  return { handler: new CurrentHandler(first, build, relay), uploads: shared.uploads };
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

/** The state of this process that decides whether it should get requests. */
interface Health {
  isListening: boolean;
  isDrained?: boolean;
  isStopping?: boolean;
}

function listeningCheck(health: Health): HealthCheck {
  return { name: 'listening', check: () => Promise.resolve(health.isListening ? undefined : 'it is still starting') };
}

function drainingCheck(health: Health): HealthCheck {
  const reason = (): string | undefined => {
    if (health.isStopping) return 'the process is stopping';
    return health.isDrained ? 'this node is being drained' : undefined;
  };
  return { name: 'draining', check: () => Promise.resolve(reason()) };
}

interface DrainDeps {
  readonly health: Health;
  readonly handler: CurrentHandler;
  readonly membership: Membership | undefined;
  readonly migrator: DrainMigrator;
  readonly log: Log;
}

function buildDrain({ health, handler, membership, migrator, log }: DrainDeps): Drain {
  const leave = async (): Promise<void> => {
    health.isDrained = true;
    handler.refuseNewUploads();
    await membership?.leave();
  };
  const rejoin = async (): Promise<void> => {
    await membership?.rejoin();
    handler.acceptNewUploads();
    health.isDrained = false;
  };
  return new Drain({ leave, rejoin, migrator, log });
}

function noMigrator({ spool }: Config, { store, node }: Storage): NoMigrator {
  return new NoMigrator({ store, node, shared: spool.shared });
}

/** The cleanup runs often enough that nothing outlives its expiry by much, and rarely enough to cost little. */
function cleanupTimes({ defaultRoute, routes }: Config): Pick<CompiledConfig, 'cleanupEveryMs' | 'longestAgeMs'> {
  const ages = [defaultRoute, ...routes.map(({ route }) => route)].flatMap(({ limits, delivery }) => [
    limits.maxAgeSeconds * 1000,
    (limits.maxEmptyAgeSeconds ?? Infinity) * 1000,
    delivery.keepAnswerMs,
  ]);
  return {
    cleanupEveryMs: Math.min(60_000, Math.max(250, Math.min(...ages) / 4)),
    longestAgeMs: Math.max(...ages.filter(Number.isFinite)),
  };
}
