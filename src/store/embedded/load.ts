import { join } from 'node:path';
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
import { type Claim, type UploadRecord, withLostLine } from './transitions.js';

export interface RecordEntry {
  record: UploadRecord;
  readonly file: RecordFile;
  /** Means something while the phase is `delivering`. */
  claim?: Claim;
  /**
   * Given up because its record or its bytes were found damaged or missing. The disk keeps what it has until the upload
   * expires: a backup may still be on its way.
   */
  isLost?: boolean;
  /** Its last line was damaged when it was read: the files that nobody counts may be those of that line. */
  readonly hasLostLine?: boolean;
}

export interface RecordsDisk {
  readonly directory: string;
  readonly directorySync: DirectorySync;
  readonly semaphore: Semaphore;
}

/** Who hears of what is found. */
export interface LossObserver {
  readonly log: Log;
  /** Something of the upload is damaged: it has no future. */
  readonly onLoss?: (upload: Upload, problem: string) => void;
}

export interface LoadedRecords {
  readonly entries: Map<string, RecordEntry>;
  /** By the id: records that are there but could not be read, and files that are no record any more. */
  readonly setAside: Map<string, SetAsideRecord>;
}

/**
 * Reads every record of the directory and clears away what a crash can leave behind. A record that cannot be read harms
 * no other, and nothing of its upload is removed.
 */
export async function loadRecords(disk: RecordsDisk, observer: LossObserver): Promise<LoadedRecords> {
  const loaded: LoadedRecords = { entries: new Map(), setAside: new Map() };
  const answers: string[] = [];
  const drafts: string[] = [];
  const tasks: Promise<void>[] = [];
  const begin = (task: () => Promise<void>): unknown => tasks.push(disk.semaphore.run(task));
  try {
    for await (const { name } of await withReadRetries(() => opendir(disk.directory))) {
      const [id, kind] = splitFileName(name);
      if (kind === 'log') begin(() => loadRecord(id, { disk, observer, loaded }));
      else if (kind === 'answer') answers.push(id);
      else if (kind === 'log.tmp') drafts.push(id);
      else if (kind === 'damaged') begin(() => registerDamaged(id, disk, loaded));
    }
  } finally {
    // None of them fails.
    await Promise.all(tasks);
  }
  for (const id of drafts)
    if (!loaded.setAside.has(id)) await ignoringFailure(() => unlinkIfExists(`${recordPath(disk, id)}.tmp`));
  for (const id of answers) await ignoringFailure(() => clearAnswer(id, disk, loaded));
  return loaded;
}

/** A record's entry; 'damaged' when its beginning cannot be read, undefined when there is none. Fails when the disk does. */
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
    // A removal that was done anew leaves that, when its process is killed: there is nothing in it that was acknowledged.
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
  // RUFH §4.6: what is not certain is deactivated, never guessed.
  onLoss?.(read.record.upload, 'its record is damaged');
  return { record: asLost(read.record), file, isLost: true };
}

const STATE_REPORTS: {
  readonly [S in ReadRecord['state']]?: { readonly level: 'warn' | 'error'; readonly message: string };
} = {
  torn: { level: 'warn', message: 'the last line of a record has no end, as a crash leaves it: it is dropped' },
  illegible: {
    level: 'error',
    message:
      'the last line of a record is damaged and is dropped: the upload goes on from the state before it, and what may have been sent is not sent again',
  },
  cut: {
    level: 'error',
    message:
      'a record ends before the room that it has kept: the upload goes on from its last line, and what may have been sent is not sent again',
  },
  damaged: { level: 'error', message: 'a record is damaged: its upload is given up' },
};

interface LoadTask {
  readonly disk: RecordsDisk;
  readonly observer: LossObserver;
  readonly loaded: LoadedRecords;
}

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

export function asLost(record: UploadRecord): UploadRecord {
  return { ...record, upload: { ...record.upload, phase: 'invalid', lost: true } };
}

/** Where the beginning of a record is no beginning: nobody can tell what its upload was. */
export async function setAsideDamaged(
  id: string,
  disk: RecordsDisk,
  { log, setAside }: { readonly log: Log; readonly setAside: Map<string, SetAsideRecord> },
): Promise<void> {
  const reason = 'a record has no readable beginning: its upload is unknown from now on; the file is kept as *.damaged';
  report(id, log, reason);
  setAside.set(id, { id, state: 'damaged', reason, since: Date.now() });
  await ignoringFailure(() => moveAside(recordPath(disk, id), damagedPath(disk, id)));
}

/** Its time from now on is that at which it was set aside; a clock that was behind the record's own was set back. */
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
  const reason = 'its record had no readable beginning when it was found, and is kept as *.damaged';
  if (!setAside.has(id)) setAside.set(id, { id, state: 'damaged', reason, since });
}

/** An answer that its record does not know, as a crash between both leaves it. Without a record it is for `Leftovers`. */
async function clearAnswer(id: string, disk: RecordsDisk, { entries, setAside }: LoadedRecords): Promise<void> {
  const entry = entries.get(id);
  if (!entry || setAside.has(id) || entry.isLost || entry.record.upload.answer?.body.in === 'record') return;
  await removeAnswer(join(disk.directory, `${id}.answer`));
}

/** Clearing away is tried at every start: what fails now does not keep the others from being served. */
async function ignoringFailure<T>(task: () => Promise<T>): Promise<T | undefined> {
  try {
    return await task();
  } catch {
    // It is tried again at the next start.
    return undefined;
  }
}

function report(id: string, log: Log, message: string): void {
  log.error({ code: 'RECORD_DAMAGED', upload: uploadTag(id) }, message);
}
