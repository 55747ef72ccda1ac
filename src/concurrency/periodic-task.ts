/** Runs a task at an interval, never twice at the same time. The task must not reject: a rejection ends the process. */
export class PeriodicTask {
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<void> | undefined;

  constructor(
    private readonly task: () => Promise<void>,
    private everyMs: number,
  ) {}

  /** Runs the task for the first time when the interval is over. The timer does not keep the process alive. */
  start(): void {
    this.timer = setInterval(() => this.run(), this.everyMs).unref();
  }

  /** Changes the interval; one that has begun starts again. */
  setInterval(everyMs: number): void {
    if (everyMs === this.everyMs) return;
    this.everyMs = everyMs;
    if (!this.timer) return;
    clearInterval(this.timer);
    this.start();
  }

  /** Runs the task now, unless it is running. */
  run(): void {
    this.running ??= this.task().finally(() => (this.running = undefined));
  }

  /** Starts no further run. */
  cancel(): void {
    clearInterval(this.timer);
    this.timer = undefined;
  }

  /** Starts no further run; resolves when a run in progress has ended. */
  async stop(): Promise<void> {
    this.cancel();
    await this.running;
  }
}
