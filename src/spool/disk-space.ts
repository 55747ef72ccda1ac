import { statfs } from 'node:fs/promises';

/** The space that stays free: bytes, or a share of the file system. Missing: the smaller one of 1 GiB and 5 %. */
export type KeepFree = { readonly bytes: number } | { readonly share: number };

/** Bytes and files that may still be made. */
export interface FreeSpace {
  /** Infinity where the file system has no limit, as for `files`. */
  readonly bytes: number;
  readonly files: number;
}

/** What `statfs` says of a file system. */
interface FileSystemState {
  readonly bsize: number;
  readonly blocks: number;
  readonly bavail: number;
  readonly files: number;
  readonly ffree: number;
}

export interface DiskSpaceOptions {
  readonly directory: string;
  readonly keepFree?: KeepFree;
  /** Monotonic clock in milliseconds. */
  readonly monotonic: () => number;
  readonly statfs?: (path: string) => Promise<FileSystemState>;
}

/** An older state of the file system is looked up again. */
const MAX_AGE_MS = 1000;

/** A file system that hangs must not hold up a creation, which fails by itself if it needs the disk. */
const MAX_WAIT_MS = 200;

const DEFAULT_KEPT_BYTES = 1024 ** 3;
const DEFAULT_SHARE = 0.05;

/** The free space of the file system that has a directory, less what is to be kept free. */
export class DiskSpace {
  private known: FreeSpace | undefined;
  private lookedAt = -Infinity;
  private lookingUp: Promise<void> | undefined;

  constructor(private readonly options: DiskSpaceOptions) {}

  /** The space as it was known last, for a caller that cannot wait; undefined if it cannot be known. */
  get free(): FreeSpace | undefined {
    if (this.isOld) void this.lookUpOnce();
    return this.known;
  }

  /** Looks the space up if that was not done in the last second, or in any case. */
  async refresh({ always = false } = {}): Promise<void> {
    if (!always && !this.isOld) return;
    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<void>((resolve) => (timer = setTimeout(resolve, MAX_WAIT_MS)));
    await Promise.race([this.lookUpOnce(), deadline]);
    clearTimeout(timer);
  }

  private get isOld(): boolean {
    return this.options.monotonic() - this.lookedAt >= MAX_AGE_MS;
  }

  private lookUpOnce(): Promise<void> {
    this.lookingUp ??= this.lookUp().finally(() => (this.lookingUp = undefined));
    return this.lookingUp;
  }

  private async lookUp(): Promise<void> {
    const { directory, keepFree, monotonic, statfs: look = (path: string) => statfs(path) } = this.options;
    try {
      this.known = freeSpaceOf(await look(directory), keepFree);
    } catch {
      // A disk that cannot be asked refuses the bytes itself.
      this.known = undefined;
    }
    this.lookedAt = monotonic();
  }
}

/** The space beyond what is to be kept free. */
export function freeSpaceOf(state: FileSystemState, keepFree?: KeepFree): FreeSpace {
  const { bsize, blocks, bavail, files, ffree } = state;
  const share = keepFree && 'share' in keepFree ? keepFree.share : DEFAULT_SHARE;
  const ofShare = blocks * bsize * share;
  const kept = !keepFree ? Math.min(DEFAULT_KEPT_BYTES, ofShare) : 'bytes' in keepFree ? keepFree.bytes : ofShare;
  return {
    // A file system without a size of its own, as of some network storage, states no blocks at all.
    bytes: blocks === 0 ? Infinity : Math.max(0, Math.floor(bavail * bsize - kept)),
    files: files === 0 ? Infinity : Math.max(0, Math.floor(ffree - files * share)),
  };
}
