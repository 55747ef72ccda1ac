import { type EndObserver, reportLoss, reportLostAnswer } from '../delivery/report.js';
import { Fault } from '../model/fault.js';
import type { Chunk, Phase, Upload } from '../model/upload.js';
import { sizeWithSums } from '../spool/block-sums.js';
import type { Spool } from '../spool/spool.js';
import type { Lease, Leases } from '../store/leases.js';
import type { NodeState } from '../store/nodes.js';
import { retryWhileUnavailable, type UploadStore } from '../store/upload-store.js';
import type { PeerFilesClient } from './peer-files.js';

export interface MigrationDeps extends EndObserver {
  /** The name of this node. */
  readonly self: string;
  readonly store: UploadStore;
  readonly leases: Leases;
  readonly spool: Spool;
  readonly files: PeerFilesClient;
}

/**
 * The outcome of one run. `later`: the upload is in use or being delivered. `ended`: it is no longer on this node.
 * `lost`: its bytes are damaged or missing here.
 */
export type MigrationOutcome = 'moved' | 'ended' | 'later' | 'lost';

/** At most this much is copied while the lease is held and clients wait; the rest is copied before. */
const MAX_BYTES_UNDER_LEASE = 4 * 1024 * 1024;

/**
 * The longest time that a client that asks for the lease waits for the end of a move. If moves stopped immediately,
 * those of busy uploads would never finish.
 */
const MAX_FINISH_MS = 100;

/** Limits the rounds: a client that uploads faster than the copy would otherwise be interrupted forever. */
const MAX_ROUNDS = 20;

/** The phases in which the origin may still need the bytes. */
const PHASES_WITH_BYTES: ReadonlySet<Phase> = new Set(['receiving', 'complete', 'undelivered']);

/**
 * Moves one upload to another node. Committed bytes never change, so most of them are copied while the client
 * continues; only the last ones and the step in the store need the lease. A request that takes the lease meanwhile
 * stops this run, and the next one continues from the files already copied.
 */
export class Migration {
  /** Sizes in bytes of the files that the other node has, by name. */
  private readonly copiedBytes = new Map<string, number>();
  /** The stored answer is damaged or missing, and is not moved. */
  private isAnswerLost = false;

  constructor(
    private readonly id: string,
    readonly target: NodeState,
    private readonly deps: MigrationDeps,
  ) {}

  /** Bytes copied so far. */
  get bytes(): number {
    return [...this.copiedBytes.values()].reduce((sum, size) => sum + size, 0);
  }

  /**
   * Rejects with `FileRefused` when the other node is to blame, with a `Fault` when this one is, or with the signal's
   * reason.
   */
  async run(signal: AbortSignal): Promise<MigrationOutcome> {
    try {
      return await this.copyAndMove(signal);
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'BYTES_LOST') throw error;
      return this.giveUpLost(error.message);
    }
  }

  private async copyAndMove(signal: AbortSignal): Promise<MigrationOutcome> {
    for (let round = 0; round < MAX_ROUNDS; round++) {
      const upload = await this.ownUpload();
      if (typeof upload === 'string') return upload;
      const outcome = await this.moveUnderLease(signal);
      if (Array.isArray(outcome)) await this.copy(outcome, signal);
      else return outcome;
    }
    return 'later';
  }

  /**
   * Removes the copied files from the other node; false when the upload belongs to that node by now. The lease keeps
   * any step that relies on these files from happening afterwards. Rejects as `run` does.
   */
  async undo(signal: AbortSignal): Promise<boolean> {
    const { leases, store, files } = this.deps;
    const lease = await leases.take(this.id);
    try {
      const upload = await store.get(this.id);
      if (upload?.node === this.target.name) return false;
      await files.remove(this.target, this.id, signal);
      this.copiedBytes.clear();
      return true;
    } finally {
      await lease.release();
    }
  }

  /**
   * Ends an upload that has lost its bytes. An answered one continues, and its client learns that the answer is lost.
   */
  private async giveUpLost(problem: string): Promise<MigrationOutcome> {
    const { leases, store } = this.deps;
    const lease = await leases.take(this.id);
    try {
      const upload = await this.ownUpload();
      if (typeof upload === 'string') return upload;
      if (upload.phase === 'answered') {
        this.isAnswerLost = true;
        reportLostAnswer(upload, problem, this.deps);
        return 'later';
      }
      const isReceiving = upload.phase === 'receiving';
      const lost = await (isReceiving ? store.invalidate(this.id, lease.token, 'lost') : store.markLost(this.id));
      if (typeof lost === 'string') return 'later';
      reportLoss(lost, problem, this.deps);
      return 'lost';
    } finally {
      await lease.release();
    }
  }

  /** Moves the upload if little is left to copy; otherwise returns the files to copy before the next try. */
  private async moveUnderLease(signal: AbortSignal): Promise<MigrationOutcome | Chunk[]> {
    const lease = await this.deps.leases.take(this.id);
    try {
      const upload = await this.ownUpload();
      if (typeof upload === 'string') return upload;
      const files = await this.filesOf(upload);
      const missing = files.filter(({ name, size }) => this.copiedBytes.get(name) !== size);
      if (missing.reduce((sum, { size }) => sum + size, 0) > MAX_BYTES_UNDER_LEASE) return missing;
      return await this.finish(upload, { files, missing }, lease, signal);
    } finally {
      await lease.release();
    }
  }

  private async finish(
    upload: Upload,
    { files, missing }: { readonly files: readonly Chunk[]; readonly missing: readonly Chunk[] },
    lease: Lease,
    signal: AbortSignal,
  ): Promise<MigrationOutcome> {
    const grace = new GraceSignal(lease.signal, MAX_FINISH_MS);
    const stop = AbortSignal.any([grace.signal, signal]);
    try {
      await this.copy(missing, stop);
      const promised = PHASES_WITH_BYTES.has(upload.phase) ? await this.deps.spool.acknowledgedOffset(this.id) : 0;
      if (files.length > 0) await this.deps.files.confirm(this.target, this.id, { files, promised }, stop);
      stop.throwIfAborted();
    } catch (error) {
      // A client asked for the lease, and has priority.
      if (grace.signal.aborted && !signal.aborted) return 'later';
      throw error;
    } finally {
      grace.end();
    }
    return this.changeOwner(upload, lease, signal);
  }

  /**
   * Makes the other node the owner. A delivery needs no lease and may have stored an answer here since `snapshot` was read;
   * the store then refuses the move, and the next run copies the answer too.
   */
  private async changeOwner(snapshot: Upload, { token }: Lease, signal: AbortSignal): Promise<MigrationOutcome> {
    const { store } = this.deps;
    // A step without a reply may have been carried out anyway; the next read under a lease shows it.
    const result = await retryWhileUnavailable(() => store.move(this.id, token, this.target.name, snapshot), {
      signal,
    });
    return result === 'stale' || result === 'gone' ? 'later' : this.removeLocal();
  }

  private async removeLocal(): Promise<'moved'> {
    await this.deps.spool.remove(this.id);
    return 'moved';
  }

  /** The upload, or the reason why this node must not move it now. */
  private async ownUpload(): Promise<Upload | MigrationOutcome> {
    const { store, self } = this.deps;
    const upload = await store.get(this.id);
    if (upload?.node === this.target.name) return this.removeLocal();
    if (upload?.node !== self) return 'ended';
    return upload.phase === 'delivering' ? 'later' : upload;
  }

  private async copy(files: readonly Chunk[], signal: AbortSignal): Promise<void> {
    const { spool, files: client } = this.deps;
    for (const file of files) {
      const { name, size } = file;
      const body = spool.readWithSums(this.id, file);
      await client.put(this.target, { id: this.id, name }, sizeWithSums(size), body, signal);
      this.copiedBytes.set(name, size);
    }
  }

  private async filesOf(upload: Upload): Promise<Chunk[]> {
    const chunks = PHASES_WITH_BYTES.has(upload.phase) ? await this.deps.store.chunks(this.id) : [];
    const kept = upload.answer ?? upload.undelivered?.answer;
    const answer =
      kept?.body.in === 'spool' && !this.isAnswerLost
        ? [{ name: kept.body.name, start: 0, size: kept.bodySize, crc: kept.body.crc }]
        : [];
    return [...chunks, ...answer];
  }
}

/** Aborts a fixed time after the signal that it follows. */
class GraceSignal {
  private readonly controller = new AbortController();
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly followed: AbortSignal,
    private readonly graceMs: number,
  ) {
    if (followed.aborted) this.begin();
    else followed.addEventListener('abort', this.begin, { once: true });
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  end(): void {
    clearTimeout(this.timer);
    this.followed.removeEventListener('abort', this.begin);
  }

  private readonly begin = (): void => {
    this.timer = setTimeout(() => this.controller.abort(this.followed.reason), this.graceMs);
  };
}
