import { Fault } from '../model/fault.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import {
  type Admin,
  type AdminResponse,
  type AdminListenerOptions,
  type AdminRequest,
  json,
  problem,
  startAdminListener,
} from './admin-http.js';
import type { KeyRotation } from '../uploads/key-rotation.js';
import { type KeyStep, respondToKeys } from './keys-api.js';
import { openApiDocument } from './openapi.js';
import { findOperation, type OperationName } from './operations.js';
import type { Status } from './status.js';
import { respondToUploads, type UploadsApi } from './uploads-api.js';

/** The parts of the proxy that the admin API needs. */
export interface AdminDeps {
  /** The version of the program. */
  readonly version?: string;
  readonly metrics: Metrics;
  readonly checks: readonly HealthCheck[];
  /** Undefined until the proxy has started. */
  readonly uploadsApi?: () => UploadsApi | undefined;
  /** Undefined until the proxy has started. */
  readonly drain?: () => DrainApi | undefined;
  /** Undefined until the proxy has started. */
  readonly keys?: () => KeyRotation | undefined;
  /** Undefined until the proxy has started, and without a configuration that can be loaded again. */
  readonly reload?: () => ReloadApi | undefined;
  /** Undefined until the proxy has started. */
  readonly status?: () => (() => Promise<Status>) | undefined;
  readonly log: Log;
}

export interface AdminOptions extends AdminDeps, Omit<AdminListenerOptions, 'respond' | 'log'> {}

/** Starts the admin listener with liveness, readiness, metrics, uploads and drain. */
export function startAdmin(options: AdminOptions): Promise<Admin> {
  return startAdminListener({ ...options, respond: (request) => respondToAdmin(options, request) });
}

/** Responds to an admin request that came over the listener, or from the primary process. */
export async function respondToAdmin(deps: AdminDeps, request: AdminRequest): Promise<AdminResponse> {
  const { name, refusal } = findOperation(request);
  return refusal ?? HANDLERS[name](deps, request);
}

type OperationHandler = (deps: AdminDeps, request: AdminRequest) => Promise<AdminResponse>;

const ofUploads: OperationHandler = async ({ uploadsApi }, request) => {
  const api = uploadsApi?.();
  return api ? respondToUploads(api, request) : stillStarting();
};

const ofDrain: OperationHandler = async ({ drain }, request) => {
  const api = drain?.();
  return api ? respondToDrain(api, request) : stillStarting();
};

const ofKeys =
  (step: KeyStep): OperationHandler =>
  async ({ keys }, { query }) => {
    const rotation = keys?.();
    return rotation ? respondToKeys(rotation, step, query) : stillStarting();
  };

const HANDLERS: Readonly<Record<OperationName, OperationHandler>> = {
  getHealth: () => Promise.resolve(json(200, { alive: true })),
  getReadiness: async ({ checks }) => {
    const readiness = await checkReadiness(checks);
    return json(readiness.ready ? 200 : 503, readiness);
  },
  getMetrics: async ({ metrics }) => ({ status: 200, type: metrics.contentType, body: await metrics.text() }),
  getStatus: async ({ status }) => {
    const read = status?.();
    return read ? json(200, await read()) : stillStarting();
  },
  getDocument: ({ version = 'unknown' }) => Promise.resolve(json(200, openApiDocument(version))),
  listUploads: ofUploads,
  getUpload: ofUploads,
  cancelUpload: ofUploads,
  redeliverUpload: ofUploads,
  getDrain: ofDrain,
  beginDrain: ofDrain,
  endDrain: ofDrain,
  reload: ({ reload }) => respondToReload(reload?.()),
  addKey: ofKeys('addKey'),
  resealPage: ofKeys('resealPage'),
  dropOlderKeys: ofKeys('dropOlderKeys'),
};

function stillStarting(): AdminResponse {
  return problem(503, 'The proxy is still starting.', { 'Retry-After': '1' });
}

/** A condition for this process to be ready for requests. */
export interface HealthCheck {
  readonly name: string;
  /** Resolves to a description of the problem, or to undefined if there is none. */
  readonly check: () => Promise<string | InformationalProblem | undefined>;
  /** Problems are reported, but the process stays ready: they concern single uploads or only some requests. */
  readonly isInformational?: true;
}

/** A single problem that is reported while the process stays ready. */
export interface InformationalProblem {
  readonly informational: string;
}

/** The response body of `/readyz`. */
export interface Readiness {
  readonly ready: boolean;
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly problem?: string }[];
}

/** A stalled disk or server must not stall the readiness response. */
const CHECK_TIMEOUT_MS = 2000;

/** Runs all checks in parallel; a check that throws or does not finish in time has failed. */
export async function checkReadiness(checks: readonly HealthCheck[], timeoutMs = CHECK_TIMEOUT_MS): Promise<Readiness> {
  const results = await Promise.all(
    checks.map(async ({ name, check, isInformational = false }) => {
      const found = await problemFoundBy(check, timeoutMs);
      if (found === undefined) return { ready: true, result: { name, ok: true } };
      if (typeof found === 'object') return { ready: true, result: { name, ok: false, problem: found.informational } };
      return { ready: isInformational, result: { name, ok: false, problem: found } };
    }),
  );
  return { ready: results.every(({ ready }) => ready), checks: results.map(({ result }) => result) };
}

async function problemFoundBy(
  check: HealthCheck['check'],
  timeoutMs: number,
): Promise<string | InformationalProblem | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<string>((resolve) => {
    timer = setTimeout(resolve, timeoutMs, `no answer within ${timeoutMs} ms`);
  });
  try {
    return await Promise.race([check(), timeout]);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    clearTimeout(timer);
  }
}

/** The reload of the configuration, and what an operator has to be told of it. */
export type ReloadApi = () => Promise<
  | { readonly kind: 'applied'; readonly changed: readonly string[]; readonly warnings: readonly object[] }
  | { readonly kind: 'refused'; readonly errors: readonly object[] }
  | { readonly kind: 'failed'; readonly problem: string }
>;

/** Loads the configuration again. The response is 422 with all errors if it is refused; the former one then still applies. */
export async function respondToReload(reload: ReloadApi | undefined): Promise<AdminResponse> {
  if (!reload) return stillStarting();
  const result = await reload();
  switch (result.kind) {
    case 'applied':
      return json(200, { reloaded: true, changed: result.changed, warnings: result.warnings });
    case 'refused':
      return problem(422, REFUSED_CONFIGURATION, undefined, { errors: result.errors });
    case 'failed':
      return problem(
        500,
        `The configuration could not be put into use: ${result.problem}. The former one still applies.`,
      );
  }
}

const REFUSED_CONFIGURATION = 'The configuration was refused; the former one still applies.';

/** Draining of this node. The methods resolve to the JSON body of the response. */
export interface DrainApi {
  /** Begins draining, with `move` also moving the uploads to other nodes. */
  begin(move: boolean): Promise<object>;
  /** Ends draining: new uploads are accepted again, and no more uploads are moved. */
  end(): Promise<object>;
  state(): Promise<object>;
}

/** POST begins draining, with `?move=true` also moving the uploads to other nodes; DELETE ends it; GET reports progress. */
async function respondToDrain(drain: DrainApi, request: AdminRequest): Promise<AdminResponse> {
  if (request.method === 'GET' || request.method === 'HEAD') return json(200, await drain.state());
  const move = request.query.get('move') ?? 'false';
  if (move !== 'true' && move !== 'false') return problem(400, 'move is true or false.');
  try {
    if (request.method === 'DELETE') return json(200, await drain.end());
    return json(202, await drain.begin(move === 'true'));
  } catch (fault) {
    if (!(fault instanceof Fault)) throw fault;
    return problem(503, `The other nodes could not be told: ${fault.message}. Ask again.`, { 'Retry-After': '5' });
  }
}
