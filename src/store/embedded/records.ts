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

/** What uploads hold of the disk: their bytes go with the answer, or with their end. */
const HOLDS_BYTES: ReadonlySet<Phase> = new Set(['receiving', 'complete', 'delivering', 'undelivered']);

export interface RecordsDeps extends LossObserver {
  /** Told after each change, with undefined when the upload is no more. */
  readonly onChange: (id: string, upload: Upload | undefined) => void;
}

/** All records: in memory to be read, on disk to stay. */
export class Records {
  private readonly steps = new KeyedQueue();
  private readonly keyedCreations = new KeyedQueue();
  private readonly entries: Map<string, RecordEntry>;
  private readonly setAsideById: Map<string, SetAsideRecord>;
  /** By the client's key, the id of the upload that has it. */
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
      setAsideRecords: (id) => setAsideById.get(id),
    });
  }

  /** Removes what is old and belongs to no record. */
  async clearLeftovers(age: LeftoverAge): Promise<void> {
    for (const id of await this.leftovers.clear(age))
      if (this.setAsideById.get(id)?.state === 'damaged') this.setAsideById.delete(id);
  }

  /** As memory has it: of one that was found at the start, the disk may have less. */
  get(id: string): RecordEntry | undefined {
    return this.entries.get(id);
  }

  /**
   * To be shown: the disk certainly has it, or is made to. Fails when that is not possible, and when the record is there
   * but cannot be read.
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

  /** What was cancelled must not come back: where the disk takes no record that says so, it takes away the one there is. */
  private async makeCertain({ file, record }: RecordEntry): Promise<void> {
    try {
      await file.makeCertain(record);
    } catch (fault) {
      if (record.upload.phase !== 'cancelled') throw fault;
      await file.remove();
    }
  }

  /** Runs alone among the steps of its upload. Fails when there is a record that cannot be read. */
  step<T>(id: string, step: (entry: RecordEntry | undefined) => Promise<T> | T): Promise<T> {
    if (this.closed) return Promise.reject(new Fault('STORAGE_UNAVAILABLE', 'the store is closed', true));
    return this.steps.run(id, async () => {
      if (this.isUnreadable(id)) await this.reread(id);
      return step(this.entries.get(id));
    });
  }

  /** What is there but is no upload that could be shown. */
  setAside(): readonly SetAsideRecord[] {
    return [...this.setAsideById.values()];
  }

  /** Those that could not be read are tried again. */
  async rereadAll(): Promise<void> {
    const ids = [...this.setAsideById.keys()].filter((id) => this.isUnreadable(id));
    // What still cannot be read stays where it is.
    await Promise.all(ids.map((id) => this.step(id, () => undefined).catch(() => undefined)));
  }

  /** Shown as invalid from now on, while the disk keeps what it has. False when it needs no bytes any more. */
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
   * From now on this brings each record that can be read again together with its bytes, before anybody is shown it. While it
   * fails, the record stays as if it could not be read.
   */
  recoverWith(recover: (found: RecoveredRecord) => Promise<RecoveryDecision>): void {
    this.recover = recover;
  }

  /** One verb: decide on what is known, write it down, and only then let it be true. */
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

  /** Within a step. */
  async save(entry: RecordEntry, change: Change): Promise<void> {
    const { semaphore } = this.disk;
    // It was done before: to say so is to show it.
    if (Object.keys(change).length === 0) return semaphore.run(() => entry.file.makeCertain(entry.record));
    try {
      entry.record = await semaphore.run(() => entry.file.save(entry.record, change));
    } catch (fault) {
      if (!endsUpload(change) || (fault as Fault).code !== 'STORAGE_FULL') throw fault;
      // Ending an upload is what makes room, so it must not need any: without its file it is gone after a restart too.
      await semaphore.run(() => entry.file.remove());
      entry.record = applyChange(entry.record, change);
    }
    this.deps.onChange(entry.record.upload.id, entry.record.upload);
  }

  async create(upload: NewUpload): Promise<Upload> {
    assertUploadId(upload.id);
    return this.step(upload.id, async (known) => {
      if (known) throw new Fault('CONTRACT_BROKEN', 'an upload of this id exists', false);
      const { directory, directorySync, semaphore } = this.disk;
      const file = new RecordFile(join(directory, `${upload.id}.log`), directorySync);
      const record = newRecord(upload);
      try {
        await semaphore.run(() => file.rewrite(record));
      } catch (fault) {
        // The name may have come about although it could not be made durable. What cannot be removed now is for the sweep.
        await file
          .remove()
          .catch(() => this.add({ record: applyChange(record, { set: { phase: 'cancelled' } }), file }));
        throw fault;
      }
      this.add({ record, file });
      return record.upload;
    });
  }

  /** Those with one key come one after the other, so that the first has it when the next one looks. */
  createUnlessKeyUsed(upload: KeyedUpload, replacedId: string | undefined): Promise<Upload | string> {
    return this.keyedCreations.run<Upload | string>(upload.clientKey, () => {
      const knownId = this.idsByClientKey.get(upload.clientKey);
      return knownId === undefined || knownId === replacedId ? this.create(upload) : knownId;
    });
  }

  idByClientKey(clientKey: string): string | undefined {
    return this.idsByClientKey.get(clientKey);
  }

  /** Gives the phase in which it was removed. */
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

  /** The record last: as long as there is one, the removal is tried again. Also an answer that its record does not know. */
  private async removeFiles(id: string, { file }: RecordEntry): Promise<void> {
    await removeAnswer(this.answerPath(id));
    await this.disk.semaphore.run(() => file.remove());
  }

  /** Within a step, before the change that says so. Gives the checksum. */
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

  /** In the order of the ids, which new and removed uploads do not disturb. */
  page(after: string | undefined, limit: number): { uploads: Upload[]; next?: string } {
    this.sortedIds ??= [...this.entries.keys()].sort();
    const from = after === undefined ? 0 : firstIndexAbove(this.sortedIds, after);
    const ids = this.sortedIds.slice(from, from + limit);
    const uploads = ids.map((id) => this.entries.get(id)!.record.upload);
    return from + limit < this.sortedIds.length ? { uploads, next: ids.at(-1) } : { uploads };
  }

  /** Fulfilled when the steps that had begun are written; refuses those that come later. */
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

  /** Of two uploads with one key, as they are found at a start, the newer one took the place of the other. */
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
      log.info({ upload: uploadTag(id) }, entry ? 'a record can be read again' : 'a record is not there any more');
    } catch (error) {
      throw storageFault(error, 'the record of an upload cannot be read');
    }
  }

  /** Whether it is an upload from now on. */
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

/** A record nobody can read is kept this long for people to look at: it holds request headers, so not for ever. */
const KEEP_DAMAGED_MS = 7 * 24 * 3600 * 1000;

interface Sighting {
  readonly fingerprint: string;
  readonly sinceMs: number;
}

/** What the records know of a name. */
export interface KnownRecords {
  entry(id: string): RecordEntry | undefined;
  setAsideRecords(id: string): SetAsideRecord | undefined;
}

/**
 * Files beside the records that belong to none: answers whose record is not there, which may still be on its way from a
 * backup, and records that were set aside as damaged a week ago. The time of a file proves nothing, because a copy keeps it:
 * each has to be seen unchanged for a while that really passed.
 */
export class Leftovers {
  private sightings = new Map<string, Sighting>();

  constructor(
    private readonly disk: RecordsDisk,
    private readonly known: KnownRecords,
  ) {}

  /** One look at all files. Gives the ids of damaged records that are gone. */
  async clear(age: LeftoverAge): Promise<readonly string[]> {
    const before = this.sightings;
    this.sightings = new Map();
    const removedIds: string[] = [];
    try {
      for await (const { name } of await withReadRetries(() => opendir(this.disk.directory))) {
        const [id, kind] = splitFileName(name);
        if ((kind !== 'answer' && kind !== 'damaged') || !(await this.isRemovable(name, before, age))) continue;
        await unlinkIfExists(join(this.disk.directory, name));
        if (kind === 'damaged') removedIds.push(id);
      }
    } catch (error) {
      throw storageFault(error, 'what is left beside the records cannot be cleared away');
    }
    return removedIds;
  }

  private async isRemovable(name: string, before: ReadonlyMap<string, Sighting>, age: LeftoverAge): Promise<boolean> {
    const [id, kind] = splitFileName(name);
    const { known } = this;
    const hasRecord = known.entry(id) !== undefined || known.setAsideRecords(id) !== undefined;
    if (kind === 'answer' && hasRecord) return false;
    const stats = await undefinedIfMissing(stat(join(this.disk.directory, name)));
    if (!stats) return false;
    const { size, mtimeMs } = stats;
    const fingerprint = `${size} ${mtimeMs}`;
    const sighting = before.get(name);
    const { sinceMs } = sighting?.fingerprint === fingerprint ? sighting : { sinceMs: age.elapsedMs };
    this.sightings.set(name, { fingerprint, sinceMs });
    const seenMs = age.elapsedMs - sinceMs;
    const keepMs = kind === 'damaged' ? KEEP_DAMAGED_MS : age.minAgeMs;
    // By its own time, or, where a clock was wrong when it got that, because this process has seen it for so long.
    return seenMs >= age.minAgeMs && (age.now - mtimeMs >= keepMs || seenMs >= keepMs);
  }
}
