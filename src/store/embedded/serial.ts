/** Runs the steps of one key one after the other, those of different keys side by side. Keeps nothing of idle keys. */
export class Serial {
  private readonly tails = new Map<string, Promise<void>>();

  run<T>(key: string, step: () => Promise<T> | T): Promise<T> {
    const result = (this.tails.get(key) ?? Promise.resolve()).then(step);
    const tail = result.then(nothing, nothing).then(() => {
      if (this.tails.get(key) === tail) this.tails.delete(key);
    });
    this.tails.set(key, tail);
    return result;
  }

  /** Fulfilled when every step known now has ended. */
  async idle(): Promise<void> {
    await Promise.all(this.tails.values());
  }
}

function nothing(): void {
  // A step's failure is its caller's; the next step begins all the same.
}
