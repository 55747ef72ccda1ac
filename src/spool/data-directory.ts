import { randomUUID } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import { join, resolve } from 'node:path';
import { DirectorySync } from '../fs/directory-sync.js';
import {
  access,
  type DirectoryEntry,
  hasCode,
  isGeneratedId,
  link,
  lstat,
  opendir,
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
import {
  type DirectoryMark,
  FORMAT,
  type FoundDirectory,
  type Half,
  IDENTITY_DRAFT,
  isRecord,
  type Likeness,
  likenessOf,
  MARK_DRAFT,
  markIn,
  type Part,
  refusalOf,
  type StoreKind,
  textOf,
} from './directory-rules.js';
import { IDENTITY, noteIdentity } from './shared-directory.js';

/** Says of a data directory what it is: the format, the kind of its store, and the id of that store. */
const MARK = 'rufh-proxy.json';
const MOST_NAMED = 3;

export interface DirectoryUse {
  readonly directory: string;
  readonly store: StoreKind;
  /** Other machines use it too: then its rights are theirs to agree on, and it is too large to be read at a start. */
  readonly shared: boolean;
}

/** Fails, with the reason and the remedy, when a start with this store must not use the directory; changes nothing. */
export async function assertUsable(use: DirectoryUse): Promise<FoundDirectory> {
  const found = await lookAtDirectory(use);
  const reason = refusalOf(found, use.store);
  if (reason !== undefined) throw refused(reason);
  return found;
}

/**
 * Gives the id of the embedded store whose directory it is, and marks one that is new or was made by an earlier version.
 * For a process that holds the lock.
 */
export async function claimForEmbedded(directory: string): Promise<string> {
  const use = { directory, store: 'embedded', shared: false } as const;
  const found = await assertUsable(use);
  await removeMarkDrafts(use);
  if (found.mark?.complete) return found.mark.id;
  const id = found.mark?.id ?? found.recordsMark ?? randomUUID();
  await beginMark(use, id);
  await failing(directory, 'marked', async () => {
    for (const half of ['uploads', 'spool']) {
      await new DirectorySync('group').makeExclusiveDirectory(join(directory, half));
      await noteIdentity(join(directory, half), id, randomUUID());
    }
  });
  await completeMark(use, id);
  return id;
}

/** Of marks that were begun and never came to be; for a process that may use the directory. A shared spool is too large to be read. */
export async function removeMarkDrafts({ directory, store, shared }: DirectoryUse): Promise<void> {
  const whose = { isShared: store !== 'embedded' };
  await removeDrafts(directory, MARK_DRAFT, whose);
  if (shared) return;
  for (const half of ['uploads', 'spool']) await removeDrafts(join(directory, half), IDENTITY_DRAFT, whose);
}

/** Marks a directory that has no mark yet; fails when another kind of store was faster. To be completed. */
export async function beginMark(use: DirectoryUse, id: string): Promise<void> {
  const { directory, store } = use;
  const path = join(directory, MARK);
  const draft = `${path}-${randomUUID()}`;
  await failing(directory, 'marked', async () => {
    await new DirectorySync('group').makeDirectory(directory);
    await withDraft(draft, async () => {
      await writeFully(draft, markText({ format: FORMAT, store, id, complete: false }), true);
      await link(draft, path).catch(unlessLinked(() => rename(draft, path)));
      await new DirectorySync('group').sync(directory);
    });
  });
  await assertUsable(use);
}

/** From now on the marks of both halves have to be there at every start. A name of a node that it has stays. */
export async function completeMark({ directory, store }: DirectoryUse, id: string, name?: string): Promise<void> {
  const path = join(directory, MARK);
  const draft = `${path}-${randomUUID()}`;
  const complete = async (): Promise<void> => {
    const node = name ?? markIn((await textOf(path)) ?? '').node;
    await writeFully(draft, markText({ format: FORMAT, store, id, complete: true, ...(node && { node }) }), true);
    await rename(draft, path);
    await new DirectorySync('group').sync(directory);
  };
  await failing(directory, 'marked', () => withDraft(draft, complete));
}

/** Keeps the name of the node a second time. A full disk takes nothing new; the next start notes it then. */
export async function noteNode(use: DirectoryUse, id: string, name: string): Promise<void> {
  const path = join(use.directory, MARK);
  if (markIn((await textOf(path)) ?? '').node === name) return;
  try {
    await completeMark(use, id, name);
  } catch (error) {
    if (!(error instanceof Fault) || error.code !== 'STORAGE_FULL') throw error;
  }
}

function markText(mark: DirectoryMark): Buffer {
  return Buffer.from(`${JSON.stringify(mark)}\n`);
}

/** Another process has marked it already; on a file system without hard links the draft itself becomes the mark. */
function unlessLinked(otherwise: () => Promise<void>): (error: unknown) => Promise<void> | undefined {
  return (error) => {
    if (hasCode(error, 'EEXIST')) return undefined;
    if (hasCode(error, 'EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK')) return otherwise();
    throw error;
  };
}

/** Reads what a directory is; fails where it holds links or is not this user's alone. A missing one is an empty one. */
async function lookAtDirectory({ directory, shared }: DirectoryUse): Promise<FoundDirectory> {
  const path = resolve(directory);
  return failing(directory, 'read', async () => {
    const own = await undefinedIfMissing(stat(path), NOWHERE);
    const entries = own === undefined ? [] : await entriesOf(path);
    if (own) await assertOwn(path, own, { names: entries.map(({ name }) => name), shared });
    const found: Found = {
      likeness: new Map(),
      foreign: [],
      misshapen: [],
      likeRecords: [],
      looks: 0,
      hasRecord: false,
    };
    for (const entry of entries) await noteEntry('beside', path, entry, found);
    const mark = found.likeness.has(MARK) ? markIn((await textOf(join(path, MARK))) ?? '') : undefined;
    const isProven = mark !== undefined;
    const recordsMark = await noteMark(path, 'uploads', found);
    const spoolMark = await noteMark(path, 'spool', found);
    const records = await contentOf(path, 'uploads', { found, isProven, whole: !shared });
    const spool = await contentOf(path, 'spool', { found, isProven, whole: !shared });
    const { likeness, foreign, misshapen, likeRecords, hasRecord } = found;
    return {
      path,
      shared,
      mark,
      recordsMark,
      spoolMark,
      records,
      hasRecord,
      spool,
      isRecordsMarkOurs: likeness.get(join('uploads', IDENTITY)) === 'ours',
      isSpoolMarkOurs: likeness.get(join('spool', IDENTITY)) === 'ours',
      wasStarted: likeness.get('last-start.json') === 'ours',
      hasLock: likeness.get('lock') === 'ours',
      node: likeness.get('node'),
      nodeName: likeness.get('node') === 'ours' ? ((await textOf(join(path, 'node'))) ?? '').trim() : undefined,
      misshapen,
      foreign: [...foreign, ...(hasRecord ? [] : likeRecords)].slice(0, MOST_NAMED),
    };
  });
}

/** What is found of a directory, entry by entry. */
interface Found {
  /** By the name within the directory. */
  readonly likeness: Map<string, Likeness>;
  /** Names that are not of this program, or whose content is not. */
  readonly foreign: string[];
  /** Names of this program that are no files, or no directories, as they should be. */
  readonly misshapen: string[];
  /** Names as those of records; their content is not known to be. */
  readonly likeRecords: string[];
  /** How many of those that may be records were looked into. */
  looks: number;
  hasRecord: boolean;
}

async function noteEntry(part: Part, directory: string, entry: DirectoryEntry, found: Found): Promise<Likeness> {
  const likeness = await likenessOf(part, directory, entry);
  const isMark = part !== 'beside' && entry.name === IDENTITY;
  if (likeness === 'misshapen' || part !== 'beside') assertNoLink(directory, entry);
  const name = part === 'beside' ? entry.name : join(part, entry.name);
  if (part === 'beside' || isMark) {
    found.likeness.set(name, likeness);
    if (likeness === 'misshapen') found.misshapen.push(name);
  }
  if (FOREIGN.has(likeness) && found.foreign.length < MOST_NAMED) found.foreign.push(name);
  return likeness;
}

/** Looked for by its name: a shared spool is too large to be read to its end. Gives what the mark says. */
async function noteMark(path: string, part: 'uploads' | 'spool', found: Found): Promise<string | undefined> {
  const half = join(path, part);
  const stats = await undefinedIfMissing(lstat(join(half, IDENTITY)), NOWHERE);
  if (!stats) return undefined;
  const entry: DirectoryEntry = {
    name: IDENTITY,
    isFile: () => stats.isFile(),
    isDirectory: () => stats.isDirectory(),
    isSymbolicLink: () => stats.isSymbolicLink(),
  };
  await noteEntry(part, half, entry, found);
  return (await textOf(join(half, IDENTITY)))?.trim() || undefined;
}

const FOREIGN: ReadonlySet<Likeness> = new Set(['foreign', 'unlike', 'misshapen']);

interface HalfLook {
  readonly found: Found;
  /** The mark says whose it is: no record has to. */
  readonly isProven: boolean;
  /** Reads all of it, down to the files of each upload. */
  readonly whole: boolean;
}

/** So many files with names of records are looked into for one that is one. */
const MOST_LOOKS = 20;

/** Whether anything of an upload is in a half of the directory: its records, or its spool. */
async function contentOf(path: string, part: 'uploads' | 'spool', { found, isProven, whole }: HalfLook): Promise<Half> {
  const half = join(path, part);
  const isThere = found.likeness.has(part) && !found.misshapen.includes(part);
  const entries = isThere
    ? await undefinedIfMissing(
        withReadRetries(() => opendir(half)),
        NOWHERE,
      )
    : undefined;
  if (entries === undefined) return 'missing';
  let holds = false;
  for await (const entry of entries) {
    if (entry.name === IDENTITY) continue;
    const likeness = await noteEntry(part, half, entry, found);
    if (likeness === 'maybe' && isOfUpload(entry.name)) {
      holds = true;
      if (part === 'uploads' && !isProven) await lookIntoRecord(half, entry.name, found);
    }
    if (holds && !whole) break;
    if (entry.isDirectory() && isGeneratedId(entry.name)) await assertNoLinks(join(half, entry.name));
  }
  return holds ? 'filled' : 'empty';
}

function isOfUpload(name: string): boolean {
  return isGeneratedId(name.split('.')[0]!);
}

async function lookIntoRecord(half: string, name: string, found: Found): Promise<void> {
  if (found.hasRecord) return;
  const isLog = name.endsWith('.log');
  if (isLog && found.looks >= MOST_LOOKS) return;
  if (isLog) found.looks++;
  if (isLog && (await isRecord(half, name))) found.hasRecord = true;
  else if (found.likeRecords.length < MOST_NAMED) found.likeRecords.push(join('uploads', name));
}

/** A directory that cannot be listed now is told of when its upload is looked after. */
async function assertNoLinks(directory: string): Promise<void> {
  let entries: readonly DirectoryEntry[];
  try {
    entries = await entriesOf(directory);
  } catch {
    return;
  }
  for (const entry of entries) assertNoLink('', entry, 'an upload of the spool');
}

async function entriesOf(directory: string): Promise<DirectoryEntry[]> {
  const entries: DirectoryEntry[] = [];
  for await (const entry of await withReadRetries(() => opendir(directory))) entries.push(entry);
  return entries;
}

/** A link inside the directory leads reads, writes and removals out of it. The directory itself may be reached by one. */
function assertNoLink(directory: string, entry: DirectoryEntry, where = join(directory, entry.name)): void {
  if (!entry.isSymbolicLink()) return;
  const what = isGeneratedId(entry.name.split('.')[0]!) ? `a file of an upload in ${directory}` : where;
  throw refused(
    `the data directory holds a symbolic link (${what}): put the directory itself in its place, or mount it there. ` +
      '--data as a whole may be a link',
  );
}

/** Others who can write there could make this program deliver, or remove, any file. */
async function assertOwn(
  path: string,
  own: Stats,
  { names, shared }: { readonly names: readonly string[]; readonly shared: boolean },
): Promise<void> {
  if (!own.isDirectory()) throw refused(`${path} is no directory: choose another --data`);
  const byGroup = shared || isByGroup(own);
  assertRights(path, own, byGroup);
  for (const name of ['uploads', 'spool']) {
    const half = names.includes(name) ? await lstat(join(path, name)) : undefined;
    if (half?.isDirectory()) assertRights(join(path, name), half, byGroup);
  }
  await access(path, constants.R_OK | constants.X_OK);
  await failing(path, 'written', () => access(path, constants.W_OK));
}

/** A volume that was given to a group, as Kubernetes does with `fsGroup`: somebody else's, and writable through the group. */
function isByGroup({ uid, gid, mode }: Stats): boolean {
  const groups = process.getgroups?.() ?? [];
  return uid !== process.geteuid?.() && (mode & 0o020) !== 0 && groups.includes(gid);
}

function assertRights(path: string, { uid, mode }: Stats, byGroup: boolean): void {
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

/** A file in place of a directory has nothing below it either. */
const NOWHERE: readonly string[] = ['ENOENT', 'ENOTDIR'];

function refused(reason: string): Fault {
  return new Fault('CONTRACT_BROKEN', reason, false);
}

async function failing<T>(directory: string, done: string, task: () => Promise<T>): Promise<T> {
  try {
    return await task();
  } catch (error) {
    throw storageFault(error, `the data directory ${resolve(directory)} cannot be ${done}`);
  }
}
