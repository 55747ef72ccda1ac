import type { Phase, Upload } from '../../model/upload.js';
import type { Totals } from '../upload-store.js';
import type { RedisConnection } from './redis-connection.js';

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
