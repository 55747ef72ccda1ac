import { dirname, resolve } from 'node:path';
import { Fault } from '../model/fault.js';
import { close, fsync, hasCode, mkdir, open, rmdir, stat } from './files.js';

/** What survives a power cut. `always` and `group` differ only in how often bytes are synced, which the receiver decides. */
export type SyncMode = 'always' | 'group' | 'none';

interface SyncRound {
  next?: Promise<void>;
}

/** So many directories whose sync failed are remembered one by one. */
const MAX_REMEMBERED_FAILURES = 1000;

/**
 * Makes names in directories durable: a synced file whose name was never synced is gone after a power cut. While one
 * sync of a directory runs, all who come wait for one other that begins after it, so a thousand uploads share two.
 *
 * A sync that fails may have dropped every name that was made before it, and the next one succeeds without them. So a name
 * is made after `failures` was noted, and believed to be durable only when no sync of its directory has failed since.
 */
export class DirectorySync {
  private readonly rounds = new Map<string, SyncRound & { readonly running: Promise<void> }>();
  /** By the directory: the number of its last failure among all. */
  private readonly lastFailures = new Map<string, number>();
  private failureCount = 0;
  /** Failures up to this one may have been of any directory. */
  private unattributedFailures = 0;

  constructor(private readonly mode: SyncMode) {}

  /** Whether anything has to survive a power cut. */
  get isDurable(): boolean {
    return this.mode !== 'none';
  }

  /** How many syncs have failed so far. */
  get failures(): number {
    return this.failureCount;
  }

  /**
   * Fulfilled when every name made or removed in the directory before the call survives a power cut. `since`: `failures`
   * from before the name in question was made; without it, the name is made and synced by one caller with nobody beside it.
   */
  sync(directory: string, since = Infinity): Promise<void> {
    if (!this.isDurable) return Promise.resolve();
    if ((this.lastFailures.get(directory) ?? this.unattributedFailures) > since) return Promise.reject(nameMayBeLost());
    const round = this.rounds.get(directory);
    if (!round) return this.startSync(directory);
    round.next ??= round.running.then(
      () => this.startSync(directory),
      (error: unknown) => {
        // It may have dropped names that were made since it began: a sync after it would succeed without them.
        this.rounds.delete(directory);
        throw error;
      },
    );
    return round.next;
  }

  /**
   * Makes a directory and those above it, for the owner alone, as durable as the mode says. The process that made one that
   * is found may have been killed before it synced the name, so that this is done again where it is allowed.
   */
  async makeDirectory(directory: string): Promise<void> {
    const since = this.failures;
    const path = resolve(directory);
    const made = await makeMissingDirectories(path);
    if (made.length === 0) return this.syncExisting(path);
    try {
      for (const each of made) await this.sync(dirname(each), since);
    } catch (error) {
      // A start that finds one takes its name for durable.
      for (const each of made) await rmdir(each).catch(() => undefined);
      throw error;
    }
  }

  /**
   * As `make`, of a directory that one process alone uses: an empty one is made anew, since the process that made it may
   * have failed to sync its name.
   */
  async makeExclusiveDirectory(directory: string): Promise<void> {
    // One that holds something, or is a mount point, stays.
    await rmdir(directory).catch(() => undefined);
    await this.makeDirectory(directory);
  }

  private async syncExisting(path: string): Promise<void> {
    try {
      await this.sync(dirname(path));
    } catch (error) {
      if (!hasCode(error, 'EACCES', 'EPERM', 'EROFS', 'EINVAL', 'ENOTSUP')) throw error;
    }
  }

  private startSync(directory: string): Promise<void> {
    const running = syncDirectory(directory);
    const round: SyncRound & { readonly running: Promise<void> } = { running };
    this.rounds.set(directory, round);
    const ended = (): void => {
      if (!round.next && this.rounds.get(directory) === round) this.rounds.delete(directory);
    };
    running.then(ended, () => {
      this.noteFailure(directory);
      ended();
    });
    return running;
  }

  private noteFailure(directory: string): void {
    if (this.lastFailures.size >= MAX_REMEMBERED_FAILURES) {
      this.lastFailures.clear();
      this.unattributedFailures = this.failureCount;
    }
    this.lastFailures.set(directory, ++this.failureCount);
  }
}

function nameMayBeLost(): Fault {
  return new Fault(
    'STORAGE_UNAVAILABLE',
    'a sync of the directory has failed since a name was made in it: the name may be gone after a power cut',
    true,
  );
}

async function syncDirectory(directory: string): Promise<void> {
  // Windows cannot open a directory for this; NTFS keeps its names in a journal.
  if (process.platform === 'win32') return;
  const fd = await open(directory, 'r');
  try {
    await fsync(fd);
  } finally {
    await close(fd);
  }
}

/**
 * Makes a directory and those above it; gives the ones that it made, the deepest first. The `recursive` of Node's `mkdir`
 * tries for ever where a directory exists but takes no new one, as below `/proc`.
 */
async function makeMissingDirectories(directory: string): Promise<string[]> {
  if (await isDirectory(directory)) return [];
  const made = await makeMissingDirectories(dirname(directory));
  try {
    await mkdir(directory, 0o700);
  } catch (error) {
    // Another process was faster, and makes the name durable.
    if (hasCode(error, 'EEXIST') && (await isDirectory(directory))) return made;
    throw error;
  }
  return [directory, ...made];
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    return false;
  }
}
