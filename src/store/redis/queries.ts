import { Fault } from '../../model/fault.js';
import type { Phase, Upload } from '../../model/upload.js';
import type { Totals } from '../upload-store.js';
import type { RedisConnection } from './connection.js';
import type { RedisBus } from './pubsub.js';

/** So many ids of one bucket are enough for one round. */
const MOST_IDS = 1000;
/** How long whoever was told of an expired upload has to remove it. */
const HANDED_OUT_MS = 10_000;
/** How many buckets a page looks at side by side. */
const BUCKETS_AT_ONCE = 16;

/** What is asked about many uploads, each time from indexes of theirs. */
export class RedisLists {
  constructor(
    private readonly connection: RedisConnection,
    private readonly node: string,
    private readonly get: (id: string) => Promise<Upload | undefined>,
  ) {}

  async due(now: number, beyond?: number): Promise<readonly string[]> {
    const { clock } = this.connection;
    const due = await this.dueBetween('-inf', clock.at(now));
    return beyond === undefined ? due : [...due, ...(await this.dueBetween(`(${clock.at(beyond)}`, '+inf'))];
  }

  expired(now: number): Promise<readonly string[]> {
    const { keys, clock } = this.connection;
    return this.ofAllBuckets(async (bucket) => {
      const args = [clock.expiryAt(now), HANDED_OUT_MS, MOST_IDS];
      return (await this.connection.run('expired', [keys.expires(bucket, this.node)], args)) as string[];
    });
  }

  /** Bucket by bucket, each in the order of its ids. */
  async page(after: string | undefined, limit: number): Promise<{ uploads: readonly Upload[]; next?: string }> {
    const ids = await this.idsAfter(after, limit + 1);
    const shown = ids.slice(0, limit);
    const found = await Promise.all(shown.map((id) => this.get(id)));
    const uploads = found.filter((upload) => upload !== undefined);
    return ids.length > limit ? { uploads, next: shown.at(-1) } : { uploads };
  }

  async totals(): Promise<Totals> {
    const { keys } = this.connection;
    const phases: Partial<Record<Phase, number>> = {};
    let bytes = 0;
    const each = await this.ofAllBuckets(async (bucket) => {
      const { totals } = keys.bucket(bucket);
      return Object.entries(await this.connection.call(totals, (client) => client.hgetall(totals)));
    });
    for (const [name, count] of each) {
      if (name === 'bytes') bytes += Number(count);
      else if (count !== '0') phases[name as Phase] = (phases[name as Phase] ?? 0) + Number(count);
    }
    return { phases, bytes };
  }

  private dueBetween(first: string | number, last: string | number): Promise<string[]> {
    const { keys } = this.connection;
    return this.ofAllBuckets((bucket) => {
      const key = keys.due(bucket, this.node);
      return this.connection.call(key, (client) => client.zrangebyscore(key, first, last, 'LIMIT', 0, MOST_IDS));
    });
  }

  private async idsAfter(after: string | undefined, limit: number): Promise<string[]> {
    const { keys } = this.connection;
    const first = after === undefined ? 0 : keys.bucketOf(after);
    const ids: string[] = [];
    for (let from = first; from < keys.buckets && ids.length < limit; from += BUCKETS_AT_ONCE) {
      const buckets = keys.allBuckets().slice(from, from + BUCKETS_AT_ONCE);
      const found = buckets.map((bucket) => this.idsOf(bucket, bucket === first ? after : undefined, limit));
      ids.push(...(await Promise.all(found)).flat());
    }
    return ids.slice(0, limit);
  }

  private idsOf(bucket: number, after: string | undefined, limit: number): Promise<string[]> {
    const { ids } = this.connection.keys.bucket(bucket);
    const from = after === undefined ? '-' : `(${after}`;
    return this.connection.call(ids, (client) => client.zrangebylex(ids, from, '+', 'LIMIT', 0, limit));
  }

  private async ofAllBuckets<T>(ask: (bucket: number) => Promise<readonly T[]>): Promise<T[]> {
    return (await Promise.all(this.connection.keys.allBuckets().map(ask))).flat();
  }
}

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
