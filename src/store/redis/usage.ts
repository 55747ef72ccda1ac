import { PeriodicTask } from '../../concurrency/periodic-task.js';
import { Fault } from '../../model/fault.js';
import type { Capacity, Room } from '../usage.js';
import type { RedisConnection } from './connection.js';
import { tryAcquire } from './nodes.js';

/** On a cluster, what the other buckets use is looked up this often. */
const LOOKUP_INTERVAL_MS = 1000;

/** More uploads in a bucket would keep Redis from other work for too long while they are counted. */
const MAX_RECOUNTED = 100_000;

/** A limit as a script gets it; empty for none. */
type Limit = number | '';

/** The seven limits of a step that takes no room. */
const NO_LIMITS: readonly Limit[] = ['', '', '', '', '', '', ''];

/** The hash of a bucket. */
type BucketUsage = Readonly<Record<string, string>>;

/**
 * The room that uploads take, as scripts count it for each bucket. A single Redis has one bucket, where every limit is
 * exact. On a cluster a script sees its own bucket only, so what the others use is known as it was up to a second ago.
 * Reasons: docs/decisions/0037.
 */
export class RedisUsage {
  private others: { readonly at: number; readonly usage: Promise<readonly BucketUsage[]> } | undefined;
  /** What is known of each bucket. */
  private readonly known: BucketUsage[] = [];
  /** The buckets that did not answer when they were asked last. */
  private readonly away = new Set<number>();

  constructor(
    private readonly connection: RedisConnection,
    private readonly lookupIntervalMs = LOOKUP_INTERVAL_MS,
  ) {}

  /** The limits of a step, in the order in which the scripts take them; a step without a capacity takes no room. */
  async limitArguments(
    upload: { readonly id: string; readonly route?: string; readonly client?: string; readonly node?: string },
    capacity?: Capacity,
  ): Promise<readonly Limit[]> {
    if (!capacity) return NO_LIMITS;
    const { client, route, all, unwrittenBytes } = capacity;
    const usedElsewhere = await this.usedElsewhere(upload.id);
    const rest = (limit: number | undefined, field: string): Limit =>
      limit === undefined ? '' : Math.floor(limit - usedElsewhere(field));
    const ofGroup = ({ uploads, bytes }: Room = {}, suffix = ''): Limit[] => [
      rest(uploads, `uploads${suffix}`),
      rest(bytes, `bytes${suffix}`),
    ];
    return [
      ...ofGroup(client, `:client:${upload.client ?? ''}`),
      ...ofGroup(route, `:route:${upload.route ?? ''}`),
      ...ofGroup(all),
      rest(unwrittenBytes, `unwritten:${upload.node ?? ''}`),
    ];
  }

  /** Counts anew what uploads take. */
  async recount(): Promise<void> {
    const { keys } = this.connection;
    for (const bucket of keys.allBuckets()) {
      const { ids, totals, channel, usage } = keys.bucket(bucket);
      const indexes = [keys.due(bucket, ''), keys.expires(bucket, '')];
      await this.connection.run(
        'recount',
        [ids, ...indexes, totals, channel, usage],
        ['', '', keys.recordPrefix(bucket), MAX_RECOUNTED],
      );
    }
  }

  /** What the other buckets use, by the fields of their hashes. */
  private async usedElsewhere(id: string): Promise<(field: string) => number> {
    const { keys } = this.connection;
    if (keys.buckets === 1) return () => 0;
    const own = keys.bucketOf(id);
    const hashes = await this.lookUp();
    return (field) => hashes.reduce((sum, hash, bucket) => (bucket === own ? sum : sum + Number(hash[field] ?? 0)), 0);
  }

  private lookUp(): Promise<readonly BucketUsage[]> {
    const now = performance.now();
    if (this.others && now - this.others.at < this.lookupIntervalMs) return this.others.usage;
    const { keys } = this.connection;
    const usage = Promise.all(keys.allBuckets().map((bucket) => this.lookUpBucket(bucket)));
    this.others = { at: now, usage };
    return usage;
  }

  /** A server that is away must not hold up the uploads of the others, so what it said last holds until it is back. */
  private async lookUpBucket(bucket: number): Promise<BucketUsage> {
    const asking = this.askBucket(bucket);
    if (!this.away.has(bucket)) await asking;
    return this.known[bucket] ?? {};
  }

  private async askBucket(bucket: number): Promise<void> {
    const key = this.connection.keys.bucket(bucket).usage;
    try {
      this.known[bucket] = await this.connection.call(key, (client) => client.hgetall(key));
      this.away.delete(bucket);
    } catch {
      this.away.add(bucket);
    }
  }
}

/** The uploads are counted anew this often, by one of all processes. */
const RECOUNT_INTERVAL_MS = 1_800_000;

/**
 * Counts anew what uploads take, at the start and now and then: an older version, which shares the store during an
 * update, or an operator may have changed records and not the counts.
 */
export class Recounts {
  private readonly periodic = new PeriodicTask(() => this.runOnce(), RECOUNT_INTERVAL_MS);
  private first: Promise<void> = Promise.resolve();

  constructor(private readonly connection: RedisConnection) {}

  start(): void {
    this.first = this.runOnce();
    this.periodic.start();
  }

  async stop(): Promise<void> {
    await Promise.all([this.first, this.periodic.stop()]);
  }

  private async runOnce(): Promise<void> {
    try {
      if (await tryAcquire(this.connection, 'recount', RECOUNT_INTERVAL_MS / 2))
        await new RedisUsage(this.connection).recount();
    } catch (error) {
      // The outage is reported elsewhere, and the next run counts again.
      if (!(error instanceof Fault)) throw error;
    }
  }
}
