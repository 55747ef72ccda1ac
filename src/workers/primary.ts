import cluster from 'node:cluster';
import { startAdminListener, type Admin } from '../admin/admin-listener.js';
import type { Config } from '../config/config.js';
import type { Log } from '../observe/log.js';
import { CrewAnswers } from './crew-answers.js';
import { CrewFigures } from './crew-figures.js';
import { Crew } from './crew.js';
import type { WorkerProcess } from './worker-process.js';

export interface PrimaryOptions extends Pick<Config, 'workers' | 'admin'> {
  readonly log: Log;
  /** What is forked; this process's own program by default. It is a worker by its `workerPlace`. */
  readonly program?: { readonly exec: string; readonly args?: string[] };
}

/** A running proxy of several processes. */
export interface Primary {
  readonly urls: readonly string[];
  readonly adminUrl?: string;
  /** Call it when the world has been told where to find us. */
  announced(): void;
  /** Fulfilled when all workers have ended gently. */
  stop(): Promise<void>;
}

/** Forks the workers and waits until all of them listen. This process itself serves operators only, no clients. */
export async function startPrimary({ workers, admin, log, program }: PrimaryOptions): Promise<Primary> {
  cluster.schedulingPolicy = cluster.SCHED_RR;
  // Figures may be NaN or infinite, which JSON cannot say.
  cluster.setupPrimary({ ...program, serialization: 'advanced' });
  const figures = new CrewFigures();
  const onListening = (worker: WorkerProcess): void => answers.drain.joined(worker);
  const onEnded = (worker: WorkerProcess): void => {
    figures.retire(worker);
    answers.drain.ended(worker);
  };
  const crew = new Crew({ workers, log, clock: Date.now, onListening, onEnded });
  const answers = new CrewAnswers(crew, figures);
  const killAll = () => crew.kill();
  process.once('exit', killAll);
  let operators: Admin | undefined;
  const close = async () => {
    await operators?.close();
    process.off('exit', killAll);
  };
  try {
    operators = admin && (await startAdminListener({ ...admin, log, answer: (request) => answers.answer(request) }));
    const urls = await crew.start();
    return {
      urls,
      ...(operators ? { adminUrl: operators.url } : {}),
      announced: () => crew.announce(),
      stop: () => crew.stop().finally(close),
    };
  } catch (error) {
    crew.kill();
    await close();
    throw error;
  }
}
