/** Wakes everyone who waits for something to have changed. */
export class Change {
  private readonly waiters = new Set<() => void>();

  announce(): void {
    for (const wake of this.waiters) wake();
    this.waiters.clear();
  }

  /** Fulfilled at the next announcement. Rejects with the signal's reason. */
  next(signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const wake = (): void => {
        signal?.removeEventListener('abort', aborted);
        resolve();
      };
      const aborted = (): void => {
        this.waiters.delete(wake);
        reject(signal?.reason as Error);
      };
      if (signal?.aborted) return aborted();
      signal?.addEventListener('abort', aborted, { once: true });
      this.waiters.add(wake);
    });
  }
}
