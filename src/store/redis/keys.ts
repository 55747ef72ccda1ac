import { createHash } from 'node:crypto';
import { Fault } from '../../model/fault.js';

/** The number of slots that a cluster's uploads are spread over; fixed in the store key when the data is created. */
const CLUSTER_BUCKETS = 64;

/**
 * The names of all keys. Every upload belongs to a bucket, and all keys of a bucket share a hash tag: on a cluster
 * they are in one slot, so that one script can change an upload together with its indexes.
 * Reasons: docs/decisions/0012.
 */
export class RedisKeys {
  readonly buckets: number;
  /** The key with the installation's id, number of buckets and record format. */
  readonly store: string;
  readonly nodes: string;

  constructor(
    readonly prefix: string,
    kind: 'single' | 'sentinel' | 'cluster',
  ) {
    if (!/^[^{}\s]{1,64}$/.test(prefix))
      throw new Fault('CONTRACT_BROKEN', 'a Redis prefix has no braces or spaces, and 1 to 64 characters', false);
    this.buckets = kind === 'cluster' ? CLUSTER_BUCKETS : 1;
    this.store = `{${prefix}}:store`;
    this.nodes = `{${prefix}}:nodes`;
  }

  /** The key of the right to do a task, which one process has for a while; see `tryAcquire`. */
  taskLock(name: string): string {
    return `{${this.prefix}}:turn:${name}`;
  }

  bucketOf(id: string): number {
    return this.buckets === 1 ? 0 : createHash('sha1').update(id).digest().readUInt32BE(0) % this.buckets;
  }

  allBuckets(): number[] {
    return [...Array(this.buckets).keys()];
  }

  /** The key that holds the id of the upload with this client key. */
  clientKey(clientKey: string): string {
    return `${this.tag(this.bucketOf(clientKey))}:k:${clientKey}`;
  }

  /** The keys of one upload and its bucket. */
  upload(id: string): UploadKeys {
    const bucket = this.bucketOf(id);
    const tag = this.tag(bucket);
    return {
      record: `${this.recordPrefix(bucket)}${id}`,
      chunks: `${tag}:c:${id}`,
      answer: `${tag}:a:${id}`,
      lease: `${tag}:l:${id}`,
      ...this.bucket(bucket),
    };
  }

  bucket(bucket: number): BucketKeys {
    const tag = this.tag(bucket);
    return { ids: `${tag}:ids`, totals: `${tag}:totals`, usage: `${tag}:usage`, channel: `${tag}:news` };
  }

  /** The keys of the records of a bucket, without their ids. */
  recordPrefix(bucket: number): string {
    return `${this.tag(bucket)}:u:`;
  }

  /** The index of due deliveries for uploads whose bytes are on this node; '' where every node reaches them. */
  due(bucket: number, node: string): string {
    return `${this.tag(bucket)}:due:${node}`;
  }

  expires(bucket: number, node: string): string {
    return `${this.tag(bucket)}:expires:${node}`;
  }

  /** The hash tag of a key, which all keys of its slot share. */
  hashTag(key: string): string {
    return key.slice(0, key.indexOf('}') + 1);
  }

  /** A key that is written to find out whether this key's server accepts writes again. */
  writeProbe(key: string): string {
    return `${this.hashTag(key)}:beat`;
  }

  private tag(bucket: number): string {
    return `{${this.prefix}:${bucket}}`;
  }
}

/** The keys of one bucket. */
export interface BucketKeys {
  /** The ids of the bucket's uploads, in order. */
  readonly ids: string;
  readonly totals: string;
  /** The hash with the room that uploads take: of all, of each route and client, and not written yet of each node. */
  readonly usage: string;
  /** The pub/sub channel: each message is `ask`, `free` or `settled`, a space, and the id. */
  readonly channel: string;
}

/** The keys of one upload, and those of its bucket. */
export interface UploadKeys extends BucketKeys {
  readonly record: string;
  readonly chunks: string;
  readonly answer: string;
  readonly lease: string;
}
