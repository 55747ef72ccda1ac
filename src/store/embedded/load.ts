import { join } from 'node:path';
import type { Semaphore } from '../../concurrency/queues.js';
import { Turns } from '../../concurrency/turns.js';
import type { DirectorySync } from '../../fs/directory-sync.js';
import {
  BlockingReader,
  hasCode,
  opendir,
  withReadRetries,
  readFully,
  rename,
  stat,
  storageFault,
  undefinedIfMissing,
  unlinkIfExists,
  utimes,
} from '../../fs/files.js';
import { Fault } from '../../model/fault.js';
import type { Upload } from '../../model/upload.js';
import { isGeneratedId } from '../../model/upload-id.js';
import { type Log, uploadTag } from '../../observe/log.js';
import type { SetAsideRecord } from '../upload-store.js';
import { RecordCache } from './record-cache.js';
import { asLost, canBeReadAgain, type RecordEntry } from './record-entry.js';
import { RecordFile, removeAnswer } from './record-file.js';
import { type IndexRow, RecordIndex } from './record-index.js';
import { readRecord, type ReadRecord } from './record-lines.js';
import { withLostLine } from './transitions.js';

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
  readonly index: RecordIndex;
  /** Only the records that have to stay in memory, because their files do not say all that is known of them. */
  readonly cache: RecordCache;
  /** By id: records that could not be read, and files that are not valid records. */
  readonly setAside: Map<string, SetAsideRecord>;
  /** The largest lease token in all records. */
  readonly largestToken: number;
}

/**
 * Reads all records, keeps what the index needs of them, and removes the leftovers of a crash. A record that cannot be
 * read affects no other, and nothing of its upload is removed.
 * Reasons: docs/decisions/0034.
 */
export async function loadRecords(
  disk: RecordsDisk,
  observer: LossObserver,
  cache = new RecordCache(),
): Promise<LoadedRecords> {
  const setAside = new Map<string, SetAsideRecord>();
  const loaded = { index: new RecordIndex(), cache, setAside, largestToken: 0 };
  const task: LoadTask = { disk, observer, loaded, reader: new BlockingReader(), withAnswer: new Set() };
  const found: Record<string, string[]> = { answer: [], 'log.tmp': [], damaged: [] };
  const turns = new Turns();
  for await (const { name } of await withReadRetries(() => opendir(disk.directory))) {
    const [id, kind] = splitFileName(name);
    if (kind === 'log') await loadRecord(id, task);
    else found[kind]?.push(id);
    if (turns.isOver) await turns.next();
  }
  for (const id of found['damaged']!) await registerDamaged(id, disk, loaded);
  for (const id of found['log.tmp']!)
    if (!setAside.has(id)) await ignoringFailure(() => unlinkIfExists(`${recordPath(disk, id)}.tmp`));
  for (const id of found['answer']!) await ignoringFailure(() => clearAnswer(id, task));
  return loaded;
}

/**
 * A record's entry; `damaged` when its first line cannot be read, undefined if there is no record. Rejects when the
 * disk fails in all of the attempts.
 */
export async function readEntry(
  id: string,
  disk: RecordsDisk,
  observer: LossObserver,
  { known, attempts }: { readonly known?: KnownLines | undefined; readonly attempts: number },
): Promise<RecordEntry | 'damaged' | undefined> {
  const read = (): Promise<Buffer> => disk.semaphore.run(() => readFully(recordPath(disk, id)));
  const bytes = await undefinedIfMissing(withReadRetries(read, attempts));
  return bytes && entryOf(id, bytes, { disk, observer, known });
}

/** The lines that this process saw last in the file of a record. */
type KnownLines = Pick<IndexRow, 'lineBytes' | 'isCertain'>;

interface EntrySource {
  readonly disk: RecordsDisk;
  readonly observer: LossObserver;
  /** Missing if this process has not read the file before. */
  readonly known?: KnownLines | undefined;
}

/**
 * The entry of the record with these bytes; undefined for an empty file, which is removed if nothing was known of it. A
 * file that no longer has exactly the lines that were known is damaged, whatever is left of it: also what a start
 * found may have been acknowledged by the process before.
 */
async function entryOf(
  id: string,
  bytes: Buffer,
  { disk, observer: { log, onLoss }, known }: EntrySource,
): Promise<RecordEntry | 'damaged' | undefined> {
  const path = recordPath(disk, id);
  if (bytes.length === 0 && known) return undefined;
  if (bytes.length === 0) {
    // A process that is killed while it repeats a removal leaves an empty file, in which nothing was acknowledged.
    await ignoringFailure(() => unlinkIfExists(path));
    return undefined;
  }
  const read = readRecord(bytes);
  if (read?.record.upload.id !== id) return 'damaged';
  const isAsKnown = !known || (read.state === 'intact' && read.validBytes === known.lineBytes);
  const state = isAsKnown ? read.state : 'damaged';
  const report = STATE_REPORTS[state];
  if (report) log[report.level]({ code: 'RECORD_DAMAGED', upload: uploadTag(id) }, report.message);
  const file = RecordFile.existing(path, disk.directorySync, read, isAsKnown && known?.isCertain);
  if (state === 'illegible' || state === 'cut')
    return { record: withLostLine(read.record, Date.now()), file, hasLostLine: true };
  if (state !== 'damaged') return { record: read.record, file };
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
  readonly loaded: { -readonly [F in keyof LoadedRecords]: LoadedRecords[F] };
  readonly reader: BlockingReader;
  /** The uploads whose records name an answer that may have a file of its own. */
  readonly withAnswer: Set<string>;
}

/** The upload's id and the ending of a file name; `foreign` for a file that is not ours. */
export function splitFileName(name: string): [id: string, kind: string] {
  const dot = name.indexOf('.');
  const id = name.slice(0, dot);
  return dot > 0 && isGeneratedId(id) ? [id, name.slice(dot + 1)] : ['', 'foreign'];
}

/** The path of the file with the record of this upload. */
export function recordPath({ directory }: RecordsDisk, id: string): string {
  // Not `join`, which a start would call for every upload.
  return `${directory}/${id}.log`;
}

async function loadRecord(id: string, { disk, observer, loaded, reader, withAnswer }: LoadTask): Promise<void> {
  const { index, cache, setAside } = loaded;
  try {
    const entry = await entryOf(id, reader.read(recordPath(disk, id)), { disk, observer });
    if (entry === 'damaged') return await setAsideDamaged(id, disk, { log: observer.log, setAside });
    if (!entry) return;
    const { upload, token } = entry.record;
    loaded.largestToken = Math.max(loaded.largestToken, token);
    const row = index.put(upload);
    noteLines(row, entry);
    if (!entry.isLost) index.noteFound(upload);
    if (upload.answer?.body.in === 'record') withAnswer.add(upload.id);
    if (!canBeReadAgain(entry)) cache.put(upload.id, entry);
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return;
    setAsideUnreadable(id, storageFault(error, 'a record cannot be read: its upload waits until it can'), {
      log: observer.log,
      setAside,
    });
  }
}

/** Keeps what the row must know of the record's file once the record leaves memory. */
export function noteLines(row: IndexRow, { file }: RecordEntry): void {
  row.lineBytes = file.recordBytes;
  row.isCertain = file.isCertain();
}

/** Where records that cannot be used are reported. */
interface SetAsideObserver {
  readonly log: Log;
  readonly setAside: Map<string, SetAsideRecord>;
}

/** Sets aside a record that cannot be used as long as the disk fails. It is reported once. */
export function setAsideUnreadable(id: string, fault: Error, { log, setAside }: SetAsideObserver): void {
  if (setAside.has(id)) return;
  const { message } = fault;
  report(id, log, message, fault instanceof Fault ? fault.code : undefined);
  setAside.set(id, { id, state: 'unreadable', reason: message, since: Date.now() });
}

/** Sets aside a record without a valid first line, from which its upload cannot be determined. */
export async function setAsideDamaged(
  id: string,
  disk: RecordsDisk,
  { log, setAside }: SetAsideObserver,
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
async function clearAnswer(id: string, { disk, loaded, withAnswer }: LoadTask): Promise<void> {
  const { index, cache, setAside } = loaded;
  if (!index.has(id) || withAnswer.has(id) || setAside.has(id) || cache.peek(id)?.isLost) return;
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

function report(id: string, log: Log, message: string, code = 'RECORD_DAMAGED'): void {
  log.error({ code, upload: uploadTag(id) }, message);
}
