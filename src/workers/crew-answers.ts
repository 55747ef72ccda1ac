import { json, methodNotAllowed, problem, type AdminAnswer, type AdminRequest } from '../admin/admin-answer.js';
import { checkReadiness, type HealthCheck, type Readiness, type ToldProblem } from '../admin/readiness.js';
import { CrewDrain } from './crew-drain.js';
import type { CrewFigures } from './crew-figures.js';
import type { Crew } from './crew.js';
import type { WorkerPost } from './worker-post.js';
import type { WorkerProcess } from './worker-process.js';

/** Longer than a worker has patience with its own checks: what it found is told. */
const PATIENCE_MS = 4000;

/** What operators are told of all workers together; what is about uploads, any of them can answer. */
export class CrewAnswers {
  readonly drain: CrewDrain;

  constructor(
    private readonly crew: Crew,
    private readonly figures: CrewFigures,
  ) {
    this.drain = new CrewDrain({ crew, ask: (worker, request) => this.relay(request, worker) });
  }

  answer(request: AdminRequest): Promise<AdminAnswer> {
    if (request.path === '/drain') return this.drain.answer(request);
    const page = this.pages[request.path];
    if (!page) return this.relay(request);
    const isRead = request.method === 'GET' || request.method === 'HEAD';
    return isRead ? page() : Promise.resolve(methodNotAllowed(['GET', 'HEAD']));
  }

  private readonly pages: Readonly<Record<string, (() => Promise<AdminAnswer>) | undefined>> = {
    '/healthz': () => Promise.resolve(json(200, { alive: true })),
    '/readyz': async () => {
      const readiness = await checkReadiness(this.crew.posts.map(readinessOf), PATIENCE_MS);
      return json(readiness.ready ? 200 : 503, readiness);
    },
    '/metrics': async () => {
      const { type, text } = await this.figures.collect(this.crew.listening);
      return { status: 200, type, body: text };
    },
  };

  private async relay(request: AdminRequest, worker = this.crew.next()): Promise<AdminAnswer> {
    if (!worker) return problem(503, 'No worker listens at the moment.', { 'Retry-After': '1' });
    try {
      return await askAsOperator(worker, request);
    } catch (error) {
      return problem(503, `The worker that was asked gave no answer: ${String(error)}`, { 'Retry-After': '1' });
    }
  }
}

function readinessOf(post: WorkerPost): HealthCheck {
  return {
    name: `worker ${post.number}`,
    check: async () => {
      if (!post.listening) return 'it does not listen (yet)';
      const request = { method: 'GET', path: '/readyz', query: new URLSearchParams(), headers: {} };
      const { body = '' } = await askAsOperator(post.listening, request);
      return problemsOf(JSON.parse(body) as Readiness);
    },
  };
}

/** The problems of a worker in one line: told only, when the worker is ready in spite of them. */
function problemsOf({ ready, checks }: Readiness): string | ToldProblem | undefined {
  const failed = checks.filter(({ ok }) => !ok);
  if (failed.length === 0) return undefined;
  const told = failed.map((check) => `${check.name}: ${check.problem}`).join('; ');
  return ready ? { told } : told;
}

async function askAsOperator(worker: WorkerProcess, { query, ...request }: AdminRequest): Promise<AdminAnswer> {
  const reply = await worker.ask({ about: 'request', request: { ...request, query: query.toString() } });
  if (reply.about !== 'request') throw new Error('the reply is to another question');
  return reply.answer;
}
