import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { PeriodicTask } from '../concurrency/periodic-task.js';
import { DirectorySync } from '../fs/directory-sync.js';
import {
  close,
  fstat,
  fsync,
  hasCode,
  isOutOfSpace,
  mkdir,
  open,
  readdir,
  readText,
  readFully,
  removeTree,
  rename,
  stat,
  withDraft,
  writeAll,
  writeFully,
} from '../fs/files.js';
import { Fault } from '../model/fault.js';
import type { Log } from '../observe/log.js';

/**
 * The name of the mark that identifies the store of a spool. It is in the spool itself, so an empty mount point lacks
 * it.
 */
export const STORE_MARK = '.store';

const PROBE = Buffer.alloc(128 * 1024, 'rufh');

/**
 * Tests that a directory behaves as many machines need it; rejects with the missing property and the directory.
 * `unique` must be used by no other node at the same time.
 */
export async function assertShareable(directory: string, unique: string): Promise<void> {
  const probe = join(directory, `.probe-${unique}`);
  const file = join(probe, 'new');
  try {
    await step(directory, 'directories can be created', () => makeProbe(directory, probe));
    await step(directory, 'only one process can create a new file', () => assertExclusive(file));
    await step(directory, 'written bytes are visible to the next process that opens the file', () =>
      assertReadBack(file),
    );
    await step(directory, 'files can be renamed durably', () => assertRenames(probe, file));
  } finally {
    // Remains of the test do no harm.
    await removeTree(probe).catch(() => undefined);
  }
}

/** As `assertShareable`; false when the disk is too full for the test, which says nothing about the directory. */
export async function isShareable(directory: string, unique: string): Promise<boolean> {
  try {
    await assertShareable(directory, unique);
    return true;
  } catch (error) {
    if (!isOutOfSpace((error as Error).cause)) throw error;
    return false;
  }
}

/** The id of the store to which the spool belongs; undefined if it has no mark yet, or is not mounted. */
export async function readSpoolMark(directory: string): Promise<string | undefined> {
  return (await withDirectory(directory, () => readMark(directory))) || undefined;
}

/** The path of the spool's mark. */
export function markPath(directory: string): string {
  return join(directory, 'spool', STORE_MARK);
}

/** Marks the spool as that of this store. Several nodes may do so at the same time. */
export function writeSpoolMark(directory: string, storeId: string, unique: string): Promise<void> {
  return withDirectory(directory, () => writeMark(join(directory, 'spool'), storeId, unique));
}

/** Marks any directory, and creates it if it is missing. */
export async function writeMark(root: string, storeId: string, unique: string): Promise<void> {
  const names = new DirectorySync('group');
  const draft = join(root, `${STORE_MARK}-${unique}`);
  await names.makeDirectory(root);
  await withDraft(draft, async () => {
    await writeFully(draft, Buffer.from(`${storeId}\n`), true);
    await rename(draft, join(root, STORE_MARK));
    await names.sync(root);
  });
}

/** The time in milliseconds since which the spool belongs to its present store; undefined without a mark. */
export function spoolMarkTime(directory: string): Promise<number | undefined> {
  return withDirectory(directory, () => modificationTime(markPath(directory)));
}

async function modificationTime(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).mtimeMs;
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    return undefined;
  }
}

async function readMark(directory: string): Promise<string | undefined> {
  try {
    return (await readText(markPath(directory))).trim();
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    return undefined;
  }
}

async function makeProbe(directory: string, probe: string): Promise<void> {
  await new DirectorySync('group').makeDirectory(directory);
  await mkdir(probe, 0o700);
}

async function assertExclusive(file: string): Promise<void> {
  const first = await open(file, 'wx', 0o600);
  try {
    await assertRefused(file);
  } finally {
    await close(first);
  }
  await assertRefused(file);
}

async function assertRefused(file: string): Promise<void> {
  try {
    await close(await open(file, 'wx', 0o600));
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return;
    throw error;
  }
  throw new Error('the same file could be created twice');
}

async function assertReadBack(file: string): Promise<void> {
  const fd = await open(file, 'r+');
  try {
    await writeAll(fd, PROBE, 0);
    await fsync(fd);
  } finally {
    await close(fd);
  }
  if (!(await readFully(file)).equals(PROBE)) throw new Error('the bytes read differ from those written');
}

async function assertRenames(probe: string, file: string): Promise<void> {
  const renamed = join(probe, 'renamed');
  await writeFully(renamed, Buffer.from('old'), true);
  await rename(file, renamed);
  await new DirectorySync('group').sync(probe);
  const names = await readdir(probe);
  if (names.join() !== 'renamed') throw new Error(`the directory lists ${names.join(', ') || 'nothing'}`);
  if (!(await readFully(renamed)).equals(PROBE)) throw new Error('the renamed file has another content');
}

async function step(directory: string, what: string, task: () => Promise<unknown>): Promise<void> {
  await withDirectory(
    directory,
    task,
    `, but spool.shared needs a directory where ${what}; mount one that does, or set it to false`,
  );
}

/** Adds the directory to the error, for the operator who reads it at the start. */
async function withDirectory<T>(directory: string, task: () => Promise<T>, needed = ''): Promise<T> {
  try {
    return await task();
  } catch (error) {
    throw new Fault('STORAGE_UNAVAILABLE', `${directory}: ${(error as Error).message}${needed}`, false, {
      cause: error,
    });
  }
}

/** The file whose modification time is the last heartbeat of the nodes that use the spool. */
const IN_USE = '.in-use';

/** This part of the watch is ignored: running nodes whose Redis came back empty need a moment to mark the spool for it. */
const IGNORED_PART = 0.25;
const CHECKS_PER_WATCH = 40;

export interface SpoolUseOptions {
  readonly directory: string;
  /** Other nodes use the directory too, and must see that this one does. */
  readonly shared: boolean;
  /** The id of the store to which the spool should belong; undefined while it is unknown. */
  readonly storeId: () => string | undefined;
  readonly log: Log;
  readonly everyMs: number;
}

/** Shows other nodes that the spool is in use, and logs when it was marked for another store. */
export class SpoolUse {
  private readonly periodic: PeriodicTask;
  private foreignChecks = 0;

  constructor(private readonly options: SpoolUseOptions) {
    const check = (): Promise<void> =>
      this.check().catch(() => {
        // A failing disk is reported where bytes are lost by it; the next round sends the heartbeat.
      });
    this.periodic = new PeriodicTask(check, options.everyMs);
    this.periodic.start();
    this.periodic.run();
  }

  stop(): Promise<void> {
    return this.periodic.stop();
  }

  private async check(): Promise<void> {
    const { directory, shared, storeId, log } = this.options;
    const mark = await readSpoolMark(directory);
    const own = storeId();
    if (own === undefined || mark === undefined) return;
    if (mark === own) {
      this.foreignChecks = 0;
      // A file server only sets the time when a byte is written.
      if (shared) await touch(join(directory, 'spool', IN_USE));
      return;
    }
    // Seen once, it may be another node that noticed before this one that Redis was emptied.
    if (++this.foreignChecks === 2) log.error({ data: directory }, takenOverMessage(directory, own));
  }
}

/** Overwrites the one byte of the file, and therefore never replaces the file. */
async function touch(path: string): Promise<void> {
  const fd = await open(path, 'r+').catch((error: unknown) => {
    if (!hasCode(error, 'ENOENT')) throw error;
    return open(path, 'w', 0o600);
  });
  try {
    await writeAll(fd, Buffer.from('\n'), 0);
  } finally {
    await close(fd);
  }
}

function takenOverMessage(directory: string, storeId: string): string {
  return (
    `${markPath(directory)} says that the spool belongs to another store now: a node with another Redis, database or ` +
    'store.prefix was started on it. This node no longer removes orphaned files, but the other one will ' +
    `after an hour: stop it, then ${markRemedy(directory, storeId)}`
  );
}

/** Tells operators how to mark a spool for its right store. */
export function markRemedy(directory: string, storeId: string): string {
  return `mark the spool for its store with \`echo ${storeId} > ${markPath(directory)}\``;
}

export interface NewStore {
  /** The server, the database and the prefix without data, for messages. */
  readonly name: string;
  /** False if another process has created the store meanwhile. */
  readonly isStillNew: () => Promise<boolean>;
  readonly log: Log;
  /** The time to wait for a heartbeat; processes that use the spool send several in it. */
  readonly watchMs: number;
}

/**
 * Rejects when running nodes use the spool for another store: then its data is not lost, but this node is configured
 * wrongly. Waits for a new heartbeat if there was ever one; its age would depend on comparing clocks.
 */
export async function assertUnused(directory: string, store: NewStore): Promise<void> {
  const { name, isStillNew, log, watchMs } = store;
  const mark = await readSpoolMark(directory);
  const last = await lastUseTime(directory);
  if (mark === undefined || last === undefined) return;
  log.warn(
    { data: directory },
    `${name} has no data, but the spool belongs to a store: waiting ${watchMs / 1000} s to see whether other nodes use it`,
  );
  const began = performance.now();
  for (let watchedMs = 0; watchedMs < watchMs; watchedMs = performance.now() - began) {
    await sleep(watchMs / CHECKS_PER_WATCH);
    // The order matters: a takeover marks the spool before it sends a heartbeat.
    const used = await lastUseTime(directory);
    if (!(await isStillNew()) || (await readSpoolMark(directory)) !== mark) return;
    if (used !== undefined && used !== last && watchedMs >= watchMs * IGNORED_PART)
      throw new Fault('CONTRACT_BROKEN', inUseMessage(directory, name), false);
  }
}

function inUseMessage(directory: string, name: string): string {
  return (
    `the spool in ${directory} is used right now by nodes of another store, and ${name} has no data: correct store.url ` +
    `(its address and database) or store.prefix. If this store is meant, stop those nodes first; ${markPath(directory)} ` +
    'is then taken over'
  );
}

/** Opens the file, because an NFS client asks the server only then. */
async function lastUseTime(directory: string): Promise<number | undefined> {
  try {
    const fd = await open(join(directory, 'spool', IN_USE), 'r');
    try {
      return (await fstat(fd)).mtimeMs;
    } finally {
      await close(fd);
    }
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    return undefined;
  }
}
