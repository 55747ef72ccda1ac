import { join } from 'node:path';
import { KeyedQueue } from '../../concurrency/queues.js';
import {
  assertUploadId,
  opendir,
  withReadRetries,
  stat,
  storageFault,
  undefinedIfMissing,
  unlinkIfExists,
} from '../../fs/files.js';
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
  Totals,
} from '../upload-store.js';
import {
  type RecordEntry,
  asLost,
  type LoadedRecords,
  splitFileName,
  readEntry,
  type LossObserver,
  type RecordsDisk,
  setAsideDamaged,
} from './load.js';
import { readAnswer, RecordFile, removeAnswer, writeAnswer } from './record-file.js';
import { type Change, applyChange, newRecord } from './transitions.js';

/** The phases in which an upload's bytes are on the disk; they are removed once it is answered or has ended. */
const HOLDS_BYTES: ReadonlySet<Phase> = new Set(['receiving', 'complete', 'delivering', 'undelivered']);

export interface RecordsDeps extends LossObserver {
  /** Called after each change, with undefined if the upload was removed. */
  readonly onChange: (id: string, upload: Upload | undefined) => void;
}

/**
 * All records: read from memory, written to disk.
 * Reasons: docs/decisions/0007.
 */
export class Records {
  private readonly steps = new KeyedQueue();
  private readonly keyedCreations = new KeyedQueue();
  private readonly entries: Map<string, RecordEntry>;
  private readonly setAsideById: Map<string, SetAsideRecord>;
  /** The id of the upload that has a client's key, by that key. */
  private readonly idsByClientKey = new Map<string, string>();
  private sortedIds: string[] | undefined;
  private closed = false;
  private readonly leftovers: Leftovers;
  private recover: (found: RecoveredRecord) => Promise<RecoveryDecision> = () => Promise.resolve('show');

  constructor(
    private readonly disk: RecordsDisk,
    loaded: LoadedRecords,
    private readonly deps: RecordsDeps,
  ) {
    this.entries = loaded.entries;
    this.setAsideById = loaded.setAside;
    for (const entry of this.entries.values()) this.registerClientKey(entry);
    const { entries, setAsideById } = this;
    this.leftovers = new Leftovers(disk, {
      entry: (id) => entries.get(id),
      setAsideRecord: (id) => setAsideById.get(id),
    });
  }

  /** Removes old files that belong to no record. */
  async clearLeftovers(age: LeftoverAge): Promise<void> {
    for (const id of await this.leftovers.clear(age))
      if (this.setAsideById.get(id)?.state === 'damaged') this.setAsideById.delete(id);
  }

  /** The entry in memory. The file of an entry from before the start may not be durable; see `getCertain`. */
  get(id: string): RecordEntry | undefined {
    return this.entries.get(id);
  }

  /**
   * The entry once its record certainly survives a power cut. Rejects when it cannot be made certain, or when the
   * record cannot be read.
   */
  async getCertain(id: string): Promise<RecordEntry | undefined> {
    const entry = this.entries.get(id);
    const needsNoWrite = entry ? !entry.file.isUncertain() || isKeptUnchanged(entry) : !this.isUnreadable(id);
    if (needsNoWrite) return entry;
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
    entry.unsaved = { change: joined(entry.unsaved?.change, change), recordOnDisk };
    entry.record = applyChange(entry.record, change);
    this.deps.onChange(entry.record.upload.id, entry.record.upload);
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
      if (this.isUnreadable(id)) await this.reread(id);
      return step(this.entries.get(id));
    });
  }

  /** The records that cannot be used. */
  setAsideRecords(): readonly SetAsideRecord[] {
    return [...this.setAsideById.values()];
  }

  /** Reads the unreadable records again. */
  async rereadAll(): Promise<void> {
    const ids = [...this.setAsideById.keys()].filter((id) => this.isUnreadable(id));
    // A record that is still unreadable stays set aside.
    await Promise.all(ids.map((id) => this.step(id, () => undefined).catch(() => undefined)));
  }

  /** Makes the upload invalid in memory and leaves its files unchanged. False if its bytes are no longer needed. */
  giveUp(id: string): Promise<boolean> {
    return this.step(id, async (entry) => {
      if (!entry || !HOLDS_BYTES.has(entry.record.upload.phase)) return false;
      Object.assign(entry, { record: asLost(entry.record), isLost: true });
      await entry.file.release();
      this.deps.onChange(id, entry.record.upload);
      return true;
    });
  }

  /**
   * Sets the function that checks the bytes of each recovered record before clients are shown it. While that function
   * rejects, the record stays unreadable.
   */
  recoverWith(recover: (found: RecoveredRecord) => Promise<RecoveryDecision>): void {
    this.recover = recover;
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
      const everyChange = joined(entry.unsaved?.change, change);
      entry.record = await semaphore.run(() => entry.file.save(entry.record, everyChange));
    } catch (fault) {
      if (!endsUpload(change) || (fault as Fault).code !== 'STORAGE_FULL') throw fault;
      // Ending an upload makes room, so it must not need any: without the file the upload is gone after a restart as
      // well.
      await semaphore.run(() => entry.file.remove());
      entry.record = applyChange(entry.record, change);
    }
    entry.unsaved = undefined;
    this.deps.onChange(entry.record.upload.id, entry.record.upload);
  }

  async create(upload: NewUpload): Promise<Upload> {
    assertUploadId(upload.id);
    return this.step(upload.id, async (known) => {
      if (known) throw new Fault('CONTRACT_BROKEN', 'an upload with this id exists', false);
      const { directory, directorySync, semaphore } = this.disk;
      const file = new RecordFile(join(directory, `${upload.id}.log`), directorySync);
      const record = newRecord(upload);
      try {
        await semaphore.run(() => file.rewrite(record));
      } catch (fault) {
        // The file may exist although its name could not be made durable. If it cannot be removed now, the upload is
        // added as cancelled and the cleanup removes it.
        await file
          .remove()
          .catch(() => this.add({ record: applyChange(record, { set: { phase: 'cancelled' } }), file }));
        throw fault;
      }
      this.add({ record, file });
      return record.upload;
    });
  }

  /** Creations with the same key run one after the other, so that the second one sees the first. */
  createUnlessKeyUsed(upload: KeyedUpload, replacedId: string | undefined): Promise<Upload | string> {
    return this.keyedCreations.run<Upload | string>(upload.clientKey, () => {
      const knownId = this.idsByClientKey.get(upload.clientKey);
      return knownId === undefined || knownId === replacedId ? this.create(upload) : knownId;
    });
  }

  idByClientKey(clientKey: string): string | undefined {
    return this.idsByClientKey.get(clientKey);
  }

  /** Returns the phase that the upload had. */
  remove(id: string): Promise<Phase | undefined> {
    return this.step(id, async (entry) => {
      if (!entry) return undefined;
      await this.removeFiles(id, entry);
      this.entries.delete(id);
      this.sortedIds = undefined;
      const { clientKey, phase } = entry.record.upload;
      if (clientKey !== undefined && this.idsByClientKey.get(clientKey) === id) this.idsByClientKey.delete(clientKey);
      this.deps.onChange(id, undefined);
      return phase;
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
    const entry = this.entries.get(id);
    if (!entry || !hasKeptAnswer(entry)) return undefined;
    const { answerBody } = entry.record;
    if (answerBody !== undefined) return Buffer.from(answerBody, 'base64');
    return readAnswer(this.answerPath(id), entry.record.answerCrc, this.disk.semaphore);
  }

  idsWhere(matches: (entry: RecordEntry) => boolean): string[] {
    const ids: string[] = [];
    for (const [id, entry] of this.entries) if (matches(entry)) ids.push(id);
    return ids;
  }

  totals(): Totals {
    const phases: Partial<Record<Phase, number>> = {};
    let bytes = 0;
    for (const { record } of this.entries.values()) {
      const { phase, offset } = record.upload;
      phases[phase] = (phases[phase] ?? 0) + 1;
      if (HOLDS_BYTES.has(phase)) bytes += offset;
    }
    return { phases, bytes };
  }

  /** In the order of the ids, so that new and removed uploads do not shift the pages. */
  page(after: string | undefined, limit: number): { uploads: Upload[]; next?: string } {
    this.sortedIds ??= [...this.entries.keys()].sort();
    const from = after === undefined ? 0 : firstIndexAbove(this.sortedIds, after);
    const ids = this.sortedIds.slice(from, from + limit);
    const uploads = ids.map((id) => this.entries.get(id)!.record.upload);
    return from + limit < this.sortedIds.length ? { uploads, next: ids.at(-1) } : { uploads };
  }

  /** Refuses new steps and waits for those under way. */
  async close(): Promise<void> {
    this.closed = true;
    await this.steps.idle();
    for (const { file } of this.entries.values()) await file.release();
  }

  private add(entry: RecordEntry): void {
    this.entries.set(entry.record.upload.id, entry);
    this.sortedIds = undefined;
    this.registerClientKey(entry);
  }

  /** Of two uploads with one key, as a start may find them, the newer one has replaced the other. */
  private registerClientKey({ record }: RecordEntry): void {
    const { id, clientKey, createdAt } = record.upload;
    if (clientKey === undefined) return;
    const other = this.entries.get(this.idsByClientKey.get(clientKey) ?? id);
    if (!other || other.record.upload.createdAt <= createdAt) this.idsByClientKey.set(clientKey, id);
  }

  private isUnreadable(id: string): boolean {
    return this.setAsideById.get(id)?.state === 'unreadable';
  }

  private async reread(id: string): Promise<void> {
    const { log } = this.deps;
    try {
      const entry = await this.disk.semaphore.run(() => readEntry(id, this.disk, this.deps));
      if (entry === 'damaged') return await setAsideDamaged(id, this.disk, { log, setAside: this.setAsideById });
      const isShown = entry !== undefined && (await this.isRestored(id, entry));
      this.setAsideById.delete(id);
      if (isShown) this.add(entry);
      log.info(
        { upload: uploadTag(id) },
        entry ? 'a record can be read again' : 'a record that could not be read no longer exists',
      );
    } catch (error) {
      throw storageFault(error, 'the record of an upload cannot be read');
    }
  }

  /** Checks a recovered record; true if the upload is to be shown. */
  private async isRestored(id: string, entry: RecordEntry): Promise<boolean> {
    if (entry.isLost) return true;
    const { record, hasLostLine = false } = entry;
    const decision = await this.recover({ upload: record.upload, chunks: record.chunks, hasLostLine });
    if (decision === 'give-up') Object.assign(entry, { record: asLost(record), isLost: true });
    if (decision === 'remove') await this.removeFiles(id, entry);
    return decision !== 'remove';
  }

  private answerPath(id: string): string {
    return join(this.disk.directory, `${id}.answer`);
  }
}

/** Both changes as one: the later one decides about a field that both set. */
function joined(earlier: Change | undefined, later: Change): Change {
  if (!earlier) return later;
  const set = { ...earlier.set, ...later.set };
  const unset = [...new Set([...(earlier.unset ?? []), ...(later.unset ?? [])])];
  const isSetLater = (field: keyof Upload): boolean => later.set !== undefined && field in later.set;
  return { ...earlier, ...later, set, unset: unset.filter((field) => !isSetLater(field)) };
}

function isKeptUnchanged({ isLost = false, record }: RecordEntry): boolean {
  return isLost && record.upload.phase === 'invalid';
}

function hasKeptAnswer({ record }: RecordEntry): boolean {
  return record.upload.answer?.body.in === 'record';
}

function endsUpload({ set }: Change): boolean {
  return set?.phase === 'cancelled' || set?.phase === 'invalid';
}

function firstIndexAbove(sorted: readonly string[], id: string): number {
  let low = 0;
  for (let high = sorted.length; low < high;) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! > id) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Damaged records are kept this long for the operator to look at; not forever, because they hold request headers. */
const KEEP_DAMAGED_MS = 7 * 24 * 3600 * 1000;

interface Sighting {
  readonly fingerprint: string;
  readonly sinceMs: number;
}

/** The records that `Leftovers` must not touch. */
export interface KnownRecords {
  entry(id: string): RecordEntry | undefined;
  setAsideRecord(id: string): SetAsideRecord | undefined;
}

/**
 * Removes files next to the records that belong to none: answers without a record, which may still be on its way from
 * a backup, and damaged records set aside a week ago. A copy keeps the time of a file, so each file must also be seen
 * unchanged for a while by this process.
 */
export class Leftovers {
  private sightings = new Map<string, Sighting>();

  constructor(
    private readonly disk: RecordsDisk,
    private readonly records: KnownRecords,
  ) {}

  /** Looks once at all files and returns the ids of the damaged records that were removed. */
  async clear(age: LeftoverAge): Promise<readonly string[]> {
    const earlierSightings = this.sightings;
    this.sightings = new Map();
    const removedIds: string[] = [];
    try {
      for await (const { name } of await withReadRetries(() => opendir(this.disk.directory))) {
        const [id, kind] = splitFileName(name);
        if ((kind !== 'answer' && kind !== 'damaged') || !(await this.isRemovable(name, earlierSightings, age)))
          continue;
        await unlinkIfExists(join(this.disk.directory, name));
        if (kind === 'damaged') removedIds.push(id);
      }
    } catch (error) {
      throw storageFault(error, 'leftover files next to the records cannot be removed');
    }
    return removedIds;
  }

  private async isRemovable(
    name: string,
    earlierSightings: ReadonlyMap<string, Sighting>,
    age: LeftoverAge,
  ): Promise<boolean> {
    const [id, kind] = splitFileName(name);
    const { records } = this;
    const hasRecord = records.entry(id) !== undefined || records.setAsideRecord(id) !== undefined;
    if (kind === 'answer' && hasRecord) return false;
    const stats = await undefinedIfMissing(stat(join(this.disk.directory, name)));
    if (!stats) return false;
    const { size, mtimeMs } = stats;
    const fingerprint = `${size} ${mtimeMs}`;
    const sighting = earlierSightings.get(name);
    const { sinceMs } = sighting?.fingerprint === fingerprint ? sighting : { sinceMs: age.elapsedMs };
    this.sightings.set(name, { fingerprint, sinceMs });
    const seenMs = age.elapsedMs - sinceMs;
    const keepMs = kind === 'damaged' ? KEEP_DAMAGED_MS : age.minAgeMs;
    // Old by its own time, or, in case a wrong clock set that, by how long this process has seen it.
    return seenMs >= age.minAgeMs && (age.now - mtimeMs >= keepMs || seenMs >= keepMs);
  }
}
