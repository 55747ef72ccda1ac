import { Fault } from '../model/fault.js';
import type { UploadStore } from '../store/upload-store.js';
import type { MoveProgress } from './mover.js';
import { ownUploads } from './own-uploads.js';

export interface NoMoverOptions {
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
export class NoMover {
  constructor(private readonly options: NoMoverOptions) {}

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
