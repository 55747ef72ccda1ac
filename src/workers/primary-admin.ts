import { type AdminResponse, type AdminRequest, json, problem } from '../admin/admin-http.js';
import {
  checkReadiness,
  type HealthCheck,
  type InformationalProblem,
  type Readiness,
  type ReloadApi,
  respondToReload,
} from '../admin/admin.js';
import { mergeStatus, type Status } from '../admin/status.js';
import { findOperation, type OperationName } from '../admin/operations.js';
import { cumulativeMetrics, sumMetrics } from '../observe/metrics.js';
import type { MetricValues } from '../observe/process-metrics.js';
import type { WorkerPool, WorkerSlot } from './pool.js';
import type { WorkerProcess } from './worker-process.js';

/** Longer than the timeout of a worker's own checks, so that their results arrive. */
const WORKER_TIMEOUT_MS = 4000;

/** Serves admin requests for all workers together. Requests about uploads go to any worker. */
export class PrimaryAdmin {
  readonly drain: PoolDrain;

  constructor(
    private readonly pool: WorkerPool,
    private readonly metrics: PoolMetrics,
    /** Undefined until the workers have started. */
    private readonly reload: () => ReloadApi | undefined,
  ) {
    this.drain = new PoolDrain({ pool, send: (worker, request) => this.relay(request, worker) });
  }

  async respond(request: AdminRequest): Promise<AdminResponse> {
    const { name, refusal } = findOperation(request);
    return refusal ?? this.own[name]?.(request) ?? this.relay(request);
  }

  /** The operations that concern all workers. */
  private readonly own: Partial<Record<OperationName, (request: AdminRequest) => Promise<AdminResponse>>> = {
    getHealth: () => Promise.resolve(json(200, { alive: true })),
    getReadiness: async () => {
      const readiness = await checkReadiness(this.pool.slots.map(readinessOf), WORKER_TIMEOUT_MS);
      return json(readiness.ready ? 200 : 503, readiness);
    },
    getMetrics: async () => {
      const { type, text } = await this.metrics.collect(this.pool.listening);
      return { status: 200, type, body: text };
    },
    getStatus: async (request) => {
      const responses = await Promise.all(this.pool.listening.map((worker) => this.relay(request, worker)));
      const [first, ...others] = responses.flatMap(({ status, body = '' }) =>
        status === 200 ? [JSON.parse(body) as Status] : [],
      );
      if (!first) return responses[0] ?? this.relay(request);
      const workers = this.pool.slots.map(({ number, listening }) => ({ number, listening: listening !== undefined }));
      return json(200, mergeStatus([first, ...others], workers));
    },
    getDrain: (request) => this.drain.respond(request),
    beginDrain: (request) => this.drain.respond(request),
    endDrain: (request) => this.drain.respond(request),
    reload: () => respondToReload(this.reload()),
  };

  private async relay(request: AdminRequest, worker = this.pool.next()): Promise<AdminResponse> {
    if (!worker) return problem(503, 'No worker listens at the moment.', { 'Retry-After': '1' });
    try {
      return await sendAdminRequest(worker, request);
    } catch (error) {
      return problem(503, `The worker that was asked gave no answer: ${String(error)}`, { 'Retry-After': '1' });
    }
  }
}

function readinessOf(slot: WorkerSlot): HealthCheck {
  return {
    name: `worker ${slot.number}`,
    check: async () => {
      if (!slot.listening) return 'it does not listen (yet)';
      const request = { method: 'GET', path: '/readyz', query: new URLSearchParams(), headers: {} };
      const { body = '' } = await sendAdminRequest(slot.listening, request);
      return problemsOf(JSON.parse(body) as Readiness);
    },
  };
}

/** The problems of a worker in one line; reported without effect on readiness if the worker is ready. */
function problemsOf({ ready, checks }: Readiness): string | InformationalProblem | undefined {
  const failed = checks.filter(({ ok }) => !ok);
  if (failed.length === 0) return undefined;
  const problems = failed.map((check) => `${check.name}: ${check.problem}`).join('; ');
  return ready ? { informational: problems } : problems;
}

async function sendAdminRequest(worker: WorkerProcess, { query, ...request }: AdminRequest): Promise<AdminResponse> {
  const reply = await worker.request({ about: 'request', request: { ...request, query: query.toString() } });
  if (reply.about !== 'request') throw new Error('the reply is to another question');
  return reply.response;
}

export interface PoolDrainOptions {
  readonly pool: Pick<WorkerPool, 'listening'>;
  /** Sends a request to a worker; 503 if there is no response. */
  readonly send: (worker: WorkerProcess | undefined, request: AdminRequest) => Promise<AdminResponse>;
  readonly retryDelayMs?: number;
}

const RETRY_DELAY_MS = 1000;

/**
 * Drains all workers, including later replacements. One worker at a time migrates the uploads of the
 * node and reports the progress.
 */
export class PoolDrain {
  private isLeaving = false;
  private isMoving = false;
  private migrator: WorkerProcess | undefined;
  /** Resolves when the current migrator has received its drain request; before that it reports no migration. */
  private migratorAssigned: Promise<void> = Promise.resolve();

  constructor(private readonly options: PoolDrainOptions) {}

  async respond(request: AdminRequest): Promise<AdminResponse> {
    await this.migratorAssigned;
    const first = this.migrator ?? this.options.pool.listening[0];
    const response = await this.options.send(first, request);
    // An invalid or unauthorized request is not passed to the other workers.
    const isRefused = response.status >= 400 && response.status < 500;
    const changes = request.method === 'POST' || request.method === 'DELETE';
    if (!changes || !first || isRefused) return response;
    this.isLeaving = request.method === 'POST';
    if (!this.isLeaving) this.forgetMigration();
    else if (request.query.get('move') === 'true') this.startMigration(first);
    const others = this.options.pool.listening.filter((worker) => worker !== first);
    const leave = { ...request, query: new URLSearchParams() };
    const otherResponses = await Promise.all(others.map((worker) => this.options.send(worker, leave)));
    return [response, ...otherResponses].find(({ status }) => status >= 400) ?? response;
  }

  /** Called when a worker starts to listen; it may replace one that ended. */
  workerListening(worker: WorkerProcess): void {
    if (!this.isLeaving) return;
    if (this.isMoving && !this.migrator) this.assignMigrator();
    if (worker !== this.migrator) void this.sendDrain(worker, false);
  }

  /** Called when a worker has ended; another one continues its migration. */
  workerEnded(worker: WorkerProcess): void {
    if (worker !== this.migrator) return;
    this.migrator = undefined;
    this.assignMigrator();
  }

  /** Makes a worker the migrator, or another one if it has already ended. */
  private startMigration(worker: WorkerProcess): void {
    this.isMoving = true;
    this.migrator = worker;
    if (!this.options.pool.listening.includes(worker)) this.assignMigrator();
  }

  private forgetMigration(): void {
    this.isMoving = false;
    this.migrator = undefined;
    this.migratorAssigned = Promise.resolve();
  }

  private assignMigrator(): void {
    const [next] = this.options.pool.listening;
    this.migrator = next;
    if (next) this.migratorAssigned = this.sendDrain(next, true);
  }

  /** Sends the drain request to a worker, and repeats it after a 5xx, for example while Redis is unavailable. */
  private async sendDrain(worker: WorkerProcess, move: boolean): Promise<void> {
    const { pool, send, retryDelayMs = RETRY_DELAY_MS } = this.options;
    const query = new URLSearchParams(move ? { move: 'true' } : {});
    const { status } = await send(worker, { method: 'POST', path: '/drain', query, headers: {} });
    if (status < 500) return;
    const again = (): void => void (this.isLeaving && pool.listening.includes(worker) && this.sendDrain(worker, move));
    setTimeout(again, retryDelayMs).unref();
  }
}

/** Metrics of all workers together. Totals of ended workers are kept, because a Prometheus counter must not decrease. */
export class PoolMetrics {
  /** `own`: metrics of the primary process. */
  constructor(private readonly own: () => Promise<MetricValues> = () => Promise.resolve([])) {}

  private readonly latest = new Map<WorkerProcess, MetricValues>();
  private endedTotals: Promise<MetricValues> = Promise.resolve([]);

  /** Sums the metrics. A worker that does not answer counts with its latest values. */
  async collect(workers: readonly WorkerProcess[]): Promise<{ type: string; text: string }> {
    await Promise.all(workers.map((worker) => this.refresh(worker)));
    return sumMetrics([...this.latest.values(), await this.endedTotals, await this.own()]);
  }

  /** Called when a worker has ended; changes since its latest values are lost. */
  retire(worker: WorkerProcess): void {
    const last = this.latest.get(worker);
    if (!last) return;
    this.latest.delete(worker);
    this.endedTotals = this.endedTotals.then((former) => cumulativeMetrics([former, last]));
  }

  private async refresh(worker: WorkerProcess): Promise<void> {
    try {
      const reply = await worker.request({ about: 'metrics' }, WORKER_TIMEOUT_MS);
      if (reply.about === 'metrics') this.latest.set(worker, reply.values);
    } catch {
      // The worker has ended or is blocked; its latest values are kept.
    }
  }
}
