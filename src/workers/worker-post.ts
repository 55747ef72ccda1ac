import type { Log } from '../observe/log.js';
import type { ClientGate } from './given-connections.js';
import { nextRestart } from './restart-delay.js';
import { endWords, WorkerProcess } from './worker-process.js';

export interface WorkerPostOptions {
  readonly number: number;
  readonly log: Log;
  /** Milliseconds by a clock that nobody sets. */
  readonly monotonic: () => number;
  /** Which connections of clients it is given. */
  readonly gate?: ClientGate;
  /** Called for each process that has come to listen, and again when it has ended. */
  readonly onListening: (worker: WorkerProcess) => void;
  readonly onEnded: (worker: WorkerProcess) => void;
}

/** One worker's place: a process that ends there is followed by another. */
export class WorkerPost {
  private worker: WorkerProcess | undefined;
  private isListening = false;
  private failures = 0;
  private next: NodeJS.Timeout | undefined;
  private stopping = false;

  constructor(private readonly options: WorkerPostOptions) {}

  get number(): number {
    return this.options.number;
  }

  /** The process there, if it listens. */
  get listening(): WorkerProcess | undefined {
    return this.isListening ? this.worker : undefined;
  }

  /** Where it listens. Fails when the first process does not come to; from then on there will always be another. */
  async start(isLater: boolean): Promise<readonly string[]> {
    const worker = this.fork(isLater);
    const urls = await worker.listening;
    this.replaceWhenEnded(worker);
    return urls;
  }

  /** Fulfilled when its process has ended gently; fails when it ended otherwise. */
  async stop(): Promise<void> {
    this.stopping = true;
    clearTimeout(this.next);
    if (!this.worker) return;
    const { worker } = this;
    if (!this.isListening) {
      // One that is still starting may not hear yet, and has nothing to keep.
      worker.kill();
      await worker.ended;
      return;
    }
    worker.tell({ kind: 'stop' });
    const end = await worker.ended;
    if (end.code !== 0) throw new Error(`worker ${this.number} ended ${endWords(end)}`);
  }

  /** At once; nothing follows. */
  kill(): void {
    this.stopping = true;
    clearTimeout(this.next);
    this.worker?.kill();
  }

  private fork(isLater: boolean): WorkerProcess {
    const { number, log, gate, onListening, onEnded } = this.options;
    const worker = new WorkerProcess({ number, isLater }, gate);
    this.worker = worker;
    worker.listening.then(
      () => {
        this.isListening = true;
        log.info({ worker: number, workerPid: worker.pid }, 'a worker listens');
        onListening(worker);
      },
      () => undefined,
    );
    void worker.ended.then(() => {
      this.worker = undefined;
      this.isListening = false;
      onEnded(worker);
    });
    return worker;
  }

  private replaceWhenEnded(worker: WorkerProcess): void {
    const { number, log, monotonic } = this.options;
    const since = monotonic();
    void worker.ended.then((end) => {
      if (this.stopping) return;
      const { failures, afterMs } = nextRestart(this.failures, monotonic() - since);
      this.failures = failures;
      const { pid, problem } = worker;
      log.error({ worker: number, workerPid: pid, ...end, problem, afterMs }, 'a worker ended; another follows');
      this.next = setTimeout(() => this.replaceWhenEnded(this.fork(true)), afterMs);
    });
  }
}
