import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import { close, fstat, open, writeAll } from '../disk/files.js';
import { hasCode } from '../disk/storage-fault.js';
import { Fault } from '../model/fault.js';
import type { Log } from '../observe/log.js';
import { markPath, spoolMark } from './shared-directory.js';

/** Its time is the last sign of life of the nodes whose spool this is. */
export const IN_USE = '.in-use';

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
