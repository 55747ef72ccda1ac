import { setTimeout as sleep } from 'node:timers/promises';
import type { CreateIntent, Elsewhere, Interrupted, Outcome } from '../model/messages.js';
import { PLAIN_DIALECT, shownOffset, type StoredRequest, type Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import type { Lease, Leases } from '../store/leases.js';
import type { UploadStore } from '../store/upload-store.js';
import type { Answers, UploadCall } from './answers.js';
import type { Body } from './request-body.js';
import { refused } from './validate.js';

export interface RepeatedCreationDeps {
  readonly store: Pick<UploadStore, 'get' | 'chunks'>;
  readonly leases: Pick<Leases, 'take'>;
  readonly spool: Pick<Spool, 'read'>;
  readonly answers: Answers;
  /** Called when a client asks about its complete upload again; returns the upload as it is afterwards. */
  readonly clientAsks: (upload: Upload) => Promise<Upload>;
  readonly clock: () => number;
  /** The time that decides whether an upload has expired; `clock` by default. */
  readonly expiryClock?: () => number;
  readonly node?: string;
  /** The outcome for an upload that cannot continue; undefined if it can. Needs the lease. */
  readonly unusableOutcome: (upload: Upload, lease: Lease) => Promise<Outcome | Interrupted | undefined>;
  /** Receives the bytes after the upload's offset, then delivers the upload. */
  readonly receive: (
    intent: CreateIntent,
    upload: Upload,
    lease: Lease,
    call: UploadCall,
  ) => Promise<Outcome | Interrupted>;
}

/** A younger upload may belong to a simultaneous copy of the same request, which is given time to finish. */
const SIMULTANEOUS_MS = 1000;
/** The same for creations without bytes, which finish immediately. */
const SIMULTANEOUS_EMPTY_MS = 200;
const POLL_MS = 25;

/**
 * A creation that repeats an earlier one, as its own `Idempotency-Key` says. The upload continues where it is, or its
 * answer is sent again; nothing is delivered a second time.
 * Reasons: docs/decisions/0023.
 */
export class RepeatedCreations {
  constructor(private readonly deps: RepeatedCreationDeps) {}

  /** `over`: the upload with this key has ended, and the creation may begin another one. */
  async answer(
    id: string,
    intent: CreateIntent,
    request: StoredRequest,
    call: UploadCall,
  ): Promise<Outcome | Interrupted | Elsewhere | 'over'> {
    const known = await this.findLive(id);
    if (!known) return 'over';
    const differsIn = difference(known, intent, request);
    if (differsIn) return refused({ reason: 'key-reused', differsIn });
    if (known.node !== this.deps.node) return { kind: 'elsewhere', node: known.node ?? '' };
    const upload = await this.waitForFirstCopy(known, isEmpty(intent) ? SIMULTANEOUS_EMPTY_MS : SIMULTANEOUS_MS);
    if (upload?.phase !== 'receiving') return upload ? this.answerComplete(intent, upload, call) : 'over';
    const lease = await this.deps.leases.take(id, isEmpty(intent) ? 'to-read' : 'to-write');
    try {
      const now = await this.findLive(id);
      if (!now) return 'over';
      if (now.phase === 'receiving') return await this.continueUnderLease(intent, now, lease, call);
      void lease.release();
      return await this.answerComplete(intent, now, call);
    } finally {
      void lease.release();
    }
  }

  /** Answers for a complete upload; a creation without the end of its content gets its answer with a later append. */
  private async answerComplete(intent: CreateIntent, known: Upload, call: UploadCall): Promise<Outcome | Interrupted> {
    const upload = await this.deps.clientAsks(known);
    call.sendInterim({ kind: 'resumable', upload });
    if (!intent.complete) return { kind: 'created', upload };
    return this.deps.answers.answer(upload, 'create', call);
  }

  private async continueUnderLease(
    intent: CreateIntent,
    upload: Upload,
    lease: Lease,
    call: UploadCall,
  ): Promise<Outcome | Interrupted> {
    const unusableOutcome = await this.deps.unusableOutcome(upload, lease);
    if (unusableOutcome) return unusableOutcome;
    call.sendInterim({ kind: 'resumable', upload });
    if (isEmpty(intent)) return { kind: 'created', upload };
    const { offset } = upload;
    if (offset === 0) return this.deps.receive(intent, upload, lease, call);
    // The digest covers the entire content, and cannot be checked against the rest alone.
    if (intent.contentDigests.length > 0) return refused({ reason: 'mismatching-offset', upload, provided: 0 });
    const { body } = call;
    const skipped = await skipStored(body, this.stored(upload), offset);
    if (skipped.differs) return refused({ reason: 'key-reused', differsIn: 'content' });
    if (skipped.bytes === offset) return this.deps.receive(remainder(intent, offset), upload, lease, call);
    if (body.ending !== 'clean')
      return { kind: 'interrupted', reason: body.ending === 'idle' ? 'idle' : 'client-left' };
    return intent.complete ? refused({ reason: 'key-reused', differsIn: 'length' }) : { kind: 'created', upload };
  }

  private async *stored({ id, offset }: Upload): AsyncGenerator<Uint8Array> {
    const { spool, store } = this.deps;
    yield* spool.read(id, await store.chunks(id), { start: 0, end: offset }) as AsyncIterable<Uint8Array>;
  }

  /** Gives the first of two simultaneous copies of a request the time to finish. */
  private async waitForFirstCopy(known: Upload, maxAgeMs: number): Promise<Upload | undefined> {
    let upload: Upload | undefined = known;
    for (
      let ageMs = Math.max(this.deps.clock() - known.createdAt, 0);
      ageMs < maxAgeMs && upload?.phase === 'receiving';
      ageMs += POLL_MS
    ) {
      await sleep(POLL_MS);
      upload = await this.findLive(known.id);
    }
    return upload;
  }

  private async findLive(id: string): Promise<Upload | undefined> {
    const upload = await this.deps.store.get(id);
    const isOver = !upload || upload.phase === 'cancelled' || upload.phase === 'invalid';
    return isOver || upload.expiresAt <= (this.deps.expiryClock ?? this.deps.clock)() ? undefined : upload;
  }
}

/** The first property in which this creation differs from the upload with its key; unknown values are no difference. */
function difference(known: Upload, intent: CreateIntent, { method, target }: StoredRequest): string | undefined {
  if ((known.dialect === PLAIN_DIALECT) !== (intent.dialect === PLAIN_DIALECT)) return 'kind of request';
  if (known.request.method !== method) return 'method';
  if (known.request.target !== target) return 'target';
  const length = intent.declaredLength ?? (intent.complete ? intent.contentLength : undefined);
  const isShorter = length !== undefined && length < shownOffset(known);
  if (isShorter || (length !== undefined && known.length !== undefined && length !== known.length)) return 'length';
  const digestDiffers = intent.reprDigests.some(({ algorithm, value }) =>
    known.reprDigests.some((digest) => digest.algorithm === algorithm && digest.value !== value),
  );
  return digestDiffers ? 'Repr-Digest' : undefined;
}

function isEmpty({ complete, contentLength }: CreateIntent): boolean {
  return !complete && contentLength === 0;
}

/** The part of the creation that follows the first `offset` bytes. */
function remainder(intent: CreateIntent, offset: number): CreateIntent {
  const { contentLength } = intent;
  return contentLength === undefined ? intent : { ...intent, contentLength: contentLength - offset };
}

/**
 * Takes `size` bytes off a body and compares them with the stored ones; stops at a difference or at the end of the
 * body.
 */
async function skipStored(
  body: Body,
  stored: AsyncIterable<Uint8Array>,
  size: number,
): Promise<{ readonly bytes: number; readonly differs?: true }> {
  let bytes = 0;
  let batch: readonly Buffer[] = [];
  for await (const piece of stored) {
    for (let at = 0; at < piece.length;) {
      if (batch.length === 0) batch = (await body.next()) ?? [];
      const [first, ...others] = batch;
      if (!first) return { bytes };
      const length = Math.min(first.length, piece.length - at);
      if (first.compare(piece, at, at + length, 0, length) !== 0) return { bytes, differs: true };
      at += length;
      bytes += length;
      body.free(length);
      batch = length < first.length ? [first.subarray(length), ...others] : others;
    }
    if (bytes === size) break;
  }
  if (batch.length > 0) body.unread(batch);
  return { bytes };
}
