import { dirname, resolve } from 'node:path';
import { close, fsync, mkdir, open, stat } from './files.js';
import { hasCode } from './storage-fault.js';

/** What survives a power cut. `always` and `group` differ only in how often bytes are synced, which the receiver decides. */
export type SyncMode = 'always' | 'group' | 'none';

interface Turn {
  next?: Promise<void>;
}

/**
 * Makes names in directories durable: a synced file whose name was never synced is gone after a power cut. While one
 * sync of a directory runs, all who come wait for one other that begins after it, so a thousand uploads share two.
 */
export class DirectorySync {
  private readonly turns = new Map<string, Turn & { readonly running: Promise<void> }>();

  constructor(private readonly mode: SyncMode) {}

  /** Whether anything has to survive a power cut. */
  get isDurable(): boolean {
    return this.mode !== 'none';
  }

  /** Fulfilled when every name made or removed in the directory before the call survives a power cut. */
  sync(directory: string): Promise<void> {
    if (!this.isDurable) return Promise.resolve();
    const turn = this.turns.get(directory);
    if (!turn) return this.begin(directory);
    turn.next ??= turn.running.then(
      () => this.begin(directory),
      (error: unknown) => {
        // It may have dropped names that were made since it began: a sync after it would succeed without them.
        this.turns.delete(directory);
        throw error;
      },
    );
    return turn.next;
  }

  /** Makes a directory and those above it, for the owner alone, as durable as the mode says. */
  async make(directory: string): Promise<void> {
    for (const made of await makeMissing(resolve(directory))) await this.sync(dirname(made));
  }

  private begin(directory: string): Promise<void> {
    const running = syncDirectory(directory);
    const turn: Turn & { readonly running: Promise<void> } = { running };
    this.turns.set(directory, turn);
    const ended = (): void => {
      if (!turn.next && this.turns.get(directory) === turn) this.turns.delete(directory);
    };
    running.then(ended, ended);
    return running;
  }
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
async function makeMissing(directory: string): Promise<string[]> {
  if (await isDirectory(directory)) return [];
  const above = await makeMissing(dirname(directory));
  try {
    await mkdir(directory, 0o700);
  } catch (error) {
    // Another process was faster, and makes the name durable.
    if (hasCode(error, 'EEXIST') && (await isDirectory(directory))) return above;
    throw error;
  }
  return [directory, ...above];
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    return false;
  }
}
