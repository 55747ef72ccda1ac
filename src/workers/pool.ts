import type { Config } from '../config/config.js';
import type { Log } from '../observe/log.js';
import { type ClientGate, describeExit, WorkerProcess } from './worker-process.js';

export interface WorkerPoolOptions {
  /** The configuration of all workers; `workers` is their number. */
  readonly config: Config;
  readonly log: Log;
  /** Monotonic clock in milliseconds. */
  readonly monotonic: () => number;
  readonly gate?: ClientGate;
  /** Called when a process starts to listen, and when it has ended. */
  readonly onListening: (worker: WorkerProcess) => void;
  readonly onEnded: (worker: WorkerProcess) => void;
}

/** All workers of one primary process. */
export class WorkerPool {
  readonly slots: readonly WorkerSlot[];
  private announced = false;
  private nextIndex = 0;
  private config: Config;
  /** The change of a configuration that was requested last. */
  private lastChange: Promise<unknown> = Promise.resolve();
  private readonly log: Log;

  constructor({ config, ...options }: WorkerPoolOptions) {
    this.config = config;
    this.log = options.log;
    const onListening = (worker: WorkerProcess) => {
      if (this.announced) worker.send({ kind: 'announced' });
      void this.inTurn(() => this.update(worker));
      options.onListening(worker);
    };
    const currentConfig = (): Config => this.config;
    this.slots = Array.from(
      { length: config.workers },
      (_, at) => new WorkerSlot({ ...options, number: at + 1, currentConfig, onListening }),
    );
  }

  /**
   * Puts another configuration into use in all workers, once all of them are ready for it. Rejects if one of them cannot
   * use it; nothing has changed then. A worker that ends meanwhile is replaced by one with the new configuration.
   */
  useConfig(config: Config): Promise<void> {
    return this.inTurn(async () => {
      const workers = this.listening;
      const failed = await this.failureOf(workers, (worker) => worker.prepareConfig(config));
      if (failed) throw failed.reason;
      this.config = config;
      const late = await this.failureOf(workers, (worker) => worker.useConfig(config));
      if (late) this.log.error({ err: late.reason as Error }, 'a worker is late to use the new configuration');
    });
  }

  private inTurn(change: () => Promise<void>): Promise<void> {
    const done = this.lastChange.then(change);
    this.lastChange = done.catch(() => undefined);
    return done;
  }

  /** The first failure of a worker that has not ended. */
  private async failureOf(
    workers: readonly WorkerProcess[],
    step: (worker: WorkerProcess) => Promise<void>,
  ): Promise<PromiseRejectedResult | undefined> {
    const results = await Promise.allSettled(workers.map(step));
    return results.find((result, at): result is PromiseRejectedResult => {
      return result.status === 'rejected' && this.listening.includes(workers[at]!);
    });
  }

  /** Gives the current configuration to a worker that a reload has not reached, because it was starting. */
  private async update(worker: WorkerProcess): Promise<void> {
    const { config, log } = this;
    if (worker.hasConfig(config) || !this.listening.includes(worker)) return;
    try {
      await worker.prepareConfig(config);
      await worker.useConfig(config);
    } catch (error) {
      log.error({ err: error, workerPid: worker.pid }, 'a worker cannot use the newest configuration yet');
      setTimeout(() => void this.inTurn(() => this.update(worker)), UPDATE_RETRY_MS).unref();
    }
  }

  /**
   * Starts all workers and returns the URLs on which they listen. The first worker starts alone: an error that prevents
   * starting is reported once, and stale Unix sockets are removed once. Rejects with the first failure.
   */
  async start(): Promise<readonly string[]> {
    const [first, ...others] = this.slots;
    const urls = await first!.start(false);
    await Promise.all(others.map((slot) => slot.start(true)));
    return urls;
  }

  /** Called after the `listening` line: logs of all workers, including later ones, go to standard output. */
  announce(): void {
    this.announced = true;
    for (const worker of this.listening) worker.send({ kind: 'announced' });
  }

  /** Closes idle connections, because connections are scarce. */
  endIdle(): void {
    for (const worker of this.listening) worker.send({ kind: 'end-idle' });
  }

  get listening(): readonly WorkerProcess[] {
    return this.slots.flatMap(({ listening }) => (listening ? [listening] : []));
  }

  /** The next worker, round robin; undefined if none is listening. */
  next(): WorkerProcess | undefined {
    const { listening } = this;
    return listening[this.nextIndex++ % listening.length];
  }

  /** Stops all workers. Rejects, after all have ended, if one did not stop gracefully. */
  async stop(): Promise<void> {
    const ends = await Promise.allSettled(this.slots.map((slot) => slot.stop()));
    const failed = ends.find((end) => end.status === 'rejected');
    if (failed) throw failed.reason;
  }

  kill(): void {
    for (const slot of this.slots) slot.kill();
  }
}

/** Time until a worker that could not use the current configuration is asked again. */
const UPDATE_RETRY_MS = 1000;

export interface WorkerSlotOptions {
  readonly number: number;
  readonly currentConfig: () => Config;
  readonly log: Log;
  /** Monotonic clock in milliseconds. */
  readonly monotonic: () => number;
  /** Limits the client connections of the worker. */
  readonly gate?: ClientGate;
  /** Called when a process starts to listen, and when it has ended. */
  readonly onListening: (worker: WorkerProcess) => void;
  readonly onEnded: (worker: WorkerProcess) => void;
}

/** Slot of one worker. A process that ends is replaced by another. */
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

  /** The current process, if it is listening. */
  get listening(): WorkerProcess | undefined {
    return this.isListening ? this.worker : undefined;
  }

  /** Returns the URLs of the first process; rejects if it fails to start. Later processes are replaced when they end. */
  async start(othersListen: boolean): Promise<readonly string[]> {
    const worker = this.fork(othersListen);
    const urls = await worker.listening;
    this.replaceWhenEnded(worker);
    return urls;
  }

  /** Resolves when the process has stopped gracefully; rejects if it ended otherwise. */
  async stop(): Promise<void> {
    this.stopping = true;
    clearTimeout(this.restartTimer);
    if (!this.worker) return;
    const { worker } = this;
    if (!this.isListening) {
      // A process that is still starting may not receive messages yet, and has nothing to finish.
      worker.kill();
      await worker.ended;
      return;
    }
    worker.send({ kind: 'stop' });
    const end = await worker.ended;
    if (end.code !== 0) throw new Error(`worker ${this.number} exited ${describeExit(end)}`);
  }

  /** Kills the process and does not replace it. */
  kill(): void {
    this.stopping = true;
    clearTimeout(this.restartTimer);
    this.worker?.kill();
  }

  private fork(othersListen: boolean): WorkerProcess {
    const { number, currentConfig, log, gate, onListening, onEnded } = this.options;
    const worker = new WorkerProcess({ number, othersListen }, currentConfig, gate);
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

/** A worker that ran this long counts as stable, so its end resets the restart delay. */
const STABLE_AFTER_MS = 60_000;

/** The number of consecutive failures of a worker, and the delay before its restart. */
export function nextRestart(failuresBefore: number, ranMs: number): { failures: number; afterMs: number } {
  const failures = ranMs >= STABLE_AFTER_MS ? 1 : failuresBefore + 1;
  return { failures, afterMs: Math.min(MAX_RESTART_DELAY_MS, FIRST_RESTART_DELAY_MS * 2 ** (failures - 1)) };
}
