import { createHash } from 'node:crypto';
import type { SmallContent } from '../delivery/small-content.js';
import { Fault } from '../model/fault.js';
import type { Interrupted, Refusal, RelayedAnswer, TrailingDigests } from '../model/messages.js';
import type { ContentDigest, Digest, DigestAlgorithm, Upload } from '../model/upload.js';
import { chunkName } from '../spool/chunk-name.js';
import type { Spool } from '../spool/spool.js';
import type { ReleaseReason, Lease } from '../store/leases.js';
import { type Commit, isStoreUnavailable, retryWhileUnavailable } from '../store/upload-store.js';
import { releaseMemory } from '../streams/release-memory.js';
import { type ChunkDeps, expiry, GrowingChunk } from './chunk.js';
import { matches, type RepresentationHashes } from './digests.js';
import type { Body } from './request-body.js';
import type { Allowance } from './validate.js';

export interface BodyWriterDeps extends ChunkDeps {
  readonly spool: Spool;
  readonly hashes: RepresentationHashes;
}

export interface ReceiveTask {
  /** The upload as read under the lease: bytes are written at its offset. */
  readonly upload: Upload;
  readonly lease: Lease;
  readonly body: Body;
  /** Present when the proper end of the body completes the upload, unless this check objects. */
  readonly completionCheck?: CompletionCheck;
  /** The body completes the upload only if it reaches its length; a shorter one is received like any other. */
  readonly completesAtLength?: boolean;
  readonly allowance?: Allowance;
  /** Verified for this body alone before any of it counts (RFC 9530 §2). */
  readonly contentDigests: readonly ContentDigest[];
  /** The same, for digests that follow the body. */
  readonly trailingDigests?: TrailingDigests;
  /** Called when the digests of the body match, before any of it counts; false if a newer lease was taken. */
  readonly onVerified?: () => Promise<boolean>;
  /** The byte before the body, to be held back if the body is empty. */
  readonly precedingByte?: number;
  /** A body with fewer bytes is refused. */
  readonly minBytes?: number;
  /** Takes a copy of every byte that is written. */
  readonly content?: SmallContent;
  /** Called after every commit; the next commit waits for it. */
  readonly onCommitted: (upload: Upload) => unknown;
}

export type Received =
  /** The body ended cleanly and all of it is committed. */
  | { readonly kind: 'received'; readonly upload: Upload }
  /** The body completed the upload. */
  | { readonly kind: 'completed'; readonly upload: Upload; readonly reprDigest?: Digest }
  /** The body ended cleanly, but its last byte is not committed. */
  | CompletionProblem
  /** The body has too many bytes; those within the bound are committed. */
  | { readonly kind: 'overflow'; readonly upload: Upload; readonly beyond: Allowance['beyond'] }
  | Interrupted;

/**
 * Writes a body to the spool under a lease, and commits while it arrives. However the body ends, all bytes that arrived
 * before are committed too. With a digest nothing is committed before the end, and with `completesAtLength` nothing of a
 * body that is not complete.
 */
export async function receiveBody(task: ReceiveTask, deps: BodyWriterDeps): Promise<Received> {
  return new BodyWriter(task, deps).run();
}

class BodyWriter {
  private chunk: GrowingChunk | undefined;
  private writtenBytes = 0;
  /** Bytes that only count with the completion: at least the last byte of the upload, or one that may be it. */
  private keptBack: readonly Buffer[] = [];
  /** The last byte written to the chunk. */
  private lastByte: number | undefined;
  private overflowed = false;
  private readonly mustBeComplete: boolean;
  private readonly contentHashes;

  constructor(
    private readonly task: ReceiveTask,
    private readonly deps: BodyWriterDeps,
  ) {
    const algorithms = task.trailingDigests?.algorithms ?? task.contentDigests.map(({ algorithm }) => algorithm);
    this.mustBeComplete = algorithms.length > 0;
    this.contentHashes = algorithms.map((algorithm) => ({
      algorithm,
      hash: createHash(algorithm.replace('-', '')),
    }));
  }

  async run(): Promise<Received> {
    const { lease, body } = this.task;
    const { activeReceives } = this.deps.metrics;
    const stop = (): void => body.stop();
    lease.signal.addEventListener('abort', stop, { once: true });
    if (lease.signal.aborted) stop();
    activeReceives.inc();
    try {
      await this.writeAll();
      return await this.finish();
    } catch (fault) {
      this.deps.hashes.forget(this.task.upload.id);
      // When the store failed rather than the disk, the bytes already written can still count.
      if (fault instanceof Fault && !this.mustBeComplete) await this.chunk?.commitAfterFault();
      // A client in the middle of its body gets no response; it resumes at the committed offset.
      if (isStoreUnavailable(fault) && lease.signal.aborted && body.ending !== 'clean') return this.interrupted();
      throw fault;
    } finally {
      activeReceives.dec();
      lease.signal.removeEventListener('abort', stop);
      body.close();
      await this.chunk?.close();
    }
  }

  private async writeAll(): Promise<void> {
    const { body } = this.task;
    for (let batch = await body.next(); batch; batch = await body.next()) {
      const buffers = this.keepBackEnd(this.withinAllowance(batch));
      await this.write(buffers);
      // Otherwise all of it is kept back.
      if (buffers.length > 0) releaseMemory(batch);
      if (this.overflowed || this.chunk?.refusedBy) body.stop();
    }
  }

  private async write(buffers: readonly Buffer[]): Promise<void> {
    if (buffers.length === 0) return;
    const { hashes, metrics } = this.deps;
    const { upload, lease } = this.task;
    this.chunk ??= await this.openChunk();
    this.task.content?.add(buffers);
    await this.chunk.write(buffers);
    hashes.update(upload.id, lease.token, upload.offset + this.writtenBytes, buffers);
    for (const buffer of buffers) {
      for (const { hash } of this.contentHashes) hash.update(buffer);
      this.writtenBytes += buffer.length;
    }
    this.lastByte = buffers.at(-1)?.at(-1);
    metrics.bytesReceived(sizeOf(buffers));
    this.task.body.free(sizeOf(buffers));
  }

  private async openChunk(): Promise<GrowingChunk> {
    const { upload, lease, body, minBytes = 0, onCommitted } = this.task;
    const name = chunkName(lease.token, upload.offset);
    const minCommitBytes = this.mustBeComplete ? Infinity : minBytes;
    const task = { upload, lease, name, minCommitBytes, onCommitted, onFailure: () => body.stop() };
    // Its bytes count only later, and until then it must not expire as an upload without any.
    if (minCommitBytes > 0 && upload.offset === 0 && body.ending === undefined) await this.renewExpiry();
    return new GrowingChunk(await this.deps.spool.create(upload.id, name), task, this.deps);
  }

  /** Cuts off the bytes beyond the bound; one byte too many ends the body. */
  private withinAllowance(batch: Buffer[]): Buffer[] {
    const { allowance } = this.task;
    const before = this.writtenBytes + sizeOf(this.keptBack);
    if (!allowance || before + sizeOf(batch) <= allowance.bytes) return batch;
    this.overflowed = true;
    let remaining = allowance.bytes - before;
    const within: Buffer[] = [];
    for (const buffer of batch) {
      if (remaining <= 0) break;
      within.push(buffer.subarray(0, remaining));
      remaining -= buffer.length;
    }
    return within;
  }

  /**
   * Keeps back the byte that may be the last of the upload until the completion, because clients take "offset = length" for
   * success. Without a length this may be any newest byte; a body that has ended is written and completed in one step.
   */
  private keepBackEnd(batch: Buffer[]): readonly Buffer[] {
    const { upload, body, completionCheck } = this.task;
    const buffers = [...this.keptBack, ...batch];
    this.keptBack = [];
    if (!completionCheck || buffers.length === 0) return buffers;
    const end = upload.offset + this.writtenBytes + sizeOf(buffers);
    if (end !== (upload.length ?? end)) return buffers;
    if (body.ending === 'clean' && !this.overflowed && completionCheck.isImmediate) {
      this.keptBack = buffers;
      return [];
    }
    const newest = buffers.pop()!;
    // A copy, so that the memory of the written bytes can be released.
    this.keptBack = [Buffer.from(newest.subarray(-1))];
    return newest.length > 1 ? [...buffers, newest.subarray(0, -1)] : buffers;
  }

  private async finish(): Promise<Received> {
    const { ending } = this.task.body;
    const isComplete = ending === 'clean' && !this.overflowed;
    if (!isComplete && this.mustBeComplete && this.task.completesAtLength) return this.discardUnverified();
    const refusal = isComplete ? this.refuseBody() : undefined;
    if (refusal) return this.discard(refusal);
    if (isComplete && this.mustBeComplete && (await this.task.onVerified?.()) === false) return this.takenOver();
    if (isComplete && this.task.completionCheck && this.reachesEnd) return this.complete(this.task.completionCheck);
    await this.chunk?.commit();
    if (this.chunk?.refusedBy) return this.takenOver();
    const { upload } = this.chunk ?? this.task;
    if (this.overflowed && this.task.allowance) return { kind: 'overflow', upload, beyond: this.task.allowance.beyond };
    if (ending === 'clean') return { kind: 'received', upload };
    return this.interrupted();
  }

  private get reachesEnd(): boolean {
    const { upload, completesAtLength = false } = this.task;
    return !completesAtLength || upload.offset + this.writtenBytes + sizeOf(this.keptBack) === upload.length;
  }

  private refuseBody(): Refusal | undefined {
    const { minBytes, contentDigests, trailingDigests, body, upload } = this.task;
    for (const { hash } of this.contentHashes) for (const buffer of this.keptBack) hash.update(buffer);
    if (minBytes !== undefined && this.writtenBytes < minBytes)
      return { reason: 'append-too-small', minAppendSize: minBytes, upload };
    const expected = trailingDigests?.read(body.trailers) ?? contentDigests;
    if ('reason' in expected) return { ...expected, upload };
    const actual = this.contentHashes.map(({ algorithm, hash }) => ({ algorithm, value: hash.digest('hex') }));
    if (!matches(expected, actual)) return { reason: 'digest-mismatch', field: 'Content-Digest', upload };
    return undefined;
  }

  /** Completes the upload; in one step with its last bytes when only the length has to be checked. */
  private async complete(check: CompletionCheck): Promise<Received> {
    const { upload } = this.task;
    const end = upload.offset + this.writtenBytes + sizeOf(this.keptBack);
    if (check.isImmediate && end === (upload.length ?? end)) return this.commitLast(check);
    await this.chunk?.commit();
    if (this.chunk?.refusedBy) return this.takenOver();
    const result = await check.run((this.chunk ?? this.task).upload, this.keptBack[0]);
    return result.kind === 'passed' ? this.commitLast(check, result.reprDigest) : result;
  }

  private async commitLast(check: CompletionCheck, reprDigest?: Digest): Promise<Received> {
    const { upload, lease, body, precedingByte } = this.task;
    const { keptBack } = this;
    const { trailers } = body;
    const lastByte = keptBack.at(-1)?.at(-1) ?? this.lastByte ?? precedingByte;
    const complete = {
      ...(check.holdsBack && lastByte !== undefined && { heldBack: { lastByte } }),
      ...(trailers.length > 0 && { trailers }),
    };
    if (keptBack.length > 0) this.chunk ??= await this.openChunk();
    this.task.content?.add(keptBack);
    const result = this.chunk
      ? await this.chunk.complete(keptBack, complete)
      : await this.commitWithoutBytes({ token: lease.token, complete, expiresAt: expiry(upload, this.deps, true) });
    if (result === 'stale' || result === 'gone') return this.takenOver();
    this.deps.hashes.forget(upload.id);
    this.deps.metrics.bytesReceived(sizeOf(keptBack));
    releaseMemory(keptBack);
    return { kind: 'completed', upload: result, reprDigest };
  }

  private async renewExpiry(): Promise<void> {
    const { upload, lease } = this.task;
    await this.commitWithoutBytes({ token: lease.token, expiresAt: expiry({ ...upload, offset: 1 }, this.deps) });
  }

  private commitWithoutBytes(commit: Commit): Promise<Upload | 'stale' | 'gone'> {
    const { store, metrics } = this.deps;
    const { upload, lease } = this.task;
    const onUnavailable = (): void => metrics.storeUnavailable();
    return retryWhileUnavailable(() => store.commit(upload.id, commit), { signal: lease.signal, onUnavailable });
  }

  /** tus 1.0.0, checksum: what cannot be verified is discarded. */
  private discardUnverified(): Received {
    const { upload, allowance: bound } = this.task;
    this.deps.hashes.forget(upload.id);
    return this.overflowed && bound ? { kind: 'overflow', upload, beyond: bound.beyond } : this.interrupted();
  }

  private discard(refusal: Refusal): Received {
    this.deps.hashes.forget(this.task.upload.id);
    return { kind: 'refused', refusal };
  }

  /** A newer lease was taken, so the uncommitted bytes do not count. */
  private takenOver(): Received {
    this.deps.hashes.forget(this.task.upload.id);
    return { kind: 'interrupted', reason: 'taken-over' };
  }

  private interrupted(): Interrupted {
    const { body, lease } = this.task;
    const { ending } = body;
    if (ending && ending !== 'stopped' && ending !== 'clean') return { kind: 'interrupted', reason: ending };
    return { kind: 'interrupted', reason: (lease.signal.reason as ReleaseReason | undefined) ?? 'taken-over' };
  }
}

function sizeOf(buffers: readonly Buffer[]): number {
  return buffers.reduce((sum, buffer) => sum + buffer.length, 0);
}

/** The reason why a body that ended properly does not complete its upload. */
type CompletionProblem =
  | { readonly kind: 'refused'; readonly refusal: Refusal }
  /** The bytes do not match their digest, which makes them useless. */
  | { readonly kind: 'invalid'; readonly refusal: Refusal }
  | { readonly kind: 'turned-away'; readonly answer: RelayedAnswer }
  | Interrupted;

export type CheckResult = { readonly kind: 'passed'; readonly reprDigest?: Digest } | CompletionProblem;

export interface CompletionCheckTask {
  /** The upload as it is when its last body begins. */
  readonly upload: Upload;
  readonly lease: Lease;
  /** Asked when all bytes have arrived, before the upload counts as complete; an answer refuses the client. */
  readonly mayComplete?: (upload: Upload) => Promise<RelayedAnswer | undefined>;
  /** The client gets its response before the origin has answered, so no byte can be held back. */
  readonly doesNotWait?: boolean;
}

/** Checks an upload after its last body has ended properly, before it becomes complete. */
export class CompletionCheck {
  private readonly algorithms: ReadonlySet<DigestAlgorithm>;

  constructor(
    private readonly task: CompletionCheckTask,
    private readonly hashes: RepresentationHashes,
  ) {
    const { reprDigests, wantedReprDigest } = task.upload;
    const wanted = wantedReprDigest === undefined ? [] : [wantedReprDigest];
    this.algorithms = new Set([...reprDigests.map(({ algorithm }) => algorithm), ...wanted]);
  }

  /** Whether only the length has to be checked. */
  get isImmediate(): boolean {
    return this.algorithms.size === 0 && this.task.mayComplete === undefined;
  }

  /** Whether the last byte is held back until the origin answers; see `shownOffset`. */
  get holdsBack(): boolean {
    return this.task.doesNotWait !== true;
  }

  /** Runs the checks. `upload` has all bytes but `rest`, which follow its offset. */
  async run(upload: Upload, rest: Uint8Array = new Uint8Array()): Promise<CheckResult> {
    const end = upload.offset + rest.length;
    if (upload.length !== undefined && upload.length !== end) {
      const detail = `The content ended at ${end} bytes, but the length of this upload is ${upload.length}.`;
      return { kind: 'refused', refusal: { reason: 'inconsistent-length', detail, upload } };
    }
    const answer = await this.task.mayComplete?.(upload);
    if (answer) return { kind: 'turned-away', answer };
    const digests = await this.digestsOf(upload, rest);
    if (digests === 'stopped') return { kind: 'interrupted', reason: 'taken-over' };
    if (!matches(upload.reprDigests, digests))
      return { kind: 'invalid', refusal: { reason: 'digest-mismatch', field: 'Repr-Digest' } };
    return { kind: 'passed', reprDigest: digests.find(({ algorithm }) => algorithm === upload.wantedReprDigest) };
  }

  private async digestsOf(upload: Upload, rest: Uint8Array): Promise<Digest[] | 'stopped'> {
    const { lease } = this.task;
    const digests: Digest[] = [];
    try {
      for (const algorithm of this.algorithms) digests.push(await this.hashes.digest(upload, algorithm, lease, rest));
    } catch (error) {
      if (lease.signal.aborted) return 'stopped';
      throw error;
    }
    return digests;
  }
}
