import { Fault } from '../model/fault.js';
import { PHASES } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import type { UploadStore } from '../store/upload-store.js';
import { type MigrationProgress, ownUploads } from './migrator.js';

/** The state of a node's drain. */
export interface DrainState {
  readonly draining: boolean;
  /** Missing until an operator asks for the uploads to be moved. */
  readonly move?: MigrationProgress;
}

/** Moves the uploads of this node to other nodes and reports the progress. */
export interface DrainMigrator {
  start(): void;
  /** Moves no more uploads until `start` is called again. Those that are being moved stay here. */
  pause(): Promise<void>;
  readonly progress: MigrationProgress | Promise<MigrationProgress>;
}

export interface DrainOptions {
  /**
   * Makes this node refuse new uploads and report that it is not ready, and tells the other nodes that it is leaving.
   */
  readonly leave: () => Promise<void>;
  /** Takes `leave` back. */
  readonly rejoin: () => Promise<void>;
  readonly migrator: DrainMigrator;
  readonly log: Log;
}

/**
 * Takes a running node out of service and back: it accepts no new uploads and, on request, moves its own to other
 * nodes.
 */
export class Drain {
  private draining = false;
  private isMoving = false;
  /** The change that was requested last. */
  private last: Promise<unknown> = Promise.resolve();

  constructor(private readonly options: DrainOptions) {}

  get isDraining(): boolean {
    return this.draining;
  }

  /**
   * May be called more than once. Rejects with a `Fault` when the other nodes cannot be informed; the caller then tries
   * again.
   */
  begin(move: boolean): Promise<DrainState> {
    return this.inTurn(() => this.beginNow(move));
  }

  /** Ends the drain: the node accepts new uploads again. Rejects as `begin` does; the node is draining then. */
  end(): Promise<DrainState> {
    return this.inTurn(() => this.endNow());
  }

  private inTurn(change: () => Promise<DrainState>): Promise<DrainState> {
    const state = this.last.then(change);
    this.last = state.catch(() => undefined);
    return state;
  }

  private async endNow(): Promise<DrainState> {
    const { rejoin, migrator, log } = this.options;
    if (!this.draining) return this.state();
    await migrator.pause();
    await rejoin();
    this.draining = false;
    this.isMoving = false;
    log.info('this node is no longer draining: it accepts new uploads');
    return this.state();
  }

  private async beginNow(move: boolean): Promise<DrainState> {
    const { leave, migrator, log } = this.options;
    if (!this.draining) log.info({ move }, 'this node is draining: it accepts no new uploads');
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
  readonly store: Pick<UploadStore, 'list' | 'totals'>;
  readonly node: string | undefined;
  /** Every node can read and write the bytes. */
  readonly shared: boolean;
}

const NOTHING_TO_MOVE: MigrationProgress = { moved: 0, bytes: 0, left: 0, isDone: true };
const SHARED_SPOOL =
  'there is nothing to move: the bytes are in the shared directory (spool.shared), where the other nodes continue them';
const NO_CLUSTER = 'no other node can take the uploads, because `cluster` is not set';

/** The migrator of a node that cannot move its uploads, or does not need to; it only reports the reason. */
export class NoMigrator {
  constructor(private readonly options: NoMigratorOptions) {}

  start(): void {
    // There is nothing to start.
  }

  pause(): Promise<void> {
    return Promise.resolve();
  }

  get progress(): Promise<MigrationProgress> {
    return this.options.shared ? Promise.resolve({ ...NOTHING_TO_MOVE, remark: SHARED_SPOOL }) : this.count();
  }

  private async count(): Promise<MigrationProgress> {
    const impossible = { moved: 0, bytes: 0, isDone: false, isImpossible: true } as const;
    try {
      const left = await this.countOwn();
      return left === 0 ? NOTHING_TO_MOVE : { ...impossible, left, problem: NO_CLUSTER };
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      return { ...impossible, problem: error.message };
    }
  }

  /** Without nodes all uploads of the store are this process's, and the store has counted them. */
  private async countOwn(): Promise<number> {
    const { store, node } = this.options;
    if (node !== undefined) return (await ownUploads(store, node)).length;
    const { phases } = await store.totals();
    const kept = PHASES.filter((phase) => phase !== 'cancelled' && phase !== 'invalid');
    return kept.reduce((sum, phase) => sum + (phases[phase] ?? 0), 0);
  }
}
