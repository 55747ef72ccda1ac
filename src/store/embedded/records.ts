import { join } from 'node:path';
import type { DirectorySync } from '../../disk/directory-sync.js';
import type { Gate } from '../../disk/gate.js';
import { assertUploadId } from '../../disk/safe-name.js';
import { Fault } from '../../model/fault.js';
import type { Phase, Upload } from '../../model/upload.js';
import type { NewUpload, Totals } from '../upload-store.js';
import { readAnswer, removeAnswer, writeAnswer } from './answer-file.js';
import type { Claim } from './delivery-rules.js';
import { RecordFile } from './record-file.js';
import { Serial } from './serial.js';
import { changed, newRecord, type Change, type UploadRecord } from './upload-record.js';

export interface Entry {
  record: UploadRecord;
  readonly file: RecordFile;
  /** Means something while the phase is `delivering`. */
  claim?: Claim;
}

export interface RecordsDisk {
  readonly directory: string;
  readonly names: DirectorySync;
  readonly gate: Gate;
}

/** What uploads hold of the disk: their bytes go with the answer, or with their end. */
const HOLDS_BYTES: ReadonlySet<Phase> = new Set(['receiving', 'complete', 'delivering', 'undelivered']);

/** All records: in memory to be read, on disk to stay. What is read here has been made durable before. */
export class Records {
  private readonly steps = new Serial();
  private sortedIds: string[] | undefined;
  private closed = false;

  constructor(
    private readonly disk: RecordsDisk,
    private readonly entries: Map<string, Entry>,
    /** Told after each change, with undefined when the upload is no more. */
    private readonly onChange: (id: string, upload: Upload | undefined) => void,
  ) {}

  get(id: string): Entry | undefined {
    return this.entries.get(id);
  }

  /** Runs alone among the steps of its upload. */
  step<T>(id: string, step: (entry: Entry | undefined) => Promise<T> | T): Promise<T> {
    if (this.closed) return Promise.reject(new Fault('STORAGE_UNAVAILABLE', 'the store is closed', true));
    return this.steps.run(id, () => step(this.entries.get(id)));
  }

  /** One verb: decide on what is known, write it down, and only then let it be true. */
  change<T extends string>(
    id: string,
    unknown: T,
    decide: (entry: Entry) => Change | T | Promise<Change | T>,
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
  async save(entry: Entry, change: Change): Promise<void> {
    if (Object.keys(change).length === 0) return;
    const { gate } = this.disk;
    try {
      entry.record = await gate.run(() => entry.file.save(entry.record, change));
    } catch (fault) {
      if (!endsUpload(change) || (fault as Fault).code !== 'STORAGE_FULL') throw fault;
      // Ending an upload is what makes room, so it must not need any: without its file it is gone after a restart too.
      await gate.run(() => entry.file.remove());
      entry.record = changed(entry.record, change);
    }
    this.onChange(entry.record.upload.id, entry.record.upload);
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
        // The name may have come about although it could not be made durable.
        await file.remove().catch(() => undefined);
        throw fault;
      }
      this.entries.set(upload.id, { record, file });
      this.sortedIds = undefined;
      return record.upload;
    });
  }

  remove(id: string): Promise<void> {
    return this.step(id, async (entry) => {
      if (!entry) return;
      await this.disk.gate.run(() => entry.file.remove());
      this.entries.delete(id);
      this.sortedIds = undefined;
      this.onChange(id, undefined);
      // Also one that was written, but whose record could not be.
      await removeAnswer(this.answerPath(id));
    });
  }

  /** Within a step, before the change that says so. Gives the checksum. */
  keepAnswer(id: string, body: Uint8Array): Promise<number> {
    return this.disk.gate.run(() => writeAnswer(this.answerPath(id), body, this.disk.names));
  }

  async keptAnswer(id: string): Promise<Uint8Array | undefined> {
    const entry = this.entries.get(id);
    if (!entry || !hasKeptAnswer(entry)) return undefined;
    return this.disk.gate.run(() => readAnswer(this.answerPath(id), entry.record.answerCrc));
  }

  idsWhere(holds: (entry: Entry) => boolean): string[] {
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
  }

  private answerPath(id: string): string {
    return join(this.disk.directory, `${id}.answer`);
  }
}

function hasKeptAnswer({ record }: Entry): boolean {
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
