import { setTimeout as sleep } from 'node:timers/promises';
import { Fault } from '../model/fault.js';
import type { Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import type { Nodes, NodeState } from '../store/nodes.js';
import { everyUpload, type UploadStore } from '../store/upload-store.js';
import { type Moved, type MigrationDeps, Migration } from './migration.js';
import { NotTaken } from './peer-files.js';

export interface MigratorOptions extends MigrationDeps {
  readonly nodes: Pick<Nodes, 'all'>;
  /** Between two rounds when there is nothing to do but wait. */
  readonly pauseMs?: number;
  /** Younger uploads are left alone for now. */
  readonly leastAgeMs?: number;
}

/** How far it has come. */
export interface MoveProgress {
  readonly moved: number;
  /** Bytes of those that were moved. */
  readonly bytes: number;
  /** Uploads that are still here; undefined before they were counted. */
  readonly left?: number;
  readonly isDone: boolean;
  /** Why it does not go on, as far as anybody can tell. */
  readonly problem?: string;
  /** What is left stays here, however long anybody waits. */
  readonly isImpossible?: true;
  /** Why there is nothing to do. */
  readonly remark?: string;
}

const PAUSE_MS = 1_000;
const LEAST_AGE_MS = 2_000;
/** A disk at each end, and the network in between: more at once would not be faster. */
const SIDE_BY_SIDE = 2;
/** Who has said nothing for so long may be gone. */
const LONGEST_SILENCE_MS = 10_000;

/** Empties a node that is leaving: gives its uploads to the others, one after the other, until none is left. */
export class Migrator {
  private readonly stopping = new AbortController();
  private readonly moves = new Map<string, Migration>();
  private running: Promise<void> | undefined;
  private turn = 0;
  private moved = 0;
  private bytes = 0;
  private left: number | undefined;
  private isDone = false;
  private problem: string | undefined;
  /** The problem of this round. */
  private seen: string | undefined;

  constructor(private readonly options: MigratorOptions) {}

  /** From now on, until nothing is left. May be called more than once. */
  start(): void {
    this.running ??= this.run().catch((error: unknown) => {
      if (!this.stopping.signal.aborted) this.options.log.error({ err: error }, 'uploads are not moved any more');
    });
  }

  get progress(): MoveProgress {
    const { moved, bytes, left, isDone, problem } = this;
    return {
      moved,
      bytes,
      isDone,
      ...(left === undefined ? {} : { left }),
      ...(problem === undefined ? {} : { problem }),
    };
  }

  /** What is under way stays with this node; the others keep nothing of it. */
  async stop(): Promise<void> {
    this.stopping.abort(new Error('the process is stopping'));
    await this.running;
    await Promise.all([...this.moves].map(([id, move]) => this.undo(id, move, AbortSignal.timeout(1000))));
    this.options.files.close();
  }

  private async run(): Promise<void> {
    const { signal } = this.stopping;
    // Twice: an upload may have been about to begin when the first was made.
    for (let empty = 0; empty < 2;) {
      const before = this.moved;
      empty = (await this.round()) ? empty + 1 : 0;
      if (this.moved === before) await sleep(this.options.pauseMs ?? PAUSE_MS, undefined, { signal });
    }
    this.isDone = true;
    this.options.log.info({ moved: this.moved, bytes: this.bytes }, 'this node has no uploads any more');
  }

  /** True when nothing was left. */
  private async round(): Promise<boolean> {
    this.seen = undefined;
    try {
      const uploads = await ownUploads(this.options.store, this.options.self);
      this.left = uploads.length;
      const targets = uploads.length > 0 ? await this.targets() : [];
      const ids = uploads.filter((upload) => !this.isJustMade(upload)).map(({ id }) => id);
      if (ids.length > 0 && targets.length === 0) this.seen = 'no other node takes uploads';
      else await this.moveAll(ids, targets);
    } catch (error) {
      this.stopping.signal.throwIfAborted();
      if (!(error instanceof Fault)) throw error;
      this.seen = error.message;
    }
    this.problem = this.seen;
    return this.left === 0 && this.seen === undefined;
  }

  private async moveAll(ids: readonly string[], targets: readonly NodeState[]): Promise<void> {
    const rest = [...ids];
    const worker = async (): Promise<void> => {
      for (let id = rest.shift(); id !== undefined; id = rest.shift()) {
        this.stopping.signal.throwIfAborted();
        await this.moveOne(id, targets);
      }
    };
    await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker));
  }

  private async moveOne(id: string, targets: readonly NodeState[]): Promise<void> {
    const move = this.moves.get(id) ?? this.begin(id, targets);
    const { signal } = this.stopping;
    try {
      await this.note(id, move, await move.run(signal));
    } catch (error) {
      signal.throwIfAborted();
      this.options.log.warn(
        { upload: uploadTag(id), err: error },
        'an upload could not be moved; it will be tried again',
      );
      if (error instanceof NotTaken) {
        this.seen = `node ${move.target.name}: ${error.message}`;
        await this.undo(id, move, signal);
      } else if (error instanceof Fault) this.seen = error.message;
      else throw error;
    }
  }

  /** Each goes to the next node, so that none gets them all. */
  private begin(id: string, targets: readonly NodeState[]): Migration {
    const target = targets[this.turn++ % targets.length]!;
    const move = new Migration(id, target, this.options);
    this.moves.set(id, move);
    return move;
  }

  private async note(id: string, move: Migration, outcome: Moved): Promise<void> {
    if (outcome === 'later') return;
    this.left = Math.max(0, (this.left ?? 0) - 1);
    if (outcome === 'ended' || outcome === 'lost') return this.undo(id, move, this.stopping.signal);
    this.moves.delete(id);
    this.moved += 1;
    this.bytes += move.bytes;
    this.options.log.info({ upload: uploadTag(id), node: move.target.name, bytes: move.bytes }, 'an upload was moved');
  }

  /** Best effort: what is not taken back goes with the upload. */
  private async undo(id: string, move: Migration, signal: AbortSignal): Promise<void> {
    try {
      if (await move.undo(signal)) this.moves.delete(id);
    } catch (error) {
      // Another node may do better; this one keeps what it has until the upload ends.
      this.moves.delete(id);
      this.options.log.warn({ upload: uploadTag(id), err: error }, 'files at another node could not be removed');
    }
  }

  private async targets(): Promise<NodeState[]> {
    const all = await this.options.nodes.all();
    return all.filter(
      ({ name, silentMs, isLeaving }) => name !== this.options.self && !isLeaving && silentMs < LONGEST_SILENCE_MS,
    );
  }

  /**
   * Its creation takes the first lease next, and has not looked whether the upload is still here. One that was made long
   * after now is from before the clock was set back.
   */
  private isJustMade({ phase, createdAt }: Upload): boolean {
    const { clock, leastAgeMs = LEAST_AGE_MS } = this.options;
    return phase === 'receiving' && Math.abs(clock() - createdAt) < leastAgeMs;
  }
}

/** What a node has to keep, `undefined`: the only one. What was cancelled or given up is about to be swept. */
export async function ownUploads(store: Pick<UploadStore, 'list'>, self: string | undefined): Promise<Upload[]> {
  const own: Upload[] = [];
  for await (const upload of everyUpload(store)) {
    const { node, phase } = upload;
    if (node === self && phase !== 'cancelled' && phase !== 'invalid') own.push(upload);
  }
  return own;
}
