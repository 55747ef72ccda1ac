import cluster from 'node:cluster';
import { type Admin, startAdminListener } from '../admin/admin-http.js';
import { type ConfigSource, type Reload, Reloader } from '../app/reload.js';
import type { Config } from '../config/config.js';
import { buildRoutes } from '../config/route-table.js';
import type { Log } from '../observe/log.js';
import { ConnectionMetrics } from '../observe/process-metrics.js';
import { clientLimits, type ConnectionLimits, limitsFrom, type LimitsOptions } from '../server/connection-limits.js';
import { TrustedProxies } from '../server/trusted-proxies.js';
import { WorkerPool } from './pool.js';
import { PrimaryAdmin, PoolMetrics } from './primary-admin.js';
import type { ClientGate, WorkerProcess } from './worker-process.js';

export interface PrimaryOptions {
  readonly config: Config;
  readonly log: Log;
  /** Where the configuration is loaded from again; missing: it cannot be reloaded. */
  readonly source?: ConfigSource;
  /** Program to fork; default: the program of this process. `workerIdentity` tells it that it is a worker. */
  readonly program?: { readonly exec: string; readonly args?: string[] };
}

/** A running proxy of several processes. */
export interface Primary {
  readonly urls: readonly string[];
  readonly adminUrl?: string;
  readonly reload?: Reload;
  /** To be called after the `listening` line was printed. */
  announce(): void;
  /** Resolves when all workers have stopped gracefully. */
  stop(): Promise<void>;
}

/**
 * Forks the workers and waits until all are listening. The primary itself serves only the admin listener, no clients.
 * Reasons: docs/decisions/0016.
 */
export async function startPrimary({ config, log, source, program }: PrimaryOptions): Promise<Primary> {
  const { admin } = config;
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
  const limits = connectionLimits(config, { log, metrics, endIdle: () => pool.endIdle() });
  const gate = clientGate(config, limits);
  const pool = new WorkerPool({ config, log, monotonic: () => performance.now(), gate, onListening, onEnded });
  let reload: Reload | undefined;
  const primaryAdmin = new PrimaryAdmin(pool, poolMetrics, () => reload);
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
    const apply = async (next: Config): Promise<void> => {
      // Finds what the workers would not be able to use.
      buildRoutes(next);
      await pool.useConfig(next);
      limits.setLimits(limitsFrom(limitsOptions(next, log)));
      if (next.admin) adminListener?.setRules(next.admin);
      log.setLevel?.(next.log.level);
    };
    reload = source && new Reloader({ source, apply, onReload: metrics.countReloads(), log }).reload;
    return {
      urls,
      ...(adminListener ? { adminUrl: adminListener.url } : {}),
      ...(reload && { reload }),
      announce: () => pool.announce(),
      stop: () => pool.stop().finally(close),
    };
  } catch (error) {
    pool.kill();
    await close();
    throw error;
  }
}

interface LimitsDeps {
  readonly log: Log;
  readonly metrics: ConnectionMetrics;
  readonly endIdle: () => void;
}

/** The limits of the connections of all workers together. */
function connectionLimits(config: Config, { log, ...deps }: LimitsDeps): ConnectionLimits {
  return clientLimits({ ...limitsOptions(config, log), ...deps, monotonic: () => performance.now() });
}

/** Each worker has its own file descriptors, so the limits scale with them. */
function limitsOptions({ workers, connections: settings, trustedProxies }: Config, log: Log): LimitsOptions {
  return { settings, processes: workers, trust: new TrustedProxies(trustedProxies), log };
}

function clientGate({ cluster }: Config, limits: ConnectionLimits): ClientGate {
  const listen = cluster?.listen;
  // Node's key contains the port after the host; the cluster listener is not for clients.
  const ofNodes = listen?.kind === 'tcp' ? new RegExp(`^.*:${listen.port}:[46]:`) : undefined;
  return { admit: (address) => limits.admit(address), isForClients: (key) => !ofNodes?.test(key) };
}
