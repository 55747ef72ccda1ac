import { setImmediate as yieldToEventLoop, setTimeout as sleep } from 'node:timers/promises';
import { Fault } from '../model/fault.js';
import type { Answer, Attempt, Chunk, Phase, Undelivered, Upload } from '../model/upload.js';

/** What a new upload starts with; the rest begins empty. */
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
  | 'clientKey'
  | 'addedHeaders'
  | 'createdAt'
  | 'expiresAt'
>;

export type KeyedUpload = NewUpload & { readonly clientKey: string };

/** One step forward of the offset, by the holder of a lease. */
export interface Commit {
  /** The lease's token: an older one than any seen is refused. */
  readonly token: number;
  /** The holder's chunk with all its bytes that are durable now; none when nothing was written. */
  readonly chunk?: Chunk;
  /** The length, once it is known. */
  readonly length?: number;
  /** Digests of the whole, when the creation brought none. */
  readonly reprDigests?: Upload['reprDigests'];
  /** The body ended properly and was the last: phase `complete`, length = offset. */
  readonly complete?: Pick<Upload, 'heldBack' | 'trailers'>;
  readonly expiresAt: number;
}

/** What is kept of the origin's answer. */
export interface KeptAnswer {
  readonly answer: Answer;
  /** When the answer keeps it in the record. */
  readonly body?: Uint8Array;
  readonly expiresAt: number;
}

/** What tells whether an upload was delivered meanwhile, which needs no lease. */
export type ExpectedState = Pick<Upload, 'phase' | 'attemptCount'>;

/** What is there of an upload that cannot be shown. Nothing of it is removed. */
export interface SetAsideRecord {
  readonly id: string;
  /** `unreadable`: the disk does not give its record, and is asked again. `damaged`: it gives something else. */
  readonly state: 'unreadable' | 'damaged';
  /** For people. */
  readonly reason: string;
  readonly since: number;
}

/** A record that can be read although it could not be at the start, which nobody has been shown yet. */
export interface RecoveredRecord {
  readonly upload: Upload;
  readonly chunks: readonly Chunk[];
  /** Its last line was damaged: files that it does not count may be those of that line. */
  readonly hasLostLine: boolean;
}

/** What becomes of it once its bytes were looked at. */
export type RecoveryDecision = 'show' | 'give-up' | 'remove';

/** When a file that belongs to nothing is old enough to go. */
export interface LeftoverAge {
  /** The time by which uploads expire. */
  readonly now: number;
  /** Milliseconds of this process that really passed. */
  readonly elapsedMs: number;
  /** It has to be seen, unchanged, for so long. */
  readonly minAgeMs: number;
}

/** How much there is, without looking at each upload. */
export interface Totals {
  /** Uploads by phase; phases without any may be missing. */
  readonly phases: Readonly<Partial<Record<Phase, number>>>;
  /** Committed bytes that the spool still has to keep. */
  readonly bytes: number;
}

/**
 * What is known of each upload. Every verb is one atomic step, durable when its promise is fulfilled (as far as the
 * `sync` setting promises), and costs the same however large the upload is. Fails with a `Fault`.
 *
 * After STORE_UNAVAILABLE nobody knows whether the step was done. Asking for the same step again is safe: where it was
 * done, and nothing else since, the result is that of the first time. Not so `create`, which fails, and `claimDelivery`,
 * which gives nothing until the claim has run out.
 */
export interface UploadStore {
  /**
   * Steps that were confirmed can be lost, as by the failover of a replicated server: what was promised to clients has to
   * be noted elsewhere.
   */
  readonly canLoseConfirmedSteps: boolean;

  /** Fails when the id exists. */
  create(upload: NewUpload): Promise<Upload>;
  /**
   * As `create`, for an upload with a `clientKey`, which one upload at a time has. Gives the id of the upload that has it
   * already, unless that is `instead`, whose place is taken.
   */
  createUnlessKeyUsed(upload: KeyedUpload, replacedId?: string): Promise<Upload | string>;
  /** The id of the upload that has this `clientKey`; it may be over or unknown by now. */
  idByClientKey(clientKey: string): Promise<string | undefined>;
  get(id: string): Promise<Upload | undefined>;
  /** In order, without gaps: the chunks' sizes add up to the offset. */
  chunks(id: string): Promise<readonly Chunk[]>;
  /** The fence. `stale`: a newer lease was taken. `gone`: no longer `receiving`. Commits of a chunk must grow. */
  commit(id: string, commit: Commit): Promise<Upload | 'stale' | 'gone'>;
  /** receiving → invalid, by the holder of a lease. `lost`: because stored bytes are. */
  invalidate(id: string, token: number, why?: 'lost'): Promise<Upload | 'stale' | 'gone'>;
  /**
   * The bytes are with another node from now on, in any phase but `delivering`. By the holder of a lease. `gone` also while
   * it is being delivered, and when it was since it looked as in `seen`: then it may have an answer that is not there.
   */
  move(id: string, token: number, node: string, expected?: ExpectedState): Promise<Upload | 'stale' | 'gone'>;
  /**
   * complete | delivering | undelivered → invalid: stored bytes are lost, whoever notices it. `gone`: they are not needed any
   * more, or with another node.
   */
  markLost(id: string): Promise<Upload | 'gone'>;
  /** Any phase → cancelled. `gone`: unknown. */
  cancel(id: string): Promise<Upload | 'gone'>;

  /**
   * Only in `receiving`, and only as the first attempt: notes that it begins, before its first byte is sent. It is `inPart`
   * and needs no claim, because what it may send can never be the whole. `stale`: too late, or somebody did it already.
   */
  beginEarlyAttempt(id: string, attempt: Attempt): Promise<Upload | 'stale'>;
  /** Ends it, as long as the upload is `receiving` and it has not ended. */
  endEarlyAttempt(id: string, attempt: Attempt): Promise<Upload | 'stale'>;
  /** receiving → answered, in one step with the end of the attempt: the origin has heard enough. */
  recordEarlyAnswer(id: string, ended: Attempt, kept: KeptAnswer): Promise<Upload | 'stale'>;

  /**
   * complete | undelivered → delivering, or `delivering` whose claim has run out. One worker wins; undefined for the
   * others. `until` is the time after which the claim may be taken by someone else. `goesOn`: the claim is for an attempt
   * that began early and has not ended; in the same step it is no longer `inPart`, and its end may be sent.
   */
  claimDelivery(id: string, worker: string, until: number, earlyAttempt?: Attempt): Promise<Upload | undefined>;
  /**
   * Extends a claim that is still held; false when it is not. `attempt`: the number of one that this worker began. As long
   * as no newer one began, its claim is given back, whoever took it and whatever others wrote meanwhile; not when this worker
   * gave it up itself, nor when the upload has its answer or has ended.
   */
  renewClaim(id: string, worker: string, until: number, attempt?: number): Promise<boolean>;
  /** Notes that an attempt begins: durable before its first byte is sent. */
  beginAttempt(id: string, worker: string, attempt: Attempt): Promise<Upload | 'stale'>;
  endAttempt(id: string, worker: string, attempt: Attempt): Promise<Upload | 'stale'>;
  /**
   * → answered, in one step with the end of the attempt that brought it. An answer of the newest attempt is taken from
   * whoever has it, in each phase in which an upload waits for one. An answer that is not the origin's has no attempt, and
   * is for the holder of the claim to give.
   */
  recordAnswer(id: string, worker: string, kept: KeptAnswer, ended?: Attempt): Promise<Upload | 'stale'>;
  /** delivering → complete, to be tried again at `dueAt`. */
  postpone(id: string, worker: string, dueAt: number): Promise<Upload | 'stale'>;
  /** delivering → undelivered. */
  giveUp(id: string, worker: string, why: Undelivered): Promise<Upload | 'stale'>;
  /**
   * Within `undelivered`: notes that a client was told so. Whoever has told it may say so, after the response was sent.
   * `stale`: `attempt` is not the newest one any more, or it is undelivered for another reason than `why`.
   */
  recordClientInformed(id: string, attempt: number, why: Undelivered): Promise<Upload | 'stale'>;
  /** Takes that note back, because a client asks again as if it had lost the response. `stale` as above. */
  recordClientAskedAgain(id: string, attempt: number, why: Undelivered): Promise<Upload | 'stale'>;
  /** The body of an answer that is kept in the record. */
  answerBody(id: string): Promise<Uint8Array | undefined>;
  /**
   * Uploads whose delivery should be running: `complete` and due, or `delivering` with a claim that has run out. A store
   * that was opened for one node gives only those whose bytes are there; so does `expired`. `beyond`: those that are due
   * later than this are given too, because their time may come from a clock that was set back since.
   */
  dueDeliveries(now: number, implausibleAfter?: number): Promise<readonly string[]>;
  /** Fulfilled when the phase is none of `complete`, `delivering`; undefined when the upload is gone. Rejects with the signal's reason. */
  waitUntilSettled(id: string, signal: AbortSignal): Promise<Upload | undefined>;

  /** Uploads whose time is over, and those cancelled or invalid; never one whose delivery is claimed right now. */
  expired(now: number): Promise<readonly string[]>;
  /**
   * Forgets an upload, and that it had `clientKey`. Gives the phase that it had, to one of all who remove it; undefined when
   * it is unknown.
   */
  remove(id: string, clientKey?: string): Promise<Phase | undefined>;
  /** Pages through all uploads in no particular order; `next` is missing on the last page. */
  list(after: string | undefined, limit: number): Promise<{ uploads: readonly Upload[]; next?: string }>;
  totals(): Promise<Totals>;
  /** Every other verb fails for one that is `unreadable`. */
  setAsideRecords(): Promise<readonly SetAsideRecord[]>;
  /** Writes what is pending and lets go of files and connections. */
  close(): Promise<void>;
}

const PAGE_SIZE = 500;

/** Every upload the store knows, a page at a time; between two of them requests have their turn. */
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

/** A store that is back is used again within this time. */
const MAX_PAUSE_MS = 1000;

export interface RetryOptions {
  /** Ends the waiting, after one last try. */
  readonly signal: AbortSignal;
  /** Between 0 and 1: many who wait for the same store must not all come back at the same moment. */
  readonly random?: () => number;
  /** Told after every try that was in vain. */
  readonly onUnavailable?: (fault: Fault) => void;
}

/** Asks a store that does not answer again and again, until it does or the signal is aborted: then fails with its fault. */
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
    // Aborted: one last try, which may well find the store where it was.
    await sleep(pauseMs * (0.5 + random() / 2), undefined, { signal }).catch(() => undefined);
  }
}

/** The store did not answer: whether it did what it was asked is unknown, and asking again is safe. */
export function isStoreUnavailable(error: unknown): error is Fault {
  return error instanceof Fault && error.code === 'STORE_UNAVAILABLE';
}
