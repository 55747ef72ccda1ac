import { randomBytes, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { AdminAnswer, AdminRequest } from '../admin/admin-http.js';
import { answerAdmin, type DrainDesk, type HealthCheck, startAdmin } from '../admin/admin.js';
import type { UploadsDesk } from '../admin/uploads-api.js';
import { Drain, type DrainMover, NoMover } from '../cluster/drain.js';
import type { Config } from '../config/config.js';
import { buildRoutes } from '../config/route-table.js';
import { Delivery } from '../delivery/delivery.js';
import { foreseen } from '../delivery/origin-request.js';
import { UndiciOrigin } from '../delivery/undici-origin.js';
import { Access } from '../handler/authorize.js';
import { Cors } from '../handler/cors.js';
import { Discovery } from '../handler/discovery.js';
import { Entry, type EntryOptions } from '../handler/handler.js';
import { UploadPages, UploadRequests } from '../handler/upload-handler.js';
import { Places } from '../handler/upload-lookup.js';
import { viaName } from '../model/forwarded.js';
import type { Routes } from '../model/route.js';
import type { UnknownEnd } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import { type Figures, Metrics } from '../observe/metrics.js';
import { NoRelay, type Relay } from '../proxy/peer-relay.js';
import { PassThrough } from '../proxy/reverse-proxy.js';
import { clientLimits, type ConnectionGate, NumberedConnections } from '../server/connection-limits.js';
import { type Listener, startListener } from '../server/listener.js';
import { RequestRates } from '../server/slow-clients.js';
import { Trust } from '../server/trusted-proxies.js';
import { isAway, type Totals } from '../store/upload-store.js';
import { SteadyClock, Sweep } from '../uploads/cleanup.js';
import { Uploads } from '../uploads/uploads.js';
import { type Membership, type MembershipRooms, openMembership } from './membership.js';
import { openRedisStorage } from './redis-storage.js';
import {
  type Closing,
  openEmbeddedStorage,
  type Storage,
  type StorageRooms,
  type Timings,
  TIMINGS,
} from './storage.js';

/** A running proxy. */
export interface App {
  /** Where its listeners can be reached, in the order of the configuration. */
  readonly urls: readonly string[];
  readonly adminUrl?: string;
  /** The name by which others know this node; missing where it has none. */
  readonly node?: string;
  /** What its admin listener would answer: for a process that listens for several proxies. */
  readonly operators: {
    answer(request: AdminRequest): Promise<AdminAnswer>;
    figures(): Promise<Figures>;
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
  const opened: Closing[] = [];
  try {
    return await open(config, { log, metrics: new Metrics(version), timings, opened });
  } catch (error) {
    // Why it did not start is what is to be told.
    await closeAll(opened).catch(() => undefined);
    throw error;
  }
}

/** Closes last what was opened first, and all of it; then fails with what failed first. */
async function closeAll(opened: Closing[]): Promise<void> {
  const failures: unknown[] = [];
  for (const close of opened.splice(0).reverse()) await close().catch((error: unknown) => failures.push(error));
  if (failures.length > 0) throw failures[0];
}

interface Opening extends Pick<StorageRooms, 'log' | 'timings' | 'opened'> {
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
  const rooms = { ...storage, ...clocks, log, metrics, via, timings, routes: buildRoutes(config) };
  const health: Health = { isListening: false };
  const checks = [listeningCheck(health), drainingCheck(health), ...storage.checks];
  const operators: { desk?: UploadsDesk; drain?: DrainDesk } = {};
  const adminRooms = { metrics, checks, desk: () => operators.desk, drain: () => operators.drain, log };
  const admin = config.admin && (await startAdmin({ ...config.admin, ...adminRooms }));
  if (admin) opened.push(() => admin.close());
  await storage.recover();
  const sweep = new Sweep({ ...rooms, everyMs, longestAgeMs, orphanAgeMs: timings.orphanAgeMs });
  opened.push(() => sweep.stop());
  const delivery = buildDelivery(config, rooms);
  opened.push(() => delivery.stop());
  const requestRates = buildRequestRates(config, metrics);
  const passThrough = new PassThrough({
    ...toldToClients(config),
    log,
    metrics,
    via,
    idleTimeoutMs: config.idleTimeoutMs,
    requestRates,
  });
  opened.push(() => passThrough.close());
  const uploads = buildUploads(config, { ...rooms, delivery });
  const clientKnows = (end: UnknownEnd): Promise<void> => delivery.clientKnows(end);
  const membership = await openCluster(config, { ...rooms, opened, clientKnows });
  const relay = membership?.relay ?? new NoRelay(rooms);
  const trust = new Trust(config.trustedProxies);
  const access = new Access(log, via, toldToClients(config), foreseen);
  opened.push(() => Promise.resolve(access.close()));
  const entry = buildEntry(config, {
    ...rooms,
    access,
    delivery,
    passThrough,
    uploads,
    relay,
    requestRates,
    trust,
    clientKnows,
  });
  const listing = { list: storage.store.list.bind(storage.store), setAside: storage.setAside };
  operators.desk = { ...rooms, store: listing, uploads, delivery, nodes: storage.others?.nodes };
  operators.drain = buildDrain({
    health,
    entry,
    mover: membership?.mover ?? noMover(config, storage),
    membership,
    log,
  });
  // First: an upload of a node that the others do not know is no upload to them.
  const internal = membership && (await membership.join(entry));
  if (internal) opened.push(() => untilClosed([internal], 0));
  const listeners: Listener[] = [];
  const endIdle = (): void => listeners.forEach((listener) => listener.endIdle());
  const gate = new NumberedConnections(clientLimits({ settings: config.connections, ...rooms, trust, endIdle }));
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
    connections: { whenEnded: (listener) => gate.whenEnded(listener), endIdle },
    operators: { answer: (request) => answerAdmin(adminRooms, request), figures: () => metrics.figures() },
    stop: async () => {
      const until = performance.now() + config.stop.graceMs;
      health.why = 'the process is stopping';
      for (const listener of listeners) listener.stopAccepting();
      entry.drain();
      storage.leases.drain();
      await delivery.stop();
      const leftMs = Math.max(until - performance.now(), LAST_WORDS_MS);
      await untilClosed(internal ? [...listeners, internal] : listeners, leftMs);
      await closeAll(opened);
    },
  };
}

/** Undefined while the store is away: that must not keep operators from all other figures. */
async function totalsIn({ store }: Storage): Promise<Totals | undefined> {
  try {
    return await store.totals();
  } catch (error) {
    if (isAway(error)) return undefined;
    throw error;
  }
}

function openStorage(config: Config, rooms: StorageRooms): Promise<Storage> {
  const { store } = config;
  return store.type === 'redis' ? openRedisStorage({ ...config, store }, rooms) : openEmbeddedStorage(config, rooms);
}

/** Undefined where every node reaches the bytes, and for a node that is alone. */
async function openCluster(
  { cluster }: Config,
  { node, others, ...rooms }: Storage & Omit<MembershipRooms, 'node' | 'others'>,
): Promise<Membership | undefined> {
  if (!cluster || node === undefined || !others) return undefined;
  return openMembership(cluster, { ...rooms, node, others });
}

type Rooms = Storage & {
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

function buildDelivery(config: Config, rooms: Rooms): Delivery {
  return new Delivery({
    ...rooms,
    origin: new UndiciOrigin(),
    worker: randomUUID(),
    claimMs: rooms.timings.claimMs,
    returnMs: rooms.othersDeliver ? rooms.timings.returnMs : 0,
    random: Math.random,
    stopGraceMs: config.stop.graceMs,
  });
}

function buildUploads(config: Config, rooms: Rooms & { readonly delivery: Delivery }): Uploads {
  return new Uploads({
    ...rooms,
    feeds: rooms.delivery,
    newId: () => randomBytes(24).toString('base64url'),
    newDeliveryKey: () => randomUUID(),
    pace: config.spool.sync === 'always' ? { bytes: 0, everyMs: 0 } : { bytes: 16 * MEBIBYTE, everyMs: 1000 },
  });
}

function buildEntry(
  config: Config,
  rooms: Rooms & {
    readonly access: Access;
    readonly delivery: Delivery;
    readonly passThrough: PassThrough;
    readonly uploads: Uploads;
    readonly relay: Relay;
    readonly requestRates: RequestRates;
    readonly trust: Trust;
    readonly clientKnows: EntryOptions['clientKnows'];
  },
): Entry {
  const { path: uploadsPath, rfc104 } = config.uploads;
  const cors = new Cors(config.cors);
  return new Entry({
    ...rooms,
    places: new Places({ ...rooms, uploadsPath }),
    pages: new UploadPages({ ...rooms, ...toldToClients(config) }),
    uploadRequests: new UploadRequests({
      ...rooms,
      ...toldToClients(config),
      idleMs: config.idleTimeoutMs,
      uploadsPath,
    }),
    discovery: new Discovery({ ...rooms, cors }),
    cors,
    uploadsPath,
    interimMode: config.interimResponses,
    finalInterim: rfc104,
  });
}

/** The settings that decide how answers of origins name this proxy to clients. */
function toldToClients({ uploads: { publicUrl }, altSvc }: Config): { publicUrl?: string; altSvc?: string } {
  return { publicUrl, altSvc };
}

/** A body that sends nothing at all has `idle_timeout`, so that it is never given less. */
function buildRequestRates({ minRate, idleTimeoutMs }: Config, metrics: Metrics): RequestRates {
  const windowMs = Math.max(minRate.windowMs, idleTimeoutMs);
  return new RequestRates({ bytesPerSecond: minRate.request ?? 0, windowMs }, () => metrics.slowClient('request'));
}

/** How many times as long a client may take its answer too slowly: the buffers on the way move in large steps. */
const RESPONSE_WINDOWS = 5;

interface ListenRooms extends Pick<Rooms, 'log' | 'metrics'> {
  readonly entry: Entry;
  readonly gate: ConnectionGate;
  readonly trust: Pick<Trust, 'trusts'>;
  /** Those that listen so far. */
  readonly listeners: Listener[];
  readonly opened: Closing[];
}

async function listen(
  config: Config,
  { entry, gate, trust, metrics, log, listeners, opened }: ListenRooms,
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
        standsForMany: (address) => trust.trusts(address),
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

interface DrainRooms {
  readonly health: Health;
  readonly entry: Entry;
  readonly membership: Membership | undefined;
  readonly mover: DrainMover;
  readonly log: Log;
}

function buildDrain({ health, entry, membership, mover, log }: DrainRooms): Drain {
  const leave = async (): Promise<void> => {
    health.why ??= 'this node is being drained';
    entry.leave();
    await membership?.leave();
  };
  return new Drain({ leave, mover, log });
}

function noMover({ spool }: Config, { store, node }: Storage): NoMover {
  return new NoMover({ store, node, shared: spool.shared });
}

/** Often enough that nothing outlives its time by much, seldom enough that nobody notices. */
function sweepTimes({ defaultRoute, routes }: Config): { readonly everyMs: number; readonly longestAgeMs: number } {
  const ages = [defaultRoute, ...routes.map(({ route }) => route)].flatMap(({ limits, delivery }) => [
    limits.maxAgeSeconds * 1000,
    delivery.keepAnswerMs,
  ]);
  return { everyMs: Math.min(60_000, Math.max(250, Math.min(...ages) / 4)), longestAgeMs: Math.max(...ages) };
}
