import { setTimeout as sleep } from 'node:timers/promises';
import type { CreateIntent, Elsewhere, Interrupted, Outcome, Refusal } from '../model/messages.js';
import { PLAIN_DIALECT, shownOffset, type StoredRequest, type Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import type { Lease, Leases } from '../store/leases.js';
import type { UploadStore } from '../store/upload-store.js';
import type { Answers, UploadCall } from './answers.js';
import type { Body } from './request-body.js';

export interface RepeatedCreationDeps {
  readonly store: Pick<UploadStore, 'get' | 'chunks'>;
  readonly leases: Pick<Leases, 'take'>;
  readonly spool: Pick<Spool, 'read'>;
  readonly answers: Answers;
  /** Told before a client that asks again hears of its whole upload; gives what is so from then on. */
  readonly clientAsks: (upload: Upload) => Promise<Upload>;
  readonly clock: () => number;
  /** The time by which uploads expire; the same as `clock` when it is missing. */
  readonly expiryClock?: () => number;
  readonly node?: string;
  /** What speaks against going on with an upload, seen under its lease. */
  readonly obstacle: (upload: Upload, lease: Lease) => Promise<Outcome | Interrupted | undefined>;
  /** Takes what follows the upload's offset, and then asks the origin. */
  readonly goOn: (
    intent: CreateIntent,
    upload: Upload,
    lease: Lease,
    call: UploadCall,
  ) => Promise<Outcome | Interrupted>;
}

/** An upload that was begun no longer ago than this may be another request's of the same moment, which is let through. */
const SAME_MOMENT_MS = 1000;
/** The same for creations without bytes: each is through as soon as it has come. */
const SAME_EMPTY_MOMENT_MS = 200;
const LOOK_EVERY_MS = 25;

/**
 * A creation whose client has begun this very upload before, as its own `Idempotency-Key` says: nothing is delivered a
 * second time. What has come goes on where it stands, and what was answered is answered again.
 */
export class RepeatedCreations {
  constructor(private readonly deps: RepeatedCreationDeps) {}

  /** `over`: that upload has no future, and the creation may begin another one. */
  async answer(
    id: string,
    intent: CreateIntent,
    request: StoredRequest,
    call: UploadCall,
  ): Promise<Outcome | Interrupted | Elsewhere | 'over'> {
    const known = await this.alive(id);
    if (!known) return 'over';
    const differsIn = difference(known, intent, request);
    if (differsIn) return refused({ reason: 'key-reused', differsIn });
    if (known.node !== this.deps.node) return { kind: 'elsewhere', node: known.node ?? '' };
    const upload = await this.afterTheMoment(known, isEmpty(intent) ? SAME_EMPTY_MOMENT_MS : SAME_MOMENT_MS);
    if (upload?.phase !== 'receiving') return upload ? this.ofComplete(intent, upload, call) : 'over';
    const lease = await this.deps.leases.take(id, isEmpty(intent) ? 'to-look' : 'to-write');
    try {
      const now = await this.alive(id);
      if (!now) return 'over';
      if (now.phase === 'receiving') return await this.underLease(intent, now, lease, call);
      void lease.release();
      return await this.ofComplete(intent, now, call);
    } finally {
      void lease.release();
    }
  }

  /** One that begins without the end goes on with appends, which will get the answer. */
  private async ofComplete(intent: CreateIntent, known: Upload, call: UploadCall): Promise<Outcome | Interrupted> {
    const upload = await this.deps.clientAsks(known);
    call.tell({ kind: 'resumable', upload });
    if (!intent.complete) return { kind: 'created', upload };
    return this.deps.answers.answer(upload, 'create', call);
  }

  private async underLease(
    intent: CreateIntent,
    upload: Upload,
    lease: Lease,
    call: UploadCall,
  ): Promise<Outcome | Interrupted> {
    const obstacle = await this.deps.obstacle(upload, lease);
    if (obstacle) return obstacle;
    call.tell({ kind: 'resumable', upload });
    if (isEmpty(intent)) return { kind: 'created', upload };
    const { offset } = upload;
    if (offset === 0) return this.deps.goOn(intent, upload, lease, call);
    // A digest of the whole content cannot be compared with that of the rest.
    if (intent.contentDigests.length > 0) return refused({ reason: 'mismatching-offset', upload, provided: 0 });
    const { body } = call;
    const passed = await passStored(body, this.stored(upload), offset);
    if (passed.differs) return refused({ reason: 'key-reused', differsIn: 'content' });
    if (passed.bytes === offset) return this.deps.goOn(rest(intent, offset), upload, lease, call);
    if (body.ending !== 'clean') return { kind: 'interrupted', why: body.ending === 'idle' ? 'idle' : 'client-left' };
    return intent.complete ? refused({ reason: 'key-reused', differsIn: 'length' }) : { kind: 'created', upload };
  }

  private async *stored({ id, offset }: Upload): AsyncGenerator<Uint8Array> {
    const { spool, store } = this.deps;
    yield* spool.read(id, await store.chunks(id), { start: 0, end: offset }) as AsyncIterable<Uint8Array>;
  }

  /** Two requests of one moment are the same one twice: the first is given the time to come to its end. */
  private async afterTheMoment(known: Upload, lengthMs: number): Promise<Upload | undefined> {
    let upload: Upload | undefined = known;
    const age = Math.max(this.deps.clock() - known.createdAt, 0);
    for (let waited = age; waited < lengthMs && upload?.phase === 'receiving'; waited += LOOK_EVERY_MS) {
      await sleep(LOOK_EVERY_MS);
      upload = await this.alive(known.id);
    }
    return upload;
  }

  private async alive(id: string): Promise<Upload | undefined> {
    const upload = await this.deps.store.get(id);
    const isOver = !upload || upload.phase === 'cancelled' || upload.phase === 'invalid';
    return isOver || upload.expiresAt <= (this.deps.expiryClock ?? this.deps.clock)() ? undefined : upload;
  }
}

/** In which way this is another upload than the one that has its key; what nobody has said is no difference. */
function difference(known: Upload, intent: CreateIntent, { method, target }: StoredRequest): string | undefined {
  if ((known.dialect === PLAIN_DIALECT) !== (intent.dialect === PLAIN_DIALECT)) return 'kind of request';
  if (known.request.method !== method) return 'method';
  if (known.request.target !== target) return 'target';
  const length = intent.declaredLength ?? (intent.complete ? intent.contentLength : undefined);
  const isShorter = length !== undefined && length < shownOffset(known);
  if (isShorter || (length !== undefined && known.length !== undefined && length !== known.length)) return 'length';
  const isOther = intent.reprDigests.some(({ algorithm, value }) =>
    known.reprDigests.some((digest) => digest.algorithm === algorithm && digest.value !== value),
  );
  return isOther ? 'Repr-Digest' : undefined;
}

function isEmpty({ complete, contentLength }: CreateIntent): boolean {
  return !complete && contentLength === 0;
}

/** What is left of a creation whose first bytes are there already. */
function rest(intent: CreateIntent, offset: number): CreateIntent {
  const { contentLength } = intent;
  return contentLength === undefined ? intent : { ...intent, contentLength: contentLength - offset };
}

/** Takes so many bytes off a body and compares them with those that are stored; stops where they differ or the body ends. */
async function passStored(
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
      batch = length < first.length ? [first.subarray(length), ...others] : others;
    }
    if (bytes === size) break;
  }
  if (batch.length > 0) body.unread(batch);
  return { bytes };
}

function refused(refusal: Refusal): Outcome {
  return { kind: 'refused', refusal };
}
