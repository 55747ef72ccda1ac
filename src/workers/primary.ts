import cluster from 'node:cluster';
import { type Admin, startAdminListener } from '../admin/admin-http.js';
import type { Config } from '../config/config.js';
import type { Log } from '../observe/log.js';
import { ConnectionMetrics } from '../observe/metrics.js';
import { clientLimits } from '../server/connection-limits.js';
import { TrustedProxies } from '../server/trusted-proxies.js';
import { WorkerPool } from './pool.js';
import { PrimaryAdmin, PoolMetrics } from './primary-admin.js';
import type { ClientGate, WorkerProcess } from './worker-process.js';

type PrimaryConfig = Pick<Config, 'workers' | 'admin' | 'connections' | 'trustedProxies' | 'cluster'>;

export interface PrimaryOptions extends PrimaryConfig {
  readonly log: Log;
  /** Program to fork; default: the program of this process. `workerIdentity` tells it that it is a worker. */
  readonly program?: { readonly exec: string; readonly args?: string[] };
}

/** A running proxy of several processes. */
export interface Primary {
  readonly urls: readonly string[];
  readonly adminUrl?: string;
  /** To be called after the `listening` line was printed. */
  announce(): void;
  /** Resolves when all workers have stopped gracefully. */
  stop(): Promise<void>;
}

/**
 * Forks the workers and waits until all are listening. The primary itself serves only the admin listener, no clients.
 * Reasons: docs/decisions/0016.
 */
export async function startPrimary({ log, program, ...config }: PrimaryOptions): Promise<Primary> {
  const { workers, admin } = config;
  cluster.schedulingPolicy = cluster.SCHED_RR;
  // Metrics may be NaN or infinite, which JSON cannot represent.
  cluster.setupPrimary({ ...program, serialization: 'advanced' });
  const metrics = new ConnectionMetrics();
  const poolMetrics = new PoolMetrics(() => metrics.values());
  const onListening = (worker: WorkerProcess): void => primaryAdmin.drain.workerListening(worker);
  const onEnded = (worker: WorkerProcess): void => {
    poolMetrics.retire(worker);
    primaryAdmin.drain.workerEnded(worker);
  };
  const gate = clientGate(config, { log, metrics, endIdle: () => pool.endIdle() });
  const pool = new WorkerPool({ workers, log, monotonic: () => performance.now(), gate, onListening, onEnded });
  const primaryAdmin = new PrimaryAdmin(pool, poolMetrics);
  const killAll = () => pool.kill();
  process.once('exit', killAll);
  let adminListener: Admin | undefined;
  const close = async () => {
    await adminListener?.close();
    process.off('exit', killAll);
  };
  try {
    adminListener =
      admin && (await startAdminListener({ ...admin, log, respond: (request) => primaryAdmin.respond(request) }));
    const urls = await pool.start();
    return {
      urls,
      ...(adminListener ? { adminUrl: adminListener.url } : {}),
      announce: () => pool.announce(),
      stop: () => pool.stop().finally(close),
    };
  } catch (error) {
    pool.kill();
    await close();
    throw error;
  }
}

interface ClientGateDeps {
  readonly log: Log;
  readonly metrics: ConnectionMetrics;
  readonly endIdle: () => void;
}

/** Limits the connections of all workers together. Each worker has its own file descriptors, so the limits scale with them. */
function clientGate(config: PrimaryConfig, deps: ClientGateDeps): ClientGate {
  const { workers, connections: settings, trustedProxies, cluster: { listen } = {} } = config;
  const trust = new TrustedProxies(trustedProxies);
  const monotonic = (): number => performance.now();
  const limits = clientLimits({ settings, processes: workers, trust, ...deps, monotonic });
  // Node's key contains the port after the host; the cluster listener is not for clients.
  const ofNodes = listen?.kind === 'tcp' ? new RegExp(`^.*:${listen.port}:[46]:`) : undefined;
  return { admit: (address) => limits.admit(address), isForClients: (key) => !ofNodes?.test(key) };
}
