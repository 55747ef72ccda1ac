import { startFakeOrigin, type FakeOrigin } from './fake-origin.js';
import { NodeSet, type NodeSetOptions } from './node-set.js';
import { SlowUpload } from './nodes-slow-upload.js';
import { randomBytes, sha256, until, within } from './temporary.js';

export interface RollingOptions extends Pick<NodeSetOptions, 'nodes' | 'bytes'> {
  readonly uploads: number;
  readonly size: number;
  /** Of each client. */
  readonly bytesPerSecond: number;
}

/** What it cost. */
export interface RollingFigures {
  /** How often a client had to begin anew, its first beginning counted. */
  readonly creations: number;
  readonly resumptions: number;
  /** From the first byte to the last answer. */
  readonly seconds: number;
  /** As long as the lines of the clients take when nothing happens. */
  readonly leastSeconds: number;
  /** From the first stop to the last node that was back. */
  readonly restartSeconds: number;
  /** Uploads that were over before the last node was back, and saw less than all of it. */
  readonly overEarly: number;
  readonly uploadedBytes: number;
  readonly sentBytes: number;
}

export interface Rolled {
  readonly figures: RollingFigures;
  /** Hashes of what the origin got, and of what it should have got. */
  readonly atOrigin: readonly string[];
  readonly expected: readonly string[];
}

/** Slow uploads through HAProxy, while all nodes are stopped and started again, one by one. */
export async function rollingRestart(options: RollingOptions): Promise<Rolled> {
  const origin = await startFakeOrigin((request) => {
    request.body = Buffer.alloc(0);
    return { status: 201, headers: [['X-Origin', 'got it']] };
  });
  try {
    const set = await NodeSet.start({ ...options, origin: origin.url, config: 'uploads: { rfc104: true }' });
    try {
      return await roll(options, set, origin);
    } finally {
      await set.stop();
    }
  } finally {
    await origin.close();
  }
}

async function roll(options: RollingOptions, set: NodeSet, origin: FakeOrigin): Promise<Rolled> {
  const { uploads: count, size, bytesPerSecond } = options;
  const pool = randomBytes(size + count);
  const wholes = Array.from({ length: count }, (_, at) => pool.subarray(at, at + size));
  const uploads = wholes.map(
    (bytes, at) => new SlowUpload({ url: set.url, name: `slow-${at}`, bytes, bytesPerSecond }),
  );
  const startedAt = performance.now();
  let over = 0;
  const ends = new AbortController();
  const all = Promise.all(uploads.map((upload) => upload.run(ends.signal).then(() => (over += 1))));
  const restarts = restartAll(set, uploads).then((seconds) => [seconds, over] as const);
  const patienceMs = (size / bytesPerSecond) * 3000 + 60_000;
  const [[restartSeconds, overEarly]] = await within(
    Promise.all([restarts, all]),
    'every upload to end',
    patienceMs,
  ).finally(() => ends.abort(new Error('it is over')));
  const sum = (of: (upload: SlowUpload) => number): number => uploads.reduce((total, upload) => total + of(upload), 0);
  const figures = {
    creations: sum(({ creations }) => creations),
    resumptions: sum(({ resumptions }) => resumptions),
    seconds: (performance.now() - startedAt) / 1000,
    leastSeconds: size / bytesPerSecond,
    restartSeconds,
    overEarly,
    uploadedBytes: size * count,
    sentBytes: sum(({ bytesSent }) => bytesSent),
  };
  const atOrigin = origin.requests.map((request) => request.sha256);
  return { figures, atOrigin, expected: wholes.map((bytes) => sha256(bytes)) };
}

/** As an orchestrator does it: the next node only when the one before is back. */
async function restartAll(set: NodeSet, uploads: readonly SlowUpload[]): Promise<number> {
  await until(() => uploads.every(({ isUnderWay }) => isUnderWay), 'every upload to be under way', 60_000);
  const startedAt = performance.now();
  for (const name of set.names) {
    await set.kill(name, 'SIGTERM');
    await set.restart(name);
  }
  return (performance.now() - startedAt) / 1000;
}
