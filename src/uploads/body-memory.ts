/** Received bytes that wait in memory to be written, in all bodies together. */
const TOTAL_BYTES = 32 * 1024 * 1024;
/** The most that one body holds while few others arrive: a batch that is being written, and the next one. */
const MAX_SHARE_BYTES = 8 * 1024 * 1024;
/** One read from a socket. */
const READ_BYTES = 64 * 1024;
/** A body that holds less may always read, so that every body progresses. It is more than a writer keeps back. */
const ALWAYS_BYTES = 1024;

/**
 * Bounds the received bytes in memory: all bodies together exceed the total by at most one read each. Every body may hold
 * the same share, and those that wait continue in the order in which they began to wait.
 * Reasons: docs/decisions/0031.
 */
export class BodyMemory {
  private readonly shares = new Set<BodyShare>();
  private readonly waiting = new Set<BodyShare>();
  private usedBytes = 0;

  constructor(private readonly totalBytes = TOTAL_BYTES) {}

  /** Received bytes that are not written yet. */
  get bytes(): number {
    return this.usedBytes;
  }

  /** The share of a new body. `onRoom` is called after `waitForRoom`, when there is room again. */
  open(onRoom: () => void): BodyShare {
    const share: BodyShare = new BodyShare(onRoom, {
      hasRoom: (heldBytes) => heldBytes < ALWAYS_BYTES || (heldBytes < this.shareBytes && !this.isFull),
      change: (bytes) => this.change(bytes),
      // A body that holds its whole share continues when it frees bytes itself.
      wait: (heldBytes) => {
        if (heldBytes < this.shareBytes) this.waiting.add(share);
      },
      close: () => {
        this.shares.delete(share);
        this.waiting.delete(share);
      },
    });
    this.shares.add(share);
    return share;
  }

  private get isFull(): boolean {
    return this.usedBytes >= this.totalBytes;
  }

  private get shareBytes(): number {
    return Math.min(this.totalBytes / this.shares.size, MAX_SHARE_BYTES);
  }

  private change(bytes: number): void {
    this.usedBytes += bytes;
    if (bytes < 0 && this.waiting.size > 0) this.wake();
  }

  /** Wakes as many bodies as can read, because each reads at once. */
  private wake(): void {
    const woken: BodyShare[] = [];
    let room = this.totalBytes - this.usedBytes;
    for (const share of this.waiting) {
      if (room <= 0) break;
      room -= READ_BYTES;
      woken.push(share);
    }
    for (const share of woken) {
      this.waiting.delete(share);
      share.onRoom();
    }
  }
}

interface MemoryOfShare {
  readonly hasRoom: (heldBytes: number) => boolean;
  readonly change: (bytes: number) => void;
  readonly wait: (heldBytes: number) => void;
  readonly close: () => void;
}

/** The bytes that one body holds. */
export class BodyShare {
  private heldBytes = 0;

  constructor(
    readonly onRoom: () => void,
    private readonly memory: MemoryOfShare,
  ) {}

  /** Whether the body may read on. */
  get hasRoom(): boolean {
    return this.memory.hasRoom(this.heldBytes);
  }

  add(bytes: number): void {
    this.heldBytes += bytes;
    this.memory.change(bytes);
  }

  free(bytes: number): void {
    this.add(-bytes);
  }

  /** Calls `onRoom` once when other bodies have freed bytes. A body that frees bytes itself has to ask `hasRoom` again. */
  waitForRoom(): void {
    this.memory.wait(this.heldBytes);
  }

  /** Frees everything. */
  close(): void {
    this.memory.close();
    this.free(this.heldBytes);
  }
}
