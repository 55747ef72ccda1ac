import { join } from 'node:path';
import { PeriodicTask } from '../../concurrency/periodic-task.js';
import { Semaphore } from '../../concurrency/queues.js';
import { DirectorySync, type SyncMode } from '../../fs/directory-sync.js';
import { storageFault } from '../../fs/files.js';
import { Fault } from '../../model/fault.js';
import {
  markAskedAgain,
  type Attempt,
  type Chunk,
  type Phase,
  markClientKnows,
  type Undelivered,
  type Upload,
} from '../../model/upload.js';
import type { Log } from '../../observe/log.js';
import type { LeasePurpose } from '../leases.js';
import type {
  RecoveryDecision,
  Commit,
  RecoveredRecord,
  KeptAnswer,
  KeyedUpload,
  NewUpload,
  LeftoverAge,
  ExpectedState,
  SealedFields,
  SetAsideRecord,
  Totals,
  UploadStore,
} from '../upload-store.js';
import type { Capacity, NoRoom } from '../usage.js';
import { StartNumber } from './boot.js';
import { EmbeddedIndex } from './embedded-index.js';
import { loadRecords, type LossObserver } from './load.js';
import { RecordCache } from './record-cache.js';
import type { RecordEntry } from './record-entry.js';
import type { IndexRow } from './record-index.js';
import { Records } from './records.js';
import {
  isAlreadyAnswered,
  type Change,
  type Claim,
  decideAnswer,
  decideAnswerInLine,
  decideAttempt,
  decideBeginEager,
  decideCancel,
  decideClaim,
  decideClientInformed,
  decideCommit,
  decideEndEager,
  decideGiveUp,
  decideInvalidate,
  decideMarkLost,
  decideMove,
  decidePostpone,
  decideReclaim,
  isAlreadyGivenUp,
  holdsClaim,
  isDue,
  isExpired,
  isNewestAttempt,
  isSettled,
  lacksBody,
  type Moment,
  isAlreadyPostponed,
  SettlementWaiters,
  type UploadRecord,
} from './transitions.js';

/** The limit of files open at the same time; the system runs fewer disk calls than this in parallel. */
const MAX_OPEN_FILES = 16;

/** A body of up to this size fits, with its head, into the room that an attempt has reserved in the record. */
const SHORT_BODY_BYTES = 2048;
/** A body of up to this size always goes into the record's line: it stays in memory with the record. */
const MAX_BODY_BYTES_IN_LINE = 1024;

const DEFAULT_RETRY_MS = 5000;

const NO_ROOM_MESSAGE =
  'the disk of the data directory is full: other traffic is unaffected and uploads can be read and ended, but no bytes are ' +
  'received until there is space';

export interface EmbeddedStoreOptions extends LossObserver {
  /** The data directory, locked by this process; records are below `uploads/` in it. */
  readonly directory: string;
  readonly sync: SyncMode;
  readonly clock?: () => number;
  /** The clock by which uploads expire; `clock` by default. */
  readonly expiryClock?: () => number;
  /** Monotonic clock in milliseconds, which measures claims. */
  readonly monotonic?: () => number;
  /**
   * How often the store tries again to read unreadable records, and to record its start; every 5 seconds by default.
   */
  readonly retryMs?: number;
  /** The records in memory may have this many bytes on the disk; 8 MiB, or 16 MiB of those just used, by default. */
  readonly maxCachedBytes?: number;
}

/**
 * The store of one process: one file per upload makes each change durable before it counts, and memory has a row of each
 * upload and the records in use. The steps of one upload run one after the other, and a step whose write fails changes
 * nothing.
 */
export class EmbeddedStore implements UploadStore {
  readonly canLoseConfirmedSteps = false;
  readonly index: EmbeddedIndex;
  private readonly rereads: PeriodicTask;
  private readonly startRetries: PeriodicTask;
  private lastToken: number;

  private constructor(
    private readonly records: Records,
    private readonly settlement: SettlementWaiters,
    private readonly clocks: Required<Pick<EmbeddedStoreOptions, 'clock' | 'expiryClock' | 'monotonic'>>,
    private readonly start: StartNumber,
    private readonly log: Log,
    retryMs = DEFAULT_RETRY_MS,
  ) {
    this.index = new EmbeddedIndex(records);
    this.lastToken = start.firstToken - 1;
    this.rereads = new PeriodicTask(() => {
      records.dropUnused();
      return records.rereadAll();
    }, retryMs);
    this.rereads.start();
    this.startRetries = new PeriodicTask(() => this.retryRecordingStart(), retryMs);
    this.startRetries.start();
  }

  /**
   * Reads all records once. Interrupted deliveries are due again, because their claims ended with the process that held
   * them.
   */
  static async open(options: EmbeddedStoreOptions): Promise<EmbeddedStore> {
    const { directory, sync, log, onLoss, clock = Date.now, expiryClock = clock, retryMs } = options;
    const { monotonic = () => performance.now() } = options;
    const disk = {
      directory: join(directory, 'uploads'),
      directorySync: new DirectorySync(sync),
      semaphore: new Semaphore(MAX_OPEN_FILES),
    };
    const settlement = new SettlementWaiters();
    try {
      await disk.directorySync.makeExclusiveDirectory(disk.directory);
      const { maxCachedBytes: bytes } = options;
      const cacheLimits = bytes === undefined ? undefined : { bytes, recentBytes: bytes };
      const loaded = await loadRecords(disk, { log, onLoss }, new RecordCache(cacheLimits));
      // The previous process may never have synced the names that it made.
      await disk.directorySync.sync(disk.directory);
      const start = await StartNumber.open(directory, loaded.largestToken, disk.directorySync);
      if (!start.isPersisted) log.error({ code: 'STORAGE_FULL', data: directory }, NO_ROOM_MESSAGE);
      const onChange = (id: string, upload: Upload | undefined): void => settlement.notify(id, upload);
      const hasExpired = (row: IndexRow): boolean =>
        isExpired(row, row, { wallMs: expiryClock(), monotonicMs: monotonic() });
      const records = new Records(disk, loaded, { log, onLoss, onChange, hasExpired });
      return new EmbeddedStore(records, settlement, { clock, expiryClock, monotonic }, start, log, retryMs);
    } catch (error) {
      throw storageFault(error, 'the store cannot be opened');
    }
  }

  create(upload: NewUpload): Promise<Upload>;
  create(upload: NewUpload, capacity: Capacity): Promise<Upload | NoRoom>;
  create(upload: NewUpload, capacity?: Capacity): Promise<Upload | NoRoom> {
    return this.records.create(upload, capacity);
  }

  createUnlessKeyUsed(upload: KeyedUpload, replacedId?: string): Promise<Upload | string>;
  createUnlessKeyUsed(
    upload: KeyedUpload,
    replacedId: string | undefined,
    capacity: Capacity,
  ): Promise<Upload | string | NoRoom>;
  createUnlessKeyUsed(
    upload: KeyedUpload,
    replacedId?: string,
    capacity?: Capacity,
  ): Promise<Upload | string | NoRoom> {
    return this.records.createUnlessKeyUsed(upload, replacedId, capacity);
  }

  idByClientKey(clientKey: string): Promise<string | undefined> {
    return Promise.resolve(this.records.index.idByClientKey(clientKey));
  }

  /** Returns an expired upload even if its record may not survive a power cut, since clients only learn that it expired. */
  async get(id: string): Promise<Upload | undefined> {
    const row = this.records.index.get(id);
    const hasExpired = row && row.phase !== 'cancelled' && row.expiresAt <= this.clocks.expiryClock();
    return (hasExpired ? await this.records.read(id) : await this.records.getCertain(id))?.record.upload;
  }

  async chunks(id: string): Promise<readonly Chunk[]> {
    const entry = await this.records.read(id);
    // Without an answer the caller would take every file for one that nobody counts.
    if (!entry && this.records.isKnown(id))
      throw new Fault('STORAGE_UNAVAILABLE', 'the record of an upload is damaged', true);
    return [...(entry?.record.chunks ?? [])];
  }

  commit(id: string, commit: Commit): Promise<Upload | 'stale' | 'gone'> {
    const { capacity = {} } = commit;
    return this.records.changeWithin(id, 'gone', ({ record }) => decideCommit(record, commit), capacity);
  }

  invalidate(id: string, token: number, reason?: 'lost'): Promise<Upload | 'stale' | 'gone'> {
    return this.records.change(id, 'gone', ({ record }) => decideInvalidate(record, token, reason));
  }

  /** The files of an upload that was given up stay unchanged. */
  markLost(id: string): Promise<Upload | 'gone'> {
    return this.records.change(id, 'gone', ({ record, isLost }) => (isLost ? 'gone' : decideMarkLost(record)));
  }

  move(id: string, token: number, node: string, expected?: ExpectedState): Promise<Upload | 'stale' | 'gone'> {
    return this.records.change(id, 'gone', ({ record }) => decideMove(record, token, node, expected));
  }

  cancel(id: string): Promise<Upload | 'gone'> {
    return this.records.change(id, 'gone', ({ record }) => decideCancel(record));
  }

  /**
   * The token of the next lease. Commits under way end before it is given, and later ones with an older token are stale.
   * While a full disk keeps the start from being recorded, no bytes are written, so a lease to read or end an upload
   * reuses the current token.
   */
  nextToken(id: string, purpose: LeasePurpose = 'to-write'): Promise<number> {
    return this.records.step(id, async (entry) => {
      if (purpose === 'to-write') await this.recordStart();
      if (!this.start.isPersisted) return entry?.record.token ?? 0;
      this.lastToken = Math.max(this.lastToken, entry?.record.token ?? 0) + 1;
      if (entry) entry.record = { ...entry.record, token: this.lastToken };
      return this.lastToken;
    });
  }

  beginEagerAttempt(id: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.records.change(id, 'stale', ({ record }) => decideBeginEager(record, attempt));
  }

  endEagerAttempt(id: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.records.change(id, 'stale', ({ record }) => decideEndEager(record, attempt));
  }

  recordEarlyAnswer(id: string, ended: Attempt, kept: KeptAnswer): Promise<Upload | 'stale'> {
    return this.records.step(id, async (entry) => {
      if (!entry) return 'stale';
      if (isAlreadyAnswered(entry.record, kept.answer, ended)) {
        if (lacksBody(entry.record)) await this.saveAnswer(entry, kept);
        else await this.records.save(entry, {});
        return entry.record.upload;
      }
      const end = decideEndEager(entry.record, ended);
      if (end === 'stale') return end;
      await this.saveAnswer(entry, kept, end);
      return entry.record.upload;
    });
  }

  claimDelivery(id: string, worker: string, until: number, eagerAttempt?: Attempt): Promise<Upload | undefined> {
    return this.records.step(id, async (entry) => {
      const change = entry && decideClaim(entry, this.momentOf(this.clocks.clock()), eagerAttempt);
      if (!change) return undefined;
      // A start delivers a complete upload like one whose claim has ended, so this claim needs no line of its own.
      if (entry.record.upload.phase === 'complete' && !change.attempt) await this.records.saveLater(entry, change);
      else await this.records.save(entry, change);
      entry.claim = this.claimOf(worker, until);
      return entry.record.upload;
    });
  }

  renewClaim(id: string, worker: string, until: number, attempt?: number): Promise<boolean> {
    return this.records.step(id, async (entry) => {
      if (!entry) return false;
      if (!holdsClaim(entry, worker)) {
        // The worker gave up the claim itself, so it has no further result to record.
        if (entry.claim?.worker === worker || !isNewestAttempt(entry.record, attempt)) return false;
        await this.records.save(entry, decideReclaim(entry.record));
      }
      entry.claim = this.claimOf(worker, until);
      return true;
    });
  }

  beginAttempt(id: string, worker: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.changeAsClaimHolder(id, worker, ({ record }) => decideAttempt(record, attempt, 'begins'));
  }

  endAttempt(id: string, worker: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.changeAsClaimHolder(id, worker, ({ record }) => decideAttempt(record, attempt, 'ends'));
  }

  recordAnswer(id: string, worker: string, kept: KeptAnswer, ended?: Attempt): Promise<Upload | 'stale'> {
    return this.records.step(id, async (entry) => {
      if (!entry) return 'stale';
      const { record, claim } = entry;
      if (claim?.worker === worker && isAlreadyAnswered(record, kept.answer, ended)) {
        if (lacksBody(record)) await this.saveAnswer(entry, kept);
        return entry.record.upload;
      }
      if (!holdsClaim(entry, worker) && !isNewestAttempt(record, ended?.number)) return 'stale';
      const end = ended && decideAttempt(record, ended, 'ends');
      try {
        await this.saveAnswer(entry, kept, end);
      } finally {
        if (entry.record.upload.phase === 'answered') entry.claim = { worker, untilMs: claim?.untilMs ?? 0 };
      }
      return entry.record.upload;
    });
  }

  postpone(id: string, worker: string, dueAt: number): Promise<Upload | 'stale'> {
    return this.changeAsClaimHolder(
      id,
      worker,
      () => decidePostpone(dueAt),
      (record) => isAlreadyPostponed(record, dueAt),
    );
  }

  giveUp(id: string, worker: string, failure: Undelivered): Promise<Upload | 'stale'> {
    return this.changeAsClaimHolder(
      id,
      worker,
      () => decideGiveUp(failure),
      (record) => isAlreadyGivenUp(record, failure),
    );
  }

  async reseal(
    id: string,
    seal: (upload: Upload) => SealedFields | undefined,
  ): Promise<'resealed' | 'unchanged' | 'gone'> {
    const result = await this.records.change<'gone' | 'unchanged'>(id, 'gone', ({ record }) => {
      const set = seal(record.upload);
      return set ? { set } : 'unchanged';
    });
    return typeof result === 'string' ? result : 'resealed';
  }

  recordClientInformed(id: string, attempt: number, failure: Undelivered): Promise<Upload | 'stale'> {
    return this.records.change(id, 'stale', ({ record }) =>
      decideClientInformed(record, attempt, failure, markClientKnows(failure)),
    );
  }

  recordClientAskedAgain(id: string, attempt: number, failure: Undelivered): Promise<Upload | 'stale'> {
    return this.records.change(id, 'stale', ({ record }) =>
      decideClientInformed(record, attempt, failure, markAskedAgain(failure)),
    );
  }

  answerBody(id: string): Promise<Uint8Array | undefined> {
    return this.records.answerBody(id);
  }

  dueDeliveries(now: number, implausibleAfter = Infinity): Promise<readonly string[]> {
    const { records } = this;
    const moment = this.momentOf(now);
    const due = records.idsWhere(records.index.awaitingDelivery(), (row, { claim }) =>
      isDue(row, claim, moment, implausibleAfter),
    );
    return Promise.resolve(due);
  }

  async waitUntilSettled(id: string, signal: AbortSignal): Promise<Upload | undefined> {
    signal.throwIfAborted();
    const upload = (await this.records.getCertain(id))?.record.upload;
    return isSettled(upload) ? upload : this.settlement.wait(id, signal);
  }

  expired(now: number): Promise<readonly string[]> {
    const { records } = this;
    const moment = this.momentOf(now);
    return Promise.resolve(records.idsWhere(records.index.all(), (row, state) => isExpired(row, state, moment)));
  }

  remove(id: string): Promise<Phase | undefined> {
    return this.records.remove(id);
  }

  list(after: string | undefined, limit: number): Promise<{ uploads: readonly Upload[]; next?: string }> {
    return this.index.page(after, limit);
  }

  totals(): Promise<Totals> {
    return Promise.resolve(this.records.index.totals());
  }

  /** False while a full disk keeps the start from being recorded, without which no bytes may be received. */
  get acceptsBytes(): boolean {
    return this.start.isPersisted;
  }

  setAsideRecords(): Promise<readonly SetAsideRecord[]> {
    return Promise.resolve(this.records.setAsideRecords());
  }

  /** Removes old files next to the records that belong to none. */
  clearLeftovers(age: LeftoverAge): Promise<void> {
    return this.records.clearLeftovers(age);
  }

  /** See `Records.recoverWith`. */
  recoverWith(recover: (found: RecoveredRecord) => Promise<RecoveryDecision>): void {
    this.records.recoverWith(recover);
  }

  /**
   * Notes that the spool has a directory of this upload at the start. False if the upload is unknown; one whose record
   * cannot be used is known.
   */
  noteSpooled(id: string): boolean {
    return this.records.index.noteSpooled(id) || this.records.isKnown(id);
  }

  /** See `Records.recoverRest`. */
  recoverRest(): Promise<boolean> {
    return this.records.recoverRest();
  }

  async close(): Promise<void> {
    this.rereads.cancel();
    this.startRetries.cancel();
    await this.records.close();
    await Promise.all([this.rereads.stop(), this.startRetries.stop()]);
    this.settlement.failAll(new Fault('STORAGE_UNAVAILABLE', 'the store is closed', true));
  }

  /** A wall-clock time as a moment on both clocks. */
  private momentOf(wallMs: number): Moment {
    const { clock, monotonic } = this.clocks;
    return { wallMs, monotonicMs: monotonic() + wallMs - clock() };
  }

  private claimOf(worker: string, until: number): Claim {
    return { worker, untilMs: this.momentOf(until).monotonicMs };
  }

  /**
   * Records an answer. A short body goes into the same line, for which the record reserves room, and a longer one into
   * a file of its own. If that file cannot be made, the step fails after the answer was recorded without its body: a
   * client may have seen its status. Reasons: docs/decisions/0032.
   */
  private async saveAnswer(entry: RecordEntry, kept: KeptAnswer, end: Change = {}): Promise<void> {
    const { answer, body = new Uint8Array(), expiresAt } = kept;
    const isInLine = answer.body.in === 'record' && body.length <= MAX_BODY_BYTES_IN_LINE;
    const isAlreadyRecorded = lacksBody(entry.record);
    let isFileWritten = false;
    try {
      const change = isInLine ? decideAnswerInLine(kept) : await this.answerChange(entry.record.upload.id, kept);
      isFileWritten = true;
      await this.records.save(entry, { ...end, ...change });
    } catch (fault) {
      const mayFitInRecord = !isFileWritten || (fault as Fault).code === 'STORAGE_FULL';
      if (!mayFitInRecord || answer.body.in !== 'record') throw fault;
      if (
        !isInLine &&
        body.length <= SHORT_BODY_BYTES &&
        (await this.trySave(entry, { ...end, ...decideAnswerInLine(kept) }))
      )
        return;
      const withoutBody = { ...end, ...decideAnswer({ ...answer, body: { in: 'nowhere' } }, expiresAt, undefined) };
      if (!isAlreadyRecorded) await this.records.save(entry, withoutBody);
      throw fault;
    }
  }

  private async trySave(entry: RecordEntry, change: Change): Promise<boolean> {
    try {
      await this.records.save(entry, change);
      return true;
    } catch (fault) {
      if ((fault as Fault).code !== 'STORAGE_FULL') throw fault;
      return false;
    }
  }

  /** A request that wants to write gets the fault, and the next interval tries again. */
  private retryRecordingStart(): Promise<void> {
    return this.recordStart().catch(() => undefined);
  }

  private async recordStart(): Promise<void> {
    if (this.start.isPersisted) return;
    await this.start.persist();
    this.log.info('the disk of the data directory has space again: uploads are received again');
  }

  private async answerChange(id: string, { answer, body, expiresAt }: KeptAnswer): Promise<Change> {
    const crc =
      answer.body.in === 'record' ? await this.records.writeAnswerBody(id, body ?? new Uint8Array()) : undefined;
    return decideAnswer(answer, expiresAt, crc);
  }

  /**
   * Makes a change for the worker that holds the claim; `stale` for any other. `isAlreadyDone` tells that the worker has
   * made this change before and repeats it.
   */
  private changeAsClaimHolder(
    id: string,
    worker: string,
    decide: (entry: RecordEntry) => Change | Promise<Change>,
    isAlreadyDone: (record: UploadRecord) => boolean = () => false,
  ): Promise<Upload | 'stale'> {
    return this.records.change(id, 'stale', (entry) => {
      if (holdsClaim(entry, worker)) return decide(entry);
      return entry.claim?.worker === worker && isAlreadyDone(entry.record) ? {} : 'stale';
    });
  }
}
