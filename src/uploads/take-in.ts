import type { InterimListener } from '../delivery/audience.js';
import { reportClosed, reportLoss } from '../delivery/report.js';
import { Fault } from '../model/fault.js';
import type { AppendIntent, CreateIntent } from '../model/intent.js';
import type { Interrupted, News, Outcome, Refusal, RelayedAnswer } from '../model/outcome.js';
import type { Digest, Upload } from '../model/upload.js';
import { type Log, uploadTag } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { Spool } from '../spool/spool.js';
import type { Lease } from '../store/lease.js';
import type { UploadStore } from '../store/upload-store.js';
import { type Allowance, allowance, LOST } from './admission.js';
import type { Body } from './body.js';
import type { CommitPace } from './growing-chunk.js';
import { LastCheck } from './last-check.js';
import type { Promises } from './promises.js';
import { type Received, receive } from './receive.js';
import type { RepresentationHashes } from './representation-hash.js';

export interface TakeInRooms {
  readonly store: UploadStore;
  readonly spool: Spool;
  readonly hashes: RepresentationHashes;
  readonly promises: Promises;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly clock: () => number;
  readonly pace: CommitPace;
}

export interface TakeInTask {
  readonly intent: CreateIntent | AppendIntent;
  /** As it is under the lease. */
  readonly upload: Upload;
  readonly lease: Lease;
  readonly body: Body;
  readonly tell: (news: News) => unknown;
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
export interface Whole {
  readonly kind: 'whole';
  readonly upload: Upload;
  readonly reprDigest?: Digest;
}

/** Receives one body under its lease, up to the point where the origin comes in. */
export class TakeIn {
  constructor(private readonly rooms: TakeInRooms) {}

  async take(task: TakeInTask): Promise<Outcome | Interrupted | Whole> {
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
    reportClosed(ended, 'invalid', this.rooms, refusal.reason);
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
    reportLoss(ended, problem, this.rooms);
    return { kind: 'refused', refusal: { reason: 'gone', detail } };
  }

  /** Undefined when a newer lease was taken. */
  private async end({ id }: Upload, lease: Lease, why?: 'lost'): Promise<Upload | undefined> {
    const { store, spool, hashes, log } = this.rooms;
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
      return await this.rooms.hashes.digest(upload, upload.wantedReprDigest, lease);
    } catch (error) {
      if (lease.signal.aborted) return undefined;
      throw error;
    }
  }

  private receive(task: TakeInTask): Promise<Received> {
    const { intent, upload, lease, body, onCommitted } = task;
    this.rooms.hashes.follow(upload, lease);
    const limited = intent.kind === 'append' || intent.appendLimitsApply;
    const { contentDigests, complete } = intent;
    return receive(
      {
        upload,
        lease,
        body,
        last: complete ? new LastCheck(task, this.rooms.hashes) : undefined,
        allowance: allowance(upload, limited),
        contentDigests,
        atLeast: limited ? leastBytes(intent, upload) : undefined,
        onCommitted: (now) => {
          this.rooms.hashes.committed(now, lease.token);
          onCommitted?.(now);
          task.onOffset?.(now);
          return this.tellProgress(now, task);
        },
      },
      { ...this.rooms, pace: task.pace ?? this.rooms.pace },
    );
  }

  /** Kept first where the store may forget it; not when nobody would hear of it. */
  private async tellProgress(now: Upload, { intent, upload, tell, hears }: TakeInTask): Promise<void> {
    if (hears?.() === false) return;
    const offset = progressOffset(now, upload, intent);
    await this.rooms.promises.makeFor(now, offset);
    tell({ kind: 'progress', during: intent.kind, upload: now, offset });
  }

  private async promise(outcome: Outcome | Interrupted | Whole): Promise<void> {
    const { promises } = this.rooms;
    if (outcome.kind === 'whole') return promises.makeWhole(outcome.upload);
    const shown = outcome.kind === 'refused' ? outcome.refusal : outcome;
    if ('upload' in shown && shown.upload) await promises.make(shown.upload.id, shown.upload.offset);
  }

  private async outcomeOf(received: Received, task: TakeInTask): Promise<Outcome | Interrupted | Whole> {
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
    if ((await this.rooms.store.get(id))?.phase !== 'receiving') return true;
    for (const { name, size } of await this.rooms.store.chunks(id))
      if (((await this.rooms.spool.size(id, name)) ?? 0) < size) return true;
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
