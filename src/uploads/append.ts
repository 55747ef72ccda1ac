import type { EarlyAnswer, EagerFeed } from '../delivery/eager.js';
import { reportClosed, reportLoss } from '../delivery/report.js';
import type { InterimListener } from '../delivery/waiters.js';
import { Fault } from '../model/fault.js';
import type {
  AppendIntent,
  CreateIntent,
  Interrupted,
  InterimUpdate,
  Outcome,
  Refusal,
  RelayedAnswer,
} from '../model/messages.js';
import type { Route } from '../model/route.js';
import type { Digest, Upload } from '../model/upload.js';
import { type Log, uploadTag } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { Spool } from '../spool/spool.js';
import type { Lease } from '../store/leases.js';
import { isStoreUnavailable, type UploadStore } from '../store/upload-store.js';
import { LastCheck, receive, type Received } from './body-writer.js';
import type { CommitPace } from './chunk.js';
import type { RepresentationHashes } from './digests.js';
import type { Body } from './request-body.js';
import type { AcknowledgedOffsets } from './shown-offsets.js';
import { type Allowance, allowance, LOST } from './validate.js';

export interface AppendDeps {
  readonly store: UploadStore;
  readonly spool: Spool;
  readonly hashes: RepresentationHashes;
  readonly acknowledged: AcknowledgedOffsets;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly clock: () => number;
  readonly pace: CommitPace;
}

export interface AppendTask {
  readonly intent: CreateIntent | AppendIntent;
  /** As it is under the lease. */
  readonly upload: Upload;
  readonly lease: Lease;
  readonly body: Body;
  readonly tell: (news: InterimUpdate) => unknown;
  /** Whether `tell` would tell of progress now; taken for yes when it is missing. */
  readonly hears?: () => boolean;
  /** Hears the interim responses of an origin that is fed meanwhile. */
  readonly onInterim?: InterimListener;
  /** In place of the usual one. */
  readonly pace?: CommitPace;
  /** Told after every commit, before the client. */
  readonly onCommitted?: (upload: Upload) => void;
  /** Told of the upload before the body and whenever its offset has moved. */
  readonly onOffset?: (upload: Upload) => void;
  /** Asked when all bytes are here, before they count as the whole. */
  readonly mayComplete?: (upload: Upload) => Promise<RelayedAnswer | undefined>;
  /** The client is told "complete" before the origin has answered: then no byte can be held back. */
  readonly doesNotWait?: boolean;
}

/** The upload is complete and waits for its delivery. */
export interface CompleteUpload {
  readonly kind: 'whole';
  readonly upload: Upload;
  readonly reprDigest?: Digest;
}

/** Receives one body under its lease, up to the point where the origin comes in. */
export class AppendBody {
  constructor(private readonly deps: AppendDeps) {}

  async take(task: AppendTask): Promise<Outcome | Interrupted | CompleteUpload> {
    task.onOffset?.(task.upload);
    try {
      const outcome = await this.outcomeOf(await this.receive(task), task);
      if ('upload' in outcome) task.onOffset?.(outcome.upload);
      await this.promise(outcome);
      return outcome;
    } catch (fault) {
      return this.giveUpIfLost(fault, task.upload, task.lease);
    }
  }

  /** The store has forgotten what somebody was shown: what it knows now is no state to go on from. */
  async giveUpForgotten(upload: Upload, lease: Lease): Promise<Outcome | Interrupted> {
    // Where it went on under a newer lease, what it was under this one is old, and nothing is forgotten.
    return this.lose(upload, lease, 'The state of this upload was lost.', FORGOTTEN);
  }

  /** RUFH §4.4.2: beyond its length or its limits an upload has no future; its bytes go at once. */
  async invalidate(upload: Upload, lease: Lease, refusal: Refusal): Promise<Outcome | Interrupted> {
    const ended = await this.end(upload, lease);
    if (!ended) return { kind: 'interrupted', why: 'taken-over' };
    reportClosed(ended, 'invalid', this.deps, refusal.reason);
    return { kind: 'refused', refusal };
  }

  /** An offset never decreases: when acknowledged bytes are gone, so is the upload (RUFH §4.1.1). Else the fault stands. */
  async giveUpIfLost(fault: unknown, upload: Upload, lease: Lease): Promise<Outcome | Interrupted> {
    if (!(fault instanceof Fault) || !(await this.isOver(fault, upload))) throw fault;
    // Where somebody newer has finished or cancelled it, its files went as they should.
    return this.lose(upload, lease, LOST, fault.message);
  }

  private async lose(upload: Upload, lease: Lease, detail: string, problem: string): Promise<Outcome | Interrupted> {
    const ended = await this.end(upload, lease, 'lost');
    if (!ended) return { kind: 'interrupted', why: 'taken-over' };
    reportLoss(ended, problem, this.deps);
    return { kind: 'refused', refusal: { reason: 'gone', detail } };
  }

  /** Undefined when a newer lease was taken. */
  private async end({ id }: Upload, lease: Lease, why?: 'lost'): Promise<Upload | undefined> {
    const { store, spool, hashes, log } = this.deps;
    const ended = await store.invalidate(id, lease.token, why);
    if (ended === 'stale' || ended === 'gone') return undefined;
    hashes.forget(id);
    await spool.remove(id).catch((error: unknown) => {
      // The sweep removes what an upload without a future has left.
      log.warn({ upload: uploadTag(id), err: error }, 'the bytes of an upload that is over could not be removed');
    });
    return ended;
  }

  /** What the client asked to be told about the bytes so far (RFC 9530 §4); not worth making a newer request wait. */
  async wantedDigest(upload: Upload, lease: Lease): Promise<Digest | undefined> {
    if (!upload.wantedReprDigest || upload.phase !== 'receiving') return undefined;
    try {
      return await this.deps.hashes.digest(upload, upload.wantedReprDigest, lease);
    } catch (error) {
      if (lease.signal.aborted) return undefined;
      throw error;
    }
  }

  private receive(task: AppendTask): Promise<Received> {
    const { intent, upload, lease, body, onCommitted } = task;
    this.deps.hashes.follow(upload, lease);
    const limited = intent.kind === 'append' || intent.appendLimitsApply;
    const { contentDigests, complete } = intent;
    return receive(
      {
        upload,
        lease,
        body,
        last: complete ? new LastCheck(task, this.deps.hashes) : undefined,
        allowance: allowance(upload, limited),
        contentDigests,
        atLeast: limited ? leastBytes(intent, upload) : undefined,
        onCommitted: (now) => {
          this.deps.hashes.committed(now, lease.token);
          onCommitted?.(now);
          task.onOffset?.(now);
          return this.tellProgress(now, task);
        },
      },
      { ...this.deps, pace: task.pace ?? this.deps.pace },
    );
  }

  /** Kept first where the store may forget it; not when nobody would hear of it. */
  private async tellProgress(now: Upload, { intent, upload, tell, hears }: AppendTask): Promise<void> {
    if (hears?.() === false) return;
    const offset = progressOffset(now, upload, intent);
    await this.deps.acknowledged.acknowledgeState(now, offset);
    tell({ kind: 'progress', during: intent.kind, upload: now, offset });
  }

  private async promise(outcome: Outcome | Interrupted | CompleteUpload): Promise<void> {
    const { acknowledged } = this.deps;
    if (outcome.kind === 'whole') return acknowledged.acknowledgeComplete(outcome.upload);
    const shown = outcome.kind === 'refused' ? outcome.refusal : outcome;
    if ('upload' in shown && shown.upload) await acknowledged.acknowledge(shown.upload.id, shown.upload.offset);
  }

  private async outcomeOf(received: Received, task: AppendTask): Promise<Outcome | Interrupted | CompleteUpload> {
    const { intent, lease } = task;
    switch (received.kind) {
      case 'interrupted':
      case 'refused':
      case 'turned-away':
        return received;
      case 'invalid':
        return this.invalidate(task.upload, lease, received.refusal);
      case 'overflow':
        return this.overflow(received.upload, lease, received.beyond);
      case 'completed':
        return { kind: 'whole', upload: received.upload, reprDigest: received.reprDigest };
      case 'received':
        return {
          kind: intent.kind === 'create' ? 'created' : 'appended',
          upload: received.upload,
          reprDigest: await this.wantedDigest(received.upload, lease),
        };
    }
  }

  /** Nothing can be added to it any more: bytes of it are gone, or somebody else has brought it to an end. */
  private async isOver({ code }: Fault, { id }: Upload): Promise<boolean> {
    if (code === 'BYTES_LOST') return true;
    if (code !== 'STORAGE_UNAVAILABLE') return false;
    if ((await this.deps.store.get(id))?.phase !== 'receiving') return true;
    for (const { name, size } of await this.deps.store.chunks(id))
      if (((await this.deps.spool.size(id, name)) ?? 0) < size) return true;
    return false;
  }

  private async overflow(upload: Upload, lease: Lease, beyond: Allowance['beyond']): Promise<Outcome | Interrupted> {
    const { maxSize = 0, maxAppendSize = 0 } = upload.limits;
    switch (beyond) {
      case 'exceeds-length':
        return this.invalidate(upload, lease, { reason: 'exceeds-length', length: upload.length ?? 0 });
      case 'too-large':
        return this.invalidate(upload, lease, { reason: 'too-large', maxSize });
      case 'append-too-large':
        return { kind: 'refused', refusal: { reason: 'append-too-large', maxAppendSize, upload } };
    }
  }
}

const FORGOTTEN = 'the store has forgotten confirmed steps of it';

function leastBytes(intent: CreateIntent | AppendIntent, upload: Upload): number | undefined {
  const isEmptyCreation = intent.kind === 'create' && intent.contentLength === 0;
  return intent.complete || isEmptyCreation ? undefined : upload.limits.minAppendSize;
}

/** A body that may be the last never shows its newest byte, so that it can be held back; see `shownOffset`. */
function progressOffset(now: Upload, before: Upload, intent: { readonly complete: boolean }): number {
  return intent.complete ? Math.max(before.offset, now.offset - 1) : now.offset;
}

/** Who wants an upload's bytes while it is received. */
export interface EagerFeeds {
  /** Undefined when nobody does. */
  startEager(upload: Upload): EagerFeed | undefined;
  /** Whether uploads of this length are wanted so on this route: never, or not now. */
  eagerAvailability(route: Route, length: number | undefined): 'yes' | 'never' | 'busy';
  /** The upload has no future. */
  stopEager(id: string): void;
}

export interface EagerFeedDeps {
  readonly store: Pick<UploadStore, 'get'>;
  readonly appendBody: AppendBody;
  readonly acknowledged: AcknowledgedOffsets;
  readonly pace: CommitPace;
  /** Missing: nothing is delivered before it is whole. */
  readonly feeds?: EagerFeeds;
}

/** An origin gets what is committed, so that the usual pace would keep it waiting. */
const FEEDING_PACE: CommitPace = { bytes: 4 * 1024 * 1024, everyMs: 100, firstAtOnce: true };

/** Receives a body while its origin is fed, and stops when that has heard enough. */
export class EagerAppend {
  private readonly pace: CommitPace;

  constructor(private readonly deps: EagerFeedDeps) {
    this.pace = deps.pace.bytes < FEEDING_PACE.bytes ? deps.pace : FEEDING_PACE;
  }

  async take(task: AppendTask): Promise<Outcome | Interrupted | CompleteUpload> {
    const { appendBody, feeds } = this.deps;
    const { intent, upload, lease } = task;
    const feed = feeds?.startEager(upload);
    const untold = feed?.takeEarlyAnswer();
    if (untold) return this.outcomeOf(untold, intent);
    const taken = await this.appendWhileFeeding(task, appendBody, feed);
    if (taken.kind === 'whole') return taken;
    const early = feed?.takeEarlyAnswer();
    if (early) return this.outcomeOf(early, intent);
    if (!feed && taken.kind !== 'interrupted') return taken;
    const now = await this.asItIs(upload.id);
    if (now?.phase === 'invalid') feeds?.stopEager(upload.id);
    // Its origin has answered on another way: nobody has taken anything from this request.
    if (now?.phase === 'answered' && taken.kind === 'interrupted' && !lease.signal.aborted)
      return { kind: 'whole', upload: now };
    return taken;
  }

  private async appendWhileFeeding(
    task: AppendTask,
    appendBody: AppendBody,
    feed: EagerFeed | undefined,
  ): Promise<Outcome | Interrupted | CompleteUpload> {
    if (!feed) return appendBody.take(task);
    const { body, upload, onInterim } = task;
    const stop = (): void => body.stop();
    feed.setInterimListener(onInterim);
    feed.onCommitted(upload);
    feed.answeredEarly.addEventListener('abort', stop, { once: true });
    if (feed.answeredEarly.aborted) stop();
    try {
      return await appendBody.take({ ...task, pace: this.pace, onCommitted: (now) => feed.onCommitted(now) });
    } finally {
      feed.answeredEarly.removeEventListener('abort', stop);
    }
  }

  /** As far as the store can be asked. */
  private async asItIs(id: string): Promise<Upload | undefined> {
    try {
      return await this.deps.store.get(id);
    } catch (fault) {
      if (!isStoreUnavailable(fault)) throw fault;
      return undefined;
    }
  }

  private async outcomeOf(
    { kind, upload: asAnswered, answer }: EarlyAnswer,
    intent: CreateIntent | AppendIntent,
  ): Promise<Outcome> {
    // With what was committed since.
    const upload = (await this.asItIs(asAnswered.id)) ?? asAnswered;
    // An answer that is not recorded yet may break off: then the upload goes on.
    await this.deps.acknowledged.acknowledgeState(upload);
    return kind === 'parked' ? { kind, upload, answer } : { kind, to: intent.kind, upload, answer };
  }
}
