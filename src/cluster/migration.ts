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
 * `later`: somebody else needs it now, or it is being delivered. `ended`: there is nothing to move any more. `lost`: nor is
 * there, because its bytes are damaged or missing here.
 */
export type Moved = 'moved' | 'ended' | 'later' | 'lost';

/** So much may be copied while its client would have to wait; the rest goes before, and nobody notices. */
const HELD_BYTES = 4 * 1024 * 1024;

/** A client that comes back while that is done waits no longer than this: else its own offset would never be moved. */
const FINISH_MS = 100;

/** A client that is faster than the way to the other node would be interrupted for ever. */
const MOST_ROUNDS = 20;

/** The origin may still have to get what was uploaded. */
const NEEDS_BYTES: ReadonlySet<Phase> = new Set(['receiving', 'complete', 'undelivered']);

/**
 * One upload's way to another node. What is committed does not change any more once a newer lease was given, so most of it
 * is copied while its client goes on; only the last of it, and the step in the store, need the lease to be held. Whoever
 * takes it meanwhile ends that: all stays as it was, and the next run goes on with what is there already.
 */
export class Migration {
  /** What the other node has, and how much of it. */
  private readonly sent = new Map<string, number>();
  /** It is damaged or missing, and stays behind. */
  private withoutAnswer = false;

  constructor(
    private readonly id: string,
    readonly target: NodeState,
    private readonly deps: MigrationDeps,
  ) {}

  /** Bytes that were copied. */
  get bytes(): number {
    return [...this.sent.values()].reduce((sum, size) => sum + size, 0);
  }

  /** Fails with `NotTaken` when the other node is to blame, with a `Fault` when our machine is, with the signal's reason. */
  async run(signal: AbortSignal): Promise<Moved> {
    try {
      return await this.copyAndMove(signal);
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'BYTES_LOST') throw error;
      return this.lose(error.message);
    }
  }

  private async copyAndMove(signal: AbortSignal): Promise<Moved> {
    for (let round = 0; round < MOST_ROUNDS; round++) {
      const upload = await this.ours();
      if (typeof upload === 'string') return upload;
      const outcome = await this.underLease(signal);
      if (Array.isArray(outcome)) await this.send(outcome, signal);
      else return outcome;
    }
    return 'later';
  }

  /**
   * Takes back what the other node was given; false when that has the upload by now. Under a lease, so that no step of
   * anybody who counts on these files can be done any more. Fails as `run` does.
   */
  async undo(signal: AbortSignal): Promise<boolean> {
    const { leases, store, files } = this.deps;
    const lease = await leases.take(this.id);
    try {
      const upload = await store.get(this.id);
      if (upload?.node === this.target.name) return false;
      await files.remove(this.target, this.id, signal);
      this.sent.clear();
      return true;
    } finally {
      await lease.release();
    }
  }

  /** An upload ends with its bytes; one that is answered goes on, and its client hears that the answer is lost. */
  private async lose(problem: string): Promise<Moved> {
    const { leases, store } = this.deps;
    const lease = await leases.take(this.id);
    try {
      const upload = await this.ours();
      if (typeof upload === 'string') return upload;
      if (upload.phase === 'answered') {
        this.withoutAnswer = true;
        reportLostAnswer(upload, problem, this.deps);
        return 'later';
      }
      const isReceiving = upload.phase === 'receiving';
      const lost = await (isReceiving ? store.invalidate(this.id, lease.token, 'lost') : store.lose(this.id));
      if (typeof lost === 'string') return 'later';
      reportLoss(lost, problem, this.deps);
      return 'lost';
    } finally {
      await lease.release();
    }
  }

  /** Moves it when little is missing; else gives what to copy before the next try. */
  private async underLease(signal: AbortSignal): Promise<Moved | Chunk[]> {
    const lease = await this.deps.leases.take(this.id);
    try {
      const upload = await this.ours();
      if (typeof upload === 'string') return upload;
      const files = await this.filesOf(upload);
      const missing = files.filter(({ name, size }) => this.sent.get(name) !== size);
      if (missing.reduce((sum, { size }) => sum + size, 0) > HELD_BYTES) return missing;
      return await this.finish(upload, files, missing, lease, signal);
    } finally {
      await lease.release();
    }
  }

  private async finish(
    upload: Upload,
    files: readonly Chunk[],
    missing: readonly Chunk[],
    lease: Lease,
    signal: AbortSignal,
  ): Promise<Moved> {
    const patience = new GraceSignal(lease.signal, FINISH_MS);
    const wanted = AbortSignal.any([patience.signal, signal]);
    try {
      await this.send(missing, wanted);
      const promised = NEEDS_BYTES.has(upload.phase) ? await this.deps.spool.acknowledgedOffset(this.id) : 0;
      if (files.length > 0) await this.deps.files.confirm(this.target, this.id, { files, promised }, wanted);
      wanted.throwIfAborted();
    } catch (error) {
      // A client came back: it goes first.
      if (patience.signal.aborted && !signal.aborted) return 'later';
      throw error;
    } finally {
      patience.end();
    }
    return this.change(upload, lease, signal);
  }

  /** A delivery needs no lease: one that came meanwhile may have left an answer here, which has to go with the rest. */
  private async change(seen: Upload, { token }: Lease, signal: AbortSignal): Promise<Moved> {
    const { store } = this.deps;
    // Whether a step that was not answered has been done, the next look under a lease will tell.
    const result = await retryWhileUnavailable(() => store.move(this.id, token, this.target.name, seen), { signal });
    return result === 'stale' || result === 'gone' ? 'later' : this.leaveBehind();
  }

  private async leaveBehind(): Promise<'moved'> {
    await this.deps.spool.remove(this.id);
    return 'moved';
  }

  /** The upload, or why it is not ours to move. */
  private async ours(): Promise<Upload | Moved> {
    const { store, self } = this.deps;
    const upload = await store.get(this.id);
    if (upload?.node === this.target.name) return this.leaveBehind();
    if (upload?.node !== self) return 'ended';
    return upload.phase === 'delivering' ? 'later' : upload;
  }

  private async send(files: readonly Chunk[], signal: AbortSignal): Promise<void> {
    const { spool, files: client } = this.deps;
    for (const file of files) {
      const { name, size } = file;
      const body = spool.readWithSums(this.id, file);
      await client.put(this.target, { id: this.id, name }, sizeWithSums(size), body, signal);
      this.sent.set(name, size);
    }
  }

  private async filesOf(upload: Upload): Promise<Chunk[]> {
    const chunks = NEEDS_BYTES.has(upload.phase) ? await this.deps.store.chunks(this.id) : [];
    const kept = upload.answer ?? upload.undelivered?.answer;
    const answer =
      kept?.body.in === 'spool' && !this.withoutAnswer
        ? [{ name: kept.body.name, start: 0, size: kept.bodySize, crc: kept.body.crc }]
        : [];
    return [...chunks, ...answer];
  }
}

/** Aborted a moment after the signal that it follows. */
class GraceSignal {
  private readonly controller = new AbortController();
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly followed: AbortSignal,
    private readonly ms: number,
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
    this.timer = setTimeout(() => this.controller.abort(this.followed.reason), this.ms);
  };
}
