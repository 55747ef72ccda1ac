import { afterEach, expect, test } from '@jest/globals';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import { type RedisServer, startRedisCluster, startSentinels } from '../support/redis-server.js';
import { SlowUpload } from '../support/rolling-restart.js';
import { randomBytes, sha256, until, within } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

// Issue 4: the master that takes the writes is killed, and a replica takes its place.
const UPLOADS = 20;
const SIZE = 300_000;
/** Long enough for the replica to take over before the last byte. */
const BYTES_PER_SECOND = 60_000;

interface Redis {
  readonly store: string;
  readonly master: RedisServer;
  stop(): Promise<void>;
}

async function sentinels(): Promise<Redis> {
  const set = await startSentinels();
  const store = `url: [${set.urls.join(', ')}], sentinel: { master: ${set.name} }`;
  return { store, master: await set.master(), stop: () => set.stop() };
}

async function cluster(): Promise<Redis> {
  const set = await startRedisCluster({ replicas: 1 });
  return { store: `url: [${set.urls.join(', ')}], cluster: true`, master: set.masters[0]!, stop: () => set.stop() };
}

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

/** A client that begins anew, when it is told that its upload is unknown, and only then. */
class StubbornUpload {
  private readonly tries: SlowUpload[] = [];

  constructor(
    private readonly url: string,
    readonly name: string,
    readonly bytes: Buffer,
  ) {}

  get isUnderWay(): boolean {
    return this.tries.at(-1)?.isUnderWay === true;
  }

  get creations(): number {
    return this.tries.length;
  }

  async run(signal: AbortSignal): Promise<number> {
    const { url, name, bytes } = this;
    for (;;) {
      const upload = new SlowUpload({ url, name, bytes, bytesPerSecond: BYTES_PER_SECOND });
      this.tries.push(upload);
      try {
        return (await upload.run(signal)).status;
      } catch (error) {
        if (!/ got HTTP\/1\.1 (404|410) /.test(String(error))) throw error;
      }
    }
  }
}

test.each([
  ['Sentinels', sentinels],
  ['a Cluster', cluster],
])(
  'uploads outlive the master of %s: whole, never with an offset that shrinks, and delivered once',
  async (_, start) => {
    const redis = await start();
    closing.push(() => redis.stop());
    const origin: TestOrigin = await startTestOrigin({ status: 201, headers: [['X-Origin', 'yes']] });
    closing.push(() => origin.close());
    const config = `store: { type: redis, ${redis.store} }\nspool: { shared: true }\n`;
    const proxy: ProxyProcess = await startProxy({ origin: origin.url, config });
    closing.push(() => proxy.stop());
    const uploads = Array.from(
      { length: UPLOADS },
      (_, at) => new StubbornUpload(proxy.url, `failover-${at}`, randomBytes(SIZE, at + 1)),
    );
    const ends = new AbortController();
    const all = Promise.all(uploads.map((upload) => upload.run(ends.signal)));
    all.catch(() => undefined);
    try {
      await until(() => uploads.every(({ isUnderWay }) => isUnderWay), 'all uploads to be under way', 30_000);
      await redis.master.kill();
      await until(
        () => proxy.log.some(({ msg }) => /^Redis is not available/.test(String(msg))),
        'the loss to be noticed',
      );
      await until(
        () => proxy.log.some(({ msg }) => msg === 'Redis is available again'),
        'the replica to be used',
        30_000,
      );
      expect(await within(all, 'all uploads to end', 45_000)).toEqual(uploads.map(() => 201));
    } finally {
      ends.abort(new Error('it is over'));
    }
    for (const { name, bytes, creations } of uploads) {
      const requests = origin.requests.filter(({ target }) => target === `/${name}`);
      expect(new Set(requests.map((request) => request.sha256))).toEqual(new Set([sha256(bytes)]));
      // One that Redis has forgotten may have been delivered before: its client was told, and began anew.
      expect(requests.length).toBeLessThanOrEqual(creations);
    }
    expect(proxy.running).toBe(true);
  },
  240_000,
);
