import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { Fault } from '../../src/model/fault.js';
import type { AppendIntent, InterimUpdate, Interrupted, Outcome } from '../../src/model/messages.js';
import type { Upload } from '../../src/model/upload.js';
import { type Log, silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { EmbeddedLeases, EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import type { Lease, ReleaseReason } from '../../src/store/leases.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import type { UploadCall } from '../../src/uploads/answers.js';
import type { EagerFeeds } from '../../src/uploads/append.js';
import type { CommitPace } from '../../src/uploads/chunk.js';
import { Body } from '../../src/uploads/request-body.js';
import { Uploads } from '../../src/uploads/uploads.js';
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
    this.uploads = new Uploads({
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
      log: options.log ?? silentLog(),
      clock: Date.now,
      newId: () => randomBytes(24).toString('base64url'),
      newDeliveryKey: () => 'key',
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
    const id = randomBytes(24).toString('base64url');
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
      REQUEST,
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
    const body = new Body(stream, { idleMs: 60_000, onFirstRead: () => undefined });
    const clientLeft = new AbortController().signal;
    const call = {
      body,
      sendInterim,
      wantsProgress: () => this.options.hears ?? true,
      credentials: [],
      clientLeft,
      ...more,
    };
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
