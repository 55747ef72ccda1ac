import { Readable } from 'node:stream';
import type { AppendIntent, CreateIntent, Interrupted, InterimUpdate, Outcome } from '../../src/model/messages.js';
import { type Digest, shownOffset } from '../../src/model/upload.js';
import type { UploadCall } from '../../src/uploads/answers.js';
import { Body } from '../../src/uploads/request-body.js';
import { REQUEST, routeTo } from './delivery-room.js';
import { sha256 } from './temporary.js';
import { type Asked, UploadWitness } from './upload-witness.js';
import type { UploadWorld } from './upload-world.js';

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
interface EagerAppend extends Asked {
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
  private readonly eagerAppend: EagerAppend[] = [];
  private readonly streams: Readable[] = [];
  private readonly pending = new Set<Promise<void>>();
  private failure: unknown;

  constructor(
    private writesTo: UploadWorld,
    readonly file: Buffer,
    private readonly declared: Declared,
  ) {
    this.witness = new UploadWitness(file.length);
    this.world = writesTo;
  }

  get world(): UploadWorld {
    return this.writesTo;
  }

  /** Whatever it records could be shown, by it or after a crash. */
  set world(world: UploadWorld) {
    this.writesTo = world;
    world.onRecord = (upload) => {
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
      const outcome = this.world.uploads.create(intent, routeTo('http://127.0.0.1:1'), REQUEST, call);
      // Without a client's key it is never elsewhere.
      void this.follow(eagerAppend, outcome as Promise<Outcome | Interrupted>);
    });
    if (!part) this.end(this.eagerAppend.indexOf(eagerAppend));
    await told;
  }

  head(writer: number): Promise<void> {
    const outcome = this.world.uploads.retrieve({ kind: 'retrieve', id: this.id });
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
      this.world.uploads.append(intent, this.callFor(eagerAppend, content.contentLength)),
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
    const asked = await this.world.uploads.retrieve({ kind: 'retrieve', id: this.id });
    if (asked.kind !== 'retrieved') throw new Error(`HEAD got ${JSON.stringify(asked)}`);
    const offset = shownOffset(asked.upload);
    this.witness.show(offset, 'the last HEAD');
    const part = { complete: true, isSized: false, isDigested: false };
    const eagerAppend = this.begin(-1, offset, part);
    const intent = { kind: 'append', id: this.id, offset, reprDigests: [], ...this.contentOf(part, offset) } as const;
    const appending = this.world.uploads.append(intent, this.callFor(eagerAppend, undefined));
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
  private picked(which: number): EagerAppend | undefined {
    return which < 0 ? this.eagerAppend.at(-1) : this.eagerAppend[which % Math.max(this.eagerAppend.length, 1)];
  }

  private contentOf({ complete, isSized, isDigested }: Part, offset: number) {
    const rest = this.file.subarray(offset);
    const contentLength = complete && isSized ? rest.length : undefined;
    return { complete, contentLength, contentDigests: complete && isDigested ? [digestOf(rest)] : [] };
  }

  private begin(writer: number, offset: number, { complete }: Part): EagerAppend {
    const stream = new Readable({ read: () => undefined });
    this.streams.push(stream);
    const eagerAppend = this.witness.ask({ writer, feeds: true, stream, offset, complete, sent: 0 });
    this.eagerAppend.push(eagerAppend);
    return eagerAppend;
  }

  private drop(eagerAppend: EagerAppend): void {
    const at = this.eagerAppend.indexOf(eagerAppend);
    if (at >= 0) this.eagerAppend.splice(at, 1);
  }

  private callFor(eagerAppend: EagerAppend, declaredLength: number | undefined, onTold?: () => void): UploadCall {
    const sendInterim = (news: InterimUpdate): boolean => {
      if (news.kind === 'resumable') this.id = news.upload.id;
      else if (!eagerAppend.isDead) this.witness.show(news.offset, 'progress');
      onTold?.();
      return true;
    };
    const body = new Body(eagerAppend.stream, { declaredLength, idleMs: 60_000, onFirstRead: () => undefined });
    return { body, sendInterim, credentials: [], clientLeft: new AbortController().signal };
  }

  private follow(asked: Asked, outcome: Promise<Outcome | Interrupted>, basedOn?: number): Promise<void> {
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
