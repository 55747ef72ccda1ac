import { setImmediate as yieldToEventLoop, setTimeout as sleep } from 'node:timers/promises';
import { Fault } from '../model/fault.js';
import type { Answer, Attempt, Chunk, Phase, Undelivered, Upload } from '../model/upload.js';
import type { Capacity, NoRoom } from './usage.js';

/** The fields that the caller decides when an upload is created; all others start empty. */
export type NewUpload = Pick<
  Upload,
  | 'id'
  | 'node'
  | 'route'
  | 'dialect'
  | 'request'
  | 'limits'
  | 'length'
  | 'reprDigests'
  | 'wantedReprDigest'
  | 'deliveryKey'
  | 'principal'
  | 'client'
  | 'clientKey'
  | 'addedHeaders'
  | 'withheld'
  | 'createdAt'
  | 'expiresAt'
>;

/** A new upload whose client sent an `Idempotency-Key`. */
export type KeyedUpload = NewUpload & { readonly clientKey: string };

/** A change of the offset, made by the holder of a lease. */
export interface Commit {
  /** The token of the lease; a token older than the newest one known is refused. */
  readonly token: number;
  /** The lease holder's chunk with all bytes that are durable now; missing if nothing was written. */
  readonly chunk?: Chunk;
  /** The length, once it is known. */
  readonly length?: number;
  /** Digests of the complete representation, when the creation brought none. */
  readonly reprDigests?: Upload['reprDigests'];
  /** Set when the last body ended cleanly: the phase becomes `complete` and the length the offset. */
  readonly complete?: Pick<Upload, 'heldBack' | 'trailers'>;
  readonly expiresAt: number;
  /** Without room for more than the upload has taken already, the step rejects with `STORAGE_FULL`. */
  readonly capacity?: Capacity;
}

/** The origin's answer as the store keeps it. */
export interface KeptAnswer {
  readonly answer: Answer;
  /** Set when `answer.body.in` is `record`. */
  readonly body?: Uint8Array;
  readonly expiresAt: number;
}

/** The state in which the caller last saw an upload; a difference shows that it was delivered since. */
export type ExpectedState = Pick<Upload, 'phase' | 'attemptCount'>;

/** An upload whose record cannot be used. Nothing of it is removed. */
export interface SetAsideRecord {
  readonly id: string;
  /**
   * `unreadable`: the disk fails to read the record, and reading is tried again. `damaged`: the record's content is
   * not valid.
   */
  readonly state: 'unreadable' | 'damaged';
  /** A sentence for the operator. */
  readonly reason: string;
  readonly since: number;
}

/** A record from before the start, which nobody has been shown since. */
export interface RecoveredRecord {
  readonly upload: Upload;
  readonly chunks: readonly Chunk[];
  /** The record's last line was damaged, so chunk files that the record does not list may belong to that line. */
  readonly hasLostLine: boolean;
}

/** The decision about a recovered record after its bytes were checked. */
export type RecoveryDecision = 'show' | 'give-up' | 'remove';

/** The age from which a file that belongs to no upload may be removed. */
export interface LeftoverAge {
  /** The clock by which uploads expire, in milliseconds since the epoch. */
  readonly now: number;
  /** Monotonic milliseconds since some moment of this process. */
  readonly elapsedMs: number;
  /** Time for which the file must have been seen unchanged. */
  readonly minAgeMs: number;
}

/** The fields of a record that may have secrets. */
export type SealedFields = Partial<Pick<Upload, 'request' | 'addedHeaders' | 'withheld' | 'answer' | 'undelivered'>>;

/** The uploads that `newestFirst` gives; by default all. */
export interface NewestFirstOptions {
  readonly phase?: Phase | undefined;
  /** Only uploads that were created at this time or before. */
  readonly createdUpTo?: number | undefined;
}

/** Finds uploads without reading the records of all others. */
export interface UploadIndex {
  /** The ids of all uploads, in no particular order. */
  ids(): AsyncIterable<string>;
  /** Uploads by the time of their creation, those of the same millisecond in any order. */
  newestFirst(options?: NewestFirstOptions): AsyncIterable<Upload>;
  /** As `get`, for a look that acknowledges nothing: the record may not survive a power cut. */
  read(id: string): Promise<Upload | undefined>;
}

/** Totals over all uploads, counted without reading each of them. */
export interface Totals {
  /** Uploads by phase; phases without any may be missing. */
  readonly phases: Readonly<Partial<Record<Phase, number>>>;
  /** Committed bytes that the spool still has to keep. */
  readonly bytes: number;
  /** Bytes that the spool keeps room for: uploads that are being received may still bring them. */
  readonly reservedBytes: number;
}

/**
 * The records of all uploads. Every method is one atomic step that costs the same however large the upload is; it is
 * durable when its promise resolves (as far as the `sync` setting promises) and rejects with a `Fault`.
 *
 * After STORE_UNAVAILABLE it is unknown whether the step was done. Repeating the step is safe and returns the first
 * result if nothing else happened in between. Exceptions: a repeated `create` fails, and a repeated `claimDelivery`
 * returns nothing until the claim has expired.
 */
export interface UploadStore {
  /**
   * Whether confirmed steps can be lost, as in the failover of a replicated server; offsets acknowledged to clients
   * must then be recorded elsewhere too.
   */
  readonly canLoseConfirmedSteps: boolean;
  /** Missing in a store that has nothing but the records to look through. */
  readonly index?: UploadIndex;

  /** Rejects when the id exists. With a capacity, the upload is created only if there is room for it. */
  create(upload: NewUpload): Promise<Upload>;
  create(upload: NewUpload, capacity: Capacity): Promise<Upload | NoRoom>;
  /**
   * As `create`, for an upload with a `clientKey`, which only one upload has at a time. Returns the id of the upload
   * that has the key already, unless that is `replacedId`, which then loses the key to the new upload.
   */
  createUnlessKeyUsed(upload: KeyedUpload, replacedId?: string): Promise<Upload | string>;
  createUnlessKeyUsed(
    upload: KeyedUpload,
    replacedId: string | undefined,
    capacity: Capacity,
  ): Promise<Upload | string | NoRoom>;
  /** The id of the upload that has this `clientKey`; that upload may have ended or be unknown by now. */
  idByClientKey(clientKey: string): Promise<string | undefined>;
  get(id: string): Promise<Upload | undefined>;
  /** In order and without gaps: the sizes of the chunks add up to the offset. */
  chunks(id: string): Promise<readonly Chunk[]>;
  /**
   * Moves the offset, unless the lease was taken over. `stale`: a newer lease was taken. `gone`: no longer
   * `receiving`. A chunk that is committed again must not shrink.
   */
  commit(id: string, commit: Commit): Promise<Upload | 'stale' | 'gone'>;
  /** receiving → invalid, by the holder of a lease. `lost`: because stored bytes are lost. */
  invalidate(id: string, token: number, reason?: 'lost'): Promise<Upload | 'stale' | 'gone'>;
  /**
   * Records that the bytes are on another node now. For the holder of a lease, in any phase but `delivering`. `gone`:
   * unknown, being delivered, or no longer as in `expected`, so it may have an answer whose body is on the old node.
   */
  move(id: string, token: number, node: string, expected?: ExpectedState): Promise<Upload | 'stale' | 'gone'>;
  /**
   * complete | delivering | undelivered → invalid, because stored bytes are lost; needs no lease. `gone`: the bytes
   * are no longer needed, or are on another node.
   */
  markLost(id: string): Promise<Upload | 'gone'>;
  /** Any phase → cancelled. `gone`: unknown. */
  cancel(id: string): Promise<Upload | 'gone'>;

  /**
   * Records the first attempt before its first byte is sent, while the upload is `receiving`. The attempt is `inPart`
   * and needs no claim, because it can never send the complete upload. `stale`: another phase, or another attempt
   * exists.
   */
  beginEagerAttempt(id: string, attempt: Attempt): Promise<Upload | 'stale'>;
  /**
   * Records the end of the eager attempt while the upload is `receiving`. `stale`: another phase, or the attempt has
   * ended.
   */
  endEagerAttempt(id: string, attempt: Attempt): Promise<Upload | 'stale'>;
  /**
   * receiving → answered, in one step with the end of the eager attempt, because the origin answered before the
   * upload was complete.
   */
  recordEarlyAnswer(id: string, ended: Attempt, kept: KeptAnswer): Promise<Upload | 'stale'>;

  /**
   * complete | undelivered → delivering, or `delivering` with a claim that has expired. Only one worker gets the
   * upload; the others get undefined. Another worker may take the claim after `until`. `eagerAttempt`: an eager attempt
   * that has not ended and continues under the claim; the same step clears `inPart`, so that its last bytes may be
   * sent.
   */
  claimDelivery(id: string, worker: string, until: number, eagerAttempt?: Attempt): Promise<Upload | undefined>;
  /**
   * Extends a claim that is still held; false when it is not. `attempt`: the number of an attempt that this worker
   * began. While that is the newest attempt, its worker gets the claim back even if another worker took it, except
   * after it gave up the claim itself or when the upload is answered or has ended.
   */
  renewClaim(id: string, worker: string, until: number, attempt?: number): Promise<boolean>;
  /** Records an attempt; durable before the first byte of the attempt is sent. */
  beginAttempt(id: string, worker: string, attempt: Attempt): Promise<Upload | 'stale'>;
  endAttempt(id: string, worker: string, attempt: Attempt): Promise<Upload | 'stale'>;
  /**
   * → answered, in one step with the end of the attempt that brought the answer. The answer of the newest attempt is
   * accepted from any worker in each phase in which the upload waits for one. An answer that is not the origin's has
   * no attempt and is accepted from the holder of the claim only.
   */
  recordAnswer(id: string, worker: string, kept: KeptAnswer, ended?: Attempt): Promise<Upload | 'stale'>;
  /** delivering → complete; the next attempt is due at `dueAt`. */
  postpone(id: string, worker: string, dueAt: number): Promise<Upload | 'stale'>;
  /** delivering → undelivered. */
  giveUp(id: string, worker: string, failure: Undelivered): Promise<Upload | 'stale'>;
  /**
   * Within `undelivered`: records that a client got the response that says so, after it was sent; needs no claim.
   * `stale`: `attempt` is not the newest one, or the upload is undelivered for a reason other than `failure`.
   */
  recordClientInformed(id: string, attempt: number, failure: Undelivered): Promise<Upload | 'stale'>;
  /** Reverts `recordClientInformed`, because a client asks again as if it had lost the response. `stale` as there. */
  recordClientAskedAgain(id: string, attempt: number, failure: Undelivered): Promise<Upload | 'stale'>;
  /** The body of an answer that is kept in the record. */
  answerBody(id: string): Promise<Uint8Array | undefined>;
  /**
   * Uploads to deliver now: `complete` and due, or `delivering` with a claim that has expired. A store that was opened
   * for one node returns only uploads whose bytes are on it; so does `expired`. Uploads due later than
   * `implausibleAfter` are included, because the clock may have been set back since their due time was set.
   */
  dueDeliveries(now: number, implausibleAfter?: number): Promise<readonly string[]>;
  /**
   * Resolves when the phase is neither `complete` nor `delivering`; undefined for an unknown upload. Rejects with the
   * signal's reason.
   */
  waitUntilSettled(id: string, signal: AbortSignal): Promise<Upload | undefined>;

  /**
   * Replaces fields of a record by what `seal` makes of them, in any phase: the same values, protected in another way.
   * `unchanged`: `seal` gave nothing, or the record has changed meanwhile.
   */
  reseal(id: string, seal: (upload: Upload) => SealedFields | undefined): Promise<'resealed' | 'unchanged' | 'gone'>;

  /** Expired, cancelled and invalid uploads, but none whose delivery is claimed now. */
  expired(now: number): Promise<readonly string[]>;
  /**
   * Removes an upload and its claim to `clientKey`. Returns the phase that the upload had to exactly one of several
   * callers; undefined if it is unknown.
   */
  remove(id: string, clientKey?: string): Promise<Phase | undefined>;
  /** Pages through all uploads in no particular order; `next` is missing on the last page. */
  list(after: string | undefined, limit: number): Promise<{ uploads: readonly Upload[]; next?: string }>;
  totals(): Promise<Totals>;
  /** The records that cannot be used. Every other method rejects for an `unreadable` one. */
  setAsideRecords(): Promise<readonly SetAsideRecord[]>;
  /** Finishes pending writes and closes files and connections. */
  close(): Promise<void>;
}

const PAGE_SIZE = 500;

/** Every upload of the store, also from its records on the disk, page by page; other work runs between two pages. */
export async function* everyUpload(store: Pick<UploadStore, 'list'>): AsyncGenerator<Upload> {
  let after: string | undefined;
  do {
    const page = await store.list(after, PAGE_SIZE);
    yield* page.uploads;
    after = page.next;
    await yieldToEventLoop();
  } while (after !== undefined);
}

const FIRST_PAUSE_MS = 50;

/** The longest time until a store that is available again is used. */
const MAX_PAUSE_MS = 1000;

export interface RetryOptions {
  /** Ends the retries, after a last attempt. */
  readonly signal: AbortSignal;
  /** Returns a number from 0 to 1 that spreads the retries of many callers. */
  readonly random?: () => number;
  /** Called after every failed attempt. */
  readonly onUnavailable?: (fault: Fault) => void;
}

/**
 * Repeats a step while the store is unavailable; once the signal is aborted, tries a last time and rejects with the
 * store's fault.
 */
export async function retryWhileUnavailable<T>(step: () => Promise<T> | T, options: RetryOptions): Promise<T> {
  const { signal, random = Math.random, onUnavailable } = options;
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 2, MAX_PAUSE_MS)) {
    try {
      return await step();
    } catch (error) {
      if (!isStoreUnavailable(error)) throw error;
      onUnavailable?.(error);
      if (signal.aborted) throw error;
    }
    // After an abort a last attempt follows, since the store may be available by now.
    await sleep(pauseMs * (0.5 + random() / 2), undefined, { signal }).catch(() => undefined);
  }
}

/** Whether the store did not reply: whether the step was done is unknown, and repeating it is safe. */
export function isStoreUnavailable(error: unknown): error is Fault {
  return error instanceof Fault && error.code === 'STORE_UNAVAILABLE';
}

/** The result of a read, or undefined while the store is unavailable. */
export async function ifAvailable<T>(read: () => Promise<T> | undefined): Promise<T | undefined> {
  try {
    return await read();
  } catch (error) {
    if (isStoreUnavailable(error)) return undefined;
    throw error;
  }
}
