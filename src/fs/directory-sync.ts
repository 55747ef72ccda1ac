import { dirname, resolve } from 'node:path';
import { Fault } from '../model/fault.js';
import { close, fsync, hasCode, mkdir, open, rmdir, stat } from './files.js';

/**
 * Durability across a power cut. `always` and `group` differ only in how often bytes are synced, which the receiver
 * decides.
 */
export type SyncMode = 'always' | 'group' | 'none';

interface SyncRound {
  next?: Promise<void>;
}

/** The number of directories whose failed syncs are remembered one by one. */
const MAX_REMEMBERED_FAILURES = 1000;

/**
 * Makes names in directories durable: a synced file whose name was never synced disappears in a power cut. While one
 * sync of a directory runs, all callers share the one that follows, so a thousand uploads cause two syncs.
 *
 * A failed sync may have dropped every name made before it, and the next sync succeeds without them. Callers
 * therefore read `failures` before they make a name, and the name is durable only if no sync of its directory has
 * failed since.
 * Reasons: docs/decisions/0004.
 */
export class DirectorySync {
  private readonly rounds = new Map<string, SyncRound & { readonly running: Promise<void> }>();
  /** The number of the last failure, by directory. */
  private readonly lastFailures = new Map<string, number>();
  private failureCount = 0;
  /** Failures up to this number may belong to any directory. */
  private unattributedFailures = 0;

  constructor(private readonly mode: SyncMode) {}

  /** False if nothing has to survive a power cut. */
  get isDurable(): boolean {
    return this.mode !== 'none';
  }

  /** The number of failed syncs so far. */
  get failures(): number {
    return this.failureCount;
  }

  /**
   * Resolves when every name made or removed in the directory before the call survives a power cut. `since`: the value
   * of `failures` before the name was made; not needed when no other caller uses the directory at the same time.
   */
  sync(directory: string, since = Infinity): Promise<void> {
    if (!this.isDurable) return Promise.resolve();
    if ((this.lastFailures.get(directory) ?? this.unattributedFailures) > since) return Promise.reject(nameMayBeLost());
    const round = this.rounds.get(directory);
    if (!round) return this.startSync(directory);
    round.next ??= round.running.then(
      () => this.startSync(directory),
      (error: unknown) => {
        // The failed sync may have dropped names made since it began, and a sync after it would succeed without them.
        this.rounds.delete(directory);
        throw error;
      },
    );
    return round.next;
  }

  /**
   * Makes a directory and its parents, for the owner alone, as durable as the mode says. An existing directory is
   * synced again where that is allowed, because the process that made it may have been killed before it synced the
   * name.
   */
  async makeDirectory(directory: string): Promise<void> {
    const since = this.failures;
    const path = resolve(directory);
    const made = await makeMissingDirectories(path);
    if (made.length === 0) return this.syncExisting(path);
    try {
      for (const created of made) await this.sync(dirname(created), since);
    } catch (error) {
      // The next start would consider the name of an existing directory durable.
      for (const created of made) await rmdir(created).catch(() => undefined);
      throw error;
    }
  }

  /**
   * As `makeDirectory`, for a directory that only one process uses: an empty one is removed and made again, since the
   * process that made it may have failed to sync its name.
   */
  async makeExclusiveDirectory(directory: string): Promise<void> {
    // A directory that is not empty or is a mount point stays.
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
    'a sync of the directory failed after a file was created in it: the file may disappear in a power cut',
    true,
  );
}

async function syncDirectory(directory: string): Promise<void> {
  // Windows cannot open a directory to sync it; NTFS keeps its names in a journal.
  if (process.platform === 'win32') return;
  const fd = await open(directory, 'r');
  try {
    await fsync(fd);
  } finally {
    await close(fd);
  }
}

/**
 * Makes a directory and its parents; gives those that it made, the deepest first. The `recursive` option of Node's
 * `mkdir` loops forever where a directory exists but accepts no new one, as below `/proc`.
 */
async function makeMissingDirectories(directory: string): Promise<string[]> {
  if (await isDirectory(directory)) return [];
  const made = await makeMissingDirectories(dirname(directory));
  try {
    await mkdir(directory, 0o700);
  } catch (error) {
    // Another process made the directory first and syncs its name.
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
