import type { Interrupted, Outcome } from '../../src/model/messages.js';
import { shownOffset, type Upload } from '../../src/model/upload.js';

/** One request, in the order in which requests were made. */
export interface Asked {
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
  private readonly asked: Asked[] = [];
  private readonly learned = new Map<number, Learned>();

  /** `size`: that of the file, which its client knows also where it declares no length. */
  constructor(private readonly size: number) {}

  ask<A extends Pick<Asked, 'writer' | 'feeds'>>(request: A): A & Asked {
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
  judge(asked: Asked, outcome: Outcome | Interrupted, basedOn?: number): void {
    const wasDead = asked.isDead;
    for (const known of this.asked) if (known.order <= asked.order) known.isDead = true;
    const upload = this.uploadIn(asked, outcome, basedOn);
    if (!upload || wasDead) return;
    this.expectLastByteUnknown(upload);
    this.show(shownOffset(upload), outcome.kind);
    this.learned.set(asked.writer, { offset: shownOffset(upload), order: asked.order });
  }

  private uploadIn(asked: Asked, outcome: Outcome | Interrupted, basedOn?: number): Upload | undefined {
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

  private expectSomebodyBetween(asked: Asked, basedOn: number): void {
    const other = this.asked.some(({ order, feeds }) => feeds && order > basedOn && order < asked.order);
    if (!other) throw new Error('an offset that was handed out was not accepted');
  }

  /** Clients take "offset = length" for success: so it may not be seen before the origin has said yes. */
  expectLastByteUnknown(upload: Upload): void {
    if (upload.phase === 'answered' || this.mayShowAll) return;
    if (shownOffset(upload) === this.size) throw new Error('all of it is shown before there is an answer');
  }

  private expectReason({ order, wasCut }: Asked, why: Interrupted['reason']): undefined {
    const isRight =
      why === 'taken-over' ? this.asked.some((other) => other.order > order) : why === 'client-left' && wasCut;
    if (!isRight) throw new Error(`ended as ${why} for no reason`);
    return undefined;
  }
}
