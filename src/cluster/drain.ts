import { Fault } from '../model/fault.js';
import type { Log } from '../observe/log.js';
import type { UploadStore } from '../store/upload-store.js';
import { type MoveProgress, ownUploads } from './migrator.js';

/** How far a node has come on its way out. */
export interface DrainState {
  readonly draining: boolean;
  /** Missing as long as nobody wants its uploads to be moved. */
  readonly move?: MoveProgress;
}

/** Who gives the uploads away, and tells how far that is. */
export interface DrainMigrator {
  start(): void;
  readonly progress: MoveProgress | Promise<MoveProgress>;
}

export interface DrainOptions {
  /** From now on this node takes no new uploads, is not ready, and the others know that it leaves. */
  readonly leave: () => Promise<void>;
  readonly migrator: DrainMigrator;
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
    const { leave, migrator, log } = this.options;
    if (!this.draining) log.info({ move }, 'this node is draining: it takes no new uploads');
    this.draining = true;
    await leave();
    this.isMoving ||= move;
    if (move) migrator.start();
    return this.state();
  }

  async state(): Promise<DrainState> {
    const { draining, isMoving } = this;
    return { draining, ...(isMoving ? { move: await this.options.migrator.progress } : {}) };
  }
}

export interface NoMigratorOptions {
  readonly store: Pick<UploadStore, 'list'>;
  readonly node: string | undefined;
  /** Every node reaches the bytes. */
  readonly shared: boolean;
}

const NOTHING: MoveProgress = { moved: 0, bytes: 0, left: 0, isDone: true };
const SHARED =
  'there is nothing to move: the bytes are in the shared directory (spool.shared), where the other nodes go on with them';
const NO_CLUSTER = 'no other node can take them: cluster is not set';

/** A node that gives its uploads to nobody, and says so: because it need not, or because there is nobody. */
export class NoMigrator {
  constructor(private readonly options: NoMigratorOptions) {}

  start(): void {
    // It tells what is left; that is all.
  }

  get progress(): Promise<MoveProgress> {
    return this.options.shared ? Promise.resolve({ ...NOTHING, remark: SHARED }) : this.count();
  }

  private async count(): Promise<MoveProgress> {
    const stays = { moved: 0, bytes: 0, isDone: false, isImpossible: true } as const;
    try {
      const { length: left } = await ownUploads(this.options.store, this.options.node);
      return left === 0 ? NOTHING : { ...stays, left, problem: NO_CLUSTER };
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      return { ...stays, problem: error.message };
    }
  }
}
