import { performance } from 'node:perf_hooks';
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

const CHECK_MS = 2000;
/** The share of an interval in which the process may be busy and still counts as idle. */
const IDLE_SHARE = 0.05;
/**
 * Less garbage is not worth it. The young generation of a busy process takes 48 MiB by itself, and V8 shrinks it with
 * each collection: requests of the next burst are then moved to the old one, which doubles their cost.
 */
const GROWN_BYTES = 64 * 1024 * 1024;
/** The first collection finds the garbage; V8 gives the emptied pages back with those that follow. */
const ROUNDS = 4;
/** A full collection pauses the process for about a millisecond per MiB that is in use. */
const MAX_USED_BYTES = 256 * 1024 * 1024;

/** The figures that a check compares. */
export interface HeapFigures {
  /** The share of the time since the last check in which the process was busy. */
  readonly busyShare: number;
  /** The memory that the heap takes from the system, with the buffers that belong to it. */
  readonly heldBytes: number;
  /** The part of the heap that contains objects, also those that nobody uses any more. */
  readonly usedBytes: number;
}

/**
 * Decides when to collect garbage: after a burst, in the first intervals in which the process has little to do. V8 begins
 * no collection by itself while nothing happens, so that the heap of a burst would stay for hours.
 */
export class IdleCollection {
  private dueRounds = 0;

  constructor(
    /** The memory that the heap takes when nothing happens. */
    private neededBytes: number,
    private readonly collect: () => void,
  ) {}

  /** To be called at an interval. */
  check({ busyShare, heldBytes, usedBytes }: HeapFigures): void {
    if (busyShare > IDLE_SHARE) this.dueRounds = ROUNDS;
    else if (this.dueRounds > 0 && usedBytes <= MAX_USED_BYTES) this.settle(heldBytes);
  }

  private settle(heldBytes: number): void {
    this.dueRounds -= 1;
    if (heldBytes <= this.neededBytes + GROWN_BYTES) {
      this.dueRounds = 0;
      this.neededBytes = Math.min(this.neededBytes, heldBytes);
    } else if (this.dueRounds > 0) this.collect();
    // What stays after several collections is in use.
    else this.neededBytes = heldBytes;
  }
}

/**
 * The old generation is collected when it has become this much larger than what was in use. V8 would let a small heap
 * grow by 300 %, with the garbage of large heads.
 */
const GROWTH_PERCENT = 100;

/**
 * Lets the heap take little more than what is in use, and returns the heap of each burst to the system when the process
 * has become idle. Tried on Node 20, 22, 24 and 26.
 */
export function keepHeapSmall(): void {
  setFlagsFromString(`--heap-growing-percent=${GROWTH_PERCENT}`);
  let before = performance.eventLoopUtilization();
  const collection = new IdleCollection(heldBytes(), garbageCollector());
  setInterval(() => {
    const now = performance.eventLoopUtilization();
    const busyShare = performance.eventLoopUtilization(now, before).utilization;
    before = now;
    collection.check({ busyShare, heldBytes: heldBytes(), usedBytes: getHeapStatistics().used_heap_size });
  }, CHECK_MS).unref();
}

function heldBytes(): number {
  const { total_heap_size: heap, external_memory: buffers } = getHeapStatistics();
  return heap + buffers;
}

/** Node gives its programs no `gc` without a flag on the command line, but a new context gets it with the flag set now. */
export function garbageCollector(): () => void {
  let gc: (() => void) | undefined;
  return () => {
    if (!gc) {
      setFlagsFromString('--expose-gc');
      gc = runInNewContext('gc') as () => void;
    }
    gc();
  };
}
