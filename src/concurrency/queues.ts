/** Lets a bounded number of tasks run at once, the others in their order: what bounds open files and queued disk work. */
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

/** Runs the steps of one key one after the other, those of different keys side by side. Keeps nothing of idle keys. */
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

  /** Fulfilled when every step known now has ended. */
  async idle(): Promise<void> {
    await Promise.all(this.lastSteps.values());
  }
}

function ignoreResult(): void {
  // A step's failure is its caller's; the next step begins all the same.
}
