import type { Upload } from '../../model/upload.js';

type Waiter = (upload: Upload | undefined, failure?: Error) => void;

const NOBODY: readonly Waiter[] = [];

/** Requests that wait until the delivery of an upload has come to something. */
export class Settlement {
  private readonly waiters = new Map<string, Set<Waiter>>();

  wait(id: string, signal: AbortSignal): Promise<Upload | undefined> {
    return new Promise((resolve, reject) => {
      const waiter: Waiter = (upload, failure) => {
        signal.removeEventListener('abort', aborted);
        this.leave(id, waiter);
        if (failure === undefined) resolve(upload);
        else reject(failure);
      };
      const aborted = (): void => waiter(undefined, signal.reason as Error);
      if (signal.aborted) return aborted();
      signal.addEventListener('abort', aborted, { once: true });
      this.waiters.set(id, (this.waiters.get(id) ?? new Set()).add(waiter));
    });
  }

  /** Called after each step: wakes those who wait when the phase is a settled one. */
  tell(id: string, upload: Upload | undefined): void {
    if (!isSettled(upload)) return;
    for (const waiter of [...(this.waiters.get(id) ?? NOBODY)]) waiter(upload);
  }

  failAll(failure: Error): void {
    for (const waiters of [...this.waiters.values()]) for (const waiter of [...waiters]) waiter(undefined, failure);
  }

  private leave(id: string, waiter: Waiter): void {
    const waiters = this.waiters.get(id);
    waiters?.delete(waiter);
    if (waiters?.size === 0) this.waiters.delete(id);
  }
}

export function isSettled(upload: Upload | undefined): boolean {
  return upload?.phase !== 'complete' && upload?.phase !== 'delivering';
}
