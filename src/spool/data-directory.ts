import { randomUUID } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import { join, resolve } from 'node:path';
import { DirectorySync } from '../disk/directory-sync.js';
import { removeDrafts, withDraft } from '../disk/drafts.js';
import {
  access,
  type DirectoryEntry,
  link,
  lstat,
  opendir,
  patiently,
  readText,
  rename,
  stat,
  writeWhole,
} from '../disk/files.js';
import { isUploadId } from '../disk/safe-name.js';
import { hasCode, storageFault } from '../disk/storage-fault.js';
import { Fault } from '../model/fault.js';
import {
  type DirectoryMark,
  FORMAT,
  type FoundDirectory,
  type Half,
  markIn,
  refusalOf,
  type StoreKind,
} from './directory-rules.js';
import { IDENTITY, IDENTITY_DRAFT, noteIdentity } from './shared-directory.js';

/** Says of a data directory what it is: the format, the kind of its store, and the id of that store. */
const MARK = 'rufh-proxy.json';
const MARK_DRAFT = /^rufh-proxy\.json-[\w-]+$/;

/** Names that this program gives to files beside `uploads` and `spool`, also to those that a crash leaves behind. */
const OURS =
  /^(uploads|spool|lock(\.[\w-]+\.(tmp|breaking))*|last-start\.json(\.tmp)?|node(\.[0-9a-f]{16})?|\.probe-[\w-]+|rufh-proxy\.json(-[\w-]+)?)$/;

/** Names that file systems give by themselves, so that a directory with nothing else is an empty one. */
const OF_FILE_SYSTEMS = /^(lost\+found|\.snapshots?|\.zfs|\.nfs[0-9a-f]+)$/;

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
      await new DirectorySync('group').makeOwn(join(directory, half));
      await noteIdentity(join(directory, half), id, randomUUID());
    }
  });
  await completeMark(use, id);
  return id;
}

/** Of marks that were begun and never came to be; for a process that may use the directory. A shared spool is too large to be read. */
export async function removeMarkDrafts({ directory, store, shared }: DirectoryUse): Promise<void> {
  const whose = { isOthersToo: store !== 'embedded' };
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
    await new DirectorySync('group').make(directory);
    await withDraft(draft, async () => {
      await writeWhole(draft, textOf({ format: FORMAT, store, id, complete: false }), true);
      await link(draft, path).catch(unlessLinked(() => rename(draft, path)));
      await new DirectorySync('group').sync(directory);
    });
  });
  await assertUsable(use);
}

/** From now on the marks of both halves have to be there at every start. */
export async function completeMark({ directory, store }: DirectoryUse, id: string): Promise<void> {
  const path = join(directory, MARK);
  const draft = `${path}-${randomUUID()}`;
  const complete = async (): Promise<void> => {
    await writeWhole(draft, textOf({ format: FORMAT, store, id, complete: true }), true);
    await rename(draft, path);
    await new DirectorySync('group').sync(directory);
  };
  await failing(directory, 'marked', () => withDraft(draft, complete));
}

function textOf(mark: DirectoryMark): Buffer {
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
export async function lookAtDirectory({ directory, shared }: DirectoryUse): Promise<FoundDirectory> {
  const path = resolve(directory);
  return failing(directory, 'read', async () => {
    const own = await unlessMissing(stat(path));
    const entries = own === undefined ? [] : await entriesOf(path);
    const names = entries.map(({ name }) => name);
    if (own) await assertOwn(path, own, { names, shared });
    for (const entry of entries) if (OURS.test(entry.name)) assertNoLink(path, entry);
    const text = await unlessMissing(readText(join(path, MARK)));
    const foreign = names.filter((name) => !OURS.test(name) && !OF_FILE_SYSTEMS.test(name));
    return {
      path,
      mark: text === undefined ? undefined : markIn(text),
      recordsMark: await noteIn(join(path, 'uploads')),
      spoolMark: await noteIn(join(path, 'spool')),
      records: await contentOf(path, 'uploads', { isOfUpload: isRecord, foreign, whole: !shared }),
      spool: await contentOf(path, 'spool', { isOfUpload: isUploadId, foreign, whole: !shared }),
      wasStarted: names.includes('last-start.json'),
      hasLock: names.includes('lock'),
      hasNode: names.includes('node'),
      foreign: foreign.slice(0, MOST_NAMED),
    };
  });
}

/** The names that the embedded store gives, and not those of a web application that keeps its uploads by their ids. */
function isRecord(name: string): boolean {
  const dot = name.indexOf('.');
  return RECORD_KINDS.has(name.slice(dot + 1)) && isUploadId(name.slice(0, dot));
}

const RECORD_KINDS: ReadonlySet<string> = new Set(['log', 'log.tmp', 'answer', 'damaged']);

interface HalfLook {
  readonly isOfUpload: (name: string) => boolean;
  /** Takes the names that are neither of an upload nor a mark. */
  readonly foreign: string[];
  /** Reads all of it, down to the files of each upload. */
  readonly whole: boolean;
}

/** Whether anything of an upload is in a half of the directory: its records, or its spool. */
async function contentOf(path: string, name: string, { isOfUpload, foreign, whole }: HalfLook): Promise<Half> {
  const half = join(path, name);
  const entries = await unlessMissing(patiently(() => opendir(half)));
  if (entries === undefined) return 'missing';
  let holds = false;
  for await (const entry of entries) {
    assertNoLink(half, entry);
    if (isOfUpload(entry.name)) holds = true;
    else if (!entry.name.startsWith('.') && !OF_FILE_SYSTEMS.test(entry.name)) foreign.push(join(name, entry.name));
    if (holds && !whole) break;
    if (entry.isDirectory() && isUploadId(entry.name)) await assertNoLinks(join(half, entry.name));
  }
  return holds ? 'filled' : 'empty';
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
  for await (const entry of await patiently(() => opendir(directory))) entries.push(entry);
  return entries;
}

/** A link inside the directory leads reads, writes and removals out of it. The directory itself may be reached by one. */
function assertNoLink(directory: string, entry: DirectoryEntry, where = join(directory, entry.name)): void {
  if (!entry.isSymbolicLink()) return;
  const what = isUploadId(entry.name.split('.')[0]!) ? `a file of an upload in ${directory}` : where;
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
  await access(path, constants.R_OK | constants.W_OK | constants.X_OK);
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

async function noteIn(half: string): Promise<string | undefined> {
  const text = await unlessMissing(readText(join(half, IDENTITY)));
  return text?.trim() || undefined;
}

async function unlessMissing<T>(reading: Promise<T>): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    return undefined;
  }
}

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
