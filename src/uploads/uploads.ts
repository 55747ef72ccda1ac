import type { Delivery } from '../delivery/delivery.js';
import { SmallContents } from '../delivery/small-content.js';
import { type CreationObserver, removeAndReport, reportCreated } from '../delivery/report.js';
import { Fault } from '../model/fault.js';
import type {
  AppendIntent,
  CancelIntent,
  CreateIntent,
  Elsewhere,
  Interrupted,
  Outcome,
  Refusal,
  RelayedAnswer,
  RetrieveIntent,
} from '../model/messages.js';
import type { Route } from '../model/route.js';
import { concatenationRole, isFull, PLAIN_DIALECT, type Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import type { Spool } from '../spool/spool.js';
import type { Lease, Leases } from '../store/leases.js';
import type { KeyedUpload, NewUpload, UploadStore } from '../store/upload-store.js';
import { type Capacity, isNoRoom, type NoRoom } from '../store/usage.js';
import type { Admission } from './admission.js';
import { Answers, repeatsTheEnd, type UploadCall } from './answers.js';
import { AppendBody, type AppendTask, EagerAppend, type EagerFeeds } from './append.js';
import { type CommitPace, expiry } from './chunk.js';
import { RepresentationHashes } from './digests.js';
import { RepeatedCreations } from './repeated-creation.js';
import { AcknowledgedOffsets } from './acknowledged-offsets.js';
import { emptyBody } from './request-body.js';
import { findParts, type PartFailure, PartsContent } from './parts.js';
import {
  type Announcements,
  announcements,
  emptyEnd,
  refuseAppend,
  refuseCreation,
  refused,
  goneReason,
  withCompleteness,
} from './validate.js';

export interface UploadsOptions extends OpeningDeps {
  readonly store: UploadStore;
  readonly leases: Leases;
  readonly spool: Spool;
  readonly delivery: Pick<Delivery, 'result' | 'keptAnswer' | 'recordClientAsked'>;
  /** Missing if no delivery starts before its upload is complete. */
  readonly feeds?: EagerFeeds;
  readonly log: Log;
  /** The time that decides whether an upload has expired; `clock` by default. */
  readonly expiryClock?: () => number;
  readonly pace: CommitPace;
  readonly admission: Admission;
}

/**
 * Maximum number of attempts to create an upload with a client's key; each one fails if the upload that has the key
 * ends at that moment.
 */
const MAX_ROUNDS = 5;

/**
 * Receives uploads: one method for each intent, independent of the protocol version. Returns everything that a client
 * can cause as an outcome, and rejects with a `Fault` when the machine fails. Leases are released without waiting for
 * the reply.
 */
export class Uploads {
  private readonly hashes: RepresentationHashes;
  private readonly acknowledged: AcknowledgedOffsets;
  private readonly appendBody: AppendBody;
  private readonly eagerAppend: EagerAppend;
  private readonly answers: Answers;
  private readonly repeatedCreations: RepeatedCreations;
  private readonly smallContents = new SmallContents();

  constructor(private readonly deps: UploadsOptions) {
    this.hashes = new RepresentationHashes(deps.store, deps.spool);
    this.acknowledged = new AcknowledgedOffsets(deps);
    const shared = { ...deps, hashes: this.hashes, acknowledged: this.acknowledged };
    this.appendBody = new AppendBody(shared);
    this.eagerAppend = new EagerAppend({ ...shared, appendBody: this.appendBody });
    this.answers = new Answers(deps.delivery);
    this.repeatedCreations = new RepeatedCreations({
      ...deps,
      answers: this.answers,
      clientAsks: (upload) => deps.delivery.recordClientAsked(upload),
      unusableOutcome: (upload, lease) => this.unusableOutcome(upload, lease),
      receive: (...task) => this.receiveWithoutUrl(...task),
    });
  }

  find(id: string): Promise<Upload | undefined> {
    return this.deps.store.get(id);
  }

  /** The stored answer of the origin; undefined while there is none, `lost` when it can no longer be read. */
  async keptAnswer(upload: Upload, to: AbortSignal): Promise<RelayedAnswer | 'lost' | undefined> {
    return upload.phase === 'answered' ? ((await this.deps.delivery.keptAnswer(upload, to)) ?? 'lost') : undefined;
  }

  /** The refusal of a request with `Incremental: ?1` (RFC 10036) whose content cannot be passed on as it arrives. */
  refuseIncremental(intent: CreateIntent | AppendIntent, route: Route, upload?: Upload): Refusal | undefined {
    if (intent.contentLength === 0) return undefined;
    const length = upload?.length ?? intent.declaredLength ?? (intent.complete ? intent.contentLength : undefined);
    const eager = this.deps.feeds?.eagerAvailability(route, length) ?? 'never';
    // An append is not refused for lack of a free slot: its upload has one already, or nothing to gain from one.
    if (eager === 'yes' || (eager === 'busy' && intent.kind === 'append')) return undefined;
    return { reason: 'incremental-refused', isBusy: eager === 'busy' };
  }

  async create(
    stated: CreateIntent,
    route: Route,
    creation: Creation,
    call: UploadCall,
  ): Promise<Outcome | Interrupted | Elsewhere> {
    const { request, clientKey } = creation;
    const intent = withCompleteness(stated, { dialect: stated.dialect, request });
    const refusal = refuseCreation(intent, route.limits);
    if (refusal) return refused(refusal);
    if (clientKey !== undefined) return this.createOnce(intent, route, { ...creation, clientKey }, call);
    const opened = await this.admit(newUpload(intent, route, creation, this.deps), (upload, capacity) =>
      openUpload(upload, capacity, this.deps),
    );
    return 'reason' in opened ? refused(opened) : this.receiveNew(intent, opened, call);
  }

  /**
   * Creates an upload of the bytes of others (tus 1.0.0, concatenation). The client's key finds the upload of an earlier
   * request with the same parts, so a client that lost the response gets it by repeating the request. The parts stay
   * until they expire, for a repetition.
   */
  async join(
    stated: CreateIntent,
    { ids, route, creation }: JoinTask,
    call: UploadCall,
  ): Promise<Outcome | Interrupted | Elsewhere> {
    const isOf = { principal: creation.principal, route: route.name };
    const parts = await findParts(ids, isOf, (id) => this.findPart(id));
    if ('reason' in parts) return refused(parts);
    const content = new PartsContent(parts, this.deps);
    const { size } = content;
    const intent: CreateIntent = { ...stated, declaredLength: size, contentLength: size };
    const refusal = refuseCreation(intent, route.limits);
    if (refusal) return refused(refusal);
    try {
      const outcome = await this.createOnce(intent, route, creation, { ...call, body: content.body });
      return content.failure ? await this.afterLoss(content.failure) : outcome;
    } finally {
      content.close();
    }
  }

  /** The outcome when a part could not be read. One with lost bytes is given up, as when a delivery finds it. */
  private async afterLoss({ part, fault }: PartFailure): Promise<Outcome | Interrupted> {
    const lease = await this.deps.leases.take(part.id, 'to-end');
    try {
      return await this.appendBody.giveUpIfLost(fault, part, lease);
    } finally {
      void lease.release();
    }
  }

  private async findPart(id: string): Promise<Upload | undefined> {
    const found = await this.findLive(id);
    return 'reason' in found || found.phase !== 'receiving' ? undefined : found;
  }

  /** Appends to an upload. `loaded`: the upload as the caller has already read it. */
  async append(intent: AppendIntent, call: UploadCall, loaded?: Upload): Promise<Outcome | Interrupted> {
    const known = await this.findLive(intent.id, loaded);
    if ('reason' in known) return refused(known);
    if (concatenationRole(known) === 'joined') return refused({ reason: 'joined-upload' });
    if (known.phase !== 'receiving') return this.answers.repeat(withCompleteness(intent, known), known, call);
    const lease = await this.deps.leases.take(intent.id);
    try {
      const upload = await this.findLive(intent.id);
      if ('reason' in upload) return refused(upload);
      const counted = withCompleteness(intent, upload);
      if (upload.phase === 'receiving') return await this.appendUnderLease(counted, upload, lease, call);
      void lease.release();
      return await this.answers.repeat(counted, upload, call);
    } finally {
      void lease.release();
    }
  }

  /** RUFH §4.3.2, §4.6: an offset that a client is given must be accepted later, so even reading it takes the lease. */
  async retrieve(intent: RetrieveIntent, loaded?: Upload): Promise<Outcome | Interrupted> {
    const known = await this.findLive(intent.id, loaded);
    if ('reason' in known) return refused(known);
    if (known.phase !== 'receiving')
      return { kind: 'retrieved', upload: await this.deps.delivery.recordClientAsked(known) };
    const lease = await this.deps.leases.take(intent.id, 'to-read');
    try {
      const upload = await this.findLive(intent.id);
      if ('reason' in upload) return refused(upload);
      return await this.retrieveUnderLease(upload, lease);
    } finally {
      void lease.release();
    }
  }

  /** Ends the request that still writes to the upload, then removes the upload (RUFH §4.5). */
  async cancel(intent: CancelIntent, loaded?: Upload): Promise<Outcome> {
    const known = await this.findLive(intent.id, loaded);
    if ('reason' in known) return refused(known);
    const lease = known.phase === 'receiving' ? await this.deps.leases.take(intent.id, 'to-end') : undefined;
    try {
      if (!(await this.cancelNow(known))) return refused({ reason: 'unknown-upload' });
      return { kind: 'cancelled' };
    } finally {
      void lease?.release();
    }
  }

  /** Repeated creations with one key share one upload until that upload ends. */
  private async createOnce(
    intent: CreateIntent,
    route: Route,
    creation: Creation & { readonly clientKey: string },
    call: UploadCall,
  ): Promise<Outcome | Interrupted | Elsewhere> {
    const { clientKey } = creation;
    let holder = await this.deps.store.idByClientKey(clientKey);
    for (let round = 0; round < MAX_ROUNDS; round++) {
      const outcome =
        holder === undefined ? 'over' : await this.repeatedCreations.answer(holder, intent, creation.request, call);
      if (outcome !== 'over') return outcome;
      const replacedId = holder;
      const opened = await this.admit(
        { ...newUpload(intent, route, creation, this.deps), clientKey },
        async (upload, capacity) => {
          const result = await openFirstUpload(upload, replacedId, capacity, this.deps);
          return typeof result === 'string' ? { holder: result } : result;
        },
      );
      if ('reason' in opened) return refused(opened);
      if (!('holder' in opened)) return this.receiveNew(intent, opened, call);
      ({ holder } = opened);
    }
    throw new Fault('STORE_UNAVAILABLE', 'the uploads of one client key end faster than they can be looked up', true);
  }

  private admit<U extends NewUpload, T extends object>(
    upload: U,
    create: (upload: U, capacity: Capacity) => Promise<T | NoRoom>,
  ): Promise<T | Refusal> {
    return this.deps.admission.admit(upload, (capacity) => create(upload, capacity));
  }

  private async receiveNew(
    intent: CreateIntent,
    [upload, lease]: readonly [Upload, Lease],
    call: UploadCall,
  ): Promise<Outcome | Interrupted> {
    try {
      if (call.sendInterim({ kind: 'resumable', upload }))
        return await this.receiveAndDeliver(intent, upload, lease, call);
      return await this.receiveWithoutUrl(intent, upload, lease, call);
    } finally {
      void lease.release();
    }
  }

  /** Without a URL or a key of its own, a client could not come back for what was received. */
  private receiveWithoutUrl(
    intent: CreateIntent,
    upload: Upload,
    lease: Lease,
    call: UploadCall,
  ): Promise<Outcome | Interrupted> {
    const canComeBack = upload.clientKey !== undefined && upload.dialect !== PLAIN_DIALECT;
    if (canComeBack) return this.receiveAndDeliver(intent, upload, lease, call);
    return this.receiveOrCancel(intent, upload, lease, call);
  }

  private async retrieveUnderLease(upload: Upload, lease: Lease): Promise<Outcome | Interrupted> {
    const unusableOutcome = await this.unusableOutcome(upload, lease);
    if (unusableOutcome) return unusableOutcome;
    try {
      return { kind: 'retrieved', upload, reprDigest: await this.appendBody.wantedDigest(upload, lease) };
    } catch (fault) {
      return this.appendBody.giveUpIfLost(fault, upload, lease);
    }
  }

  private async appendUnderLease(
    intent: AppendIntent,
    upload: Upload,
    lease: Lease,
    call: UploadCall,
  ): Promise<Outcome | Interrupted> {
    const unusableOutcome = await this.unusableOutcome(upload, lease);
    if (unusableOutcome) return unusableOutcome;
    if (intent.completesAtLength && isFull(upload) && intent.offset === upload.offset - 1)
      return this.completeFull(intent, upload, lease, call);
    const decision = refuseAppend(intent, upload);
    if (decision)
      return decision.invalidates
        ? this.appendBody.invalidate(upload, lease, decision.refusal)
        : refused(decision.refusal);
    const announced = announcements(intent, upload);
    if (!announced) return this.receiveAndDeliver(intent, upload, lease, call);
    const record = (): Promise<Upload | undefined> => this.recordAnnouncements(upload, announced, lease);
    // tus 1.0.0, checksum: a request whose content is discarded does not set the length either.
    if (intent.completesAtLength && (intent.contentDigests.length > 0 || intent.trailingDigests)) {
      const onVerified = async (): Promise<boolean> => (await record()) !== undefined;
      return this.receiveAndDeliver(intent, { ...upload, ...announced }, lease, { ...call, onVerified });
    }
    const recorded = await record();
    if (!recorded) return { kind: 'interrupted', reason: 'taken-over' };
    return this.receiveAndDeliver(intent, recorded, lease, call);
  }

  /** The outcome for an upload that cannot continue; undefined if it can. Needs the lease. */
  private async unusableOutcome(upload: Upload, lease: Lease): Promise<Outcome | Interrupted | undefined> {
    if (upload.phase !== 'receiving' || (await this.acknowledged.coversAcknowledged(upload))) return undefined;
    this.deps.feeds?.stopEager(upload.id);
    return this.appendBody.giveUpForgotten(upload, lease);
  }

  /** Completes an upload that has all its bytes, when a client of tus sends the last one again. */
  private async completeFull(
    intent: AppendIntent,
    upload: Upload,
    lease: Lease,
    call: UploadCall,
  ): Promise<Outcome | Interrupted> {
    const lastByte = await this.lastByteOf(upload);
    const repeated = await repeatsTheEnd(intent, { offset: upload.offset, heldBack: { lastByte } }, call.body);
    if (typeof repeated === 'object') return repeated;
    if (!repeated) return refused({ reason: 'already-complete', upload });
    const end = emptyEnd(intent, upload);
    return this.receiveAndDeliver(end, upload, lease, { ...call, body: emptyBody(), precedingByte: lastByte });
  }

  private async lastByteOf({ id, offset }: Upload): Promise<number> {
    const { spool, store } = this.deps;
    const end = spool.read(id, await store.chunks(id), { start: offset - 1, end: offset });
    let last = 0;
    for await (const piece of end as AsyncIterable<Uint8Array>) last = piece.at(-1) ?? last;
    return last;
  }

  /** Undefined if a newer lease was taken. */
  private async recordAnnouncements(
    upload: Upload,
    announced: Announcements,
    { token }: Lease,
  ): Promise<Upload | undefined> {
    const { store, admission } = this.deps;
    const expiresAt = expiry(upload, this.deps);
    const noted = await admission.takeRoom(upload.route, (capacity) =>
      store.commit(upload.id, { token, ...announced, expiresAt, capacity }),
    );
    return typeof noted === 'string' ? undefined : noted;
  }

  /** Releases the lease before the origin is asked: nothing more is written, and a HEAD must not have to wait. */
  private async receiveAndDeliver(
    intent: CreateIntent | AppendIntent,
    upload: Upload,
    lease: Lease,
    call: UploadCall & Pick<AppendTask, 'precedingByte' | 'onVerified'>,
  ): Promise<Outcome | Interrupted> {
    const content = intent.complete ? this.smallContents.begin(upload) : undefined;
    try {
      const received = await this.eagerAppend.run({ ...call, intent, upload, lease, content });
      if (received.kind !== 'complete') return received;
      void lease.release();
      return await this.answers.answer(received.upload, intent.kind, { ...call, content }, received.reprDigest);
    } finally {
      content?.release();
    }
  }

  /** A client without the URL gets it in the final response, so an upload that ends without that response is removed. */
  private async receiveOrCancel(
    intent: CreateIntent,
    upload: Upload,
    lease: Lease,
    call: UploadCall,
  ): Promise<Outcome | Interrupted> {
    let outcome: Outcome | Interrupted | undefined;
    try {
      outcome = await this.receiveAndDeliver(intent, upload, lease, call);
      return outcome;
    } finally {
      const continues = outcome?.kind === 'interrupted' && outcome.reason === 'taken-over';
      if (outcome?.kind !== 'created' && !continues) await this.cancelUnlessComplete(upload.id);
    }
  }

  private async cancelUnlessComplete(id: string): Promise<void> {
    const { store } = this.deps;
    try {
      const upload = await store.get(id);
      if (upload?.phase === 'receiving') await this.cancelNow(upload);
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      // The cleanup removes it later.
    }
  }

  /** False if the upload is unknown. Of several at the same time, the one whose removal the store confirms is reported. */
  private async cancelNow(upload: Upload): Promise<boolean> {
    const cancelled = await this.deps.store.cancel(upload.id);
    if (cancelled === 'gone') return false;
    this.deps.feeds?.stopEager(upload.id);
    this.hashes.forget(upload.id);
    await removeAndReport(cancelled, this.deps);
    return true;
  }

  private async findLive(id: string, loaded?: Upload): Promise<Upload | Refusal> {
    const upload = loaded ?? (await this.deps.store.get(id));
    if (!upload || upload.phase === 'cancelled') return { reason: 'unknown-upload' };
    if (upload.phase === 'invalid') return { reason: 'gone', detail: goneReason(upload) };
    if (upload.expiresAt <= (this.deps.expiryClock ?? this.deps.clock)())
      return { reason: 'gone', detail: 'The upload has expired.' };
    // The upload moved while the request was on its way, or is older than a change of `spool.shared`: this disk is the
    // wrong one.
    if (upload.node !== this.deps.node)
      throw new Fault('STORE_UNAVAILABLE', 'the bytes of this upload are on another node', true);
    return upload;
  }
}

/** An upload to be made of others. */
interface JoinTask {
  readonly ids: readonly string[];
  readonly route: Route;
  readonly creation: Creation & Required<Pick<Upload, 'clientKey'>>;
}

interface OpeningDeps extends CreationObserver {
  readonly store: Pick<UploadStore, 'create' | 'createUnlessKeyUsed'>;
  readonly leases: Pick<Leases, 'take'>;
  readonly clock: () => number;
  /** Returns a key for the origin that reveals nothing about the id. */
  readonly newDeliveryKey: () => string;
  /** The node that stores the bytes of new uploads; missing if every node can reach them. */
  readonly node?: string;
}

/** The parts of a creation that are stored as they are: secrets are withheld already. Nobody else may know the id yet. */
export type Creation = Pick<
  NewUpload,
  'id' | 'request' | 'principal' | 'client' | 'addedHeaders' | 'withheld' | 'clientKey'
>;

/** Creates an upload and takes its first lease at the same time: nobody else knows the id yet. */
async function openUpload(
  upload: NewUpload,
  capacity: Capacity,
  deps: OpeningDeps,
): Promise<readonly [Upload, Lease] | NoRoom> {
  const creating = deps.store.create(upload, capacity).then((created) => {
    // Also one that gets no lease now: it is there until it expires.
    if (!isNoRoom(created)) reportCreated(created, deps);
    return created;
  });
  const taking = deps.leases.take(upload.id);
  const releaseLease = (): void =>
    void taking.then(
      (lease) => lease.release(),
      () => undefined,
    );
  try {
    const [created, lease] = await Promise.all([creating, taking]);
    if (isNoRoom(created)) {
      releaseLease();
      return created;
    }
    return [created, lease];
  } catch (fault) {
    releaseLease();
    throw fault;
  }
}

/**
 * As `openUpload`, with a client's key; returns the id of the upload that has the key already. `replacedId`: an upload
 * that has ended and loses the key.
 */
async function openFirstUpload(
  upload: KeyedUpload,
  replacedId: string | undefined,
  capacity: Capacity,
  deps: OpeningDeps,
): Promise<readonly [Upload, Lease] | string | NoRoom> {
  const created = await deps.store.createUnlessKeyUsed(upload, replacedId, capacity);
  if (typeof created === 'string' || isNoRoom(created)) return created;
  reportCreated(created, deps);
  return [created, await deps.leases.take(created.id)];
}

function newUpload(
  intent: CreateIntent,
  { name, limits }: Route,
  creation: Creation,
  { node, clock, newDeliveryKey }: OpeningDeps,
): NewUpload {
  const now = clock();
  return {
    ...(node !== undefined && { node }),
    ...creation,
    route: name,
    dialect: intent.dialect,
    limits,
    length: intent.declaredLength ?? (intent.complete ? intent.contentLength : undefined),
    reprDigests: intent.reprDigests,
    wantedReprDigest: intent.wantedReprDigest,
    deliveryKey: newDeliveryKey(),
    createdAt: now,
    expiresAt: expiry({ limits, dialect: intent.dialect, offset: 0 }, { clock }),
  };
}
