import { Readable } from 'node:stream';
import type { AppendIntent, CreateIntent, InterimUpdate, Interrupted, Outcome } from '../../src/model/messages.js';
import { type Digest, shownOffset, type Upload } from '../../src/model/upload.js';
import type { UploadCall } from '../../src/uploads/answers.js';
import { REQUEST, routeTo } from './delivery-harness.js';
import { sha256 } from './temporary.js';
import { callOf, type GatedUploads, newId } from './upload-harness.js';

/** How a body is announced. */
export interface Part {
  /** Its end is the end of the file. */
  readonly complete: boolean;
  /** With `Content-Length`. */
  readonly isSized: boolean;
  /** With `Content-Digest`, where the content is known beforehand. */
  readonly isDigested: boolean;
}

/** What the creation says of the whole. */
export interface Declared {
  readonly length: boolean;
  readonly digest: boolean;
}

/** A request that brings bytes. */
interface WriterRequest extends WitnessedRequest {
  readonly stream: Readable;
  readonly offset: number;
  readonly complete: boolean;
  sent: number;
}

const NOTHING_LEFT = ['data', 'end', 'aborted', 'close'] as const;
const NOTHING_SAID: Part = { complete: false, isSized: true, isDigested: false };

/** Writers of one file who know nothing of each other; everything they are told is held against what was told before. */
export class UploadWriters {
  id = '';
  private isHealthy = 0;
  private hasLeft = false;
  private readonly witness: UploadWitness;
  private readonly eagerAppend: WriterRequest[] = [];
  private readonly streams: Readable[] = [];
  private readonly pending = new Set<Promise<void>>();
  private failure: unknown;

  constructor(
    private writesTo: GatedUploads,
    readonly file: Buffer,
    private readonly declared: Declared,
  ) {
    this.witness = new UploadWitness(file.length);
    this.uploads = writesTo;
  }

  get uploads(): GatedUploads {
    return this.writesTo;
  }

  /** Whatever it records could be shown, by it or after a crash. */
  set uploads(gated: GatedUploads) {
    this.writesTo = gated;
    gated.onRecord = (upload) => {
      try {
        this.witness.expectLastByteUnknown(upload);
      } catch (error) {
        this.failure ??= error;
      }
    };
  }

  /** Begins the upload, with its first bytes to follow if there is a part. */
  async create(writer: number, part?: Part): Promise<void> {
    const { file, declared } = this;
    const eagerAppend = this.begin(writer, 0, part ?? NOTHING_SAID);
    const intent: CreateIntent = {
      ...{ kind: 'create', dialect: '10', appendLimitsApply: true },
      ...this.contentOf(part ?? NOTHING_SAID, 0),
      ...(part ? {} : { contentLength: 0 }),
      declaredLength: declared.length ? file.length : undefined,
      reprDigests: declared.digest ? [digestOf(file)] : [],
    };
    const told = new Promise<void>((resolve) => {
      const call = this.callFor(eagerAppend, intent.contentLength, resolve);
      const creation = { id: newId(), request: REQUEST };
      const outcome = this.uploads.uploads.create(intent, routeTo('http://127.0.0.1:1'), creation, call);
      // Without a client's key it is never elsewhere.
      void this.follow(eagerAppend, outcome as Promise<Outcome | Interrupted>);
    });
    if (!part) this.end(this.eagerAppend.indexOf(eagerAppend));
    await told;
  }

  head(writer: number): Promise<void> {
    const outcome = this.uploads.uploads.retrieve({ kind: 'retrieve', id: this.id });
    return this.follow(this.witness.ask({ writer, feeds: false }), outcome);
  }

  /** What clients mostly do: ask, and go on from there. */
  resume(writer: number, part: Part): void {
    const { isHealthy } = this;
    void this.head(writer).then(() => isHealthy === this.isHealthy && !this.hasLeft && this.append(writer, part));
  }

  /** From where this writer believes the upload to stand. */
  append(writer: number, part: Part): void {
    const { offset, order } = this.witness.learnedBy(writer) ?? { offset: 0, order: undefined };
    const eagerAppend = this.begin(writer, offset, part);
    const content = this.contentOf(part, offset);
    const intent: AppendIntent = { kind: 'append', id: this.id, offset, reprDigests: [], ...content };
    void this.follow(
      eagerAppend,
      this.uploads.uploads.append(intent, this.callFor(eagerAppend, content.contentLength)),
      order,
    );
  }

  /** Some of this writer's requests may be dead without its knowing. */
  send(which: number, size: number): void {
    const eagerAppend = this.picked(which);
    if (!eagerAppend || eagerAppend.stream.destroyed) return;
    const start = eagerAppend.offset + eagerAppend.sent;
    const bytes = this.file.subarray(start, start + size);
    eagerAppend.sent += bytes.length;
    if (start + bytes.length === this.file.length && !eagerAppend.complete) this.witness.mayShowAll = true;
    if (bytes.length > 0) eagerAppend.stream.push(eagerAppend.isDead ? bytes.map((byte) => ~byte) : bytes);
  }

  /** Ends a body properly; one that is the last brings the rest before it. */
  end(which: number): void {
    const eagerAppend = this.picked(which);
    if (!eagerAppend) return;
    if (eagerAppend.complete) this.send(which, this.file.length);
    this.drop(eagerAppend);
    if (!eagerAppend.stream.destroyed) eagerAppend.stream.push(null);
  }

  cut(which: number): void {
    const eagerAppend = this.picked(which);
    if (!eagerAppend) return;
    eagerAppend.wasCut = true;
    this.drop(eagerAppend);
    eagerAppend.stream.destroy();
  }

  /** Everybody leaves, and every request has its outcome. */
  async leave(): Promise<void> {
    this.hasLeft = true;
    while (this.eagerAppend.length > 0) this.cut(0);
    await Promise.all(this.pending);
    this.throwFailure();
  }

  /** Their connections are lost: nothing more comes of what they asked, and nobody remembers an offset. */
  forget(): void {
    this.throwFailure();
    this.isHealthy++;
    while (this.eagerAppend.length > 0) this.cut(0);
    this.pending.clear();
    this.witness.forgetOffsets();
  }

  /** What an honest client alone does: asks, and brings the rest. */
  async finish(): Promise<Outcome | Interrupted> {
    const asked = await this.uploads.uploads.retrieve({ kind: 'retrieve', id: this.id });
    if (asked.kind !== 'retrieved') throw new Error(`HEAD got ${JSON.stringify(asked)}`);
    const offset = shownOffset(asked.upload);
    this.witness.show(offset, 'the last HEAD');
    const part = { complete: true, isSized: false, isDigested: false };
    const eagerAppend = this.begin(-1, offset, part);
    const intent = { kind: 'append', id: this.id, offset, reprDigests: [], ...this.contentOf(part, offset) } as const;
    const appending = this.uploads.uploads.append(intent, this.callFor(eagerAppend, undefined));
    this.end(this.eagerAppend.indexOf(eagerAppend));
    const outcome = await appending;
    this.throwFailure();
    return outcome;
  }

  /** Listeners that requests have left behind on their bodies. */
  listenersOnBodies(): number {
    const count = (stream: Readable): number =>
      NOTHING_LEFT.reduce((sum, event) => sum + stream.listenerCount(event), 0);
    return this.streams.reduce((sum, stream) => sum + count(stream), 0);
  }

  /** One of the bodies under way, the newest for a negative number. */
  private picked(which: number): WriterRequest | undefined {
    return which < 0 ? this.eagerAppend.at(-1) : this.eagerAppend[which % Math.max(this.eagerAppend.length, 1)];
  }

  private contentOf({ complete, isSized, isDigested }: Part, offset: number) {
    const rest = this.file.subarray(offset);
    const contentLength = complete && isSized ? rest.length : undefined;
    return { complete, contentLength, contentDigests: complete && isDigested ? [digestOf(rest)] : [] };
  }

  private begin(writer: number, offset: number, { complete }: Part): WriterRequest {
    const stream = new Readable({ read: () => undefined });
    this.streams.push(stream);
    const eagerAppend = this.witness.ask({ writer, feeds: true, stream, offset, complete, sent: 0 });
    this.eagerAppend.push(eagerAppend);
    return eagerAppend;
  }

  private drop(eagerAppend: WriterRequest): void {
    const at = this.eagerAppend.indexOf(eagerAppend);
    if (at >= 0) this.eagerAppend.splice(at, 1);
  }

  private callFor(eagerAppend: WriterRequest, declaredLength: number | undefined, onTold?: () => void): UploadCall {
    const sendInterim = (news: InterimUpdate): boolean => {
      if (news.kind === 'resumable') this.id = news.upload.id;
      else if (!eagerAppend.isDead) this.witness.show(news.offset, 'progress');
      onTold?.();
      return true;
    };
    return callOf(eagerAppend.stream, sendInterim, declaredLength);
  }

  private follow(asked: WitnessedRequest, outcome: Promise<Outcome | Interrupted>, basedOn?: number): Promise<void> {
    const { isHealthy } = this;
    const judged = outcome
      .then((known) => isHealthy === this.isHealthy && this.witness.judge(asked, known, basedOn))
      .catch((error: unknown) => isHealthy === this.isHealthy && (this.failure ??= error))
      .then(() => void this.pending.delete(judged));
    this.pending.add(judged);
    return judged;
  }

  private throwFailure(): void {
    if (this.failure !== undefined) throw this.failure as Error;
  }
}

function digestOf(bytes: Uint8Array): Digest {
  return { algorithm: 'sha-256', value: sha256(bytes) };
}

/** One request, in the order in which requests were made. */
export interface WitnessedRequest {
  readonly order: number;
  readonly writer: number;
  /** It brings bytes. */
  readonly feeds: boolean;
  /** Its client has left it. */
  wasCut: boolean;
  /** A newer request was answered, or this one was: what it sends from now on must never count, what it hears is old. */
  isDead: boolean;
}

/** What a writer was told last, and by which request. */
interface Learned {
  readonly offset: number;
  readonly order: number;
}

/** Hears everything anybody is told of one upload, and throws what contradicts what was told before (RUFH §4.1.1, §4.6). */
export class UploadWitness {
  /** A client may know that all of it is there: it said so of a part that it did not call the last. */
  mayShowAll = false;
  /** The largest offset anybody was shown. */
  private shown = 0;
  private readonly asked: WitnessedRequest[] = [];
  private readonly learned = new Map<number, Learned>();

  /** `size`: that of the file, which its client knows also where it declares no length. */
  constructor(private readonly size: number) {}

  ask<A extends Pick<WitnessedRequest, 'writer' | 'feeds'>>(request: A): A & WitnessedRequest {
    const asked = { ...request, order: this.asked.length, wasCut: false, isDead: false };
    this.asked.push(asked);
    return asked;
  }

  learnedBy(writer: number): Learned | undefined {
    return this.learned.get(writer);
  }

  forgetOffsets(): void {
    this.learned.clear();
  }

  show(offset: number, where: string): void {
    if (offset < this.shown) throw new Error(`${where} shows ${offset} after ${this.shown} was shown`);
    this.shown = offset;
  }

  /** `basedOn`: the request that its offset was learned from. */
  judge(asked: WitnessedRequest, outcome: Outcome | Interrupted, basedOn?: number): void {
    const wasDead = asked.isDead;
    for (const known of this.asked) if (known.order <= asked.order) known.isDead = true;
    const upload = this.uploadIn(asked, outcome, basedOn);
    if (!upload || wasDead) return;
    this.expectLastByteUnknown(upload);
    this.show(shownOffset(upload), outcome.kind);
    this.learned.set(asked.writer, { offset: shownOffset(upload), order: asked.order });
  }

  private uploadIn(asked: WitnessedRequest, outcome: Outcome | Interrupted, basedOn?: number): Upload | undefined {
    const { kind } = outcome;
    if (kind === 'retrieved' || kind === 'created' || kind === 'appended') return outcome.upload;
    if (kind === 'answered') return undefined;
    if (kind === 'interrupted') return this.expectReason(asked, outcome.reason);
    if (kind === 'refused' && outcome.refusal.reason === 'already-complete') return undefined;
    if (kind === 'refused' && outcome.refusal.reason === 'mismatching-offset') {
      if (basedOn !== undefined) this.expectSomebodyBetween(asked, basedOn);
      return outcome.refusal.upload;
    }
    throw new Error(`unexpected: ${JSON.stringify(outcome)}`);
  }

  private expectSomebodyBetween(asked: WitnessedRequest, basedOn: number): void {
    const other = this.asked.some(({ order, feeds }) => feeds && order > basedOn && order < asked.order);
    if (!other) throw new Error('an offset that was handed out was not accepted');
  }

  /** Clients take "offset = length" for success: so it may not be seen before the origin has said yes. */
  expectLastByteUnknown(upload: Upload): void {
    if (upload.phase === 'answered' || this.mayShowAll) return;
    if (shownOffset(upload) === this.size) throw new Error('all of it is shown before there is an answer');
  }

  private expectReason({ order, wasCut }: WitnessedRequest, why: Interrupted['reason']): undefined {
    const isRight =
      why === 'taken-over' ? this.asked.some((other) => other.order > order) : why === 'client-left' && wasCut;
    if (!isRight) throw new Error(`ended as ${why} for no reason`);
    return undefined;
  }
}
