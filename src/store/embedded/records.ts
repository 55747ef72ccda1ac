import { join } from 'node:path';
import { Serial } from '../../concurrency/queues.js';
import {
  assertUploadId,
  opendir,
  patiently,
  stat,
  storageFault,
  unlessMissing,
  unlinkIfThere,
} from '../../fs/files.js';
import { Fault } from '../../model/fault.js';
import type { Phase, Upload } from '../../model/upload.js';
import { uploadTag } from '../../observe/log.js';
import type { BroughtBack, FoundRecord, KeyedUpload, NewUpload, OldAge, SetAside, Totals } from '../upload-store.js';
import {
  type RecordEntry,
  invalid,
  type LoadedRecords,
  nameParts,
  readEntry,
  type LossObserver,
  type RecordsDisk,
  setDamagedAside,
} from './load.js';
import { readAnswer, RecordFile, removeAnswer, writeAnswer } from './record-file.js';
import { type Change, changed, newRecord } from './transitions.js';

/** What uploads hold of the disk: their bytes go with the answer, or with their end. */
const HOLDS_BYTES: ReadonlySet<Phase> = new Set(['receiving', 'complete', 'delivering', 'undelivered']);

export interface RecordsDeps extends LossObserver {
  /** Told after each change, with undefined when the upload is no more. */
  readonly onChange: (id: string, upload: Upload | undefined) => void;
}

/** All records: in memory to be read, on disk to stay. */
export class Records {
  private readonly steps = new Serial();
  private readonly firsts = new Serial();
  private readonly entries: Map<string, RecordEntry>;
  private readonly asides: Map<string, SetAside>;
  /** By the client's key, the id of the upload that has it. */
  private readonly holders = new Map<string, string>();
  private sortedIds: string[] | undefined;
  private closed = false;
  private readonly leftovers: Leftovers;
  private lookAfter: (found: FoundRecord) => Promise<BroughtBack> = () => Promise.resolve('show');

  constructor(
    private readonly disk: RecordsDisk,
    loaded: LoadedRecords,
    private readonly deps: RecordsDeps,
  ) {
    this.entries = loaded.entries;
    this.asides = loaded.setAside;
    for (const entry of this.entries.values()) this.hold(entry);
    const { entries, asides } = this;
    this.leftovers = new Leftovers(disk, { entry: (id) => entries.get(id), aside: (id) => asides.get(id) });
  }

  /** Removes what is old and belongs to no record. */
  async clearLeftovers(age: OldAge): Promise<void> {
    for (const id of await this.leftovers.clear(age))
      if (this.asides.get(id)?.state === 'damaged') this.asides.delete(id);
  }

  /** As memory has it: of one that was found at the start, the disk may have less. */
  get(id: string): RecordEntry | undefined {
    return this.entries.get(id);
  }

  /**
   * To be shown: the disk certainly has it, or is made to. Fails when that is not possible, and when the record is there
   * but cannot be read.
   */
  async certain(id: string): Promise<RecordEntry | undefined> {
    const entry = this.entries.get(id);
    const isSettled = entry ? !entry.file.isUncertain() || isKeptAsItIs(entry) : !this.isUnreadable(id);
    if (isSettled) return entry;
    return this.step(id, async (now) => {
      if (now && !isKeptAsItIs(now)) await this.disk.gate.run(() => this.prove(now));
      return now;
    });
  }

  /** What was cancelled must not come back: where the disk takes no record that says so, it takes away the one there is. */
  private async prove({ file, record }: RecordEntry): Promise<void> {
    try {
      await file.prove(record);
    } catch (fault) {
      if (record.upload.phase !== 'cancelled') throw fault;
      await file.remove();
    }
  }

  /** Runs alone among the steps of its upload. Fails when there is a record that cannot be read. */
  step<T>(id: string, step: (entry: RecordEntry | undefined) => Promise<T> | T): Promise<T> {
    if (this.closed) return Promise.reject(new Fault('STORAGE_UNAVAILABLE', 'the store is closed', true));
    return this.steps.run(id, async () => {
      if (this.isUnreadable(id)) await this.readAgain(id);
      return step(this.entries.get(id));
    });
  }

  /** What is there but is no upload that could be shown. */
  setAside(): readonly SetAside[] {
    return [...this.asides.values()];
  }

  /** Those that could not be read are tried again. */
  async readAllAgain(): Promise<void> {
    const ids = [...this.asides.keys()].filter((id) => this.isUnreadable(id));
    // What still cannot be read stays where it is.
    await Promise.all(ids.map((id) => this.step(id, () => undefined).catch(() => undefined)));
  }

  /** Shown as invalid from now on, while the disk keeps what it has. False when it needs no bytes any more. */
  giveUp(id: string): Promise<boolean> {
    return this.step(id, async (entry) => {
      if (!entry || !HOLDS_BYTES.has(entry.record.upload.phase)) return false;
      Object.assign(entry, { record: invalid(entry.record), isLost: true });
      await entry.file.release();
      this.deps.onChange(id, entry.record.upload);
      return true;
    });
  }

  /**
   * From now on this brings each record that can be read again together with its bytes, before anybody is shown it. While it
   * fails, the record stays as if it could not be read.
   */
  recoverWith(lookAfter: (found: FoundRecord) => Promise<BroughtBack>): void {
    this.lookAfter = lookAfter;
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
    const { gate } = this.disk;
    // It was done before: to say so is to show it.
    if (Object.keys(change).length === 0) return gate.run(() => entry.file.prove(entry.record));
    try {
      entry.record = await gate.run(() => entry.file.save(entry.record, change));
    } catch (fault) {
      if (!endsUpload(change) || (fault as Fault).code !== 'STORAGE_FULL') throw fault;
      // Ending an upload is what makes room, so it must not need any: without its file it is gone after a restart too.
      await gate.run(() => entry.file.remove());
      entry.record = changed(entry.record, change);
    }
    this.deps.onChange(entry.record.upload.id, entry.record.upload);
  }

  async create(upload: NewUpload): Promise<Upload> {
    assertUploadId(upload.id);
    return this.step(upload.id, async (known) => {
      if (known) throw new Fault('CONTRACT_BROKEN', 'an upload of this id exists', false);
      const { directory, names, gate } = this.disk;
      const file = new RecordFile(join(directory, `${upload.id}.log`), names);
      const record = newRecord(upload);
      try {
        await gate.run(() => file.rewrite(record));
      } catch (fault) {
        // The name may have come about although it could not be made durable. What cannot be removed now is for the sweep.
        await file.remove().catch(() => this.add({ record: changed(record, { set: { phase: 'cancelled' } }), file }));
        throw fault;
      }
      this.add({ record, file });
      return record.upload;
    });
  }

  /** Those with one key come one after the other, so that the first has it when the next one looks. */
  createFirst(upload: KeyedUpload, instead: string | undefined): Promise<Upload | string> {
    return this.firsts.run<Upload | string>(upload.clientKey, () => {
      const holder = this.holders.get(upload.clientKey);
      return holder === undefined || holder === instead ? this.create(upload) : holder;
    });
  }

  holderOf(clientKey: string): string | undefined {
    return this.holders.get(clientKey);
  }

  /** Gives the phase in which it was removed. */
  remove(id: string): Promise<Phase | undefined> {
    return this.step(id, async (entry) => {
      if (!entry) return undefined;
      await this.removeFiles(id, entry);
      this.entries.delete(id);
      this.sortedIds = undefined;
      const { clientKey, phase } = entry.record.upload;
      if (clientKey !== undefined && this.holders.get(clientKey) === id) this.holders.delete(clientKey);
      this.deps.onChange(id, undefined);
      return phase;
    });
  }

  /** The record last: as long as there is one, the removal is tried again. Also an answer that its record does not know. */
  private async removeFiles(id: string, { file }: RecordEntry): Promise<void> {
    await removeAnswer(this.answerPath(id));
    await this.disk.gate.run(() => file.remove());
  }

  /** Within a step, before the change that says so. Gives the checksum. */
  keepAnswer(id: string, body: Uint8Array): Promise<number> {
    return this.disk.gate.run(() => writeAnswer(this.answerPath(id), body, this.disk.names));
  }

  async keptAnswer(id: string): Promise<Uint8Array | undefined> {
    const entry = this.entries.get(id);
    if (!entry || !hasKeptAnswer(entry)) return undefined;
    const { answerBody } = entry.record;
    if (answerBody !== undefined) return Buffer.from(answerBody, 'base64');
    return readAnswer(this.answerPath(id), entry.record.answerCrc, this.disk.gate);
  }

  idsWhere(holds: (entry: RecordEntry) => boolean): string[] {
    const ids: string[] = [];
    for (const [id, entry] of this.entries) if (holds(entry)) ids.push(id);
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
    const from = after === undefined ? 0 : firstAbove(this.sortedIds, after);
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
    this.hold(entry);
  }

  /** Of two uploads with one key, as they are found at a start, the newer one took the place of the other. */
  private hold({ record }: RecordEntry): void {
    const { id, clientKey, createdAt } = record.upload;
    if (clientKey === undefined) return;
    const other = this.entries.get(this.holders.get(clientKey) ?? id);
    if (!other || other.record.upload.createdAt <= createdAt) this.holders.set(clientKey, id);
  }

  private isUnreadable(id: string): boolean {
    return this.asides.get(id)?.state === 'unreadable';
  }

  private async readAgain(id: string): Promise<void> {
    const { log } = this.deps;
    try {
      const entry = await this.disk.gate.run(() => readEntry(id, this.disk, this.deps));
      if (entry === 'damaged') return await setDamagedAside(id, this.disk, { log, setAside: this.asides });
      const isShown = entry !== undefined && (await this.isBroughtBack(id, entry));
      this.asides.delete(id);
      if (isShown) this.add(entry);
      log.info({ upload: uploadTag(id) }, entry ? 'a record can be read again' : 'a record is not there any more');
    } catch (error) {
      throw storageFault(error, 'the record of an upload cannot be read');
    }
  }

  /** Whether it is an upload from now on. */
  private async isBroughtBack(id: string, entry: RecordEntry): Promise<boolean> {
    if (entry.isLost) return true;
    const { record, hasLostLine = false } = entry;
    const become = await this.lookAfter({ upload: record.upload, chunks: record.chunks, hasLostLine });
    if (become === 'give-up') Object.assign(entry, { record: invalid(record), isLost: true });
    if (become === 'remove') await this.removeFiles(id, entry);
    return become !== 'remove';
  }

  private answerPath(id: string): string {
    return join(this.disk.directory, `${id}.answer`);
  }
}

function isKeptAsItIs({ isLost = false, record }: RecordEntry): boolean {
  return isLost && record.upload.phase === 'invalid';
}

function hasKeptAnswer({ record }: RecordEntry): boolean {
  return record.upload.answer?.body.in === 'record';
}

function endsUpload({ set }: Change): boolean {
  return set?.phase === 'cancelled' || set?.phase === 'invalid';
}

function firstAbove(sorted: readonly string[], id: string): number {
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

interface Sight {
  readonly as: string;
  readonly since: number;
}

/** What the records know of a name. */
export interface KnownRecords {
  entry(id: string): RecordEntry | undefined;
  aside(id: string): SetAside | undefined;
}

/**
 * Files beside the records that belong to none: answers whose record is not there, which may still be on its way from a
 * backup, and records that were set aside as damaged a week ago. The time of a file proves nothing, because a copy keeps it:
 * each has to be seen unchanged for a while that really passed.
 */
export class Leftovers {
  private seen = new Map<string, Sight>();

  constructor(
    private readonly disk: RecordsDisk,
    private readonly known: KnownRecords,
  ) {}

  /** One look at all files. Gives the ids of damaged records that are gone. */
  async clear(age: OldAge): Promise<readonly string[]> {
    const before = this.seen;
    this.seen = new Map();
    const gone: string[] = [];
    try {
      for await (const { name } of await patiently(() => opendir(this.disk.directory))) {
        const [id, kind] = nameParts(name);
        if ((kind !== 'answer' && kind !== 'damaged') || !(await this.isOver(name, before, age))) continue;
        await unlinkIfThere(join(this.disk.directory, name));
        if (kind === 'damaged') gone.push(id);
      }
    } catch (error) {
      throw storageFault(error, 'what is left beside the records cannot be cleared away');
    }
    return gone;
  }

  private async isOver(name: string, before: ReadonlyMap<string, Sight>, age: OldAge): Promise<boolean> {
    const [id, kind] = nameParts(name);
    const { known } = this;
    const isWithRecord = known.entry(id) !== undefined || known.aside(id) !== undefined;
    if (kind === 'answer' && isWithRecord) return false;
    const found = await unlessMissing(stat(join(this.disk.directory, name)));
    if (!found) return false;
    const { size, mtimeMs } = found;
    const as = `${size} ${mtimeMs}`;
    const sight = before.get(name);
    const { since } = sight?.as === as ? sight : { since: age.passedMs };
    this.seen.set(name, { as, since });
    const seenMs = age.passedMs - since;
    const keepMs = kind === 'damaged' ? KEEP_DAMAGED_MS : age.leastMs;
    // By its own time, or, where a clock was wrong when it got that, because this process has seen it for so long.
    return seenMs >= age.leastMs && (age.now - mtimeMs >= keepMs || seenMs >= keepMs);
  }
}
