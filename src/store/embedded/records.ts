import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { forEachOf, resultsInOrder } from '../../concurrency/in-order.js';
import { KeyedQueue } from '../../concurrency/queues.js';
import { assertUploadId, stat, storageFault } from '../../fs/files.js';
import { Fault } from '../../model/fault.js';
import type { Phase, Upload } from '../../model/upload.js';
import { uploadTag } from '../../observe/log.js';
import type {
  RecoveryDecision,
  RecoveredRecord,
  KeyedUpload,
  NewUpload,
  LeftoverAge,
  SetAsideRecord,
} from '../upload-store.js';
import { type Capacity, type NoRoom, noRoomFault } from '../usage.js';
import { Leftovers } from './leftovers.js';
import {
  type LoadedRecords,
  readEntry,
  noteLines,
  type LossObserver,
  type RecordsDisk,
  recordPath,
  setAsideDamaged,
  setAsideUnreadable,
} from './load.js';
import type { RecordCache } from './record-cache.js';
import { asLost, canBeReadAgain, type RecordEntry } from './record-entry.js';
import { readAnswer, RecordFile, removeAnswer, writeAnswer } from './record-file.js';
import type { IndexRow, RecordIndex } from './record-index.js';
import {
  type Change,
  applyChange,
  type Claim,
  endsUpload,
  joinedChange,
  newRecord,
  type UploadRecord,
} from './transitions.js';

/** As many records as are read at the same time for a list, so that requests in between need not wait for it. */
const MAX_LISTED_READS = 8;

/** A single failure of the disk, or a lack of descriptors for a moment, makes no record unreadable. */
const READ_ATTEMPTS = 3;

/** As many unreadable records as are tried again at the same time: a disk that hangs must not collect calls. */
const MAX_REREADS = 16;

/** The background comparison of records and bytes rests after so much work, and three times as long. */
const CHECK_TURN_MS = 10;
const REST_FACTOR = 3;
/** The time of one comparison may be a wait for a request, or for a disk that hung. */
const MAX_REST_MS = 1000;

/** The state of an upload that its record has while it is in memory, and its row otherwise. */
interface DeliveryState {
  readonly claim?: Claim | undefined;
  readonly isLost?: boolean;
}

export interface RecordsDeps extends LossObserver {
  /** Called after each change, with undefined if the upload was removed. */
  readonly onChange: (id: string, upload: Upload | undefined) => void;
  /** Whether the upload of this row has expired. */
  readonly hasExpired: (row: IndexRow) => boolean;
}

/**
 * All records. Memory has a row of each, and the records that were used last; any other record is read from its file
 * when a step needs it. Before a record that was found at the start is used for the first time, it is compared with the
 * upload's bytes.
 * Reasons: docs/decisions/0007, docs/decisions/0034.
 */
export class Records {
  private readonly steps = new KeyedQueue();
  private readonly keyedCreations = new KeyedQueue();
  readonly index: RecordIndex;
  private readonly cache: RecordCache;
  private readonly setAsideById: Map<string, SetAsideRecord>;
  private closed = false;
  private readonly leftovers: Leftovers;
  private recover: (found: RecoveredRecord) => Promise<RecoveryDecision> = () => Promise.resolve('show');

  constructor(
    private readonly disk: RecordsDisk,
    loaded: LoadedRecords,
    private readonly deps: RecordsDeps,
  ) {
    this.index = loaded.index;
    this.cache = loaded.cache;
    this.setAsideById = loaded.setAside;
    this.leftovers = new Leftovers(disk, { has: (id) => this.isKnown(id) });
  }

  /** Whether there is a record, also one that cannot be used. */
  isKnown(id: string): boolean {
    return this.index.has(id) || this.setAsideById.has(id);
  }

  /** Removes old files that belong to no record. */
  async clearLeftovers(age: LeftoverAge): Promise<void> {
    for (const id of await this.leftovers.clear(age))
      if (this.setAsideById.get(id)?.state === 'damaged') this.setAsideById.delete(id);
  }

  /**
   * The entry of a record, which may not survive a power cut if it is from before the start; see `getCertain`. Rejects
   * when the record cannot be read.
   */
  async read(id: string): Promise<RecordEntry | undefined> {
    return this.entryInMemory(id) ?? (this.mayHaveRecord(id) ? this.step(id, (entry) => entry) : undefined);
  }

  /** As `read`, for one look at one of many records: the record does not stay in memory for it. */
  async readOnce(id: string): Promise<Upload | undefined> {
    const isCached = this.cache.peek(id) !== undefined;
    if (isCached && !this.index.unchecked.has(id)) return this.cache.peek(id)?.record.upload;
    if (!this.mayHaveRecord(id)) return undefined;
    return this.step(id, (entry) => {
      if (entry && !isCached) this.dropIfPossible(id, entry);
      return entry?.record.upload;
    });
  }

  /**
   * The records of these rows, some of them read at the same time. One that cannot be used is left out: it is in
   * `setAsideRecords`.
   */
  async *readEach(rows: Iterable<IndexRow>): AsyncGenerator<Upload> {
    const read = (row: IndexRow): Promise<Upload | undefined> => this.readOnce(row.id).catch(ignoringFaults);
    for await (const upload of resultsInOrder(rows, MAX_LISTED_READS, read)) if (upload) yield upload;
  }

  /**
   * The entry once its record certainly survives a power cut. Rejects when it cannot be made certain, or when the
   * record cannot be read.
   */
  async getCertain(id: string): Promise<RecordEntry | undefined> {
    const entry = this.entryInMemory(id);
    if (entry && (!entry.file.isUncertain() || isKeptUnchanged(entry))) return entry;
    if (!entry && !this.mayHaveRecord(id)) return undefined;
    return this.step(id, async (current) => {
      if (current && !isKeptUnchanged(current)) await this.disk.semaphore.run(() => this.makeCertain(current));
      return current;
    });
  }

  /**
   * Applies a change now and writes it with the next one: for a change whose loss in a crash changes nothing. A file
   * that is not certain is written at once. Call within a step only.
   * Reasons: docs/decisions/0032.
   */
  async saveLater(entry: RecordEntry, change: Change): Promise<void> {
    if (entry.file.isUncertain()) return this.save(entry, change);
    const recordOnDisk = entry.unsaved?.recordOnDisk ?? entry.record;
    entry.unsaved = { change: joinedChange(entry.unsaved?.change, change), recordOnDisk };
    entry.record = applyChange(entry.record, change);
    this.changed(entry);
  }

  /**
   * Makes the file certain. Where the disk takes no record of a cancelled upload, the old record is removed instead:
   * the upload must not reappear.
   */
  private async makeCertain({ file, record, unsaved }: RecordEntry): Promise<void> {
    try {
      await file.makeCertain(unsaved?.recordOnDisk ?? record);
    } catch (fault) {
      if (record.upload.phase !== 'cancelled') throw fault;
      await file.remove();
    }
  }

  /** Runs a step with exclusive access to its upload. Rejects when the record cannot be read. */
  step<T>(id: string, step: (entry: RecordEntry | undefined) => Promise<T> | T): Promise<T> {
    if (this.closed) return Promise.reject(new Fault('STORAGE_UNAVAILABLE', 'the store is closed', true));
    return this.steps.run(id, async () => {
      try {
        return await step(this.entryInMemory(id) ?? (this.mayHaveRecord(id) ? await this.load(id) : undefined));
      } finally {
        this.shrinkCache({ ended: id });
      }
    });
  }

  /** `ended`: the upload of a step that has ended, and whose next one takes the record anew. */
  private shrinkCache({ ended, maxLooks }: { readonly ended?: string; readonly maxLooks?: number }): void {
    const isInUse = (id: string): boolean => id !== ended && this.steps.has(id);
    this.cache.shrink((id, entry) => !isInUse(id) && this.dropIfPossible(id, entry), maxLooks);
  }

  /** Has the records leave memory that were kept because they had just been used. */
  dropUnused(): void {
    this.shrinkCache({ maxLooks: this.cache.size });
  }

  /** The records that cannot be used. */
  setAsideRecords(): readonly SetAsideRecord[] {
    return [...this.setAsideById.values()];
  }

  /** Reads the unreadable records again, some of them at the same time. Ends early when the store is closed. */
  async rereadAll(): Promise<void> {
    const ids = [...this.setAsideById.keys()].filter((id) => this.isUnreadable(id));
    // A record that is still unreadable stays set aside, and a closed store rejects the steps that are left.
    await forEachOf(ids, MAX_REREADS, (id) => this.step(id, () => undefined).catch(() => undefined));
  }

  /**
   * Sets the function that compares each record that was found at the start with the upload's bytes, before anybody is
   * shown it. While that function rejects, the record stays unreadable.
   */
  recoverWith(recover: (found: RecoveredRecord) => Promise<RecoveryDecision>): void {
    this.recover = recover;
  }

  /**
   * Compares the records that nobody has used yet, one after the other. Most of the time is left to requests. Ends
   * early, with false, when the store is closed.
   */
  async recoverRest(): Promise<boolean> {
    let since = performance.now();
    for (const id of this.index.unchecked) {
      if (this.closed) return false;
      // A record that cannot be used now is set aside, and tried again.
      await this.readOnce(id).catch(ignoringFaults);
      const workedMs = performance.now() - since;
      if (workedMs < CHECK_TURN_MS) continue;
      await sleep(Math.min(workedMs * REST_FACTOR, MAX_REST_MS), undefined, { ref: false });
      since = performance.now();
    }
    return true;
  }

  /** Runs one step: decides, makes the change durable, then applies it in memory. */
  change<T extends string>(
    id: string,
    unknown: T,
    decide: (entry: RecordEntry) => Change | T | Promise<Change | T>,
  ): Promise<Upload | T> {
    return this.step(id, async (entry) => {
      if (!entry) return unknown;
      const decision = await decide(entry);
      if (typeof decision === 'string') return decision;
      await this.save(entry, decision);
      return entry.record.upload;
    });
  }

  /** Makes a change durable, then applies it. Call within a step only. */
  async save(entry: RecordEntry, change: Change): Promise<void> {
    const { semaphore } = this.disk;
    // The step was done before, and its result may only be given once the record is certain.
    if (Object.keys(change).length === 0)
      return semaphore.run(() => entry.file.makeCertain(entry.unsaved?.recordOnDisk ?? entry.record));
    try {
      const everyChange = joinedChange(entry.unsaved?.change, change);
      entry.record = await semaphore.run(() => entry.file.save(entry.record, everyChange));
    } catch (fault) {
      if (!endsUpload(change) || (fault as Fault).code !== 'STORAGE_FULL') throw fault;
      // Ending an upload makes room, so it must not need any: without the file the upload is gone after a restart as
      // well.
      await semaphore.run(() => entry.file.remove());
      entry.record = applyChange(entry.record, change);
    }
    entry.unsaved = undefined;
    this.changed(entry);
    this.cache.put(entry.record.upload.id, entry);
  }

  async create(upload: NewUpload, capacity: Capacity = {}): Promise<Upload | NoRoom> {
    assertUploadId(upload.id);
    return this.step(upload.id, async (known) => {
      if (known) throw new Fault('CONTRACT_BROKEN', 'an upload with this id exists', false);
      const record = newRecord(upload);
      const release = this.index.usage.reserve(record.upload, capacity);
      if (typeof release !== 'function') return release;
      try {
        await this.createFile(record);
        return record.upload;
      } finally {
        release();
      }
    });
  }

  private async createFile(record: UploadRecord): Promise<void> {
    const { directorySync, semaphore } = this.disk;
    const file = new RecordFile(recordPath(this.disk, record.upload.id), directorySync);
    try {
      await semaphore.run(() => file.rewrite(record));
    } catch (fault) {
      // The file may exist although its name could not be made durable. If it cannot be removed now, the upload is
      // added as cancelled and the cleanup removes it.
      await file.remove().catch(() => this.add({ record: applyChange(record, { set: { phase: 'cancelled' } }), file }));
      throw fault;
    }
    this.add({ record, file });
  }

  /** As `change`, for a change that may take room. Rejects with `STORAGE_FULL` if there is none. */
  changeWithin<T extends string>(
    id: string,
    unknown: T,
    decide: (entry: RecordEntry) => Change | T,
    capacity: Capacity,
  ): Promise<Upload | T> {
    return this.step(id, async (entry) => {
      if (!entry) return unknown;
      const decision = decide(entry);
      if (typeof decision === 'string') return decision;
      const { upload } = entry.record;
      const release = this.index.usage.reserve({ ...upload, ...decision.set }, capacity, upload);
      if (typeof release !== 'function') throw noRoomFault(release);
      try {
        await this.save(entry, decision);
      } finally {
        release();
      }
      return entry.record.upload;
    });
  }

  /** Creations with the same key run one after the other, so that the second one sees the first. */
  createUnlessKeyUsed(
    upload: KeyedUpload,
    replacedId: string | undefined,
    capacity?: Capacity,
  ): Promise<Upload | string | NoRoom> {
    return this.keyedCreations.run<Upload | string | NoRoom>(upload.clientKey, () => {
      const knownId = this.index.idByClientKey(upload.clientKey);
      return knownId === undefined || knownId === replacedId ? this.create(upload, capacity) : knownId;
    });
  }

  /** Returns the phase that the upload had. */
  remove(id: string): Promise<Phase | undefined> {
    return this.step(id, async (entry) => {
      if (!entry) return undefined;
      await this.removeFiles(id, entry);
      this.forget(entry);
      return entry.record.upload.phase;
    });
  }

  /**
   * Removes the record last, because the removal is tried again while there is one. An answer that the record does
   * not name is removed too.
   */
  private async removeFiles(id: string, { file }: RecordEntry): Promise<void> {
    await removeAnswer(this.answerPath(id));
    await this.disk.semaphore.run(() => file.remove());
  }

  /** Writes the body and returns its checksum. Call within a step, before the change that names the answer. */
  writeAnswerBody(id: string, body: Uint8Array): Promise<number> {
    return this.disk.semaphore.run(() => writeAnswer(this.answerPath(id), body, this.disk.directorySync));
  }

  async answerBody(id: string): Promise<Uint8Array | undefined> {
    const entry = await this.read(id);
    if (!entry || !hasKeptAnswer(entry)) return undefined;
    const { answerBody } = entry.record;
    if (answerBody !== undefined) return Buffer.from(answerBody, 'base64');
    return readAnswer(this.answerPath(id), entry.record.answerCrc, this.disk.semaphore);
  }

  /** The ids of the uploads in these rows that match and can be used. The claim is that of the upload's delivery. */
  idsWhere(rows: Iterable<IndexRow>, matches: (row: IndexRow, state: DeliveryState) => boolean): string[] {
    const ids: string[] = [];
    for (const row of rows) {
      const state = this.cache.peek(row.id) ?? row;
      if (matches(row, state) && !this.isUnreadable(row.id)) ids.push(row.id);
    }
    return ids;
  }

  /** Refuses new steps and waits for those under way. */
  async close(): Promise<void> {
    this.closed = true;
    await this.steps.idle();
    for (const { file } of this.cache.entries()) await file.release();
  }

  private add(entry: RecordEntry): void {
    this.index.put(entry.record.upload);
    this.cache.put(entry.record.upload.id, entry);
  }

  private changed({ record: { upload } }: RecordEntry): void {
    this.index.put(upload);
    this.deps.onChange(upload.id, upload);
  }

  private forget({ record: { upload } }: RecordEntry): void {
    this.index.delete(upload);
    this.cache.delete(upload.id);
    this.deps.onChange(upload.id, undefined);
  }

  /** The record's entry, if it is in memory and was compared with the upload's bytes. */
  private entryInMemory(id: string): RecordEntry | undefined {
    return this.index.unchecked.has(id) ? undefined : this.cache.get(id);
  }

  /** Has only the row of an upload stay in memory, unless memory knows more of it than the file. */
  private dropIfPossible(id: string, entry: RecordEntry): boolean {
    const row = this.index.get(id);
    if (!row || !canBeReadAgain(entry)) return false;
    row.claim = entry.claim;
    row.token = entry.record.token;
    noteLines(row, entry);
    row.isLost = entry.isLost ?? false;
    this.cache.delete(id);
    return true;
  }

  private mayHaveRecord(id: string): boolean {
    return this.index.has(id) || this.isUnreadable(id);
  }

  private isUnreadable(id: string): boolean {
    return this.setAsideById.get(id)?.state === 'unreadable';
  }

  /**
   * Reads the record of an upload that is not in memory, and compares it with the upload's bytes if nobody has done so
   * since the start. Call within a step only.
   */
  private async load(id: string): Promise<RecordEntry | undefined> {
    const wasUnreadable = this.isUnreadable(id);
    try {
      const entry = this.cache.peek(id) ?? (await this.readFile(id));
      const isUnchecked = this.index.unchecked.has(id) || !this.index.has(id);
      const isShown = entry !== undefined && (!isUnchecked || (await this.isRestored(id, entry)));
      if (entry && isShown) {
        this.cache.put(id, entry);
        // Reading may have shown that the upload has ended.
        this.changed(entry);
      }
      if (entry && !isShown) this.forget(entry);
      this.index.unchecked.delete(id);
      if (wasUnreadable) this.reportReadable(id, entry !== undefined);
      return isShown ? entry : undefined;
    } catch (error) {
      const fault = storageFault(error, 'the record of an upload cannot be read');
      if (fault instanceof Fault) setAsideUnreadable(id, fault, { log: this.deps.log, setAside: this.setAsideById });
      throw fault;
    }
  }

  private reportReadable(id: string, exists: boolean): void {
    if (!this.isUnreadable(id)) return;
    this.setAsideById.delete(id);
    this.deps.log.info(
      { upload: uploadTag(id) },
      exists ? 'a record can be read again' : 'a record that could not be read no longer exists',
    );
  }

  /**
   * Reads the record as memory has known it last. Rejects for a file that is missing or empty although the index has its
   * upload, because the directory may be missing too, or a backup is being copied. Also rejects in the step that finds a
   * damaged first line: nothing may be removed as if the upload had never been.
   */
  private async readFile(id: string): Promise<RecordEntry | undefined> {
    const row = this.index.get(id);
    // A record that is known to be unreadable is tried often enough.
    const attempts = this.isUnreadable(id) ? 1 : READ_ATTEMPTS;
    const entry = await readEntry(id, this.disk, this.deps, { known: row, attempts });
    if (entry === 'damaged') {
      await setAsideDamaged(id, this.disk, { log: this.deps.log, setAside: this.setAsideById });
      if (!row) return undefined;
      this.forgetRow(id);
      throw new Fault('STORAGE_UNAVAILABLE', 'the first line of the record of an upload is damaged', true);
    }
    if (!row) return entry;
    if (!entry) return this.removeMissing(row);
    const record = asKnown(entry, row);
    const isGivenUp = row.isLost && row.phase === 'invalid';
    const isLost = row.isLost || entry.isLost;
    Object.assign(entry, { record: isGivenUp ? asLost(record) : record, isLost, claim: row.claim });
    row.claim = undefined;
    return entry;
  }

  /**
   * Forgets an upload whose file is missing or empty, and which has expired. Rejects before that, and while the
   * directory is missing too.
   */
  private async removeMissing(row: IndexRow): Promise<undefined> {
    const { directory, directorySync } = this.disk;
    if (!this.deps.hasExpired(row)) throw new Fault('STORAGE_UNAVAILABLE', 'the record of an upload is missing', true);
    await stat(directory);
    await removeAnswer(this.answerPath(row.id));
    await this.disk.semaphore.run(() => new RecordFile(recordPath(this.disk, row.id), directorySync).remove());
    this.forgetRow(row.id);
  }

  private forgetRow(id: string): void {
    this.index.deleteById(id);
    this.deps.onChange(id, undefined);
  }

  /** Compares a record from before the start with the upload's bytes; true if the upload is to be shown. */
  private async isRestored(id: string, entry: RecordEntry): Promise<boolean> {
    if (entry.isLost) return true;
    const { record, hasLostLine = false } = entry;
    const decision = await this.recover({ upload: record.upload, chunks: record.chunks, hasLostLine });
    if (decision === 'give-up') Object.assign(entry, { record: asLost(record), isLost: true });
    if (decision !== 'remove') return true;
    // A removal that fails halfway must be repeated with the same file.
    if (this.index.has(id)) this.cache.put(id, entry);
    await this.removeFiles(id, entry);
    return false;
  }

  private answerPath(id: string): string {
    return join(this.disk.directory, `${id}.answer`);
  }
}

/** The record as read, with the newer lease token of its row. Lost lines let an upload expire no earlier than promised. */
function asKnown({ record, isLost }: RecordEntry, { token, expiresAt }: IndexRow): UploadRecord {
  const upload = isLost ? { ...record.upload, expiresAt: Math.max(record.upload.expiresAt, expiresAt) } : record.upload;
  return { ...record, upload, token: Math.max(record.token, token) };
}

/** A fault of one upload's record is reported where the record is set aside. */
function ignoringFaults(error: unknown): undefined {
  if (!(error instanceof Fault)) throw error;
  return undefined;
}

function isKeptUnchanged({ isLost = false, record }: RecordEntry): boolean {
  return isLost && record.upload.phase === 'invalid';
}

function hasKeptAnswer({ record }: RecordEntry): boolean {
  return record.upload.answer?.body.in === 'record';
}
