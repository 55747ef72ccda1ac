import { Fault } from '../../model/fault.js';
import type { Upload } from '../../model/upload.js';
import type { RedisBus } from './redis-bus.js';

type Waiter = (upload: Upload | undefined, failure?: Error) => void;

/** How long a message that was lost makes somebody wait. */
const LOOK_MS = 2000;

/** Requests that wait until a delivery has come to something, whichever process performs it. */
export class RedisSettlement {
  private readonly waiters = new Map<string, Set<Waiter>>();
  private readonly looks: NodeJS.Timeout;
  private readonly heard = (id: string): void => void this.look(id);
  private readonly lookAll = (): void => {
    for (const id of this.waiters.keys()) void this.look(id);
  };

  constructor(
    private readonly bus: RedisBus,
    private readonly get: (id: string) => Promise<Upload | undefined>,
  ) {
    bus.on('settled', this.heard);
    bus.on('reconnected', this.lookAll);
    this.looks = setInterval(this.lookAll, LOOK_MS).unref();
  }

  async wait(id: string, signal: AbortSignal): Promise<Upload | undefined> {
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const waiter = this.enter(id, signal, (upload, failure) => (failure ? reject(failure) : resolve(upload)));
      // Looks only when it waits, so that what happens in between is heard. Who begins to wait hears when Redis is away.
      void this.look(id, waiter);
    });
  }

  close(): void {
    clearInterval(this.looks);
    this.bus.off('settled', this.heard);
    this.bus.off('reconnected', this.lookAll);
    const closed = new Fault('STORE_UNAVAILABLE', 'the store is closed', true);
    for (const id of [...this.waiters.keys()]) this.tell(id, undefined, closed);
  }

  private enter(id: string, signal: AbortSignal, onEnd: Waiter): Waiter {
    const waiter: Waiter = (upload, failure) => {
      signal.removeEventListener('abort', aborted);
      this.leave(id, waiter);
      onEnd(upload, failure);
    };
    const aborted = (): void => waiter(undefined, signal.reason as Error);
    signal.addEventListener('abort', aborted, { once: true });
    this.waiters.set(id, (this.waiters.get(id) ?? new Set()).add(waiter));
    return waiter;
  }

  private async look(id: string, beginner?: Waiter): Promise<void> {
    if (!this.waiters.has(id)) return;
    try {
      const upload = await this.get(id);
      if (upload?.phase !== 'complete' && upload?.phase !== 'delivering') this.tell(id, upload);
    } catch (fault) {
      // Those who wait already go on: Redis comes back, and we look again.
      beginner?.(undefined, fault as Fault);
    }
  }

  private tell(id: string, upload: Upload | undefined, failure?: Error): void {
    for (const waiter of [...(this.waiters.get(id) ?? [])]) waiter(upload, failure);
  }

  private leave(id: string, waiter: Waiter): void {
    const waiters = this.waiters.get(id);
    waiters?.delete(waiter);
    if (waiters?.size === 0) this.waiters.delete(id);
  }
}
