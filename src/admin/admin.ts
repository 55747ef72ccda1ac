import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { json, methodNotAllowed, problem, type AdminAnswer, type AdminRequest } from './admin-answer.js';
import { startAdminListener, type Admin, type AdminListenerOptions } from './admin-listener.js';
import { answerAtDrain, type DrainDesk } from './drain-desk.js';
import { checkReadiness, type HealthCheck } from './readiness.js';
import { answerAtDesk, type UploadsDesk } from './uploads-desk.js';

/** What the answers to operators are made from. */
export interface AdminRooms {
  readonly metrics: Metrics;
  /** What must hold for this process to take requests. */
  readonly checks: readonly HealthCheck[];
  /** Where uploads can be seen and acted on; undefined until all rooms of the proxy are open. */
  readonly desk?: () => UploadsDesk | undefined;
  /** Where this process is sent away; undefined as long as it is not there yet. */
  readonly drain?: () => DrainDesk | undefined;
  readonly log: Log;
}

export interface AdminOptions extends AdminRooms, Omit<AdminListenerOptions, 'answer' | 'log'> {}

/** Opens the admin listener: whether the process lives, whether it can take requests, its figures, and its uploads. */
export function startAdmin(options: AdminOptions): Promise<Admin> {
  return startAdminListener({ ...options, answer: (request) => answerAdmin(options, request) });
}

/** What operators are told, wherever they asked. */
export async function answerAdmin(rooms: AdminRooms, request: AdminRequest): Promise<AdminAnswer> {
  const { method, path } = request;
  const page = PAGES[path];
  if (page) return method === 'GET' || method === 'HEAD' ? page(rooms) : methodNotAllowed(['GET', 'HEAD']);
  const desk = rooms.desk?.();
  const drain = rooms.drain?.();
  if (path === '/drain') return drain ? answerAtDrain(drain, request) : stillStarting();
  const isAtDesk = path === '/uploads' || path.startsWith('/uploads/');
  if (isAtDesk && !desk) return stillStarting();
  return (desk && (await answerAtDesk(desk, request))) ?? problem(404);
}

function stillStarting(): AdminAnswer {
  return problem(503, 'The proxy is still starting.', { 'Retry-After': '1' });
}

const PAGES: Readonly<Record<string, ((rooms: AdminRooms) => Promise<AdminAnswer>) | undefined>> = {
  '/healthz': () => Promise.resolve(json(200, { alive: true })),
  '/readyz': async ({ checks }) => {
    const readiness = await checkReadiness(checks);
    return json(readiness.ready ? 200 : 503, readiness);
  },
  '/metrics': async ({ metrics }) => ({ status: 200, type: metrics.contentType, body: await metrics.text() }),
};
