import type { Log } from '../observe/log.js';
import type { MoveProgress } from './mover.js';

/** How far a node has come on its way out. */
export interface DrainState {
  readonly draining: boolean;
  /** Missing as long as nobody wants its uploads to be moved. */
  readonly move?: MoveProgress;
}

/** Who gives the uploads away, and tells how far that is. */
export interface DrainMover {
  start(): void;
  readonly progress: MoveProgress | Promise<MoveProgress>;
}

export interface DrainOptions {
  /** From now on this node takes no new uploads, is not ready, and the others know that it leaves. */
  readonly leave: () => Promise<void>;
  readonly mover: DrainMover;
  readonly log: Log;
}

/** A node's way out while it still runs: it takes nothing new, and gives away what it has if that is wanted. */
export class Drain {
  private draining = false;
  private isMoving = false;

  constructor(private readonly options: DrainOptions) {}

  get isDraining(): boolean {
    return this.draining;
  }

  /** May be called more than once. Fails with a `Fault` when the others cannot be told, and is to be called again then. */
  async begin(move: boolean): Promise<DrainState> {
    const { leave, mover, log } = this.options;
    if (!this.draining) log.info({ move }, 'this node is draining: it takes no new uploads');
    this.draining = true;
    await leave();
    this.isMoving ||= move;
    if (move) mover.start();
    return this.state();
  }

  async state(): Promise<DrainState> {
    const { draining, isMoving } = this;
    return { draining, ...(isMoving ? { move: await this.options.mover.progress } : {}) };
  }
}
