import { Delivery, type DeliveryOptions, type DeliveryResult } from '../../src/delivery/delivery.js';
import { HttpOrigin } from '../../src/delivery/http-origin.js';
import type { Headers } from '../../src/model/headers.js';
import type { RelayedAnswer } from '../../src/model/messages.js';
import type { DeliveryRules, Route, Routes } from '../../src/model/route.js';
import { newestUnknownOutcome, type StoredRequest, type Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { temporaryDirectory, type TemporaryDirectory } from './temporary.js';
import { testSecrets } from './secrets.js';

export interface DeliveryHarnessOptions {
  readonly rules?: Partial<Omit<DeliveryRules, 'retry'>>;
  readonly retry?: Partial<DeliveryRules['retry']>;
  /** Put before every target. */
  readonly basePath?: string;
  readonly ca?: string;
  readonly delivery?: Partial<DeliveryOptions>;
  /** Between the delivery and the real store. */
  readonly storeSeenAs?: (store: UploadStore) => UploadStore;
}

export interface WholeUpload {
  readonly id?: string;
  readonly body?: Uint8Array | string;
  /** Cuts the body at these offsets: one chunk each. */
  readonly cutAt?: readonly number[];
  readonly request?: Partial<StoredRequest>;
}

/** A delivery over a real store and spool in a temporary directory, with one route to one origin. */
export class DeliveryHarness {
  /** How far the clock of the wall is set off; of this clock alone. */
  aheadMs = 0;
  readonly clock = (): number => Date.now() + this.aheadMs;
  /** Everything the delivery told its log. */
  readonly lines: Record<string, unknown>[] = [];
  /** The metrics of the newest worker. */
  metrics = new Metrics();
  private count = 0;

  private constructor(
    private readonly options: DeliveryHarnessOptions,
    private readonly directory: TemporaryDirectory,
    readonly route: Route,
    public store: EmbeddedStore,
    readonly spool: LocalSpool,
    public delivery: Delivery,
  ) {}

  static async open(originUrl: string, options: DeliveryHarnessOptions = {}): Promise<DeliveryHarness> {
    const directory = await temporaryDirectory();
    const route = routeTo(originUrl + (options.basePath ?? ''), options);
    const store = await openStore(directory.path);
    const spool = new LocalSpool({ directory: directory.path, sync: 'none' });
    await spool.open();
    const harness = new DeliveryHarness(options, directory, route, store, spool, undefined as unknown as Delivery);
    harness.delivery = harness.newDelivery();
    return harness;
  }

  /** An upload as the receiving side leaves it: every byte committed, phase `complete`. */
  async whole({ id, body = 'hello', cutAt = [], request }: WholeUpload = {}): Promise<Upload> {
    const bytes = Buffer.from(body);
    const uploadId = id ?? `upload-${String(this.count++).padStart(25, '0')}`;
    await this.store.create({ ...newUpload(uploadId), request: { ...REQUEST, ...request }, length: bytes.length });
    const token = await this.store.nextToken(uploadId);
    const cuts = [0, ...cutAt, bytes.length];
    for (let at = 0; at + 1 < cuts.length && bytes.length > 0; at++)
      await this.commit(uploadId, token, cuts[at]!, bytes.subarray(cuts[at], cuts[at + 1]));
    const heldBack = bytes.length > 0 ? { lastByte: bytes.at(-1)! } : undefined;
    const complete = heldBack ? { heldBack } : {};
    return (await this.store.commit(uploadId, { token, complete, expiresAt: inAnHour() })) as Upload;
  }

  /** What a client gets that hears all of it. */
  async result(
    id: string,
    { credentials, to = neverAborted() }: { credentials?: Headers; to?: AbortSignal } = {},
  ): Promise<DeliveryResult> {
    const result = await this.delivery.result(id, { credentials, signal: to });
    const end = result.kind === 'undelivered' ? newestUnknownOutcome(result.upload) : undefined;
    if (end) await this.delivery.recordClientInformed(end);
    return result;
  }

  /** The result, which has to be an answer. */
  async answer(id: string): Promise<RelayedAnswer & { readonly upload: Upload }> {
    const result = await this.result(id);
    if (result.kind !== 'answered') throw new Error(`not answered but ${JSON.stringify(result)}`);
    return { ...result.answer, upload: result.upload };
  }

  async upload(id: string): Promise<Upload> {
    return (await this.store.get(id))!;
  }

  /** Names of the files that are left in the spool. */
  async files(): Promise<string[]> {
    const names: string[] = [];
    for await (const { name } of this.spool.list()) names.push(name);
    return names.sort();
  }

  /** As after `kill -9`: what was written is there, the old process does nothing any more. */
  async restart(): Promise<void> {
    await this.store.close();
    this.abandoned.push(this.delivery);
    this.store = await openStore(this.directory.path);
    this.delivery = this.newDelivery();
  }

  /** As on a second node: the same store and spool, a delivery of its own. */
  anotherWorker(): Delivery {
    return this.newDelivery('another');
  }

  async close(): Promise<void> {
    await Promise.all([...this.abandoned, this.delivery].map((delivery) => delivery.stop()));
    await this.store.close();
    await this.directory.remove();
  }

  private readonly abandoned: Delivery[] = [];

  private newDelivery(worker = `worker-${this.abandoned.length}`): Delivery {
    const { storeSeenAs = (store: UploadStore) => store, ca, delivery } = this.options;
    const log = this.recordingLog();
    this.metrics = new Metrics();
    return new Delivery({
      store: storeSeenAs(this.store),
      spool: this.spool,
      secrets: testSecrets(),
      origin: new HttpOrigin({ ca }),
      routes: onlyRoute(this.route),
      worker,
      clock: this.clock,
      random: () => 0.5,
      log,
      metrics: this.metrics,
      stopGraceMs: 0,
      pollMs: 20,
      ...delivery,
    });
  }

  private recordingLog(): ReturnType<typeof silentLog> {
    const write = (level: string) => (fields: object | string, message?: string) =>
      void this.lines.push(typeof fields === 'string' ? { level, msg: fields } : { level, ...fields, msg: message });
    return {
      trace: write('trace'),
      debug: write('debug'),
      info: write('info'),
      warn: write('warn'),
      error: write('error'),
      fatal: write('fatal'),
    };
  }

  private async commit(id: string, token: number, start: number, bytes: Uint8Array): Promise<void> {
    const name = `chunk-${start}`;
    const writer = await this.spool.create(id, name);
    await writer.write([bytes]);
    await writer.close();
    await this.store.commit(id, { token, chunk: { name, start, size: bytes.length }, expiresAt: inAnHour() });
  }
}

/** The whole body of an answer. */
export async function bodyOf(answer: RelayedAnswer): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of answer.body) pieces.push(piece);
  return Buffer.concat(pieces);
}

export function neverAborted(): AbortSignal {
  return new AbortController().signal;
}

export const REQUEST: StoredRequest = {
  method: 'POST',
  target: '/files',
  httpVersion: '1.1',
  scheme: 'http',
  authority: 'files.example',
  headers: [['Host', 'files.example']],
  peerAddress: '192.0.2.7',
  clientAddress: '192.0.2.7',
  peerIsTrusted: false,
};

const LIMITS = { minSize: 0, maxAgeSeconds: 3600 };

export function newUpload(id: string) {
  return {
    id,
    route: 'default',
    dialect: 'final',
    request: REQUEST,
    limits: LIMITS,
    reprDigests: [],
    deliveryKey: `key-of-${id}`,
    createdAt: Date.now(),
    expiresAt: inAnHour(),
  };
}

export function routeTo(origin: string, { rules, retry }: Pick<DeliveryHarnessOptions, 'rules' | 'retry'> = {}): Route {
  return {
    name: 'default',
    origin,
    resumable: true,
    limits: LIMITS,
    delivery: {
      mode: 'spool',
      eager: { idleMs: 5_000, unknownLength: 'chunked' },
      timeoutMs: 5_000,
      waitMs: 60_000,
      respond: 'answer',
      keepAnswerMs: 60_000,
      keepAnswerSize: 64 * 1024,
      preserveHost: true,
      rewriteLocation: false,
      framing: { kind: 'raw' },
      concurrency: 64,
      parkOn: [401, 407],
      breaker: { failures: 1000, pauseMs: 10 },
      ...rules,
      retry: {
        maxAttempts: 3,
        firstDelayMs: 10,
        longestDelayMs: 40,
        whileWaitingMs: 60_000,
        inBackgroundMs: 0,
        ...retry,
      },
    },
    authorize: { preflight: false, recheck: false },
    bindTo: [],
    plainBodies: 'pass',
    protocols: ['rufh', 'tus'],
  };
}

/** A table with one route, for every target. */
export function onlyRoute(route: Route): Routes {
  return {
    find: () => route,
    findIgnoringCase: () => route,
    hasProtected: false,
    findResumable: () => route,
    byName: () => route,
    all: [route],
  };
}

function openStore(directory: string): Promise<EmbeddedStore> {
  return EmbeddedStore.open({ directory, sync: 'none', log: silentLog() });
}

function inAnHour(): number {
  return Date.now() + 3_600_000;
}
