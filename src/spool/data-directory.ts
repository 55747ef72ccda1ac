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

/** The file that identifies a data directory: its format, the kind of its store, and the id of that store. */
const MARK = 'rufh-proxy.json';
const MOST_NAMED = 3;

export interface DirectoryUse {
  readonly directory: string;
  readonly store: StoreKind;
  /** Other machines use the directory too: they agree on its permissions, and it is too large to be read at a start. */
  readonly shared: boolean;
}

/** Fails with reason and remedy when a start with this store must not use the directory. Changes nothing. */
export async function assertUsable(use: DirectoryUse): Promise<FoundDirectory> {
  const found = await lookAtDirectory(use);
  const reason = refusalOf(found, use.store);
  if (reason !== undefined) throw refused(reason);
  return found;
}

/**
 * Gives the id of the embedded store to which the directory belongs, and marks a directory that is new or of an earlier
 * version. The process must hold the lock.
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

/**
 * Removes drafts of marks that a crash has left. The process must be allowed to use the directory; a shared spool is
 * left out for its size.
 */
export async function removeMarkDrafts({ directory, store, shared }: DirectoryUse): Promise<void> {
  const whose = { isShared: store !== 'embedded' };
  await removeDrafts(directory, MARK_DRAFT, whose);
  if (shared) return;
  for (const half of ['uploads', 'spool']) await removeDrafts(join(directory, half), IDENTITY_DRAFT, whose);
}

/** Marks a directory without a mark, as incomplete. Fails when another kind of store marks it at the same time. */
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

/**
 * Completes the mark: from now on every start requires the marks in both `uploads` and `spool`. Keeps the node's name
 * unless a new one is given.
 */
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

/** Stores the name of the node a second time. On a full disk the next start does it. */
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

/**
 * Ignores that another process has marked the directory; without hard links in the file system the draft is renamed
 * instead.
 */
function unlessLinked(otherwise: () => Promise<void>): (error: unknown) => Promise<void> | undefined {
  return (error) => {
    if (hasCode(error, 'EEXIST')) return undefined;
    if (hasCode(error, 'EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK')) return otherwise();
    throw error;
  };
}

/**
 * Reads the state of a directory. Fails where it contains links, or can be changed by other users. A missing one counts
 * as empty.
 */
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

/** The entries found so far. */
interface Found {
  /** By their path within the directory. */
  readonly likeness: Map<string, Likeness>;
  /** Names that this program does not give, or whose content it did not write. */
  readonly foreign: string[];
  /** Names of this program with the wrong kind of entry, such as a directory in place of a file. */
  readonly misshapen: string[];
  /** Names of records whose content was not checked, or is not that of a record. */
  readonly likeRecords: string[];
  /** Number of possible records whose content was checked. */
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

/** Finds the mark by its name, since a shared spool is too large to be listed to its end, and gives its text. */
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
  /** The directory has a mark, so no record has to prove what it is. */
  readonly isProven: boolean;
  /** Reads everything, down to the files of each upload. */
  readonly whole: boolean;
}

/** Number of possible records that are checked to find a real one. */
const MOST_LOOKS = 20;

/** Whether `uploads` or `spool` contains anything of an upload. */
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

/** Ignores a directory that cannot be listed now; its fault is reported when the upload is recovered. */
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

/** Fails for a link, which would lead reads, writes and removals out of the directory. The directory itself may be one. */
function assertNoLink(directory: string, entry: DirectoryEntry, where = join(directory, entry.name)): void {
  if (!entry.isSymbolicLink()) return;
  const what = isGeneratedId(entry.name.split('.')[0]!) ? `a file of an upload in ${directory}` : where;
  throw refused(
    `the data directory holds a symbolic link (${what}): put the directory itself in its place, or mount it there. ` +
      '--data as a whole may be a link',
  );
}

/** Fails when other users can write there: they could make this program deliver, or remove, any file. */
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

/** A volume of another user that is writable for one of our groups, as Kubernetes provides it with `fsGroup`. */
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

/** ENOTDIR: there is nothing below a file that takes the place of a directory either. */
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
