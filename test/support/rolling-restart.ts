import { connect, type RawClient } from './client.js';
import { TestNodes, type TestNodesOptions } from './nodes.js';
import { appendLines, clientDialect, creationLines, progressOf, versionLines } from './resumable-client.js';
import { randomBytes, sha256, until, within } from './temporary.js';
import { startTestOrigin, type TestOrigin } from './test-origin.js';
import { isCut, type ResponseHead, type WireRequest, type WireResponse } from './wire.js';

export interface RollingOptions extends Pick<TestNodesOptions, 'nodes' | 'bytes'> {
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
  const origin = await startTestOrigin((request) => {
    request.body = Buffer.alloc(0);
    return { status: 201, headers: [['X-Origin', 'got it']] };
  });
  try {
    const nodes = await TestNodes.start({ ...options, origin: origin.url, config: 'uploads: { rfc104: true }' });
    try {
      return await roll(options, nodes, origin);
    } finally {
      await nodes.stop();
    }
  } finally {
    await origin.close();
  }
}

async function roll(options: RollingOptions, nodes: TestNodes, origin: TestOrigin): Promise<Rolled> {
  const { uploads: count, size, bytesPerSecond } = options;
  const pool = randomBytes(size + count);
  const wholes = Array.from({ length: count }, (_, at) => pool.subarray(at, at + size));
  const uploads = wholes.map(
    (bytes, at) => new SlowUpload({ url: nodes.url, name: `slow-${at}`, bytes, bytesPerSecond }),
  );
  const startedAt = performance.now();
  let over = 0;
  const ends = new AbortController();
  const all = Promise.all(uploads.map((upload) => upload.run(ends.signal).then(() => (over += 1))));
  const restarts = restartAll(nodes, uploads).then((seconds) => [seconds, over] as const);
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
async function restartAll(nodes: TestNodes, uploads: readonly SlowUpload[]): Promise<number> {
  await until(() => uploads.every(({ isUnderWay }) => isUnderWay), 'every upload to be under way', 60_000);
  const startedAt = performance.now();
  for (const name of nodes.names) {
    await nodes.kill(name, 'SIGTERM');
    await nodes.restart(name);
  }
  return (performance.now() - startedAt) / 1000;
}

export interface SlowUploadOptions {
  readonly url: string;
  readonly name: string;
  readonly bytes: Buffer;
  readonly bytesPerSecond: number;
}

const DIALECT = clientDialect('10');
const PIECE = 16 * 1024;
const COME_AGAIN_MS = 200;

/** A client with a slow line that resumes whenever it is cut off or told to come again, and counts what that costs. */
export class SlowUpload {
  creations = 0;
  resumptions = 0;
  /** Of bodies, as often as they were sent. */
  bytesSent = 0;
  /** The largest offset it was shown. */
  offset = 0;
  private target: string | undefined;

  constructor(private readonly options: SlowUploadOptions) {}

  /** The server has told where it can go on, and that it has something. */
  get isUnderWay(): boolean {
    return this.target !== undefined && this.offset > 0;
  }

  /** The origin's answer, whatever it takes; fails when it gets another, or may not go on. */
  async run(signal: AbortSignal): Promise<WireResponse> {
    for (;;) {
      signal.throwIfAborted();
      const response = await this.tryOnce();
      if (response?.header('X-Origin') !== undefined) return response;
      // A balancer whose node has just gone answers for itself.
      if (response && response.status < 500)
        throw new Error(`${this.options.name} got ${response.statusLine}: ${response.body.toString()}`);
      await new Promise((resolve) => setTimeout(resolve, COME_AGAIN_MS));
    }
  }

  /** The final response; undefined when the connection ended before it. */
  private async tryOnce(): Promise<WireResponse | undefined> {
    let client: RawClient | undefined;
    try {
      client = await connect(this.options.url, { deadlineMs: 60_000 });
      return this.target === undefined ? await this.create(client) : await this.resume(client, this.target);
    } catch (error) {
      if (!isCut(error)) throw error;
      return undefined;
    } finally {
      client?.destroy();
    }
  }

  private create(client: RawClient): Promise<WireResponse> {
    this.creations += 1;
    const headers = creationLines(DIALECT, { complete: true });
    return this.send(client, { method: 'POST', target: `/${this.options.name}`, headers }, 0);
  }

  private async resume(client: RawClient, target: string): Promise<WireResponse> {
    await client.sendRequest({ method: 'HEAD', target, headers: versionLines(DIALECT) });
    const response = await this.read(client);
    const { offset } = progressOf(DIALECT, response);
    if (response.status !== 204 || offset === undefined) return response;
    this.resumptions += 1;
    const headers = appendLines(DIALECT, { offset, complete: true });
    return this.send(client, { method: 'PATCH', target, headers }, offset);
  }

  private async send(client: RawClient, request: WireRequest, from: number): Promise<WireResponse> {
    const length = `${this.options.bytes.length - from}`;
    await client.sendHead(request.method, request.target, [...(request.headers ?? []), ['Content-Length', length]]);
    const answered = new AbortController();
    const reading = this.read(client).finally(() => answered.abort());
    const [response] = await Promise.all([reading, this.sendSlowly(client, from, answered.signal)]);
    return response;
  }

  private async sendSlowly(client: RawClient, from: number, answered: AbortSignal): Promise<void> {
    const { bytes, bytesPerSecond } = this.options;
    const startedAt = performance.now();
    for (let at = from; at < bytes.length; at += PIECE) {
      const dueAt = startedAt + ((at - from) / bytesPerSecond) * 1000;
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, dueAt - performance.now())));
      // The answer to a request that is still being sent can only be that it is of no use.
      if (answered.aborted) return;
      const piece = bytes.subarray(at, at + PIECE);
      this.bytesSent += piece.length;
      await client.send(piece);
    }
  }

  private read(client: RawClient): Promise<WireResponse> {
    return client.readFinal((head) => this.note(head));
  }

  private note(head: ResponseHead): void {
    const { offset, location } = progressOf(DIALECT, head);
    if (location !== undefined && head.header('X-Origin') === undefined) this.target ??= new URL(location).pathname;
    if (offset === undefined) return;
    if (offset < this.offset) throw new Error(`${this.options.name}: offset ${offset} after ${this.offset}`);
    this.offset = offset;
  }
}
