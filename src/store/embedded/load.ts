import { join } from 'node:path';
import { forEachOf } from '../../concurrency/in-order.js';
import type { Semaphore } from '../../concurrency/queues.js';
import type { DirectorySync } from '../../fs/directory-sync.js';
import {
  hasCode,
  isGeneratedId,
  opendir,
  withReadRetries,
  readFully,
  rename,
  stat,
  storageFault,
  unlinkIfExists,
  utimes,
} from '../../fs/files.js';
import type { Upload } from '../../model/upload.js';
import { type Log, uploadTag } from '../../observe/log.js';
import type { SetAsideRecord } from '../upload-store.js';
import { RecordFile, removeAnswer } from './record-file.js';
import { readRecord, type ReadRecord } from './record-lines.js';
import { type Change, type Claim, type UploadRecord, withLostLine } from './transitions.js';

/** An upload in memory, with its file. */
export interface RecordEntry {
  record: UploadRecord;
  readonly file: RecordFile;
  /** Valid while the phase is `delivering`. */
  claim?: Claim;
  /** A change that `record` has and the file does not, since it waits for the next one; see `Records.saveLater`. */
  unsaved?: { readonly change: Change; readonly recordOnDisk: UploadRecord };
  /**
   * The upload was given up because its record or bytes are damaged or missing. The files stay until the upload
   * expires, since a backup may still be restored.
   */
  isLost?: boolean;
  /**
   * The record's last line was damaged when it was read; files that the record does not list may belong to that line.
   */
  readonly hasLostLine?: boolean;
}

/** The directory of the records, with the sync and the semaphore that all its users share. */
export interface RecordsDisk {
  readonly directory: string;
  readonly directorySync: DirectorySync;
  readonly semaphore: Semaphore;
}

/** Receives the reports of damaged records. */
export interface LossObserver {
  readonly log: Log;
  /** Called when an upload is given up because part of it is damaged. */
  readonly onLoss?: (upload: Upload, problem: string) => void;
}

/** The result of `loadRecords`. */
export interface LoadedRecords {
  readonly entries: Map<string, RecordEntry>;
  /** By id: records that could not be read, and files that are not valid records. */
  readonly setAside: Map<string, SetAsideRecord>;
}

/** As many files as are read at the same time at the start. */
const MAX_READS = 16;

/**
 * Reads all records and removes the leftovers of a crash. A record that cannot be read affects no other, and nothing
 * of its upload is removed.
 */
export async function loadRecords(disk: RecordsDisk, observer: LossObserver): Promise<LoadedRecords> {
  const loaded: LoadedRecords = { entries: new Map(), setAside: new Map() };
  const answers: string[] = [];
  const drafts: string[] = [];
  const names = await withReadRetries(() => opendir(disk.directory));
  await forEachOf(names, MAX_READS, async ({ name }) => {
    const [id, kind] = splitFileName(name);
    if (kind === 'log') await disk.semaphore.run(() => loadRecord(id, { disk, observer, loaded }));
    else if (kind === 'answer') answers.push(id);
    else if (kind === 'log.tmp') drafts.push(id);
    else if (kind === 'damaged') await disk.semaphore.run(() => registerDamaged(id, disk, loaded));
  });
  for (const id of drafts)
    if (!loaded.setAside.has(id)) await ignoringFailure(() => unlinkIfExists(`${recordPath(disk, id)}.tmp`));
  for (const id of answers) await ignoringFailure(() => clearAnswer(id, disk, loaded));
  return loaded;
}

/**
 * A record's entry; `damaged` when its first line cannot be read, undefined if there is no record. Rejects when the
 * disk fails.
 */
export async function readEntry(
  id: string,
  disk: RecordsDisk,
  { log, onLoss }: LossObserver,
): Promise<RecordEntry | 'damaged' | undefined> {
  const path = recordPath(disk, id);
  const bytes = await readFully(path).catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  });
  if (!bytes) return undefined;
  if (bytes.length === 0) {
    // A process that is killed while it repeats a removal leaves an empty file, in which nothing was acknowledged.
    await ignoringFailure(() => unlinkIfExists(path));
    return undefined;
  }
  const read = readRecord(bytes);
  if (read?.record.upload.id !== id) return 'damaged';
  const report = STATE_REPORTS[read.state];
  if (report) log[report.level]({ code: 'RECORD_DAMAGED', upload: uploadTag(id) }, report.message);
  const file = RecordFile.existing(path, disk.directorySync, read);
  if (read.state === 'illegible' || read.state === 'cut')
    return { record: withLostLine(read.record, Date.now()), file, hasLostLine: true };
  if (read.state !== 'damaged') return { record: read.record, file };
  // RUFH §4.6: an upload whose offset is not certain is deactivated, never guessed.
  onLoss?.(read.record.upload, 'its record is damaged');
  return { record: asLost(read.record), file, isLost: true };
}

const STATE_REPORTS: {
  readonly [S in ReadRecord['state']]?: { readonly level: 'warn' | 'error'; readonly message: string };
} = {
  torn: { level: 'warn', message: 'the last line of a record is incomplete, probably after a crash, and is dropped' },
  illegible: {
    level: 'error',
    message:
      'the last line of a record is damaged and is dropped: the upload continues from the state before it, and a request that may have been sent is not repeated',
  },
  cut: {
    level: 'error',
    message:
      'a record is shorter than the space reserved in it: the upload continues from its last line, and a request that may have been sent is not repeated',
  },
  damaged: { level: 'error', message: 'a record is damaged: its upload is given up' },
};

interface LoadTask {
  readonly disk: RecordsDisk;
  readonly observer: LossObserver;
  readonly loaded: LoadedRecords;
}

/** The upload's id and the ending of a file name; `foreign` for a file that is not ours. */
export function splitFileName(name: string): [id: string, kind: string] {
  const dot = name.indexOf('.');
  const id = name.slice(0, dot);
  return dot > 0 && isGeneratedId(id) ? [id, name.slice(dot + 1)] : ['', 'foreign'];
}

function recordPath({ directory }: RecordsDisk, id: string): string {
  return join(directory, `${id}.log`);
}

async function loadRecord(id: string, { disk, observer, loaded }: LoadTask): Promise<void> {
  try {
    const entry = await readEntry(id, disk, observer);
    if (entry === 'damaged') await setAsideDamaged(id, disk, { log: observer.log, setAside: loaded.setAside });
    else if (entry) loaded.entries.set(id, entry);
  } catch (error) {
    const { message } = storageFault(error, 'a record cannot be read: its upload waits until it can');
    report(id, observer.log, message);
    loaded.setAside.set(id, { id, state: 'unreadable', reason: message, since: Date.now() });
  }
}

/** The record, marked as invalid because part of its upload is lost. */
export function asLost(record: UploadRecord): UploadRecord {
  return { ...record, upload: { ...record.upload, phase: 'invalid', lost: true } };
}

/** Sets aside a record without a valid first line, from which its upload cannot be determined. */
export async function setAsideDamaged(
  id: string,
  disk: RecordsDisk,
  { log, setAside }: { readonly log: Log; readonly setAside: Map<string, SetAsideRecord> },
): Promise<void> {
  const reason =
    'the first line of a record is damaged: its upload is unknown from now on; the file is kept as *.damaged';
  report(id, log, reason);
  setAside.set(id, { id, state: 'damaged', reason, since: Date.now() });
  await ignoringFailure(() => moveAside(recordPath(disk, id), damagedPath(disk, id)));
}

/**
 * Sets the file's time to the moment it was set aside, but never to an earlier one: a record from the future shows that
 * the clock was set back.
 */
async function moveAside(path: string, aside: string): Promise<void> {
  const since = new Date(Math.max(Date.now(), (await stat(path)).mtimeMs));
  await utimes(path, since, since);
  await rename(path, aside);
}

function damagedPath({ directory }: RecordsDisk, id: string): string {
  return join(directory, `${id}.damaged`);
}

async function registerDamaged(id: string, disk: RecordsDisk, { setAside }: LoadedRecords): Promise<void> {
  const path = damagedPath(disk, id);
  const since = (await ignoringFailure(() => stat(path)))?.mtimeMs ?? Date.now();
  const reason = 'the first line of its record is damaged; the file is kept as *.damaged';
  if (!setAside.has(id)) setAside.set(id, { id, state: 'damaged', reason, since });
}

/**
 * Removes an answer that its record does not name, as a crash between both writes leaves it. Answers without a record
 * are left to `Leftovers`.
 */
async function clearAnswer(id: string, disk: RecordsDisk, { entries, setAside }: LoadedRecords): Promise<void> {
  const entry = entries.get(id);
  if (!entry || setAside.has(id) || entry.isLost || entry.record.upload.answer?.body.in === 'record') return;
  await removeAnswer(join(disk.directory, `${id}.answer`));
}

/** Runs a cleanup task that every start repeats; its failure must not keep the other uploads from being served. */
async function ignoringFailure<T>(task: () => Promise<T>): Promise<T | undefined> {
  try {
    return await task();
  } catch {
    // The next start tries again.
    return undefined;
  }
}

function report(id: string, log: Log, message: string): void {
  log.error({ code: 'RECORD_DAMAGED', upload: uploadTag(id) }, message);
}
