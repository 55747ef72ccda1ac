import { setTimeout as sleep } from 'node:timers/promises';
import { Fault } from '../model/fault.js';
import type { Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import type { Nodes, NodeState } from '../store/nodes.js';
import { everyUpload, type UploadStore } from '../store/upload-store.js';
import { type MigrationOutcome, type MigrationDeps, Migration } from './migration.js';
import { FileRefused } from './peer-files.js';

export interface MigratorOptions extends MigrationDeps {
  readonly nodes: Pick<Nodes, 'all'>;
  /** Pause after a round that moved nothing. */
  readonly pauseMs?: number;
  /** Younger uploads are left for a later round. */
  readonly minAgeMs?: number;
}

/** The progress of moving all uploads of a node. */
export interface MigrationProgress {
  readonly moved: number;
  /** Bytes of the uploads that were moved. */
  readonly bytes: number;
  /** Uploads that are still on this node; undefined until they have been counted. */
  readonly left?: number;
  readonly isDone: boolean;
  /** The reason why the migration is stuck, if one is known. */
  readonly problem?: string;
  /** The remaining uploads will never be moved. */
  readonly isImpossible?: true;
  /** The reason why there is nothing to do. */
  readonly remark?: string;
}

const PAUSE_MS = 1_000;
const MIN_AGE_MS = 2_000;
/** Uploads moved at the same time. More would not be faster: each uses a disk at both ends and the network in between. */
const CONCURRENT_MIGRATIONS = 2;
/** A node that was silent for longer may be down. */
const MAX_SILENCE_MS = 10_000;

/** Empties a node that is leaving: moves its uploads to the other nodes until none is left. */
export class Migrator {
  private stopping = new AbortController();
  private readonly migrations = new Map<string, Migration>();
  private running: Promise<void> | undefined;
  private nextTarget = 0;
  private moved = 0;
  private bytes = 0;
  private remaining: number | undefined;
  private isDone = false;
  private problem: string | undefined;
  /** The problem seen in the current round. */
  private roundProblem: string | undefined;

  constructor(private readonly options: MigratorOptions) {}

  /** Starts moving uploads until none is left. May be called more than once. */
  start(): void {
    this.running ??= this.run().catch((error: unknown) => {
      if (!this.stopping.signal.aborted)
        this.options.log.error({ err: error }, 'uploads are no longer being moved to other nodes');
    });
  }

  get progress(): MigrationProgress {
    const { moved, bytes, remaining, isDone, problem } = this;
    return {
      moved,
      bytes,
      isDone,
      ...(remaining === undefined ? {} : { left: remaining }),
      ...(problem === undefined ? {} : { problem }),
    };
  }

  /** Uploads whose migration has not finished stay with this node; their copies on the other nodes are removed. */
  async stop(): Promise<void> {
    await this.end('the process is stopping');
    this.options.files.close();
  }

  /** As `stop`, until `start` is called again. */
  async pause(): Promise<void> {
    await this.end('this node is no longer leaving');
    this.stopping = new AbortController();
    this.running = undefined;
    this.isDone = false;
    this.remaining = undefined;
    this.problem = undefined;
  }

  private async end(reason: string): Promise<void> {
    this.stopping.abort(new Error(reason));
    await this.running;
    await Promise.all([...this.migrations].map(([id, each]) => this.undo(id, each, AbortSignal.timeout(1000))));
  }

  private async run(): Promise<void> {
    const { signal } = this.stopping;
    // Two empty rounds are needed: an upload may have been about to begin during the first.
    for (let emptyRounds = 0; emptyRounds < 2;) {
      const before = this.moved;
      emptyRounds = (await this.runRound()) ? emptyRounds + 1 : 0;
      if (this.moved === before) await sleep(this.options.pauseMs ?? PAUSE_MS, undefined, { signal });
    }
    this.isDone = true;
    this.options.log.info({ moved: this.moved, bytes: this.bytes }, 'this node has no uploads left');
  }

  /** Moves what can be moved now. Returns true if no upload was left and no problem was seen. */
  private async runRound(): Promise<boolean> {
    this.roundProblem = undefined;
    try {
      const uploads = await ownUploads(this.options.store, this.options.self);
      this.remaining = uploads.length;
      const targets = uploads.length > 0 ? await this.targets() : [];
      const ids = uploads.filter((upload) => !this.isNew(upload)).map(({ id }) => id);
      if (ids.length > 0 && targets.length === 0) this.roundProblem = 'no other node takes uploads';
      else await this.moveAll(ids, targets);
    } catch (error) {
      this.stopping.signal.throwIfAborted();
      if (!(error instanceof Fault)) throw error;
      this.roundProblem = error.message;
    }
    this.problem = this.roundProblem;
    return this.remaining === 0 && this.roundProblem === undefined;
  }

  private async moveAll(ids: readonly string[], targets: readonly NodeState[]): Promise<void> {
    const queue = [...ids];
    const moveFromQueue = async (): Promise<void> => {
      for (let id = queue.shift(); id !== undefined; id = queue.shift()) {
        this.stopping.signal.throwIfAborted();
        await this.moveOne(id, targets);
      }
    };
    await Promise.all(Array.from({ length: CONCURRENT_MIGRATIONS }, moveFromQueue));
  }

  private async moveOne(id: string, targets: readonly NodeState[]): Promise<void> {
    const migration = this.migrations.get(id) ?? this.begin(id, targets);
    const { signal } = this.stopping;
    try {
      await this.noteOutcome(id, migration, await migration.run(signal));
    } catch (error) {
      signal.throwIfAborted();
      this.options.log.warn(
        { upload: uploadTag(id), err: error },
        'an upload could not be moved; it will be tried again',
      );
      if (error instanceof FileRefused) {
        this.roundProblem = `node ${migration.target.name}: ${error.message}`;
        await this.undo(id, migration, signal);
      } else if (error instanceof Fault) this.roundProblem = error.message;
      else throw error;
    }
  }

  /** Starts the migration of an upload. The targets take turns, so that no node gets all uploads. */
  private begin(id: string, targets: readonly NodeState[]): Migration {
    const target = targets[this.nextTarget++ % targets.length]!;
    const migration = new Migration(id, target, this.options);
    this.migrations.set(id, migration);
    return migration;
  }

  private async noteOutcome(id: string, migration: Migration, outcome: MigrationOutcome): Promise<void> {
    if (outcome === 'later') return;
    this.remaining = Math.max(0, (this.remaining ?? 0) - 1);
    if (outcome === 'ended' || outcome === 'lost') return this.undo(id, migration, this.stopping.signal);
    this.migrations.delete(id);
    this.moved += 1;
    this.bytes += migration.bytes;
    this.options.log.info(
      { upload: uploadTag(id), node: migration.target.name, bytes: migration.bytes },
      'an upload was moved',
    );
  }

  /** Best effort: files that cannot be removed from the other node stay there until the upload ends. */
  private async undo(id: string, migration: Migration, signal: AbortSignal): Promise<void> {
    try {
      if (await migration.undo(signal)) this.migrations.delete(id);
    } catch (error) {
      // The next round may choose another node; the copies stay where they are until the upload ends.
      this.migrations.delete(id);
      this.options.log.warn({ upload: uploadTag(id), err: error }, 'copies on another node could not be removed');
    }
  }

  private async targets(): Promise<NodeState[]> {
    const all = await this.options.nodes.all();
    return all.filter(
      ({ name, silentMs, isLeaving }) => name !== this.options.self && !isLeaving && silentMs < MAX_SILENCE_MS,
    );
  }

  /**
   * Whether an upload is too new to be moved: its creation takes the first lease without checking whether it has moved.
   * A creation time far in the future comes from a clock that was later set back, so that upload is not new.
   */
  private isNew({ phase, createdAt }: Upload): boolean {
    const { clock, minAgeMs = MIN_AGE_MS } = this.options;
    return phase === 'receiving' && Math.abs(clock() - createdAt) < minAgeMs;
  }
}

/**
 * The uploads whose bytes this node must keep; `self` is undefined for the only node. Cancelled and invalid ones are
 * left to the cleanup.
 */
export async function ownUploads(store: Pick<UploadStore, 'list'>, self: string | undefined): Promise<Upload[]> {
  const own: Upload[] = [];
  for await (const upload of everyUpload(store)) {
    const { node, phase } = upload;
    if (node === self && phase !== 'cancelled' && phase !== 'invalid') own.push(upload);
  }
  return own;
}
