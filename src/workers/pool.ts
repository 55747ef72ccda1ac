import type { Log } from '../observe/log.js';
import { type ClientGate, describeExit, WorkerProcess } from './worker-process.js';

export interface WorkerPoolOptions {
  readonly workers: number;
  readonly log: Log;
  /** Milliseconds by a clock that nobody sets. */
  readonly monotonic: () => number;
  readonly gate?: ClientGate;
  /** Called for each process that has come to listen, and again when it has ended. */
  readonly onListening: (worker: WorkerProcess) => void;
  readonly onEnded: (worker: WorkerProcess) => void;
}

/** All workers of one primary process. */
export class WorkerPool {
  readonly slots: readonly WorkerSlot[];
  private announced = false;
  private nextIndex = 0;

  constructor({ workers, ...options }: WorkerPoolOptions) {
    const onListening = (worker: WorkerProcess) => {
      if (this.announced) worker.send({ kind: 'announced' });
      options.onListening(worker);
    };
    this.slots = Array.from(
      { length: workers },
      (_, at) => new WorkerSlot({ ...options, number: at + 1, onListening }),
    );
  }

  /**
   * Where all of them listen. Fails with the first that does not come to. One goes before the others: what keeps it
   * from starting would keep all of them, and is told once; and it makes room where a process that died left a socket.
   */
  async start(): Promise<readonly string[]> {
    const [first, ...others] = this.slots;
    const urls = await first!.start(false);
    await Promise.all(others.map((slot) => slot.start(true)));
    return urls;
  }

  /** All of them listen, and whoever started us knows: logs go to standard output, as do those of later processes. */
  announce(): void {
    this.announced = true;
    for (const worker of this.listening) worker.send({ kind: 'announced' });
  }

  /** Connections are short. */
  endIdle(): void {
    for (const worker of this.listening) worker.send({ kind: 'end-idle' });
  }

  get listening(): readonly WorkerProcess[] {
    return this.slots.flatMap(({ listening }) => (listening ? [listening] : []));
  }

  /** Each in its turn; undefined while none listens. */
  next(): WorkerProcess | undefined {
    const { listening } = this;
    return listening[this.nextIndex++ % listening.length];
  }

  /** Fails when one of them did not end gently, but not before all have ended. */
  async stop(): Promise<void> {
    const ends = await Promise.allSettled(this.slots.map((slot) => slot.stop()));
    const failed = ends.find((end) => end.status === 'rejected');
    if (failed) throw failed.reason;
  }

  kill(): void {
    for (const slot of this.slots) slot.kill();
  }
}

export interface WorkerSlotOptions {
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
export class WorkerSlot {
  private worker: WorkerProcess | undefined;
  private isListening = false;
  private failures = 0;
  private restartTimer: NodeJS.Timeout | undefined;
  private stopping = false;

  constructor(private readonly options: WorkerSlotOptions) {}

  get number(): number {
    return this.options.number;
  }

  /** The process there, if it listens. */
  get listening(): WorkerProcess | undefined {
    return this.isListening ? this.worker : undefined;
  }

  /** Where it listens. Fails when the first process does not come to; from then on there will always be another. */
  async start(othersListen: boolean): Promise<readonly string[]> {
    const worker = this.fork(othersListen);
    const urls = await worker.listening;
    this.replaceWhenEnded(worker);
    return urls;
  }

  /** Fulfilled when its process has ended gently; fails when it ended otherwise. */
  async stop(): Promise<void> {
    this.stopping = true;
    clearTimeout(this.restartTimer);
    if (!this.worker) return;
    const { worker } = this;
    if (!this.isListening) {
      // One that is still starting may not hear yet, and has nothing to keep.
      worker.kill();
      await worker.ended;
      return;
    }
    worker.send({ kind: 'stop' });
    const end = await worker.ended;
    if (end.code !== 0) throw new Error(`worker ${this.number} exited ${describeExit(end)}`);
  }

  /** At once; nothing follows. */
  kill(): void {
    this.stopping = true;
    clearTimeout(this.restartTimer);
    this.worker?.kill();
  }

  private fork(othersListen: boolean): WorkerProcess {
    const { number, log, gate, onListening, onEnded } = this.options;
    const worker = new WorkerProcess({ number, othersListen }, gate);
    this.worker = worker;
    worker.listening.then(
      () => {
        this.isListening = true;
        log.info({ worker: number, workerPid: worker.pid }, 'worker listening');
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
      log.error({ worker: number, workerPid: pid, ...end, problem, afterMs }, 'worker exited; starting another');
      this.restartTimer = setTimeout(() => this.replaceWhenEnded(this.fork(true)), afterMs);
    });
  }
}

const FIRST_RESTART_DELAY_MS = 250;
const MAX_RESTART_DELAY_MS = 30_000;

/** One that ran this long was sound: what ended it is no reason to wait. */
const STABLE_AFTER_MS = 60_000;

/** How often in a row a worker has ended, and when the next takes its place. */
export function nextRestart(failuresBefore: number, ranMs: number): { failures: number; afterMs: number } {
  const failures = ranMs >= STABLE_AFTER_MS ? 1 : failuresBefore + 1;
  return { failures, afterMs: Math.min(MAX_RESTART_DELAY_MS, FIRST_RESTART_DELAY_MS * 2 ** (failures - 1)) };
}
