import { Fault } from '../model/fault.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import {
  type Admin,
  type AdminResponse,
  type AdminListenerOptions,
  type AdminRequest,
  json,
  methodNotAllowed,
  problem,
  startAdminListener,
} from './admin-http.js';
import { answerUploads, type UploadsApi } from './uploads-api.js';

/** What the answers to operators are made from. */
export interface AdminDeps {
  readonly metrics: Metrics;
  /** What must hold for this process to take requests. */
  readonly checks: readonly HealthCheck[];
  /** Where uploads can be seen and acted on; undefined until all rooms of the proxy are open. */
  readonly uploadsApi?: () => UploadsApi | undefined;
  /** Where this process is sent away; undefined as long as it is not there yet. */
  readonly drain?: () => DrainApi | undefined;
  readonly log: Log;
}

export interface AdminOptions extends AdminDeps, Omit<AdminListenerOptions, 'respond' | 'log'> {}

/** Opens the admin listener: whether the process lives, whether it can take requests, its figures, and its uploads. */
export function startAdmin(options: AdminOptions): Promise<Admin> {
  return startAdminListener({ ...options, respond: (request) => answerAdmin(options, request) });
}

/** What operators are told, wherever they asked. */
export async function answerAdmin(deps: AdminDeps, request: AdminRequest): Promise<AdminResponse> {
  const { method, path } = request;
  const page = PAGES[path];
  if (page) return method === 'GET' || method === 'HEAD' ? page(deps) : methodNotAllowed(['GET', 'HEAD']);
  const uploadsApi = deps.uploadsApi?.();
  const drain = deps.drain?.();
  if (path === '/drain') return drain ? answerDrain(drain, request) : stillStarting();
  const isUploadsPath = path === '/uploads' || path.startsWith('/uploads/');
  if (isUploadsPath && !uploadsApi) return stillStarting();
  return (uploadsApi && (await answerUploads(uploadsApi, request))) ?? problem(404);
}

function stillStarting(): AdminResponse {
  return problem(503, 'The proxy is still starting.', { 'Retry-After': '1' });
}

const PAGES: Readonly<Record<string, ((deps: AdminDeps) => Promise<AdminResponse>) | undefined>> = {
  '/healthz': () => Promise.resolve(json(200, { alive: true })),
  '/readyz': async ({ checks }) => {
    const readiness = await checkReadiness(checks);
    return json(readiness.ready ? 200 : 503, readiness);
  },
  '/metrics': async ({ metrics }) => ({ status: 200, type: metrics.contentType, body: await metrics.text() }),
};

/** Something that must hold for this process to take requests. */
export interface HealthCheck {
  readonly name: string;
  /** Resolves to what is wrong, for people; undefined when nothing is. */
  readonly check: () => Promise<string | ReportedProblem | undefined>;
  /** It is told, but does not keep requests away: for what one upload suffers from, or what only some requests need. */
  readonly isInformational?: true;
}

/** A problem that is told but keeps no requests away, where only the check itself can know that. */
export interface ReportedProblem {
  readonly informational: string;
}

export interface Readiness {
  readonly ready: boolean;
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly problem?: string }[];
}

/** A disk or server that stands still must not make the question stand still too. */
const PATIENCE_MS = 2000;

/** Runs all checks side by side; one that throws or does not end counts as failed. */
export async function checkReadiness(checks: readonly HealthCheck[], patienceMs = PATIENCE_MS): Promise<Readiness> {
  const results = await Promise.all(
    checks.map(async ({ name, check, isInformational }) => {
      const found = await outcome(check, patienceMs);
      if (found === undefined) return { ready: true, result: { name, ok: true } };
      const isTold = typeof found === 'object';
      const problem = isTold ? found.informational : found;
      return { ready: isTold || isInformational === true, result: { name, ok: false, problem } };
    }),
  );
  return { ready: results.every(({ ready }) => ready), checks: results.map(({ result }) => result) };
}

async function outcome(check: HealthCheck['check'], patienceMs: number): Promise<string | ReportedProblem | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(resolve, patienceMs, `no answer within ${patienceMs} ms`);
  });
  try {
    return await Promise.race([check(), late]);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    clearTimeout(timer);
  }
}

/** Where an operator sends a node away. */
export interface DrainApi {
  /** What it says is told to the operator as it is, in JSON. */
  begin(move: boolean): Promise<object>;
  state(): Promise<object>;
}

/** `/drain`: POST begins, with `?move=true` also to give the uploads to other nodes; GET tells how far it is. */
async function answerDrain(uploadsApi: DrainApi, request: AdminRequest): Promise<AdminResponse> {
  if (request.method === 'GET' || request.method === 'HEAD') return json(200, await uploadsApi.state());
  if (request.method !== 'POST') return methodNotAllowed(['GET', 'HEAD', 'POST']);
  const move = request.query.get('move') ?? 'false';
  if (move !== 'true' && move !== 'false') return problem(400, 'move is true or false.');
  try {
    return json(202, await uploadsApi.begin(move === 'true'));
  } catch (fault) {
    if (!(fault instanceof Fault)) throw fault;
    return problem(503, `The other nodes could not be told: ${fault.message}. Ask again.`, { 'Retry-After': '5' });
  }
}
