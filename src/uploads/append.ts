import type { EarlyAnswer, EagerFeed } from '../delivery/eager.js';
import { reportClosed, reportLoss } from '../delivery/report.js';
import type { SmallContent } from '../delivery/small-content.js';
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
import { concatenationRole, type Digest, type Upload } from '../model/upload.js';
import { type Log, uploadTag } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { Spool } from '../spool/spool.js';
import type { Lease } from '../store/leases.js';
import { isStoreUnavailable, type UploadStore } from '../store/upload-store.js';
import type { Admission } from './admission.js';
import { CompletionCheck, receiveBody, type Received } from './body-writer.js';
import type { CommitPace } from './chunk.js';
import type { RepresentationHashes } from './digests.js';
import type { Body } from './request-body.js';
import type { AcknowledgedOffsets } from './acknowledged-offsets.js';
import { type Allowance, allowance, BYTES_LOST } from './validate.js';

export interface AppendDeps {
  readonly store: UploadStore;
  readonly spool: Spool;
  readonly hashes: RepresentationHashes;
  readonly acknowledged: AcknowledgedOffsets;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly clock: () => number;
  readonly pace: CommitPace;
  /** Missing: there is no limit to the room that uploads take. */
  readonly admission?: Pick<Admission, 'capacityFor'>;
}

export interface AppendTask {
  readonly intent: CreateIntent | AppendIntent;
  /** The upload as read under the lease. */
  readonly upload: Upload;
  readonly lease: Lease;
  readonly body: Body;
  /** Sends an interim response. */
  readonly sendInterim: (news: InterimUpdate) => unknown;
  /** Whether an interim response about progress would be sent now; true by default. */
  readonly wantsProgress?: () => boolean;
  /** Receives the interim responses of an origin that gets the bytes meanwhile. */
  readonly onInterim?: InterimListener;
  /** Replaces the usual pace of commits. */
  readonly pace?: CommitPace;
  /** Called after every commit, before the client is informed. */
  readonly onCommitted?: (upload: Upload) => void;
  /** Called with the upload before its body, and whenever the offset has moved. */
  readonly onOffset?: (upload: Upload) => void;
  /** Asked when all bytes have arrived, before the upload counts as complete; an answer refuses the client. */
  readonly mayComplete?: (upload: Upload) => Promise<RelayedAnswer | undefined>;
  /** The client gets its response before the origin has answered, so no byte can be held back. */
  readonly doesNotWait?: boolean;
  /** Takes a copy of every byte that is written. */
  readonly content?: SmallContent;
  /** The byte before the body, to be held back if the body is empty. */
  readonly precedingByte?: number;
  /** Called when the digests of the body match, before any of it counts; false if a newer lease was taken. */
  readonly onVerified?: () => Promise<boolean>;
}

/** The outcome of a body that completed its upload, which now waits for its delivery. */
export interface CompleteUpload {
  readonly kind: 'complete';
  readonly upload: Upload;
  readonly reprDigest?: Digest;
}

/** Receives one body under its lease, up to the point where the delivery begins. */
export class AppendBody {
  constructor(private readonly deps: AppendDeps) {}

  async run(task: AppendTask): Promise<Outcome | Interrupted | CompleteUpload> {
    task.onOffset?.(task.upload);
    try {
      const outcome = await this.outcomeOf(await this.receive(task), task);
      if ('upload' in outcome) task.onOffset?.(outcome.upload);
      await this.acknowledge(outcome);
      return outcome;
    } catch (fault) {
      return this.giveUpIfLost(fault, task.upload, task.lease);
    }
  }

  /** Gives up an upload whose record is behind the offset that a client was shown. */
  async giveUpForgotten(upload: Upload, lease: Lease): Promise<Outcome | Interrupted> {
    // A newer lease may already have moved the upload on; then nothing was forgotten, and this step is refused.
    return this.giveUp(upload, lease, 'The state of this upload was lost.', STEPS_LOST);
  }

  /** Ends an upload that exceeded its length or its limits, and removes its bytes (RUFH §4.4.2). */
  async invalidate(upload: Upload, lease: Lease, refusal: Refusal): Promise<Outcome | Interrupted> {
    const ended = await this.invalidateAndRemove(upload, lease);
    if (!ended) return { kind: 'interrupted', reason: 'taken-over' };
    reportClosed(ended, 'invalid', this.deps, refusal.reason);
    return { kind: 'refused', refusal };
  }

  /**
   * Gives up an upload whose acknowledged bytes are lost: its offset must not decrease (RUFH §4.1.1). Otherwise
   * rethrows the fault.
   */
  async giveUpIfLost(fault: unknown, upload: Upload, lease: Lease): Promise<Outcome | Interrupted> {
    if (!(fault instanceof Fault) || !(await this.hasEnded(fault, upload))) throw fault;
    // A newer request may have finished or cancelled the upload, which removed its files; then this step is refused.
    return this.giveUp(upload, lease, BYTES_LOST, fault.message);
  }

  private async giveUp(upload: Upload, lease: Lease, detail: string, problem: string): Promise<Outcome | Interrupted> {
    const ended = await this.invalidateAndRemove(upload, lease, 'lost');
    if (!ended) return { kind: 'interrupted', reason: 'taken-over' };
    reportLoss(ended, problem, this.deps);
    return { kind: 'refused', refusal: { reason: 'gone', detail } };
  }

  /** Invalidates the upload and removes its bytes; undefined if a newer lease was taken. */
  private async invalidateAndRemove({ id }: Upload, lease: Lease, reason?: 'lost'): Promise<Upload | undefined> {
    const { store, spool, hashes, log } = this.deps;
    const ended = await store.invalidate(id, lease.token, reason);
    if (ended === 'stale' || ended === 'gone') return undefined;
    hashes.forget(id);
    await spool.remove(id).catch((error: unknown) => {
      // The cleanup removes the files of invalid uploads later.
      log.warn({ upload: uploadTag(id), err: error }, 'the bytes of an upload that has ended could not be removed');
    });
    return ended;
  }

  /**
   * The digest of the bytes so far, if the client asked for it (RFC 9530 §4); left out when a newer request wants the
   * lease.
   */
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
    const { intent, upload, lease, body, content, precedingByte, onCommitted, onVerified } = task;
    this.deps.hashes.track(upload, lease);
    const appendLimitsApply = intent.kind === 'append' || intent.appendLimitsApply;
    const { contentDigests, trailingDigests, complete } = intent;
    return receiveBody(
      {
        upload,
        lease,
        body,
        completionCheck: complete ? new CompletionCheck(task, this.deps.hashes) : undefined,
        completesAtLength: intent.completesAtLength,
        allowance: allowance(upload, appendLimitsApply),
        contentDigests,
        trailingDigests,
        onVerified,
        content,
        precedingByte,
        minBytes: appendLimitsApply ? minBytes(intent, upload) : undefined,
        onCommitted: (now) => {
          this.deps.hashes.noteCommitted(now, lease.token);
          onCommitted?.(now);
          task.onOffset?.(now);
          return this.reportProgress(now, task);
        },
      },
      { ...this.deps, pace: task.pace ?? this.deps.pace },
    );
  }

  /** Acknowledges the offset before it is shown. Does neither when the client cannot receive progress. */
  private async reportProgress(now: Upload, { intent, upload, sendInterim, wantsProgress }: AppendTask): Promise<void> {
    if (wantsProgress?.() === false) return;
    const offset = progressOffset(now, upload, intent);
    await this.deps.acknowledged.acknowledgeState(now, offset);
    sendInterim({ kind: 'progress', during: intent.kind, upload: now, offset });
  }

  private async acknowledge(outcome: Outcome | Interrupted | CompleteUpload): Promise<void> {
    const { acknowledged } = this.deps;
    if (outcome.kind === 'complete') return acknowledged.acknowledgeComplete(outcome.upload);
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
        return this.overflow(received.upload, task, received.beyond);
      case 'completed':
        return { kind: 'complete', upload: received.upload, reprDigest: received.reprDigest };
      case 'received':
        return {
          kind: intent.kind === 'create' ? 'created' : 'appended',
          upload: received.upload,
          reprDigest: await this.wantedDigest(received.upload, lease),
        };
    }
  }

  /** Whether nothing can be added to the upload any more: bytes of it are lost, or another request has ended it. */
  private async hasEnded({ code }: Fault, { id }: Upload): Promise<boolean> {
    if (code === 'BYTES_LOST') return true;
    if (code !== 'STORAGE_UNAVAILABLE') return false;
    if ((await this.deps.store.get(id))?.phase !== 'receiving') return true;
    for (const { name, size } of await this.deps.store.chunks(id))
      if (((await this.deps.spool.size(id, name)) ?? 0) < size) return true;
    return false;
  }

  private async overflow(
    upload: Upload,
    { intent, lease }: AppendTask,
    beyond: Allowance['beyond'],
  ): Promise<Outcome | Interrupted> {
    const { maxSize = 0, maxAppendSize = 0 } = upload.limits;
    switch (beyond) {
      case 'exceeds-length': {
        const refusal = { reason: 'exceeds-length', length: upload.length ?? 0 } as const;
        if (intent.completesAtLength) return { kind: 'refused', refusal: { ...refusal, upload } };
        return this.invalidate(upload, lease, refusal);
      }
      case 'too-large':
        return this.invalidate(upload, lease, { reason: 'too-large', maxSize });
      case 'append-too-large':
        return { kind: 'refused', refusal: { reason: 'append-too-large', maxAppendSize, upload } };
    }
  }
}

const STEPS_LOST = 'the store has lost confirmed steps of this upload';

function minBytes(intent: CreateIntent | AppendIntent, upload: Upload): number | undefined {
  const isEmptyCreation = intent.kind === 'create' && intent.contentLength === 0;
  const isPart = concatenationRole(upload) === 'part';
  return intent.complete || isEmptyCreation || isPart ? undefined : upload.limits.minAppendSize;
}

/**
 * Progress of a body that may complete the upload leaves out its newest byte, which may be held back; see
 * `shownOffset`.
 */
function progressOffset(now: Upload, before: Upload, intent: { readonly complete: boolean }): number {
  return intent.complete ? Math.max(before.offset, now.offset - 1) : now.offset;
}

/** Starts eager deliveries, which send the bytes of an upload to the origin while it is received. */
export interface EagerFeeds {
  /** Undefined if the upload is not delivered eagerly. */
  startEager(upload: Upload): EagerFeed | undefined;
  /** Whether an upload of this length can be delivered eagerly on this route; `busy`: not at the moment. */
  eagerAvailability(route: Route, length: number | undefined): 'yes' | 'never' | 'busy';
  /** Ends the eager delivery of an upload that cannot continue. */
  stopEager(id: string): void;
}

export interface EagerAppendDeps {
  readonly store: Pick<UploadStore, 'get'>;
  readonly appendBody: AppendBody;
  readonly acknowledged: AcknowledgedOffsets;
  readonly pace: CommitPace;
  /** Missing if no delivery starts before its upload is complete. */
  readonly feeds?: EagerFeeds;
}

/** The pace of commits during eager delivery. The origin only gets committed bytes, so the usual pace would keep it waiting. */
const EAGER_PACE: CommitPace = { bytes: 4 * 1024 * 1024, everyMs: 100, firstAtOnce: true };

/** Receives a body while the origin gets its bytes, and stops when the origin has answered. */
export class EagerAppend {
  private readonly pace: CommitPace;

  constructor(private readonly deps: EagerAppendDeps) {
    this.pace = deps.pace.bytes < EAGER_PACE.bytes ? deps.pace : EAGER_PACE;
  }

  async run(task: AppendTask): Promise<Outcome | Interrupted | CompleteUpload> {
    const { appendBody, feeds } = this.deps;
    const { intent, upload, lease } = task;
    const feed = concatenationRole(upload) === 'part' ? undefined : feeds?.startEager(upload);
    const earlierAnswer = feed?.takeEarlyAnswer();
    if (earlierAnswer) return this.outcomeOf(earlierAnswer, intent);
    const outcome = await this.appendWhileFeeding(task, appendBody, feed);
    if (outcome.kind === 'complete') return outcome;
    const earlyAnswer = feed?.takeEarlyAnswer();
    if (earlyAnswer) return this.outcomeOf(earlyAnswer, intent);
    if (!feed && outcome.kind !== 'interrupted') return outcome;
    const now = await this.currentUpload(upload.id);
    if (now?.phase === 'invalid') feeds?.stopEager(upload.id);
    // The origin has answered over another connection, and no newer request has taken this lease.
    if (now?.phase === 'answered' && outcome.kind === 'interrupted' && !lease.signal.aborted)
      return { kind: 'complete', upload: now };
    return outcome;
  }

  private async appendWhileFeeding(
    task: AppendTask,
    appendBody: AppendBody,
    feed: EagerFeed | undefined,
  ): Promise<Outcome | Interrupted | CompleteUpload> {
    if (!feed) return appendBody.run(task);
    const { body, upload, onInterim } = task;
    const stop = (): void => body.stop();
    feed.setInterimListener(onInterim);
    feed.onCommitted(upload);
    feed.answeredEarly.addEventListener('abort', stop, { once: true });
    if (feed.answeredEarly.aborted) stop();
    try {
      return await appendBody.run({ ...task, pace: this.pace, onCommitted: (now) => feed.onCommitted(now) });
    } finally {
      feed.answeredEarly.removeEventListener('abort', stop);
    }
  }

  /** The current state of the upload; undefined while the store is unavailable. */
  private async currentUpload(id: string): Promise<Upload | undefined> {
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
    // The answer carries the current offset.
    const upload = (await this.currentUpload(asAnswered.id)) ?? asAnswered;
    // The answer may not be recorded yet: if it breaks off, the upload continues from this offset.
    await this.deps.acknowledged.acknowledgeState(upload);
    return kind === 'parked' ? { kind, upload, answer } : { kind, to: intent.kind, upload, answer };
  }
}
