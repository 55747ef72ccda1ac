import { createHash } from 'node:crypto';
import { Fault } from '../../model/fault.js';

/** How many slots a cluster's uploads are spread over. Kept for the life of the data: see the store key. */
const CLUSTER_BUCKETS = 64;

/**
 * Names of all keys. Every upload belongs to a bucket, and all keys of a bucket share a hash tag: on a cluster they live
 * in one slot, so that one script can change an upload together with the indexes it is in.
 */
export class RedisKeys {
  readonly buckets: number;
  /** What this installation is: its id, how many buckets it has, the format of its records. */
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

  /** A right that one process at a time has for a while. */
  taskLock(name: string): string {
    return `{${this.prefix}}:turn:${name}`;
  }

  bucketOf(id: string): number {
    return this.buckets === 1 ? 0 : createHash('sha1').update(id).digest().readUInt32BE(0) % this.buckets;
  }

  allBuckets(): number[] {
    return [...Array(this.buckets).keys()];
  }

  /** The id of the upload that has a client's key. */
  clientKey(clientKey: string): string {
    return `${this.tag(this.bucketOf(clientKey))}:k:${clientKey}`;
  }

  /** What is known of one upload. */
  upload(id: string): UploadKeys {
    const bucket = this.bucketOf(id);
    const tag = this.tag(bucket);
    return {
      record: `${tag}:u:${id}`,
      chunks: `${tag}:c:${id}`,
      answer: `${tag}:a:${id}`,
      lease: `${tag}:l:${id}`,
      ...this.bucket(bucket),
    };
  }

  bucket(bucket: number): BucketKeys {
    const tag = this.tag(bucket);
    return { ids: `${tag}:ids`, totals: `${tag}:totals`, channel: `${tag}:news` };
  }

  /** When deliveries are due, of uploads whose bytes are with a node; '' where every node reaches them. */
  due(bucket: number, node: string): string {
    return `${this.tag(bucket)}:due:${node}`;
  }

  expires(bucket: number, node: string): string {
    return `${this.tag(bucket)}:expires:${node}`;
  }

  /** What all keys of one slot have in common. */
  hashTag(key: string): string {
    return key.slice(0, key.indexOf('}') + 1);
  }

  /** Written to find out whether the server of a key takes writes again. */
  writeProbe(key: string): string {
    return `${this.hashTag(key)}:beat`;
  }

  private tag(bucket: number): string {
    return `{${this.prefix}:${bucket}}`;
  }
}

export interface BucketKeys {
  /** The ids of its uploads, in order. */
  readonly ids: string;
  readonly totals: string;
  /** The channel: `ask`, `free` or `settled`, a space, the id. */
  readonly channel: string;
}

export interface UploadKeys extends BucketKeys {
  readonly record: string;
  readonly chunks: string;
  readonly answer: string;
  readonly lease: string;
}
