/**
 * Runs at most `permits` tasks at the same time and queues the others in order; bounds open files and queued disk work.
 */
export class Semaphore {
  private running = 0;
  private readonly waiting: (() => void)[] = [];

  constructor(private readonly permits: number) {}

  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.running >= this.permits) await new Promise<void>((resolve) => this.waiting.push(resolve));
    else this.running += 1;
    try {
      return await task();
    } finally {
      const next = this.waiting.shift();
      if (next) next();
      else this.running -= 1;
    }
  }
}

/** Runs steps with the same key one after the other, and steps with different keys concurrently. Idle keys use no memory. */
export class KeyedQueue {
  private readonly lastSteps = new Map<string, Promise<void>>();

  run<T>(key: string, step: () => Promise<T> | T): Promise<T> {
    const result = (this.lastSteps.get(key) ?? Promise.resolve()).then(step);
    const tail = result.then(ignoreResult, ignoreResult).then(() => {
      if (this.lastSteps.get(key) === tail) this.lastSteps.delete(key);
    });
    this.lastSteps.set(key, tail);
    return result;
  }

  /** Whether a step with this key runs or waits. */
  has(key: string): boolean {
    return this.lastSteps.has(key);
  }

  /** Resolves when every step that is queued now has ended. */
  async idle(): Promise<void> {
    await Promise.all(this.lastSteps.values());
  }
}

function ignoreResult(): void {
  // A failed step rejects for its caller only; the next step runs.
}
