import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
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

/** Says whose spool this is; in the spool itself, so that an empty mount point is not taken for it. */
export const IDENTITY = '.store';

const PROBE = Buffer.alloc(128 * 1024, 'rufh');

/**
 * Tries out what a directory must do that many machines write to; fails with what it does not do, and where. `unique`: no
 * other node tries it out under this name.
 */
export async function assertShareable(directory: string, unique: string): Promise<void> {
  const place = join(directory, `.probe-${unique}`);
  const file = join(place, 'new');
  try {
    await step(directory, 'a directory can be made', () => makeIn(directory, place));
    await step(directory, 'a new file is refused to the second who makes it', () => assertExclusive(file));
    await step(directory, 'bytes are there for the next who opens the file', () => assertReadBack(file));
    await step(directory, 'names can be changed and made durable', () => assertRenames(place, file));
  } finally {
    // What cannot be removed is in nobody's way.
    await removeTree(place).catch(() => undefined);
  }
}

/** As `assertShareable`; gives false where the disk has no room to try it out, which says nothing of what it does. */
export async function isShareable(directory: string, unique: string): Promise<boolean> {
  try {
    await assertShareable(directory, unique);
    return true;
  } catch (error) {
    if (!isOutOfSpace((error as Error).cause)) throw error;
    return false;
  }
}

/** The id of the store whose spool it is; undefined: of none yet, or it is not mounted. */
export async function spoolMark(directory: string): Promise<string | undefined> {
  return (await named(directory, () => noteIn(directory))) || undefined;
}

/** Where it is written whose spool this is. */
export function markPath(directory: string): string {
  return join(directory, 'spool', IDENTITY);
}

/** From now on it belongs to the store of this id. Harmless when several nodes say so at once. */
export function noteSpoolIdentity(directory: string, storeId: string, unique: string): Promise<void> {
  return named(directory, () => noteIdentity(join(directory, 'spool'), storeId, unique));
}

/** The same of any directory, which is made where it is missing. */
export async function noteIdentity(root: string, storeId: string, unique: string): Promise<void> {
  const names = new DirectorySync('group');
  const written = join(root, `${IDENTITY}-${unique}`);
  await names.makeDirectory(root);
  await withDraft(written, async () => {
    await writeFully(written, Buffer.from(`${storeId}\n`), true);
    await rename(written, join(root, IDENTITY));
    await names.sync(root);
  });
}

/** Since when it belongs to the store it belongs to; undefined: to none yet. */
export function spoolIdentitySince(directory: string): Promise<number | undefined> {
  return named(directory, () => timeOf(markPath(directory)));
}

async function timeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).mtimeMs;
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    return undefined;
  }
}

async function noteIn(directory: string): Promise<string | undefined> {
  try {
    return (await readText(markPath(directory))).trim();
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    return undefined;
  }
}

async function makeIn(directory: string, place: string): Promise<void> {
  await new DirectorySync('group').makeDirectory(directory);
  await mkdir(place, 0o700);
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
  throw new Error('two could make the same file');
}

async function assertReadBack(file: string): Promise<void> {
  const fd = await open(file, 'r+');
  try {
    await writeAll(fd, PROBE, 0);
    await fsync(fd);
  } finally {
    await close(fd);
  }
  if (!(await readFully(file)).equals(PROBE)) throw new Error('what was read is not what was written');
}

async function assertRenames(place: string, file: string): Promise<void> {
  const renamed = join(place, 'renamed');
  await writeFully(renamed, Buffer.from('old'), true);
  await rename(file, renamed);
  await new DirectorySync('group').sync(place);
  const names = await readdir(place);
  if (names.join() !== 'renamed') throw new Error(`the directory lists ${names.join(', ') || 'nothing'}`);
  if (!(await readFully(renamed)).equals(PROBE)) throw new Error('the file under the new name is another one');
}

async function step(directory: string, what: string, task: () => Promise<unknown>): Promise<void> {
  await named(
    directory,
    task,
    `, but spool.shared needs a directory where ${what}; mount one that does, or set it to false`,
  );
}

/** The operator reads this at the start: it names the directory, which is no secret. */
async function named<T>(directory: string, task: () => Promise<T>, needed = ''): Promise<T> {
  try {
    return await task();
  } catch (error) {
    throw new Fault('STORAGE_UNAVAILABLE', `${directory}: ${(error as Error).message}${needed}`, false, {
      cause: error,
    });
  }
}

/** Its time is the last sign of life of the nodes whose spool this is. */
const IN_USE = '.in-use';

/** Running nodes whose Redis came back empty need a moment to say that the spool is that one's now: so much of the watch. */
const LEAST_PART = 0.25;
const LOOKS = 40;

export interface SpoolUseOptions {
  readonly directory: string;
  /** Other nodes use it too, and are to see that this one does. */
  readonly shared: boolean;
  /** Whose spool it is; undefined while nobody can tell. */
  readonly storeId: () => string | undefined;
  readonly log: Log;
  readonly everyMs: number;
}

/** Shows the other nodes that the spool is in use, and says in the log when it was given to another store. */
export class SpoolUse {
  private readonly timer: NodeJS.Timeout;
  private looking: Promise<void> | undefined;
  private strangeLooks = 0;

  constructor(private readonly options: SpoolUseOptions) {
    this.timer = setInterval(() => this.begin(), options.everyMs).unref();
    this.begin();
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.looking;
  }

  private begin(): void {
    this.looking ??= this.look()
      .catch(() => {
        // A disk that fails is said where bytes are lost by it; the sign of life comes with the next turn.
      })
      .finally(() => (this.looking = undefined));
  }

  private async look(): Promise<void> {
    const { directory, shared, storeId, log } = this.options;
    const mark = await spoolMark(directory);
    const own = storeId();
    if (own === undefined || mark === undefined) return;
    if (mark === own) {
      this.strangeLooks = 0;
      // With a byte in it, so that a file server sets the time.
      if (shared) await touch(join(directory, 'spool', IN_USE));
      return;
    }
    // Once may be the moment in which another node has seen before this one that Redis was emptied.
    if (++this.strangeLooks === 2) log.error({ data: directory }, taken(directory, own));
  }
}

/** Writes over the same byte: at no moment is it another file than before. */
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

function taken(directory: string, storeId: string): string {
  return (
    `${markPath(directory)} says that the spool belongs to another store now: a node with another Redis, database or ` +
    'store.prefix was started on it. This node does not look for orphaned files any more, but that one does after an ' +
    `hour: stop it, then ${wayBack(directory, storeId)}`
  );
}

/** What an operator does when a spool is marked for the wrong store. */
export function wayBack(directory: string, storeId: string): string {
  return `say once whose spool it is with \`echo ${storeId} > ${markPath(directory)}\``;
}

export interface NewStore {
  /** For people: the server, the database and the prefix that have no data. */
  readonly name: string;
  /** False when somebody has made the store meanwhile. */
  readonly isStillNew: () => Promise<boolean>;
  readonly log: Log;
  /** Processes that use the spool give a sign in this time; it is several of their turns. */
  readonly watchMs: number;
}

/**
 * Fails when running nodes use the spool for another store: then it is not that one's data that were lost, but this node
 * that looks at the wrong place. Waits for a sign of life where there ever was one: how old that is, only clocks could tell.
 */
export async function assertUnused(directory: string, store: NewStore): Promise<void> {
  const { name, isStillNew, log, watchMs } = store;
  const mark = await spoolMark(directory);
  const last = await lastUse(directory);
  if (mark === undefined || last === undefined) return;
  log.warn(
    { data: directory },
    `${name} has no data, but the spool belongs to a store: waiting ${watchMs / 1000} s to see whether other nodes use it`,
  );
  const began = performance.now();
  for (let watchedMs = 0; watchedMs < watchMs; watchedMs = performance.now() - began) {
    await sleep(watchMs / LOOKS);
    // In this order: who takes it over marks it first.
    const used = await lastUse(directory);
    if (!(await isStillNew()) || (await spoolMark(directory)) !== mark) return;
    if (used !== undefined && used !== last && watchedMs >= watchMs * LEAST_PART)
      throw new Fault('CONTRACT_BROKEN', inUse(directory, name), false);
  }
}

function inUse(directory: string, name: string): string {
  return (
    `the spool in ${directory} is used right now by nodes of another store, and ${name} has no data: correct store.url ` +
    `(its address and database) or store.prefix. If this store is meant, stop those nodes first; ${markPath(directory)} ` +
    'is then taken over'
  );
}

/** Opened, since an NFS client asks the server about a file then. */
async function lastUse(directory: string): Promise<number | undefined> {
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
