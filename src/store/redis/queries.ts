import { Fault } from '../../model/fault.js';
import type { Phase, Upload } from '../../model/upload.js';
import type { Totals } from '../upload-store.js';
import type { RedisConnection } from './connection.js';
import type { RedisBus } from './pubsub.js';

/** The most ids that one query takes from a bucket. */
const MAX_IDS = 1000;
/** Time that a caller that got an expired upload has to remove it before another caller gets it. */
const REMOVAL_MS = 10_000;
/** Number of buckets that a page reads concurrently. */
const PARALLEL_BUCKETS = 16;

/** Queries over many uploads, answered from their indexes. */
export class RedisQueries {
  constructor(
    private readonly connection: RedisConnection,
    private readonly node: string,
    private readonly get: (id: string) => Promise<Upload | undefined>,
  ) {}

  async due(now: number, implausibleAfter?: number): Promise<readonly string[]> {
    const { clock } = this.connection;
    const due = await this.dueBetween('-inf', clock.toServerTime(now));
    return implausibleAfter === undefined
      ? due
      : [...due, ...(await this.dueBetween(`(${clock.toServerTime(implausibleAfter)}`, '+inf'))];
  }

  expired(now: number): Promise<readonly string[]> {
    const { keys, clock } = this.connection;
    return this.fromAllBuckets(async (bucket) => {
      const args = [clock.toServerCutoff(now), REMOVAL_MS, MAX_IDS];
      return (await this.connection.run('expired', [keys.expires(bucket, this.node)], args)) as string[];
    });
  }

  /** Pages bucket by bucket, each in the order of its ids. */
  async page(after: string | undefined, limit: number): Promise<{ uploads: readonly Upload[]; next?: string }> {
    const ids = await this.idsAfter(after, limit + 1);
    const shown = ids.slice(0, limit);
    const lookups = await Promise.all(shown.map((id) => this.get(id)));
    const uploads = lookups.filter((upload) => upload !== undefined);
    return ids.length > limit ? { uploads, next: shown.at(-1) } : { uploads };
  }

  async totals(): Promise<Totals> {
    const { keys } = this.connection;
    const phases: Partial<Record<Phase, number>> = {};
    let bytes = 0;
    let reservedBytes = 0;
    const entries = await this.fromAllBuckets(async (bucket) => {
      const { totals } = keys.bucket(bucket);
      return Object.entries(await this.connection.call(totals, (client) => client.hgetall(totals)));
    });
    for (const [name, count] of entries) {
      if (name === 'bytes') bytes += Number(count);
      else if (name === 'reserved') reservedBytes += Number(count);
      else if (count !== '0') phases[name as Phase] = (phases[name as Phase] ?? 0) + Number(count);
    }
    return { phases, bytes, reservedBytes };
  }

  private dueBetween(first: string | number, last: string | number): Promise<string[]> {
    const { keys } = this.connection;
    return this.fromAllBuckets((bucket) => {
      const key = keys.due(bucket, this.node);
      return this.connection.call(key, (client) => client.zrangebyscore(key, first, last, 'LIMIT', 0, MAX_IDS));
    });
  }

  private async idsAfter(after: string | undefined, limit: number): Promise<string[]> {
    const { keys } = this.connection;
    const first = after === undefined ? 0 : keys.bucketOf(after);
    const ids: string[] = [];
    for (let from = first; from < keys.buckets && ids.length < limit; from += PARALLEL_BUCKETS) {
      const buckets = keys.allBuckets().slice(from, from + PARALLEL_BUCKETS);
      const idsOfBuckets = buckets.map((bucket) => this.idsOf(bucket, bucket === first ? after : undefined, limit));
      ids.push(...(await Promise.all(idsOfBuckets)).flat());
    }
    return ids.slice(0, limit);
  }

  private idsOf(bucket: number, after: string | undefined, limit: number): Promise<string[]> {
    const { ids } = this.connection.keys.bucket(bucket);
    const from = after === undefined ? '-' : `(${after}`;
    return this.connection.call(ids, (client) => client.zrangebylex(ids, from, '+', 'LIMIT', 0, limit));
  }

  private async fromAllBuckets<T>(query: (bucket: number) => Promise<readonly T[]>): Promise<T[]> {
    return (await Promise.all(this.connection.keys.allBuckets().map(query))).flat();
  }
}

type Waiter = (upload: Upload | undefined, failure?: Error) => void;

/** The longest delay of a waiting request that a lost message can cause. */
const POLL_MS = 2000;

/** The requests that wait until a delivery has ended or been given up, in any process. */
export class RedisSettlementWaiters {
  private readonly waiters = new Map<string, Set<Waiter>>();
  private readonly pollTimer: NodeJS.Timeout;
  private readonly onSettled = (id: string): void => void this.check(id);
  private readonly checkAll = (): void => {
    for (const id of this.waiters.keys()) void this.check(id);
  };

  constructor(
    private readonly bus: RedisBus,
    private readonly get: (id: string) => Promise<Upload | undefined>,
  ) {
    bus.on('settled', this.onSettled);
    bus.on('reconnected', this.checkAll);
    this.pollTimer = setInterval(this.checkAll, POLL_MS).unref();
  }

  async wait(id: string, signal: AbortSignal): Promise<Upload | undefined> {
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const waiter = this.addWaiter(id, signal, (upload, failure) => (failure ? reject(failure) : resolve(upload)));
      // The check runs after the waiter is added, so that no event is missed. It also rejects a new waiter while
      // Redis is unavailable.
      void this.check(id, waiter);
    });
  }

  close(): void {
    clearInterval(this.pollTimer);
    this.bus.off('settled', this.onSettled);
    this.bus.off('reconnected', this.checkAll);
    const closed = new Fault('STORE_UNAVAILABLE', 'the store is closed', true);
    for (const id of [...this.waiters.keys()]) this.notify(id, undefined, closed);
  }

  private addWaiter(id: string, signal: AbortSignal, onEnd: Waiter): Waiter {
    const waiter: Waiter = (upload, failure) => {
      signal.removeEventListener('abort', aborted);
      this.removeWaiter(id, waiter);
      onEnd(upload, failure);
    };
    const aborted = (): void => waiter(undefined, signal.reason as Error);
    signal.addEventListener('abort', aborted, { once: true });
    this.waiters.set(id, (this.waiters.get(id) ?? new Set()).add(waiter));
    return waiter;
  }

  private async check(id: string, newWaiter?: Waiter): Promise<void> {
    if (!this.waiters.has(id)) return;
    try {
      const upload = await this.get(id);
      if (upload?.phase !== 'complete' && upload?.phase !== 'delivering') this.notify(id, upload);
    } catch (fault) {
      // Earlier waiters keep waiting; the state is checked again when Redis is back.
      newWaiter?.(undefined, fault as Fault);
    }
  }

  private notify(id: string, upload: Upload | undefined, failure?: Error): void {
    for (const waiter of [...(this.waiters.get(id) ?? [])]) waiter(upload, failure);
  }

  private removeWaiter(id: string, waiter: Waiter): void {
    const waiters = this.waiters.get(id);
    waiters?.delete(waiter);
    if (waiters?.size === 0) this.waiters.delete(id);
  }
}
