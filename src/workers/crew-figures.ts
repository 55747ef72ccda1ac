import type { Figures } from '../observe/metrics.js';
import { lastingFigures, summedFigures } from '../observe/summed-figures.js';
import type { WorkerProcess } from './worker-process.js';

/** A worker that has stood still this long keeps nobody's figures waiting any longer. */
const PATIENCE_MS = 4000;

/** Figures of all workers together. Totals of workers that have ended stay in: to Prometheus a total only grows. */
export class CrewFigures {
  /** `own`: of the process that collects. */
  constructor(private readonly own: () => Promise<Figures> = () => Promise.resolve([])) {}

  private readonly newest = new Map<WorkerProcess, Figures>();
  private former: Promise<Figures> = Promise.resolve([]);

  /** A worker that does not answer counts with what it said last. */
  async collect(workers: readonly WorkerProcess[]): Promise<{ type: string; text: string }> {
    await Promise.all(workers.map((worker) => this.ask(worker)));
    return summedFigures([...this.newest.values(), await this.former, await this.own()]);
  }

  /** It has ended; what it counted since it was last asked is not known. */
  retire(worker: WorkerProcess): void {
    const last = this.newest.get(worker);
    if (!last) return;
    this.newest.delete(worker);
    this.former = this.former.then((former) => lastingFigures([former, last]));
  }

  private async ask(worker: WorkerProcess): Promise<void> {
    try {
      const reply = await worker.ask({ about: 'figures' }, PATIENCE_MS);
      if (reply.about === 'figures') this.newest.set(worker, reply.figures);
    } catch {
      // It has ended or stands still: its figures of before are the best there are.
    }
  }
}
