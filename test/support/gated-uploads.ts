import { randomBytes } from 'node:crypto';
import { getEventListeners } from 'node:events';
import type { DeliveryResult } from '../../src/delivery/delivery.js';
import type { RelayedAnswer } from '../../src/model/messages.js';
import type { Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import type { ChunkWriter, Spool } from '../../src/spool/spool.js';
import { EmbeddedLeases, EmbeddedStore, type TokenSource } from '../../src/store/embedded/embedded-store.js';
import type { Lease } from '../../src/store/leases.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import type { CommitPace } from '../../src/uploads/chunk.js';
import { Cleanup } from '../../src/uploads/cleanup.js';
import { recover } from '../../src/uploads/recovery.js';
import { UnreadableBytes } from '../../src/uploads/unknown-bytes.js';
import { Uploads } from '../../src/uploads/uploads.js';

export interface GatedUploadsOptions {
  readonly directory: string;
  readonly pace: CommitPace;
  /** How long a holder of a lease that was asked is waited for. */
  readonly graceMs: number;
}

const metrics = new Metrics();

/** The uploads of one process over its real store and spool, without a socket; an origin that takes everything. */
export class GatedUploads {
  readonly gate = new StorageGate();
  /** What the origin got, request by request. */
  readonly delivered: Buffer[] = [];
  /** Hears of every commit: what a process that comes after this one would find. */
  onRecord: (upload: Upload) => void = () => undefined;
  readonly uploads: Uploads;
  readonly directory: string;
  private readonly leases: Lease[] = [];

  private constructor(
    private readonly store: EmbeddedStore,
    private readonly spool: LocalSpool,
    options: GatedUploadsOptions,
  ) {
    this.directory = options.directory;
    const seenStore = gatedStore(store, this.gate, (upload) => this.onRecord(upload));
    const leases = new EmbeddedLeases(seenStore, { graceMs: options.graceMs });
    this.uploads = new Uploads({
      store: seenStore,
      leases: {
        take: async (id) => {
          const lease = await leases.take(id);
          this.leases.push(lease);
          return lease;
        },
        drain: () => leases.drain(),
      },
      spool: gatedSpool(spool, this.gate),
      delivery: {
        result: (id, { signal: to }) => this.deliver(id, to),
        recordClientAsked: (upload: Upload) => Promise.resolve(upload),
        keptAnswer: (upload) => Promise.resolve(keptAnswer(upload)),
      },
      metrics,
      log: silentLog(),
      clock: Date.now,
      newId: () => randomBytes(24).toString('base64url'),
      newDeliveryKey: () => 'key',
      pace: options.pace,
    });
  }

  /** As a process starts: it finds what the one before it has left. */
  static async open(options: GatedUploadsOptions): Promise<GatedUploads> {
    const { directory } = options;
    const log = silentLog();
    const store = await EmbeddedStore.open({ directory, sync: 'none', log });
    const spool = new LocalSpool({ directory, sync: 'none' });
    await spool.open();
    const unreadable = new UnreadableBytes({ spool, log, clock: Date.now });
    const leases = new EmbeddedLeases(store);
    await recover({ store, leases, spool, log, metrics, clock: Date.now, unreadable });
    return new GatedUploads(store, spool, options);
  }

  /** As `kill -9`: whatever is not done is never done. */
  async kill(): Promise<void> {
    this.gate.hold();
    await this.gate.quiet();
    this.gate.break();
    await this.gate.quiet();
    await this.store.close();
  }

  close(): Promise<void> {
    return this.store.close();
  }

  async sweep(): Promise<void> {
    const { store, spool } = this;
    const told = { log: silentLog(), metrics, clock: Date.now };
    const unreadable = new UnreadableBytes({ spool, ...told });
    const options = { store, spool, leases: new EmbeddedLeases(store), unreadable, ...told };
    await new Cleanup({ ...options, everyMs: 60_000, orphanAgeMs: -1 }).runOnce();
  }

  /** Every byte is here: what is left to do is the origin's. */
  async isComplete(id: string): Promise<boolean> {
    return (await this.store.get(id))?.phase !== 'receiving';
  }

  /** Files of the spool that no record counts. */
  async uncountedFiles(): Promise<string[]> {
    const uncounted: string[] = [];
    for await (const { id, name } of this.spool.list()) {
      const counted = await this.store.chunks(id);
      if (!counted.some((chunk) => chunk.name === name)) uncounted.push(name);
    }
    return uncounted;
  }

  /** Listeners that requests have left behind on their leases. */
  listenersOnLeases(): number {
    return this.leases.reduce((sum, { signal }) => sum + getEventListeners(signal, 'abort').length, 0);
  }

  private async deliver(id: string, to: AbortSignal): Promise<DeliveryResult> {
    const { store, spool } = this;
    if (await store.claimDelivery(id, 'worker', Infinity)) {
      const pieces: Buffer[] = [];
      for await (const piece of spool.read(id, await store.chunks(id))) pieces.push(piece as Buffer);
      this.delivered.push(Buffer.concat(pieces));
      const answer = { status: 201, reason: 'Created', headers: [], trailers: [], bodySize: 0, at: Date.now() };
      const recorded = { ...answer, body: { in: 'record' } } as const;
      await store.recordAnswer(id, 'worker', { answer: recorded, expiresAt: Date.now() + 3_600_000 });
    }
    const upload = await store.waitUntilSettled(id, to);
    if (upload?.phase !== 'answered') return { kind: 'gone' };
    return { kind: 'answered', upload, answer: keptAnswer(upload) };
  }
}

function keptAnswer({ answer }: Upload): RelayedAnswer {
  const { status, reason, headers, bodySize } = answer!;
  const nothing = (async function* () {})();
  return { status, reason, headers, bodySize, body: nothing, trailers: () => [] };
}

/** Holds steps of store and spool back, before they are done or before anybody hears of it, until they are let go. */
class StorageGate {
  private toHold = 0;
  private isBroken = false;
  private readonly held: (() => void)[] = [];
  private running = 0;

  /** The next ones that come by stop here; those after them pass. */
  hold(count = Infinity): void {
    this.toHold = count;
  }

  /** One of those that wait goes on, up to its next stop. */
  letGo(which: number): void {
    this.held.splice(which % Math.max(this.held.length, 1), 1)[0]?.();
  }

  /** All go on, and nobody is held any more. */
  open(): void {
    this.toHold = 0;
    for (const go of this.held.splice(0)) go();
  }

  /** Those that wait never get any further, and nobody else does. */
  break(): void {
    this.isBroken = true;
    this.open();
  }

  async pass<T>(step: () => Promise<T>): Promise<T> {
    await this.stop();
    this.running += 1;
    try {
      return await step();
    } finally {
      this.running -= 1;
      await this.stop();
    }
  }

  /** Fulfilled when nothing moves any more: every step is done, or held. */
  async quiet(): Promise<void> {
    for (let turns = 0; turns < 3; turns = this.running > 0 ? 0 : turns + 1)
      await new Promise((resolve) => setImmediate(resolve));
  }

  private async stop(): Promise<void> {
    if (this.toHold-- > 0) await new Promise<void>((resolve) => this.held.push(resolve));
    if (this.isBroken) throw new Error('the process of this step is dead');
  }
}

/** The store as seen by who writes; `onRecord` hears of every record at once, when the writer may still be held. */
function gatedStore<S extends UploadStore & TokenSource>(
  store: S,
  gate: StorageGate,
  onRecord: (upload: Upload) => void,
): S {
  const seen = Object.create(store) as S;
  seen.commit = (id, commit) =>
    gate.pass(async () => {
      const result = await store.commit(id, commit);
      if (typeof result === 'object') onRecord(result);
      return result;
    });
  return seen;
}

function gatedSpool(spool: Spool, gate: StorageGate): Spool {
  const seen = Object.create(spool) as Spool;
  seen.create = (id, name) => gate.pass(async () => gatedWriter(await spool.create(id, name), gate));
  seen.removeChunk = (id, name) => gate.pass(() => spool.removeChunk(id, name));
  return seen;
}

/** Also holds its user to the contract: one write at a time, and no close before everything is done. */
function gatedWriter(writer: ChunkWriter, gate: StorageGate): ChunkWriter {
  const underWay = { write: 0, sync: 0 };
  const alone = async (kind: 'write' | 'sync', step: () => Promise<void>): Promise<void> => {
    if (underWay[kind] > 0) throw new Error(`a second ${kind} before the first is done`);
    underWay[kind] += 1;
    await gate.pass(step).finally(() => (underWay[kind] -= 1));
  };
  return {
    get size() {
      return writer.size;
    },
    get extent() {
      return writer.extent;
    },
    get extentWithoutLastByte() {
      return writer.extentWithoutLastByte;
    },
    write: (buffers) => alone('write', () => writer.write(buffers)),
    sync: () => alone('sync', () => writer.sync()),
    close: () => {
      if (underWay.write + underWay.sync > 0) throw new Error('closed while it was written');
      return writer.close();
    },
    discard: () => writer.discard(),
  };
}
