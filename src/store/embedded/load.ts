import { opendir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isUploadId } from '../../disk/safe-name.js';
import { storageFault } from '../../disk/storage-fault.js';
import { uploadTag, type Log } from '../../observe/log.js';
import { removeAnswer } from './answer-file.js';
import { RecordFile } from './record-file.js';
import { readRecord, type ReadRecord } from './record-lines.js';
import type { Entry, RecordsDisk } from './records.js';
import type { UploadRecord } from './upload-record.js';

/** A record nobody can read is kept this long for people to look at: it holds request headers, so not for ever. */
const KEEP_DAMAGED_MS = 7 * 24 * 3600 * 1000;

/** Reads every record of the directory and clears away what a crash can leave behind. A damaged record harms no other. */
export async function loadRecords(disk: RecordsDisk, log: Log): Promise<Map<string, Entry>> {
  const loaded = new Map<string, Entry>();
  const answers: string[] = [];
  const tasks: Promise<void>[] = [];
  const begin = (task: () => Promise<void>): unknown => tasks.push(disk.gate.run(task));
  for await (const { name } of await opendir(disk.directory)) {
    const [id, kind] = nameParts(name);
    const path = join(disk.directory, name);
    if (kind === 'log') begin(() => load({ id, path, disk, log, loaded }));
    else if (kind === 'answer') answers.push(id);
    else if (kind === 'log.tmp') begin(() => rm(path, { force: true }));
    else if (kind === 'damaged') begin(() => removeOld(path));
  }
  await Promise.all(tasks);
  for (const id of answers) if (!keepsAnswer(loaded.get(id))) await removeAnswer(join(disk.directory, `${id}.answer`));
  return loaded;
}

interface LoadTask {
  readonly id: string;
  readonly path: string;
  readonly disk: RecordsDisk;
  readonly log: Log;
  readonly loaded: Map<string, Entry>;
}

function nameParts(name: string): [id: string, kind: string] {
  const dot = name.indexOf('.');
  const id = name.slice(0, dot);
  return dot > 0 && isUploadId(id) ? [id, name.slice(dot + 1)] : ['', 'foreign'];
}

async function load({ id, path, disk, log, loaded }: LoadTask): Promise<void> {
  const bytes = await readBytes(id, path, log);
  if (!bytes) return;
  const read = readRecord(bytes);
  if (read?.record.upload.id !== id) return setAside(id, path, log);
  if (read.state === 'damaged') report(id, log, 'a record is damaged: its upload is given up');
  loaded.set(id, { record: believed(read), file: RecordFile.found(path, disk.names, read) });
}

/** RUFH §4.6: what is not certain is deactivated, never guessed. */
function believed({ record, state }: ReadRecord): UploadRecord {
  return state === 'damaged' ? { ...record, upload: { ...record.upload, phase: 'invalid' } } : record;
}

async function readBytes(id: string, path: string, log: Log): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    const { message } = storageFault(error, 'a record cannot be read: its upload is unknown until it can');
    report(id, log, message);
    return undefined;
  }
}

async function setAside(id: string, path: string, log: Log): Promise<void> {
  report(
    id,
    log,
    'a record has no readable beginning: its upload is unknown from now on; the file is kept as *.damaged',
  );
  await rename(path, path.replace(/log$/, 'damaged'));
}

async function removeOld(path: string): Promise<void> {
  if (Date.now() - (await stat(path)).mtimeMs > KEEP_DAMAGED_MS) await rm(path, { force: true });
}

function keepsAnswer(loaded: Entry | undefined): boolean {
  return loaded?.record.upload.answer?.body.in === 'record';
}

function report(id: string, log: Log, message: string): void {
  log.error({ code: 'RECORD_DAMAGED', upload: uploadTag(id) }, message);
}
