import { randomUUID } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import { join, resolve } from 'node:path';
import { Turns } from '../concurrency/turns.js';
import { DirectorySync } from '../fs/directory-sync.js';
import {
  access,
  type DirectoryEntry,
  hasCode,
  link,
  lstat,
  opendir,
  readdirEntries,
  readdirEntriesSync,
  withReadRetries,
  removeDrafts,
  rename,
  stat,
  storageFault,
  undefinedIfMissing,
  withDraft,
  writeFully,
} from '../fs/files.js';
import { Fault } from '../model/fault.js';
import { isGeneratedId } from '../model/upload-id.js';
import {
  type DirectoryMark,
  FORMAT,
  type DirectoryState,
  type Contents,
  STORE_MARK_DRAFT,
  isRecord,
  type Evidence,
  evidenceOf,
  MARK_DRAFT,
  parseMark,
  type Part,
  refusalOf,
  type StoreKind,
  readSmallFile,
} from './directory-rules.js';
import { STORE_MARK, writeMark } from './shared-directory.js';

/** The file that identifies a data directory: its format, the kind of its store, and the id of that store. */
const MARK = 'rufh-proxy.json';
const MAX_NAMED = 3;

export interface DirectoryUse {
  readonly directory: string;
  readonly store: StoreKind;
  /** Other machines use the directory too: they agree on its permissions, and it is too large to be read at a start. */
  readonly isShared: boolean;
}

/**
 * Rejects with reason and remedy when a start with this store must not use the directory. Changes nothing.
 * Reasons: docs/decisions/0018.
 */
export async function assertUsable(use: DirectoryUse): Promise<DirectoryState> {
  const state = await inspectDirectory(use);
  const reason = refusalOf(state, use.store);
  if (reason !== undefined) throw refused(reason);
  return state;
}

/**
 * Returns the id of the embedded store to which the directory belongs, and marks a directory that is new or of an
 * earlier version. The process must hold the lock.
 */
export async function claimForEmbedded(directory: string): Promise<string> {
  const use = { directory, store: 'embedded', isShared: false } as const;
  const state = await assertUsable(use);
  await removeMarkDrafts(use);
  if (state.mark?.complete) return state.mark.id;
  const id = state.mark?.id ?? state.recordsMark ?? randomUUID();
  await beginMark(use, id);
  await withFault(directory, 'marked', async () => {
    for (const part of ['uploads', 'spool']) {
      await new DirectorySync('group').makeExclusiveDirectory(join(directory, part));
      await writeMark(join(directory, part), id, randomUUID());
    }
  });
  await completeMark(use, id);
  return id;
}

/**
 * Removes drafts of marks that a crash has left. The process must be allowed to use the directory; a shared spool is
 * left out for its size.
 */
export async function removeMarkDrafts({ directory, store, isShared }: DirectoryUse): Promise<void> {
  const options = { isShared: store !== 'embedded' };
  await removeDrafts(directory, MARK_DRAFT, options);
  if (isShared) return;
  for (const part of ['uploads', 'spool']) await removeDrafts(join(directory, part), STORE_MARK_DRAFT, options);
}

/** Marks a directory without a mark, as incomplete. Rejects when another kind of store marks it at the same time. */
export async function beginMark(use: DirectoryUse, id: string): Promise<void> {
  const { directory, store } = use;
  const path = join(directory, MARK);
  const draft = `${path}-${randomUUID()}`;
  await withFault(directory, 'marked', async () => {
    await new DirectorySync('group').makeDirectory(directory);
    await withDraft(draft, async () => {
      await writeFully(draft, markText({ format: FORMAT, store, id, complete: false }), true);
      await link(draft, path).catch(onLinkError(() => rename(draft, path)));
      await new DirectorySync('group').sync(directory);
    });
  });
  await assertUsable(use);
}

/**
 * Completes the mark: from now on every start requires the marks in both `uploads` and `spool`. Keeps the node's name
 * unless a new one is given.
 */
export async function completeMark({ directory, store }: DirectoryUse, id: string, name?: string): Promise<void> {
  const path = join(directory, MARK);
  const draft = `${path}-${randomUUID()}`;
  const complete = async (): Promise<void> => {
    const node = name ?? parseMark((await readSmallFile(path)) ?? '').node;
    await writeFully(draft, markText({ format: FORMAT, store, id, complete: true, ...(node && { node }) }), true);
    await rename(draft, path);
    await new DirectorySync('group').sync(directory);
  };
  await withFault(directory, 'marked', () => withDraft(draft, complete));
}

/** Stores the name of the node a second time. On a full disk the next start does it. */
export async function noteNode(use: DirectoryUse, id: string, name: string): Promise<void> {
  const path = join(use.directory, MARK);
  if (parseMark((await readSmallFile(path)) ?? '').node === name) return;
  try {
    await completeMark(use, id, name);
  } catch (error) {
    if (!(error instanceof Fault) || error.code !== 'STORAGE_FULL') throw error;
  }
}

function markText(mark: DirectoryMark): Buffer {
  return Buffer.from(`${JSON.stringify(mark)}\n`);
}

/**
 * Ignores that another process has marked the directory; without hard links in the file system the draft is renamed
 * instead.
 */
function onLinkError(otherwise: () => Promise<void>): (error: unknown) => Promise<void> | undefined {
  return (error) => {
    if (hasCode(error, 'EEXIST')) return undefined;
    if (hasCode(error, 'EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK')) return otherwise();
    throw error;
  };
}

/**
 * Reads the state of a directory. Rejects where it contains links, or can be changed by other users. A missing one
 * counts as empty.
 */
async function inspectDirectory({ directory, isShared }: DirectoryUse): Promise<DirectoryState> {
  const path = resolve(directory);
  return withFault(directory, 'read', async () => {
    const own = await undefinedIfMissing(stat(path), NOT_FOUND_CODES);
    const entries = own === undefined ? [] : await entriesOf(path);
    if (own) await assertPermissions(path, own, { names: entries.map(({ name }) => name), isShared });
    const findings: Findings = {
      evidence: new Map(),
      foreign: [],
      misshapen: [],
      likeRecords: [],
      checkedRecords: 0,
      hasRecord: false,
    };
    for (const entry of entries) await recordEntry('beside', path, entry, findings);
    const mark = findings.evidence.has(MARK) ? parseMark((await readSmallFile(join(path, MARK))) ?? '') : undefined;
    const hasMark = mark !== undefined;
    const recordsMark = await recordMark(path, 'uploads', findings);
    const spoolMark = await recordMark(path, 'spool', findings);
    const records = await scanContents(path, 'uploads', { findings, hasMark, readsAll: !isShared });
    const spool = await scanContents(path, 'spool', { findings, hasMark, readsAll: !isShared });
    const { evidence, foreign, misshapen, likeRecords, hasRecord } = findings;
    return {
      path,
      isShared,
      mark,
      recordsMark,
      spoolMark,
      records,
      hasRecord,
      spool,
      isRecordsMarkOurs: evidence.get(join('uploads', STORE_MARK)) === 'ours',
      isSpoolMarkOurs: evidence.get(join('spool', STORE_MARK)) === 'ours',
      wasStarted: evidence.get('last-start.json') === 'ours',
      hasLock: evidence.get('lock') === 'ours',
      node: evidence.get('node'),
      nodeName: evidence.get('node') === 'ours' ? ((await readSmallFile(join(path, 'node'))) ?? '').trim() : undefined,
      misshapen,
      foreign: [...foreign, ...(hasRecord ? [] : likeRecords)].slice(0, MAX_NAMED),
    };
  });
}

/** The entries found so far. */
interface Findings {
  /** By their path within the directory. */
  readonly evidence: Map<string, Evidence>;
  /** Names that this program does not give, or whose content it did not write. */
  readonly foreign: string[];
  /** Names of this program with the wrong kind of entry, such as a directory in place of a file. */
  readonly misshapen: string[];
  /** Names of records whose content was not checked, or is not that of a record. */
  readonly likeRecords: string[];
  /** Number of possible records whose content was checked. */
  checkedRecords: number;
  hasRecord: boolean;
}

async function recordEntry(
  part: Part,
  directory: string,
  entry: DirectoryEntry,
  findings: Findings,
): Promise<Evidence> {
  const evidence = await evidenceOf(part, directory, entry);
  const isMark = part !== 'beside' && entry.name === STORE_MARK;
  if (evidence === 'misshapen' || part !== 'beside') assertNoLink(directory, entry);
  const name = part === 'beside' ? entry.name : join(part, entry.name);
  if (part === 'beside' || isMark) {
    findings.evidence.set(name, evidence);
    if (evidence === 'misshapen') findings.misshapen.push(name);
  }
  if (NOT_OURS.has(evidence) && findings.foreign.length < MAX_NAMED) findings.foreign.push(name);
  return evidence;
}

/** Finds the mark by its name, since a shared spool is too large to be listed to its end, and returns its text. */
async function recordMark(path: string, part: 'uploads' | 'spool', findings: Findings): Promise<string | undefined> {
  const partPath = join(path, part);
  const stats = await undefinedIfMissing(lstat(join(partPath, STORE_MARK)), NOT_FOUND_CODES);
  if (!stats) return undefined;
  const entry: DirectoryEntry = {
    name: STORE_MARK,
    isFile: () => stats.isFile(),
    isDirectory: () => stats.isDirectory(),
    isSymbolicLink: () => stats.isSymbolicLink(),
  };
  await recordEntry(part, partPath, entry, findings);
  return (await readSmallFile(join(partPath, STORE_MARK)))?.trim() || undefined;
}

const NOT_OURS: ReadonlySet<Evidence> = new Set(['foreign', 'unlike', 'misshapen']);

interface ContentScan {
  readonly findings: Findings;
  /** The directory has a mark, so no record has to prove what it is. */
  readonly hasMark: boolean;
  /** Reads everything, down to the files of each upload. */
  readonly readsAll: boolean;
}

/** Number of possible records that are checked to find a real one. */
const MAX_CHECKED_RECORDS = 20;

/** Whether `uploads` or `spool` contains anything of an upload. */
async function scanContents(
  path: string,
  part: 'uploads' | 'spool',
  { findings, hasMark, readsAll }: ContentScan,
): Promise<Contents> {
  const partPath = join(path, part);
  const isThere = findings.evidence.has(part) && !findings.misshapen.includes(part);
  const entries = isThere
    ? await undefinedIfMissing(
        withReadRetries(() => opendir(partPath)),
        NOT_FOUND_CODES,
      )
    : undefined;
  if (entries === undefined) return 'missing';
  let isFilled = false;
  const directories: string[] = [];
  for await (const entry of entries) {
    if (entry.name === STORE_MARK) continue;
    const evidence = await recordEntry(part, partPath, entry, findings);
    if (evidence === 'maybe' && isUploadFile(entry.name)) {
      isFilled = true;
      if (part === 'uploads' && !hasMark) await checkRecord(partPath, entry.name, findings);
    }
    if (isFilled && !readsAll) break;
    if (entry.isDirectory() && isGeneratedId(entry.name)) directories.push(entry.name);
  }
  const turns = new Turns();
  for (const name of directories) {
    await assertNoLinks(join(partPath, name));
    if (turns.isOver) await turns.next();
  }
  return isFilled ? 'filled' : 'empty';
}

function isUploadFile(name: string): boolean {
  return isGeneratedId(name.split('.')[0]!);
}

async function checkRecord(directory: string, name: string, findings: Findings): Promise<void> {
  if (findings.hasRecord) return;
  const isLog = name.endsWith('.log');
  if (isLog && findings.checkedRecords >= MAX_CHECKED_RECORDS) return;
  if (isLog) findings.checkedRecords++;
  if (isLog && (await isRecord(directory, name))) findings.hasRecord = true;
  else if (findings.likeRecords.length < MAX_NAMED) findings.likeRecords.push(join('uploads', name));
}

/**
 * Lists the directory with a blocking call, since there may be very many and nothing is served yet. Ignores one that
 * cannot be listed now; its fault is reported when the upload is recovered.
 */
async function assertNoLinks(directory: string): Promise<void> {
  let entries: readonly DirectoryEntry[];
  try {
    entries = readdirEntriesSync(directory);
  } catch {
    entries = await withReadRetries(() => readdirEntries(directory)).catch(() => []);
  }
  for (const entry of entries) assertNoLink('', entry, 'an upload of the spool');
}

async function entriesOf(directory: string): Promise<DirectoryEntry[]> {
  const entries: DirectoryEntry[] = [];
  for await (const entry of await withReadRetries(() => opendir(directory))) entries.push(entry);
  return entries;
}

/**
 * Rejects for a link, which would lead reads, writes and removals out of the directory. The directory itself may be
 * one.
 */
function assertNoLink(directory: string, entry: DirectoryEntry, where = join(directory, entry.name)): void {
  if (!entry.isSymbolicLink()) return;
  const what = isGeneratedId(entry.name.split('.')[0]!) ? `a file of an upload in ${directory}` : where;
  throw refused(
    `the data directory holds a symbolic link (${what}): put the directory itself in its place, or mount it there. ` +
      '--data as a whole may be a link',
  );
}

/** Rejects when other users can write there: they could make this program deliver, or remove, any file. */
async function assertPermissions(
  path: string,
  own: Stats,
  { names, isShared }: { readonly names: readonly string[]; readonly isShared: boolean },
): Promise<void> {
  if (!own.isDirectory()) throw refused(`${path} is not a directory: choose another --data`);
  const byGroup = isShared || isGroupVolume(own);
  assertMode(path, own, byGroup);
  for (const name of ['uploads', 'spool']) {
    const half = names.includes(name) ? await lstat(join(path, name)) : undefined;
    if (half?.isDirectory()) assertMode(join(path, name), half, byGroup);
  }
  await access(path, constants.R_OK | constants.X_OK);
  await withFault(path, 'written', () => access(path, constants.W_OK));
}

/** A volume of another user that is writable for one of our groups, as Kubernetes provides it with `fsGroup`. */
function isGroupVolume({ uid, gid, mode }: Stats): boolean {
  const groups = process.getgroups?.() ?? [];
  return uid !== process.geteuid?.() && (mode & 0o020) !== 0 && groups.includes(gid);
}

function assertMode(path: string, { uid, mode }: Stats, byGroup: boolean): void {
  const user = process.geteuid?.();
  if (user === undefined) return;
  if ((mode & 0o002) !== 0) throw refused(`${path} can be written by every user: chmod o-w ${path}`);
  if (byGroup) return;
  if (uid !== user && uid !== 0)
    throw refused(
      `${path} belongs to the user ${uid}, and this process runs as ${user}: chown it, or run as that user`,
    );
  if ((mode & 0o020) !== 0) throw refused(`${path} can be written by its group: chmod g-w ${path}`);
}

/** ENOTDIR: there is nothing below a file that takes the place of a directory either. */
const NOT_FOUND_CODES: readonly string[] = ['ENOENT', 'ENOTDIR'];

function refused(reason: string): Fault {
  return new Fault('CONTRACT_BROKEN', reason, false);
}

async function withFault<T>(directory: string, done: string, task: () => Promise<T>): Promise<T> {
  try {
    return await task();
  } catch (error) {
    throw storageFault(error, `the data directory ${resolve(directory)} cannot be ${done}`);
  }
}
