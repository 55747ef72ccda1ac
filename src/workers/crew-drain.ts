import type { AdminAnswer, AdminRequest } from '../admin/admin-answer.js';
import type { Crew } from './crew.js';
import type { WorkerProcess } from './worker-process.js';

export interface CrewDrainOptions {
  readonly crew: Pick<Crew, 'listening'>;
  /** Gives a worker's answer, or says that it has none. */
  readonly ask: (worker: WorkerProcess | undefined, request: AdminRequest) => Promise<AdminAnswer>;
  readonly againMs?: number;
}

const AGAIN_MS = 1000;

/**
 * The drain of all workers. Each of them leaves, also one that takes the place of another later; one at a time moves what
 * the node has, and tells how far it is.
 */
export class CrewDrain {
  private isLeaving = false;
  private isMoving = false;
  private mover: WorkerProcess | undefined;
  /** Fulfilled when who moves now has been told so: before that it would know of nothing. */
  private handedOver: Promise<void> = Promise.resolve();

  constructor(private readonly options: CrewDrainOptions) {}

  async answer(request: AdminRequest): Promise<AdminAnswer> {
    await this.handedOver;
    const first = this.mover ?? this.options.crew.listening[0];
    const answer = await this.options.ask(first, request);
    // What is not understood, or not for who asks it, is nothing for the others.
    const isRefused = answer.status >= 400 && answer.status < 500;
    if (request.method !== 'POST' || !first || isRefused) return answer;
    this.isLeaving = true;
    if (request.query.get('move') === 'true') this.moveBy(first);
    const others = this.options.crew.listening.filter((worker) => worker !== first);
    const leave = { ...request, query: new URLSearchParams() };
    const answers = await Promise.all(others.map((worker) => this.options.ask(worker, leave)));
    return [answer, ...answers].find(({ status }) => status >= 400) ?? answer;
  }

  /** A worker has come to listen, maybe in the place of one that left. */
  joined(worker: WorkerProcess): void {
    if (!this.isLeaving) return;
    if (this.isMoving && !this.mover) this.handOver();
    if (worker !== this.mover) void this.insist(worker, false);
  }

  /** A worker has ended; what it was moving goes on with another. */
  ended(worker: WorkerProcess): void {
    if (worker !== this.mover) return;
    this.mover = undefined;
    this.handOver();
  }

  /** It may have ended before it could say that it does so. */
  private moveBy(worker: WorkerProcess): void {
    this.isMoving = true;
    this.mover = worker;
    if (!this.options.crew.listening.includes(worker)) this.handOver();
  }

  private handOver(): void {
    const [next] = this.options.crew.listening;
    this.mover = next;
    if (next) this.handedOver = this.insist(next, true);
  }

  /** Fulfilled when it was told; tells it again if that was in vain, as while Redis is away. */
  private async insist(worker: WorkerProcess, move: boolean): Promise<void> {
    const { crew, ask, againMs = AGAIN_MS } = this.options;
    const query = new URLSearchParams(move ? { move: 'true' } : {});
    const { status } = await ask(worker, { method: 'POST', path: '/drain', query, headers: {} });
    if (status < 500) return;
    const again = (): void => void (crew.listening.includes(worker) && this.insist(worker, move));
    setTimeout(again, againMs).unref();
  }
}
