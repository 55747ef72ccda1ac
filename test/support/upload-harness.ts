import { randomBytes } from 'node:crypto';
import { getEventListeners } from 'node:events';
import { Readable } from 'node:stream';
import type { DeliveryResult } from '../../src/delivery/delivery.js';
import { Fault } from '../../src/model/fault.js';
import type { AppendIntent, InterimUpdate, Interrupted, Outcome, RelayedAnswer } from '../../src/model/messages.js';
import type { Upload } from '../../src/model/upload.js';
import { type Log, silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import type { ChunkWriter, Spool } from '../../src/spool/spool.js';
import { EmbeddedLeases, type TokenSource } from '../../src/store/embedded/embedded-leases.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import type { Lease, ReleaseReason } from '../../src/store/leases.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { Admission } from '../../src/uploads/admission.js';
import type { UploadCall } from '../../src/uploads/answers.js';
import type { EagerFeeds } from '../../src/uploads/append.js';
import type { CommitPace } from '../../src/uploads/chunk.js';
import { Cleanup } from '../../src/uploads/cleanup.js';
import { recover } from '../../src/uploads/recovery.js';
import { Body } from '../../src/uploads/request-body.js';
import { UnreadableBytes, UnrecordedBytes } from '../../src/uploads/unknown-bytes.js';
import { Uploads, type UploadsOptions } from '../../src/uploads/uploads.js';
import { newUpload, REQUEST, routeTo } from './delivery-harness.js';
import { temporaryDirectory, type TemporaryDirectory } from './temporary.js';

export interface ReceivingHarnessOptions {
  readonly reach: StoreReach;
  readonly pace?: CommitPace;
  readonly hears?: boolean;
  readonly node?: string;
  readonly log?: Log;
  /** Origins that are fed meanwhile. */
  readonly feeds?: EagerFeeds;
}

/** A request whose body is sent step by step. */
export interface Sending {
  readonly stream: Readable;
  readonly outcome: Promise<Outcome | Interrupted>;
  /** Offsets of the interim responses so far. */
  readonly shownOffsets: number[];
}

type Needed = 'store' | 'leases' | 'spool' | 'delivery' | 'pace';

/** Lets every upload in. */
function unlimited(): Admission {
  const routes = { byName: () => undefined };
  const rest = { metrics: new Metrics(), log: silentLog(), monotonic: () => performance.now(), refusalDelayMs: 0 };
  return new Admission({ limits: {}, routes, ...rest });
}

/** Uploads over these parts, with all else as it hardly matters to a test. */
export function newUploads(parts: Pick<UploadsOptions, Needed> & Partial<UploadsOptions>): Uploads {
  const rest = {
    metrics: new Metrics(),
    log: silentLog(),
    clock: Date.now,
    newDeliveryKey: () => 'key',
    admission: unlimited(),
  };
  return new Uploads({ ...rest, ...parts });
}

/** The id of a new upload. */
export function newId(): string {
  return randomBytes(24).toString('base64url');
}

/** A request with this body, whose client stays. */
export function callOf(stream: Readable, sendInterim: UploadCall['sendInterim'], declaredLength?: number): UploadCall {
  const body = new Body(stream, { declaredLength, idleMs: 3_600_000, onFirstRead: () => undefined });
  return { body, sendInterim, credentials: [], clientLeft: new AbortController().signal };
}

/** The receiving side over a real store and spool; a test decides whether the store can be reached and leases hold. */
export class ReceivingHarness {
  readonly metrics = new Metrics();
  readonly uploads: Uploads;
  /** What was asked of `delivery.result`. */
  readonly delivered: string[] = [];
  private readonly ends: ((why: ReleaseReason) => void)[] = [];

  private constructor(
    private readonly directory: TemporaryDirectory,
    readonly store: EmbeddedStore,
    readonly spool: LocalSpool,
    private readonly options: ReceivingHarnessOptions,
  ) {
    const seen = options.reach.to(store);
    const leases = new EmbeddedLeases(seen, { graceMs: 50 });
    this.uploads = newUploads({
      store: seen,
      leases: { take: async (id) => this.endable(await leases.take(id)), drain: () => leases.drain() },
      spool,
      delivery: {
        result: async (id) => {
          this.delivered.push(id);
          return { kind: 'pending', upload: (await store.get(id))!, retryAfterSeconds: 1 };
        },
        recordClientAsked: (upload: Upload) => Promise.resolve(upload),
        keptAnswer: () => {
          throw new Error('nothing is answered here');
        },
      },
      metrics: this.metrics,
      ...(options.log && { log: options.log }),
      pace: options.pace ?? { bytes: 1, everyMs: 5 },
      node: options.node,
      feeds: options.feeds,
    });
  }

  static async open(options: ReceivingHarnessOptions): Promise<ReceivingHarness> {
    const directory = await temporaryDirectory();
    const store = await EmbeddedStore.open({ directory: directory.path, sync: 'none', log: silentLog() });
    const spool = new LocalSpool({ directory: directory.path, sync: 'none' });
    await spool.open();
    return new ReceivingHarness(directory, store, spool, options);
  }

  get path(): string {
    return this.directory.path;
  }

  async close(): Promise<void> {
    this.endLeases('lost');
    await this.store.close();
    await this.directory.remove();
  }

  /** An upload without any bytes yet. */
  async empty(more: Partial<Upload> = {}): Promise<string> {
    const id = newId();
    await this.store.create({ ...newUpload(id), ...more });
    return id;
  }

  /** A creation without bytes, as a client asks for it. */
  create(): Promise<Outcome | Interrupted> {
    const { stream, call } = this.call({});
    stream.push(null);
    const intent = { kind: 'create', dialect: '10', complete: false, appendLimitsApply: true } as const;
    // Without a client's key it is never elsewhere.
    return this.uploads.create(
      { ...intent, contentLength: 0, contentDigests: [], reprDigests: [] },
      routeTo('http://127.0.0.1:1'),
      { id: newId(), request: REQUEST },
      call,
    ) as Promise<Outcome | Interrupted>;
  }

  append(id: string, intent: Partial<AppendIntent> = {}, more: Partial<UploadCall> = {}): Sending {
    const { stream, shownOffsets: told, call } = this.call(more);
    const whole = { kind: 'append', id, offset: 0, complete: false, contentDigests: [], reprDigests: [] } as const;
    const outcome = this.uploads.append({ ...whole, ...intent }, call);
    outcome.catch(() => undefined);
    return { stream, shownOffsets: told, outcome };
  }

  private call(more: Partial<UploadCall>): Omit<Sending, 'outcome'> & { readonly call: UploadCall } {
    const stream = new Readable({ read: () => undefined });
    const told: number[] = [];
    const sendInterim = (news: InterimUpdate): boolean => {
      if (news.kind === 'progress') told.push(news.offset);
      return true;
    };
    const call = { ...callOf(stream, sendInterim), wantsProgress: () => this.options.hears ?? true, ...more };
    return { stream, shownOffsets: told, call };
  }

  /** All of it in one request. */
  send(
    id: string,
    bytes: string,
    intent: Partial<AppendIntent> = {},
    more: Partial<UploadCall> = {},
  ): Promise<Outcome | Interrupted> {
    const { stream, outcome } = this.append(id, intent, more);
    stream.push(bytes);
    stream.push(null);
    return outcome;
  }

  head(id: string): Promise<Outcome | Interrupted> {
    return this.uploads.retrieve({ kind: 'retrieve', id });
  }

  async offset(id: string): Promise<number | undefined> {
    return (await this.store.get(id))?.offset;
  }

  /** Names of the files in the spool. */
  async files(): Promise<string[]> {
    const names: string[] = [];
    for await (const { name } of this.spool.list()) names.push(name);
    return names.sort();
  }

  /** Every lease that is held now ends. */
  endLeases(why: ReleaseReason): void {
    for (const end of this.ends.splice(0)) end(why);
  }

  private endable(lease: Lease): Lease {
    const controller = new AbortController();
    const end = (why: ReleaseReason): void => controller.abort(why);
    lease.signal.addEventListener('abort', () => end(lease.signal.reason as ReleaseReason), { once: true });
    if (lease.signal.aborted) end(lease.signal.reason as ReleaseReason);
    this.ends.push(end);
    return { token: lease.token, signal: controller.signal, release: () => lease.release() };
  }
}

/** What happens to a step: it is done; it is not; it is, and nobody hears of it. */
type Reach = 'there' | 'away' | 'silent';

/** The way to a store: it can be cut, before a step gets there or before its answer comes back. */
export class StoreReach {
  /** The steps that were asked for, in their order. */
  readonly asked: string[] = [];
  private reach: Reach = 'there';
  private verbs: ReadonlySet<string> | undefined;

  constructor(private readonly options: { readonly mayForget?: boolean } = {}) {}

  /** No step gets to the store any more; with verbs: none of these. */
  cut(...verbs: string[]): void {
    this.set('away', verbs);
  }

  /** Steps are done, but no answer comes back. */
  silence(...verbs: string[]): void {
    this.set('silent', verbs);
  }

  heal(): void {
    this.set('there', []);
  }

  /** How often a step was asked for. */
  count(verb: string): number {
    return this.asked.filter((name) => name === verb).length;
  }

  /** The store as it is seen over this way. */
  to<S extends UploadStore>(store: S): S {
    return new Proxy(store, {
      get: (target, name) => {
        if (name === 'canLoseConfirmedSteps') return this.options.mayForget ?? target.canLoseConfirmedSteps;
        const verb = Reflect.get(target, name) as unknown;
        if (typeof verb !== 'function') return verb;
        const take = (given: unknown[]): Promise<unknown> => Promise.resolve(Reflect.apply(verb, target, given));
        return (...given: unknown[]): Promise<unknown> => this.pass(String(name), () => take(given));
      },
    });
  }

  private set(reach: Reach, verbs: readonly string[]): void {
    this.reach = reach;
    this.verbs = verbs.length > 0 ? new Set(verbs) : undefined;
  }

  private async pass(verb: string, step: () => Promise<unknown>): Promise<unknown> {
    this.asked.push(verb);
    const reach = this.verbs && !this.verbs.has(verb) ? 'there' : this.reach;
    if (reach === 'away') throw unavailable();
    const result = await step();
    if (reach === 'silent') throw unavailable();
    return result;
  }
}

function unavailable(): Fault {
  return new Fault('STORE_UNAVAILABLE', 'the store was cut off by a test', true);
}

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
    this.uploads = newUploads({
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
    const unrecorded = new UnrecordedBytes({ log, clock: Date.now });
    await recover({ store, spool, log, metrics, clock: Date.now, unreadable, unrecorded });
    await store.recoverRest();
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
